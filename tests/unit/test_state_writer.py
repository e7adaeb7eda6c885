"""Storing beside the event loop: the newest state counts, a full disk is tried again."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.core.exits import Exit
from supervisor.core.model import ServiceSpec
from supervisor.core.state import Instance
from supervisor.daemon import writer as module
from supervisor.daemon.measures import Measures
from supervisor.daemon.state import RunRecord, StateDatabase, StateError, Stored
from supervisor.daemon.writer import StateWriter


class Keeper:
    """A database, a writer, and the instances that an engine would have."""

    def __init__(self, path: Path) -> None:
        self.database = StateDatabase(str(path / "s.db"), print)
        self.instances: dict[str, Instance] = {}
        self.acknowledged: list[int] = []
        self.reports: list[str] = []
        self.measures = Measures()
        self.writer = StateWriter(
            self.database, self.current, self.stored, self.reports.append, self.measures
        )

    def current(self, names: Iterable[str]) -> list[tuple[Instance, float | None]]:
        return [(self.instances[name], None) for name in names if name in self.instances]

    def stored(self, ends: list[tuple[str, RunRecord]]) -> None:
        self.acknowledged += [record.run for _, record in ends]

    def make(self, name: str) -> None:
        self.instances[name] = Instance(name)
        self.writer.new(Stored(self.instances[name], ServiceSpec("web"), "p", 1, name, 0.0, "h", "/"))


def end(run: int) -> RunRecord:
    return RunRecord(run, 1.0, 2.0, Exit(run), "why")


def test_the_newest_state_is_stored_and_ends_are_acknowledged_after_it(tmp_path: Path) -> None:
    async def work() -> None:
        keeper = Keeper(tmp_path)
        keeper.make("web")
        for run in range(1, 4):
            keeper.instances["web"] = replace(keeper.instances["web"], run=run)
            keeper.writer.ended("web", end(run))
        assert keeper.acknowledged == []
        await keeper.writer.flushed()
        assert keeper.acknowledged == [1, 2, 3]
        (found,) = keeper.database.load(print)
        assert found.instance.run == 3
        assert [record.run for record in keeper.database.runs("web")] == [1, 2, 3]
        await keeper.writer.close()
        keeper.database.close()

    asyncio.run(work())


def test_one_that_ended_and_is_removed_at_once_is_acknowledged_before_it_is_gone(tmp_path: Path) -> None:
    """Nothing of it stays; the launcher forgets it, too; one of the same name may be there already."""

    async def work() -> None:
        keeper = Keeper(tmp_path)
        keeper.make("old")
        await keeper.writer.flushed()
        keeper.writer.ended("old", end(1))
        del keeper.instances["old"]
        keeper.writer.removed("old")
        keeper.make("new")
        kept: list[list[str]] = []
        keeper.writer._on_stored = lambda ends: kept.append(
            [*(name for name, _ in ends), *(stored.name for stored in keeper.database.load(print))]
        )
        await keeper.writer.flushed()
        assert kept[0] == ["old", "new", "old"], "acknowledged while it is still stored"
        assert [stored.name for stored in keeper.database.load(print)] == ["new"]
        assert keeper.database.runs("old") == []
        await keeper.writer.close()
        keeper.database.close()

    asyncio.run(work())


def test_a_disk_that_is_full_is_said_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database's own limit on its size is the disk that is full."""
    monkeypatch.setattr(module, "_RETRY_S", 0.01)

    async def work() -> None:
        keeper = Keeper(tmp_path)
        keeper.make("web")
        await keeper.writer.flushed()
        pages = keeper.database._db.execute("PRAGMA page_count").fetchone()[0]
        keeper.database._db.execute(f"PRAGMA max_page_count = {pages}")
        for run in range(1, 2000):
            keeper.writer.ended("web", end(run))
        with pytest.raises(StateError, match="is the disk full"):
            await keeper.writer.flushed()
        assert keeper.acknowledged == []
        assert keeper.measures.state_write_failures >= 1
        assert keeper.reports
        keeper.database._db.execute("PRAGMA max_page_count = 1000000")
        while not keeper.acknowledged:
            try:
                await keeper.writer.flushed()
            except StateError:
                continue
        assert keeper.acknowledged == list(range(1, 2000)), "each once, in order"
        await keeper.writer.close()
        keeper.database.close()

    try:
        asyncio.run(work())
    except sqlite3.Error as error:
        pytest.fail(str(error))


def test_the_event_loop_goes_on_while_the_disk_works(tmp_path: Path) -> None:
    async def work() -> None:
        keeper = Keeper(tmp_path)
        apply, turns = keeper.database.apply, 0
        entered, leave = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def slow(changes: object) -> None:
            loop.call_soon_threadsafe(entered.set)
            assert leave.wait(30)
            apply(changes)  # type: ignore[arg-type]

        keeper.database.apply = slow  # type: ignore[method-assign]
        keeper.make("web")
        await entered.wait()
        for _ in range(100):
            await asyncio.sleep(0)
            turns += 1
        leave.set()
        await keeper.writer.flushed()
        assert turns == 100
        await keeper.writer.close()
        keeper.database.close()

    asyncio.run(work())
