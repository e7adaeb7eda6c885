"""Mounts of a run: later mounts of the host, propagation, links in the way, old kernels."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from launcherbench import DEFAULT_CAPS, Bench, root_steps
from test_launcher_runs import scenario

from supervisor.kernel import capabilities, mounts
from supervisor.launcher import plan, protocol

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces, mounts and cgroups"),
]


def with_binds(bench: Bench, *binds: plan.Step) -> list[plan.Step]:
    """The usual root with more steps before the pivot."""
    files = bench.paths.instance("web")
    steps = root_steps(files.upper, files.work)
    place = steps.index(plan.Pivot())
    return [*steps[:place], *binds, *steps[place:]]


def mount_tmpfs(place: Path) -> None:
    """A file system of the host."""
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], check=True)


@scenario
async def test_what_the_host_mounts_later_is_seen(bench: Bench) -> None:
    """A file system that was mounted after the launcher's start can be a source."""
    disks = Path(bench.base, "disks")
    mount_tmpfs(disks)
    try:
        subprocess.run(["mount", "--make-shared", str(disks)], check=True)  # as systemd makes all
        bench.send(protocol.Quit())
        await bench.until(lambda: bench.lost, "the end of the launcher")
        await bench.connect()
        mount_tmpfs(disks / "late")
        (disks / "late" / "file").write_text("late")
        steps = with_binds(bench, plan.Bind(str(disks / "late"), "/disk"))
        assert (await bench.run("cat", "/disk/file", steps=steps)).code == 0
        await bench.says("late")
    finally:
        subprocess.run(["umount", "-l", str(disks)], check=True)


@scenario
async def test_binds_keep_their_word(bench: Bench) -> None:
    """Recursive read-only is read-only all the way down; nodev everywhere; mount points are made."""
    source = Path(bench.base, "source")
    source.mkdir()
    (source / "plain").write_text("x")
    mount_tmpfs(source / "below")
    try:
        steps = with_binds(
            bench,
            plan.Bind(str(source), "/deep/er/ro", read_only=True, recursive=True),
            plan.Bind(str(source / "plain"), "/deep/file"),
        )
        script = "touch /deep/er/ro/y; touch /deep/er/ro/below/y; cat /deep/file;"
        script += "grep ' /deep' /proc/self/mountinfo"
        await bench.run("sh", "-c", script, steps=steps)
        text = await bench.says("/deep/file ")
        assert text.count("Read-only file system") == 2
        rows = [line.split() for line in text.splitlines() if " /deep/" in line]
        assert rows
        assert all("nodev" in row[5].split(",") for row in rows)
    finally:
        subprocess.run(["umount", "-l", str(source / "below")], check=True)


@scenario
async def test_a_bind_may_be_read_only_at_its_top_alone(bench: Bench) -> None:
    """What is mounted below it stays writable, and has the propagation that was asked for as well."""
    source = Path(bench.base, "source")
    mount_tmpfs(source)
    try:
        subprocess.run(["mount", "--make-shared", str(source)], check=True)
        mount_tmpfs(source / "below")
        bench.send(protocol.Quit())
        await bench.until(lambda: bench.lost, "the end of the launcher")
        await bench.connect()
        bind = plan.Bind(
            str(source), "/x", read_only=True, recursive=True, propagation="rslave", top_only=True
        )
        script = "touch /x/y; touch /x/below/y && echo written; grep ' /x' /proc/self/mountinfo; echo done"
        await bench.run("sh", "-c", script, steps=with_binds(bench, bind))
        text = await bench.says("done")
        assert text.count("Read-only file system") == 1
        assert "written" in text
        rows = [line.split() for line in text.splitlines() if " /x" in line]
        assert {row[4]: row[6].partition(":")[0] for row in rows} == {"/x": "master", "/x/below": "master"}
    finally:
        subprocess.run(["umount", "-l", str(source)], check=True)


HERE = f"{os.getpid()}:{os.stat('/proc/self/ns/mnt').st_ino}"


@scenario
async def test_propagation_is_what_was_asked_for(bench: Bench) -> None:
    """As mountinfo(5) has it inside: nothing, a slave of the host's mount, or a peer; recursive or not."""
    source = Path(bench.base, "source")
    mount_tmpfs(source)
    try:
        subprocess.run(["mount", "--make-shared", str(source)], check=True)
        mount_tmpfs(source / "below")
        bench.send(protocol.Quit())  # a launcher that knows these mounts, though / may not be shared
        await bench.until(lambda: bench.lost, "the end of the launcher")
        await bench.connect()
        script = "grep ' /x' /proc/self/mountinfo; echo done $0"
        for number, (word, top, below) in enumerate(
            (
                (None, "-", "-"),
                ("rprivate", "-", "-"),
                ("rslave", "master", "master"),
                ("slave", "master", "master"),
                ("private", "-", "master"),
                ("rshared", "shared", "shared"),
                ("shared", "shared", "shared"),
            ),
            1,
        ):
            bind = plan.Bind(str(source), "/x", recursive=True, propagation=word, namespace=HERE)
            steps = with_binds(bench, bind)
            await bench.run("sh", "-c", script, str(number), steps=steps, run=number)
            text = await bench.says(f"done {number}")
            rows = [line.split() for line in text.splitlines() if " /x" in line][-2:]
            kinds = {row[4]: row[6].partition(":")[0] for row in rows}
            assert kinds == {"/x": top, "/x/below": below}, word
    finally:
        subprocess.run(["umount", "-l", str(source)], check=True)


