"""Reading logs: tail, since, until, joining, merging, following over rotation. Real files, no root."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from supervisor.launcher import logformat
from supervisor.runtime import logs
from supervisor.runtime.logfollow import Follower
from supervisor.runtime.logmarks import RunMarker, interleave, merge
from supervisor.runtime.logs import LogRecord

SECOND = 1_000_000_000
BASE = 1_795_494_600 * SECOND


def write(path: Path, numbers: Iterable[int], stream: str = "stdout") -> None:
    """Line n at BASE + n seconds, as the log writer would append it."""
    with path.open("ab") as file:
        for n in numbers:
            file.write(b"".join(logformat.encode(b"line %d\n" % n, stream, BASE + n * SECOND)))


def rotate(path: Path) -> None:
    for n in range(50, 0, -1):
        source = path.with_name(f"{path.name}.{n - 1}") if n > 1 else path
        if source.exists():
            source.rename(path.with_name(f"{path.name}.{n}"))


def numbers(records: Iterable[LogRecord | RunMarker]) -> list[int]:
    return [int(r.text.split()[1]) for r in records]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """30,000 lines over four files, of several blocks each."""
    path = tmp_path / "output.log"
    for start in range(0, 30000, 7500):
        if start:
            rotate(path)
        write(path, range(start, start + 7500))
    return path


def test_everything_is_read_oldest_first(log: Path) -> None:
    """Rotated files come first."""
    assert numbers(logs.read("web", str(log))) == list(range(30000))


@pytest.mark.parametrize("tail", [0, 1, 10, 7499, 7500, 7501, 20000, 40000])
def test_tail_gives_exactly_the_last_lines(log: Path, tail: int) -> None:
    """Also across files, and when there are fewer."""
    assert numbers(logs.read("web", str(log), tail=tail)) == list(range(30000))[max(0, 30000 - tail) :]


@pytest.mark.parametrize(
    ("since", "until"), [(0, 5), (7499, 7501), (12345, 12350), (29999, 99999), (40000, 50000)]
)
def test_since_and_until_are_inclusive(log: Path, since: int, until: int) -> None:
    """By wall clock, wherever in the files."""
    found = logs.read("web", str(log), since_ns=BASE + since * SECOND, until_ns=BASE + until * SECOND)
    assert numbers(found) == [n for n in range(30000) if since <= n <= until]


def test_a_log_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    """A service that never wrote is no error."""
    assert list(logs.read("web", str(tmp_path / "output.log"))) == []


def test_pieces_are_joined_per_stream(tmp_path: Path) -> None:
    """A line is one record with the stamp of its first piece; streams do not mix; an open end is partial."""
    path = tmp_path / "output.log"
    with path.open("wb") as file:
        for i, (data, stream) in enumerate(
            [(b"one ", "stdout"), (b"err", "stderr"), (b"two\nopen", "stdout"), (b"or\n", "stderr")]
        ):
            file.write(b"".join(logformat.encode(data, stream, BASE + i)))
    assert list(logs.read("web", str(path))) == [
        LogRecord("web", BASE, "stdout", b"one two"),
        LogRecord("web", BASE + 1, "stderr", b"error"),
        LogRecord("web", BASE + 2, "stdout", b"open", partial=True),
    ]


def test_a_line_without_end_is_joined_within_bounds(tmp_path: Path) -> None:
    """4 MiB without a newline come as partial records of about 1 MiB; nothing is lost."""
    path = tmp_path / "output.log"
    data = b"x" * (4 * 1024 * 1024) + b"\n"
    path.write_bytes(b"".join(logformat.encode(data, "stdout", BASE)))
    records = list(logs.read("web", str(path)))
    assert b"".join(r.text for r in records) == data[:-1]
    assert max(len(r.text) for r in records) <= logs.MAX_JOINED_BYTES + logformat.MAX_PIECE_BYTES
    assert [r.partial for r in records] == [True] * (len(records) - 1) + [False]


def test_garbage_is_passed_over(tmp_path: Path) -> None:
    """What a power cut left does not hide what comes after it."""
    path = tmp_path / "output.log"
    write(path, [1])
    with path.open("ab") as file:
        file.write(b"\0" * 5000 + b"\ntorn line\n")
    write(path, [2])
    assert numbers(logs.read("web", str(path))) == [1, 2]


def test_several_logs_and_markers_merge_in_time_order(tmp_path: Path) -> None:
    """Markers of runs stand where they belong."""
    web, db = tmp_path / "web.log", tmp_path / "db.log"
    write(web, [1, 3, 5])
    write(db, [2, 4, 6])
    marker = RunMarker("web", BASE + 4 * SECOND + 1, "mark 0")
    merged = list(merge(logs.read("web", str(web)), logs.read("db", str(db)), [marker]))
    assert numbers(merged) == [1, 2, 3, 4, 0, 5, 6]
    assert [r.instance for r in merged] == ["web", "db", "web", "db", "web", "web", "db"]


def test_an_end_stands_behind_the_lines_that_were_stamped_after_it(tmp_path: Path) -> None:
    """Up to the beginning of the next run; the last run's behind everything."""
    path = tmp_path / "web.log"
    write(path, [1, 3, 5, 7])
    marks = [
        RunMarker("web", BASE + 2 * SECOND, "ended 20", ends=True),
        RunMarker("web", BASE + 4 * SECOND, "began 40"),
        RunMarker("web", BASE + 6 * SECOND, "ended 60", ends=True),
    ]
    assert numbers(interleave(logs.read("web", str(path)), marks)) == [1, 3, 20, 40, 5, 7, 60]
    assert numbers(merge(interleave(logs.read("web", str(path)), marks))) == [1, 3, 20, 40, 5, 7, 60]


