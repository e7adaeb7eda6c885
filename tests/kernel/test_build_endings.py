"""Builds that do not come to their end, or not alone: cancelled, killed, two at once, a failing neighbour."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import BUSYBOX, Bench

from supervisor.image.builder import progress
from supervisor.image.builder.progress import BuildError
from supervisor.kernel import hierarchies

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(BUSYBOX is None, reason="no busybox on this machine; apt-get install busybox-static"),
]
LONG = "FROM base:1\nRUN echo first > /first\nRUN echo begun; sleep 1000\n"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(str(tmp_path / "b"))
    made.add_base()
    yield made
    assert made.leftovers() == []


def test_cancelling_leaves_nothing_running_and_keeps_earlier_layers(bench: Bench) -> None:
    async def cancelled() -> None:
        begun = asyncio.Event()

        def tell(event: progress.Event) -> None:
            if isinstance(event, progress.Output) and b"begun" in event.data:
                begun.set()

        task = asyncio.ensure_future(bench.start(LONG, tell=tell))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    ends = [event for event in bench.events if isinstance(event, progress.Ended)]
    assert ends[-1].cancelled
    assert bench.leftovers() == []
    again = bench.build(LONG.replace("sleep 1000", "true"))
    assert again.ran == ["RUN echo begun; true"]


def test_a_failing_stage_ends_the_others(bench: Bench) -> None:
    with pytest.raises(BuildError, match="exit code: 7"):
        bench.build(
            "FROM base:1 AS a\nRUN --mount=type=cache,target=/c touch /c/begun; sleep 1000\n"
            "FROM base:1 AS b\n"
            "RUN --mount=type=cache,target=/c until test -f /c/begun; do sleep 0.02; done; exit 7\n"
            "FROM scratch\nCOPY --from=a / /\nCOPY --from=b / /\n"
        )
    ends = {event.error: event.cancelled for event in bench.events if isinstance(event, progress.Ended)}
    assert ends["cancelled"]


def test_two_builds_at_once_make_the_same(bench: Bench) -> None:
    bench.file("f", "x" * 100_000)
    dockerfile = "FROM base:1\nCOPY f /f\nRUN sha256sum /f > /sum\nRUN cat /sum > /again\n"

    async def both() -> list[str]:
        built = await asyncio.gather(*(bench.start(dockerfile, no_cache=True) for _ in range(2)))
        return [one.image.id for one in built]

    first, second = asyncio.run(both())
    assert first == second
    assert bench.build(dockerfile).ran == []


BUILDER = """
import sys
sys.path[:0] = {path!r}
from building import Bench, output_of
from supervisor.image.builder import progress
bench = Bench.__new__(Bench)
import asyncio, os
from pathlib import Path
from supervisor.core.paths import Paths
from supervisor.image.store import ImageStore
bench.base = {base!r}
bench.paths = Paths(bench.base + "/state", bench.base + "/run")
bench.store = ImageStore(bench.paths.images)
bench.context = Path(bench.base, "context")
def tell(event):
    if isinstance(event, progress.Output):
        os.write(1, event.data)
asyncio.run(bench.start({dockerfile!r}, tell=tell))
"""


def kill_a_build(bench: Bench) -> None:
    """In the middle of a step: nobody is there to end its launcher."""
    script = BUILDER.format(path=[str(Path(__file__).parent)], base=bench.base, dockerfile=LONG)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == b"begun\n"
        builder.send_signal(signal.SIGKILL)


def test_a_killed_build_leaves_a_store_that_works_and_the_next_one_ends_its_rest(bench: Bench) -> None:
    kill_a_build(bench)
    assert bench.leftovers() != []  # its launcher, and the step: nobody was there to end them
    again = bench.build(LONG.replace("sleep 1000", "true"))
    assert again.ran == ["RUN echo begun; true"]
    assert bench.leftovers() == []


def test_cancelling_while_the_launcher_starts_leaves_nothing(bench: Bench) -> None:
    async def cancelled() -> None:
        begun = asyncio.Event()

        def tell(event: progress.Event) -> None:
            if isinstance(event, progress.Started) and "RUN" in event.name:
                begun.set()

        task = asyncio.ensure_future(bench.start("FROM base:1\nRUN sleep 1000\n", tell=tell))
        await begun.wait()
        while not os.path.isdir(bench.paths.builds):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert bench.leftovers() == []


def test_below_the_cgroup_of_a_daemon_a_build_takes_only_its_own_away(bench: Bench) -> None:
    """Once the daemon has ended it also takes away what the daemon had to leave."""
    bases = [Path(place, bench.paths.own_cgroup) for place in hierarchies.detect().places()]
    note = Path(bench.paths.cgroup_base)
    note.write_text(f"{bench.paths.own_cgroup}\n")
    try:
        for base in bases:
            base.mkdir()
        seen: list[str] = []

        def tell(event: progress.Event) -> None:
            if isinstance(event, progress.Output):
                seen.extend(path.name for base in bases for path in base.glob("build-*"))

        asyncio.run(bench.start("FROM base:1\nRUN echo begun\n", tell=tell))
        assert seen != []
        assert [entry.name for base in bases for entry in base.iterdir() if entry.is_dir()] == []
        note.unlink()
        for base in bases:
            (base / "build-x").mkdir()
        _left(bench, "x", f"{bench.paths.own_cgroup}/build-x")
        bench.build("FROM base:1\nRUN true\n")
        assert [base for base in bases if base.exists()] == []
    finally:
        note.unlink(missing_ok=True)
        for base in bases:
            for path in (base / "build-x", base):
                if path.exists():
                    path.rmdir()


def test_prune_ends_what_a_killed_build_left(bench: Bench) -> None:
    kill_a_build(bench)
    left = "\n".join(bench.leftovers())
    assert bench.paths.own_cgroup in left and "process" in left and "underway" in left
    settings = {"SHIPKEEPER_STATE_DIR": bench.paths.state_dir, "SHIPKEEPER_RUN_DIR": bench.paths.run_dir}
    command = [sys.executable, "-m", "supervisor.cli.main", "builder", "prune", "--force"]
    subprocess.run(command, env={**os.environ, **settings}, check=True)
    assert bench.leftovers() == []


def _left(bench: Bench, build: str, cgroup: str) -> None:
    """As a killed build leaves it."""
    place = Path(bench.paths.builds, build)
    place.mkdir()
    (place / "lock").touch()
    (place / "cgroup-base").write_text(f"{cgroup}\n")


@pytest.mark.slow
def test_kills_at_many_moments(bench: Bench) -> None:
    """Whenever it is killed, the same build afterwards gives what it gives undisturbed."""
    dockerfile = (
        "FROM base:1\nCOPY f /f\nRUN sha256sum /f > /sum\nWORKDIR /w\nCOPY f g\nRUN cat /sum > /again\n"
    )
    bench.file("f", os.urandom(2_000_000))
    wanted = bench.build(dockerfile).image.id
    script = BUILDER.format(path=[str(Path(__file__).parent)], base=bench.base, dockerfile=dockerfile)
    for delay in range(12):
        for path in Path(bench.store.root, "build", "steps").iterdir():
            path.unlink()
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL) as builder:
            try:
                builder.wait(0.25 + delay * 0.06)
            except subprocess.TimeoutExpired:
                builder.kill()
        assert bench.build(dockerfile).image.id == wanted
    bench.store.prune(dangling=True, used=lambda _: False, kept_layers=frozenset())
    assert bench.build(dockerfile).image.id == wanted