@scenario
async def test_a_shared_bind_goes_both_ways(bench: Bench) -> None:
    """What a service mounts there is on the host. Of a process that is gone no namespace is entered."""
    source = Path(bench.base, "source")
    mount_tmpfs(source)
    try:
        subprocess.run(["mount", "--make-shared", str(source)], check=True)
        (source / "inside").mkdir()
        bind = plan.Bind(str(source), "/x", recursive=True, propagation="rshared", namespace=HERE)
        steps = with_binds(bench, bind)
        caps = [*DEFAULT_CAPS, capabilities.NUMBERS["CAP_SYS_ADMIN"]]
        script = "mount -t tmpfs tmpfs /x/inside && echo from inside > /x/inside/file"
        assert (await bench.run("sh", "-c", script, steps=steps, caps=caps)).code == 0
        assert (source / "inside/file").read_text() == "from inside\n"
        stale = bind._replace(namespace=f"{os.getpid()}:1")
        bench.send(protocol.Launch(bench.plan("true", steps=with_binds(bench, stale), run=2)))
        failed = await bench.event(protocol.LaunchFailed)
        assert "whoever asked for it is gone" in failed.detail
    finally:
        subprocess.run(["umount", "-l", str(source)], check=True)


@scenario
async def test_links_in_the_root_lead_nowhere_outside(bench: Bench) -> None:
    """Mount points, masks, symlinks and owners below a link to /: all end inside the root."""
    outside = Path(bench.base, "outside")
    outside.mkdir()
    upper = Path(bench.paths.instance("web").upper)
    upper.mkdir(parents=True)
    (upper / "evil").symlink_to(outside)
    (upper / "up").symlink_to("../../../../../../../../" + str(outside)[1:])
    steps = with_binds(
        bench,
        plan.Bind("/etc", "/evil/one"),
        plan.Mount("tmpfs", "/up/two", 6, ""),
        plan.Symlink("x", "/up/three"),
    )
    steps += [plan.Mask(["/up/three"]), plan.ReadOnly(["/evil"])]
    exited = await bench.run("sh", "-c", "ls /", steps=steps, cwd="/up/cwd")
    assert exited.code == 0
    assert list(outside.iterdir()) == []


@scenario
async def test_many_layers_are_all_there(bench: Bench) -> None:
    """More than a page of options: every layer counts, and the root is writable."""
    layers = []
    for number in range(80):
        layer = Path(bench.base, "layers", f"{number:03}-" + "l" * 80)
        (layer / "mark").mkdir(parents=True)
        (layer / "mark" / str(number)).touch()
        layers.append(str(layer))
    upper, work = (Path(bench.base, name) for name in ("many-upper", "many-work"))
    upper.mkdir()
    work.mkdir()
    steps = with_binds(bench, plan.Overlay("/many", layers, str(upper), str(work)))
    launch = bench.plan(
        "sh", "-c", "ls /many/mark | wc -l; touch /many/mark/new && echo writable", steps=steps
    )
    bench.send(protocol.Launch(launch))
    end = await bench.until(
        lambda: next(
            (e for e in bench.events if isinstance(e, protocol.Exited | protocol.LaunchFailed)), None
        )
    )
    if isinstance(end, protocol.LaunchFailed):
        assert "over one page" in end.detail, end  # a kernel without lowerdir+: refused, not cut
        return
    await bench.says("writable")
    assert "80" in bench.output()


def test_options_that_would_be_cut_are_refused() -> None:
    """mount(2) cuts at a page, silently; special characters are escaped."""
    with pytest.raises(OSError, match="over one page") as error:
        mounts.overlay_options(["/" + "x" * 100] * 60, "/u", "/w")
    assert error.value.errno == errno.E2BIG
    assert mounts.overlay_options(["/a:b", "/c,d"], "/u:v", "/w").startswith(
        b"lowerdir=/a\\:b:/c\\,d,upperdir=/u:v,workdir=/w"
    )


OLD = """
import os, sys
from supervisor.kernel import mounts, syscalls as sc
from supervisor.launcher import perform, plan
from supervisor.launcher.ahead import Made
from supervisor.launcher.assemble import assemble
from supervisor.launcher.program import Arena
sc.unshare(sc.CLONE_NEWNS)
mounts.takes_layers_one_by_one = lambda: False  # a kernel before 6.7
base = sys.argv[1]
for name in ("low:er", "upper", "work", "at"):
    os.makedirs(f"{base}/{name}")
open(f"{base}/low:er/file", "w").write("below")
overlay = plan.Overlay("/", [f"{base}/low:er"], f"{base}/upper", f"{base}/work")
process = plan.Process(["true"], [])
launch = plan.LaunchPlan("web", 1, "", plan.Limits(), None, "host", f"{base}/at", [overlay], process, None)
arena = Arena()
program = assemble(launch, arena.address, Made())
arena.load(program.data)
perform.Performer().run(program.rows, [])
assert open(f"{base}/at/file").read() == "below"
open(f"{base}/at/new", "w").write("x")
assert os.path.exists(f"{base}/upper/new")
row = [line for line in open("/proc/self/mountinfo") if f" {base}/at " in line][0]
assert "nodev" in row.split()[5], row
assert not [line for line in open("/proc/self/mountinfo") if f" {base}/upper " in line]
"""


def test_an_overlay_on_an_older_kernel_is_the_same(tmp_path: Path) -> None:
    """Without lowerdir+ the layers go by mount(2), and nothing else is left mounted."""
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", OLD, str(tmp_path)], check=True, cwd=root, timeout=30)