def test_followed_an_end_waits_for_its_last_lines(tmp_path: Path) -> None:
    """They may be written after the death was told; the next beginning ends the wait."""
    path = tmp_path / "output.log"
    write(path, [])

    async def scenario() -> list[LogRecord | RunMarker]:
        follower = Follower()
        try:
            follower.add("web", str(path))
            task = asyncio.create_task(_take(follower, 6))
            for end, line, begin in ((10, 11, 12), (20, 21, None)):
                follower.mark(RunMarker("web", BASE + end * SECOND, f"ended {end}", ends=True))
                await asyncio.sleep(0)
                write(path, [line] if begin is None else [line, begin + 1])
                if begin is not None:
                    follower.mark(RunMarker("web", BASE + begin * SECOND, f"began {begin}"))
                await asyncio.sleep(0)
            return await task
        finally:
            follower.close()

    assert numbers(asyncio.run(scenario())) == [11, 10, 12, 13, 21, 20]


def test_followed_lines_between_two_runs_wait_for_the_beginning(tmp_path: Path) -> None:
    """The first line of a run may be read before we are told that it began; not for ever."""
    path = tmp_path / "output.log"
    write(path, [])

    async def scenario() -> list[LogRecord | RunMarker]:
        follower = Follower()
        try:
            follower.add("web", str(path))
            task = asyncio.create_task(_take(follower, 4))
            await asyncio.sleep(0)
            follower.mark(RunMarker("web", BASE + 10 * SECOND, "ended 10", ends=True))
            write(path, [13])
            while not follower.holds("web"):
                await asyncio.sleep(0)  # until it has read the line
            follower.mark(RunMarker("web", BASE + 12 * SECOND, "began 12"))
            write(path, [14])
            first = await task
            task = asyncio.create_task(_take(follower, 2))
            follower.mark(RunMarker("web", BASE + 20 * SECOND, "ended 20", ends=True))
            write(path, [19])
            return [*first, *await task]
        finally:
            follower.close()

    assert numbers(asyncio.run(scenario())) == [10, 12, 13, 14, 19, 20]


async def _take(follower: Follower, count: int) -> list[LogRecord | RunMarker]:
    found: list[LogRecord] = []
    async with asyncio.timeout(20):
        async for record in follower:
            found.append(record)
            if len(found) == count:
                break
    return found


def test_following_goes_on_behind_the_history_across_rotations(tmp_path: Path) -> None:
    """Each line once: there before, written later, between two rotations; a late file is found."""
    path = tmp_path / "output.log"
    write(path, range(5))

    async def scenario() -> list[LogRecord]:
        follower = Follower()
        try:
            follower.add("web", str(path), tail=3)
            follower.add("late", str(tmp_path / "late.log"))
            found = await _take(follower, 3)
            task = asyncio.create_task(_take(follower, 305))
            for start in range(5, 305, 30):
                await asyncio.sleep(0)
                write(path, range(start, start + 20))
                rotate(path)
                write(path, range(start + 20, start + 30))
            write(tmp_path / "late.log", range(305, 310))
            return found + await task
        finally:
            follower.close()

    found = asyncio.run(scenario())
    assert numbers(r for r in found if r.instance == "web") == list(range(2, 305))
    assert numbers(r for r in found if r.instance == "late") == list(range(305, 310))


def test_a_prompt_is_shown_although_its_line_has_no_end(tmp_path: Path) -> None:
    """An unfinished line comes as a partial record, its rest as the next one."""
    path = tmp_path / "output.log"

    async def scenario() -> list[LogRecord]:
        follower = Follower()
        try:
            follower.add("web", str(path))
            path.write_bytes(b"".join(logformat.encode(b"name? ", "tty", BASE)))
            first = await _take(follower, 1)
            with path.open("ab") as file:
                file.write(b"".join(logformat.encode(b"Ann\n", "tty", BASE + 1)))
            return first + await _take(follower, 1)
        finally:
            follower.close()

    first, second = asyncio.run(scenario())
    assert (first.text, first.partial, second.text, second.partial) == (b"name? ", True, b"Ann", False)


def test_reading_leaves_no_descriptor_open(log: Path) -> None:
    """Also when a reader stops early."""
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        records = logs.read("web", str(log))
        next(records)
        records.close()  # type: ignore[attr-defined]  # a generator
        list(logs.read("web", str(log), tail=5))
    assert len(os.listdir("/proc/self/fd")) == before
