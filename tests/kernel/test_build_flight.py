"""Builds at the same time that need the same step: one makes it, the others take it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import BUSYBOX, Bench, Result

from supervisor.image.builder import progress
from supervisor.image.builder.progress import BuildError

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(BUSYBOX is None, reason="no busybox on this machine; apt-get install busybox-static"),
]
GO = "FROM base:1\nRUN --mount=type=cache,target=/c touch /c/go\n"


def shared(command: str, own: str) -> str:
    """A stage that several Dockerfiles have in common, and one of its own. The first waits for GO."""
    return (
        "FROM base:1 AS common\n"
        "RUN --mount=type=cache,target=/c echo begun; until test -f /c/go; do sleep 0.02; done; "
        f"{command}\nFROM common\nRUN echo {own} > /own\n"
    )


class Told:
    """What a build tells, with events for the moments that a test waits for."""

    def __init__(self) -> None:
        self.begun, self.waits = asyncio.Event(), asyncio.Event()
        self.runs = 0

    def __call__(self, event: progress.Event) -> None:
        match event:
            case progress.Output(data=data) if b"begun" in data:
                self.runs += 1
                self.begun.set()
            case progress.Note(text=text) if "waiting for it" in text:
                self.waits.set()
            case _:
                pass


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(str(tmp_path / "b"))
    made.add_base()
    yield made
    assert made.leftovers() == []
    assert os.listdir(f"{made.paths.images}/build/making") == []


def test_a_step_that_two_builds_need_is_made_once(bench: Bench) -> None:
    async def both() -> tuple[Told, Told, Result, Result]:
        told = Told(), Told()
        first = asyncio.ensure_future(bench.start(shared("echo x > /x", "one"), tell=told[0]))
        await told[0].begun.wait()
        second = asyncio.ensure_future(bench.start(shared("echo x > /x", "two"), tell=told[1]))
        await told[1].waits.wait()
        await bench.start(GO)
        return *told, await first, await second

    made, waited, first, second = asyncio.run(both())
    assert (made.runs, waited.runs) == (1, 0)
    assert first.image.diff_ids[1] == second.image.diff_ids[1]
    assert (first.text("/own"), second.text("/own")) == ("one\n", "two\n")
    assert len(second.cached) == 1, "the step that it waited for is shown as taken from the cache"


def test_cancelling_the_one_that_makes_it_leaves_it_to_the_other(bench: Bench) -> None:
    async def both() -> tuple[Told, Result]:
        made, waited = Told(), Told()
        first = asyncio.ensure_future(bench.start(shared("true", "one"), tell=made))
        await made.begun.wait()
        second = asyncio.ensure_future(bench.start(shared("true", "two"), tell=waited))
        await waited.waits.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await waited.begun.wait()
        await bench.start(GO)
        return waited, await second

    waited, second = asyncio.run(both())
    assert waited.runs == 1
    assert second.text("/own") == "two\n"


def test_cancelling_the_one_that_waits_leaves_the_other(bench: Bench) -> None:
    async def both() -> tuple[Told, Result]:
        made, waited = Told(), Told()
        first = asyncio.ensure_future(bench.start(shared("true", "one"), tell=made))
        await made.begun.wait()
        second = asyncio.ensure_future(bench.start(shared("true", "two"), tell=waited))
        await waited.waits.wait()
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await bench.start(GO)
        return made, await first

    made, first = asyncio.run(both())
    assert made.runs == 1
    assert first.text("/own") == "one\n"


def test_a_step_that_fails_fails_for_each_by_itself(bench: Bench) -> None:
    async def both() -> tuple[list[object], Told]:
        made, waited = Told(), Told()
        first = asyncio.ensure_future(bench.start(shared("exit 3", "one"), tell=made))
        await made.begun.wait()
        second = asyncio.ensure_future(bench.start(shared("exit 3", "two"), tell=waited))
        await waited.waits.wait()
        await bench.start(GO)
        return list(await asyncio.gather(first, second, return_exceptions=True)), waited

    ends, waited = asyncio.run(both())
    assert [isinstance(end, BuildError) and end.exit_code for end in ends] == [3, 3]
    assert waited.runs == 1
