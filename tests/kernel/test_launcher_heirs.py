"""What a run leaves for the next: the same plan finds its layers mounted, and its process half made."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from launcherbench import Bench, root_steps
from test_launcher_mounts import with_binds
from test_launcher_runs import scenario

from supervisor.kernel import hierarchies
from supervisor.launcher import plan, protocol

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces, mounts and cgroups"),
]


def on_a_layer(bench: Bench, layer: Path) -> list[plan.Step]:
    """The usual root, with a writable overlay of the layer at /data."""
    upper, work = (Path(bench.base, name) for name in ("data-upper", "data-work"))
    for place in (layer, upper, work):
        place.mkdir(exist_ok=True)
    return with_binds(bench, plan.Overlay("/data", [str(layer)], str(upper), str(work)))


@scenario
async def test_a_next_run_sees_what_changed_below(bench: Bench) -> None:
    """What the last run wrote is there, and what the host replaced meanwhile is the new one."""
    layer = Path(bench.base, "layer")
    steps = on_a_layer(bench, layer)
    (layer / "told").write_text("old ")
    await bench.run("sh", "-c", "cat /data/told; ls /data; echo mine >/data/mine", steps=steps, run=1)
    (layer / "new").write_text("new ")
    (layer / "new").rename(layer / "told")
    await bench.run("sh", "-c", "cat /data/told /data/mine", steps=steps, run=2)
    assert "mine" in await bench.says("new mine")


@scenario
async def test_another_plan_gets_nothing_of_the_last(bench: Bench) -> None:
    """A run by another plan has its own root, whatever the last one left."""
    layer = Path(bench.base, "layer")
    steps = on_a_layer(bench, layer)
    (layer / "told").write_text("layered")
    assert (await bench.run("test", "-e", "/data/told", steps=steps, run=1)).code == 0
    exited = await bench.run("test", "!", "-e", "/data/told", run=2)
    assert exited.code == 0


@scenario
async def test_a_run_that_is_not_asked_for_leaves_nothing(bench: Bench) -> None:
    """After an end without a successor nothing of it lives, and its overlay is let go."""
    await bench.run("true", run=1)
    bench.send(protocol.Hello(protocol.VERSION))
    pid = (await bench.event(protocol.State)).pid

    def holds() -> bool:
        links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        return "/" in links  # the root of a detached overlay

    def children() -> list[str]:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    await bench.until(lambda: not holds() and not bench.cgroup_directories(), "the overlay to go")
    await bench.until(lambda: len(children()) <= 3, "all but log writer, nursery and spare to go")


@scenario
async def test_a_nursery_that_is_killed_is_made_again(bench: Bench) -> None:
    """Runs go on, the next one begins, and nothing is left of the killed one. SIGTERM it does not heed."""
    bench.send(protocol.Hello(protocol.VERSION))
    launcher = (await bench.event(protocol.State)).pid

    def forks() -> list[int]:
        """The nursery, and what it has cloned that is not another program yet: the spare."""
        found = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        return [int(pid) for pid in found if b"launcher.nursery" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    await bench.until(lambda: len(forks()) == 1, "the nursery")
    (nursery,) = forks()
    await bench.start("sleep", "1000", run=1)
    os.kill(nursery, signal.SIGTERM)
    await bench.start("sleep", "1000", instance="second", run=1)
    assert nursery in forks()
    os.kill(nursery, signal.SIGKILL)
    await bench.start("sleep", "1000", instance="third", run=1)
    assert nursery not in forks()
    for instance in ("web", "second", "third"):
        bench.send(protocol.Kill(instance, 1))
        await bench.event(protocol.Exited, instance=instance, run=1)
    await bench.run("true", run=2)
    await bench.until(lambda: len(forks()) <= 2, "nothing but nursery and spare to be left")


@scenario
async def test_a_failure_is_told_in_words(bench: Bench) -> None:
    """A row that fails names its step and its call, also where a spare ran it."""
    await bench.run("true", run=1)
    steps = root_steps(bench.paths.instance("web").upper, bench.paths.instance("web").work)
    steps.insert(steps.index(plan.Pivot()), plan.Bind("/nonexistent", "/x"))
    failed = await bench.fails("true", steps=steps, run=2)
    assert failed.stage == "mount"
    assert "bind /nonexistent at /x: open_tree(/nonexistent" in failed.detail
    assert "No such file or directory" in failed.detail


@pytest.mark.skipif(not hierarchies.moves_are_quick(), reason="no spare: cgroups without favordynmods")
@scenario
async def test_a_parked_life_that_dies_before_it_is_asked_for_is_not_lost(bench: Bench) -> None:
    """What failed while nobody had asked is told when somebody does, however long that takes."""
    there = Path(bench.base, "there")
    there.write_text("")
    steps = with_binds(bench, plan.Bind(str(there), "/bound"))
    bench.send(protocol.Hello(protocol.VERSION))
    launcher = (await bench.event(protocol.State)).pid

    def children() -> list[str]:
        return Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()

    info = await bench.start("sleep", "1000", steps=steps, run=1)
    await bench.until(lambda: len(children()) == 4, "log writer, nursery, run and spare")
    await bench.settled()
    there.unlink()
    os.kill(info.pid, signal.SIGKILL)
    await bench.event(protocol.Exited, run=1)
    for _ in range(200):  # turns of its loop, in which it looks for dead strangers
        await bench.settled()
    failed = await bench.fails("sleep", "1000", steps=steps, run=2)
    assert (failed.stage, "there" in failed.detail) == ("mount", True)
    there.write_text("")
    await bench.start("sleep", "1000", steps=steps, run=3)
