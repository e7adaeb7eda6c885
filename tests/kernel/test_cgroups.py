"""Cgroups: which there are, what limits become, and that they hold; on whatever the host has."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.kernel import limitfiles
from supervisor.kernel.cgroups import Cgroup
from supervisor.kernel.hierarchies import CgroupSetup, detect
from supervisor.kernel.usage import read_usage
from supervisor.launcher.plan import Limits

pytestmark = pytest.mark.kernel
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are made")

BASE = f"shipkeeper-test-{os.getpid()}"
FULL = Limits(64 << 20, 96 << 20, 32 << 20, 50_000, 100_000, 512, 20)


@pytest.fixture(params=["detected", "legacy"])
def setup(request: pytest.FixtureRequest) -> Iterator[CgroupSetup]:
    """What this host has, and its v1 controllers alone; nothing of ours remains."""
    found = detect()
    if request.param == "legacy":
        if not {"memory", "freezer", "cpuacct"} <= set(found.v1):
            pytest.skip("needs v1 controllers: this host has cgroup v2 only")
        found = CgroupSetup("legacy", None, found.v1)
    yield found
    for place in filter(None, (found.unified, *found.v1.values())):
        for directory, _, _ in os.walk(f"{place}/{BASE}", topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        assert not Path(f"{place}/{BASE}").exists()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process to put into cgroups."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()


def enter(cgroup: Cgroup, pid: int) -> None:
    """Move a process in, as its first act would."""
    if cgroup.setup.unified is not None:
        Path(f"{cgroup.setup.unified}/{cgroup.path}/cgroup.procs").write_text(str(pid))
    for fd in cgroup.open_v1():
        os.write(fd, str(pid).encode())
        os.close(fd)


def test_limits_become_what_docker_writes() -> None:
    """Swap is memory plus swap in v1, swap alone in v2; unlimited swap; nothing for what is not limited."""
    assert limitfiles.v2_files(FULL) == [
        ("memory", "memory.max", str(64 << 20)),
        ("memory", "memory.swap.max", str(32 << 20)),
        ("memory", "memory.low", str(32 << 20)),
        ("cpu", "cpu.max", "50000 100000"),
        ("cpu", "cpu.weight", "59"),
        ("pids", "pids.max", "20"),
    ]
    assert ("memory", "memory.memsw.limit_in_bytes", str(96 << 20)) in limitfiles.v1_files(FULL)
    assert ("memory", "memory.swap.max", "max") in limitfiles.v2_files(Limits(1 << 25, -1))
    assert ("memory", "memory.memsw.limit_in_bytes", "-1") in limitfiles.v1_files(Limits(1 << 25, -1))
    assert limitfiles.v2_files(Limits()) == limitfiles.v1_files(Limits()) == []


@pytest.mark.parametrize(
    ("shares", "weight"), [(2, 1), (1024, 100), (262144, 10000), (1 << 20, 10000), (0, 1)]
)
def test_shares_become_weights_as_in_runc(shares: int, weight: int) -> None:
    """The ends and Docker's default are fixed points."""
    assert limitfiles.weight_of_shares(shares) == weight


@needs_root
def test_a_limit_without_its_controller_is_refused(setup: CgroupSetup) -> None:
    """Never a service that believes in a limit which is not there; nothing is left."""
    bare = (
        CgroupSetup("unified", setup.unified, {})
        if setup.mode == "hybrid"
        else CgroupSetup("legacy", None, {})
    )
    cgroup = Cgroup(bare, f"{BASE}/web/1")
    with pytest.raises(OSError, match="controller") as error:
        cgroup.create(Limits(memory_bytes=64 << 20))
    assert error.value.errno == errno.ENOTSUP
    assert not [p for p in (setup.unified, *setup.v1.values()) if Path(f"{p}/{BASE}/web/1").exists()]


@needs_root
def test_swappiness_and_oom_kill_disable_are_kept_or_refused(setup: CgroupSetup) -> None:
    """v1 has them; cgroup v2 has not, and says so."""
    cgroup = Cgroup(setup, f"{BASE}/web/1")
    limits = Limits(memory_swappiness=7, oom_kill_disable=True)
    if "memory" not in setup.v1:
        with pytest.raises(OSError, match="cgroup v2 has no such file"):
            cgroup.create(limits)
        return
    cgroup.create(limits)
    place = Path(f"{setup.v1['memory']}/{cgroup.path}")
    assert (place / "memory.swappiness").read_text() == "7\n"
    assert "oom_kill_disable 1" in (place / "memory.oom_control").read_text()
    assert cgroup.remove()


def test_a_weight_is_written_where_the_kernel_keeps_one(tmp_path: Path) -> None:
    """One file of the two is enough; with both the first counts, with none it is an error that says so."""
    rows = limitfiles.v2_files(Limits(blkio_weight=500))
    places = {"io": str(tmp_path)}
    with pytest.raises(OSError, match="remove the weight") as error:
        limitfiles.write_limits(rows, places)
    assert error.value.errno == errno.ENOTSUP
    (tmp_path / "io.weight").touch()
    limitfiles.write_limits(rows, places)
    assert (tmp_path / "io.weight").read_text() == "4950"
    (tmp_path / "io.bfq.weight").touch()
    (tmp_path / "io.weight").write_text("")
    limitfiles.write_limits(rows, places)
    assert ((tmp_path / "io.bfq.weight").read_text(), (tmp_path / "io.weight").read_text()) == ("500", "")
    assert [limitfiles.weight_of_block(weight) for weight in (10, 1000)] == [1, 10000]


def test_cpus_and_devices_that_are_not_there_are_named(tmp_path: Path) -> None:
    """Before anything is written: the kernel says less, and on v2 takes CPUs that the host has not."""
    for files in (limitfiles.v1_files, limitfiles.v2_files):
        with pytest.raises(OSError, match="requested CPUs are not available"):
            files(Limits(cpuset="0,9000"))
        with pytest.raises(OSError, match="no block device"):
            files(Limits(blkio_devices=[("read_bps", "/dev/null", 1)]))
        with pytest.raises(FileNotFoundError, match="cannot limit the device"):
            files(Limits(blkio_devices=[("read_bps", str(tmp_path / "gone"), 1)]))
    assert limitfiles.cpus_of("0-2,4\n") == {0, 1, 2, 4}


@needs_root
def test_a_run_stays_on_its_cpus(setup: CgroupSetup, sleeper: subprocess.Popen[bytes]) -> None:
    """What the scheduler says of a process in there; a second run below the same base as well."""
    if "cpuset" not in setup.controllers():
        pytest.skip("the host has no cpuset controller")
    last = str(max(limitfiles.cpus_of(Path("/sys/devices/system/cpu/online").read_text())))
    before = os.sched_getaffinity(sleeper.pid)
    for run in (1, 2):
        cgroup = Cgroup(setup, f"{BASE}/web/{run}")
        cgroup.create(Limits(cpuset=last))
        enter(cgroup, sleeper.pid)
        assert os.sched_getaffinity(sleeper.pid) == {int(last)}
    assert int(last) in before


@needs_root
def test_limits_of_a_device_are_told_to_the_kernel(
    setup: CgroupSetup, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Rates of a loop device, by its numbers."""
    if not {"io", "blkio"} & setup.controllers().keys():
        pytest.skip("the host has no controller of block devices")
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    made = subprocess.run(
        ["losetup", "--find", "--show", str(tmp_path / "disk")], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    device = made.stdout.strip()
    request.addfinalizer(lambda: subprocess.run(["losetup", "--detach", device], check=True))
    number = os.stat(device).st_rdev
    name = f"{os.major(number)}:{os.minor(number)}"
    cgroup = Cgroup(setup, f"{BASE}/web/1")
    cgroup.create(Limits(blkio_devices=[("read_bps", device, 1 << 20), ("write_iops", device, 50)]))
    if setup.mode == "unified":
        text = Path(f"{setup.unified}/{cgroup.path}/io.max").read_text()
        assert text == f"{name} rbps=1048576 wbps=max riops=max wiops=50\n"
    else:
        place = Path(f"{setup.v1['blkio']}/{cgroup.path}")
        assert (place / "blkio.throttle.read_bps_device").read_text() == f"{name} 1048576\n"
        assert (place / "blkio.throttle.write_iops_device").read_text() == f"{name} 50\n"
    assert cgroup.remove()


@needs_root
def test_limits_are_in_force_and_figures_are_told(
    setup: CgroupSetup, sleeper: subprocess.Popen[bytes]
) -> None:
    """What was asked for is what the kernel has; usage, limit and processes are read back."""
    cgroup = Cgroup(setup, f"{BASE}/web/1")
    limits = FULL._replace(memory_swap_bytes=None)
    cgroup.create(limits)
    if setup.mode == "unified":
        for _, name, text in limitfiles.v2_files(limits):
            assert Path(f"{setup.unified}/{BASE}/web/1/{name}").read_text().strip() == text
    else:
        for controller, name, text in limitfiles.v1_files(limits):
            assert Path(f"{setup.v1[controller]}/{BASE}/web/1/{name}").read_text().strip() == text
    assert not cgroup.populated()
    enter(cgroup, sleeper.pid)
    assert cgroup.populated()
    assert cgroup.procs() == [sleeper.pid]
    usage = read_usage(cgroup)
    assert usage is not None
    assert (usage.memory_limit_bytes, usage.pids) == (64 << 20, 1)
    assert cgroup.oom_kills() == 0
    assert not cgroup.remove(), "it is in use"
    sleeper.kill()
    sleeper.wait()
    while not cgroup.remove():
        pass
    assert cgroup.remove(), "twice is no error"
    assert not cgroup.populated()


@needs_root
def test_one_that_is_gone_has_no_figures(setup: CgroupSetup) -> None:
    """Questions about a removed cgroup are answered with nothing, or fail by name."""
    cgroup = Cgroup(setup, f"{BASE}/never/1")
    assert (cgroup.oom_kills(), cgroup.cpu_ns(), cgroup.populated()) == (0, 0, False)
    if setup.unified is not None:
        assert cgroup.kill()


@needs_root
def test_kill_and_freeze_are_confirmed_by_events(
    setup: CgroupSetup, sleeper: subprocess.Popen[bytes]
) -> None:
    """cgroup.events wakes a poller when all is frozen and when all is dead."""
    if setup.unified is None:
        pytest.skip("needs cgroup v2: pure v1 has no events")
    cgroup = Cgroup(setup, f"{BASE}/web/1")
    cgroup.create(Limits())
    enter(cgroup, sleeper.pid)
    events = cgroup.open_events()
    poll = select.epoll()
    poll.register(events, select.EPOLLPRI)
    poll.poll(0)
    cgroup.freeze(True)
    while not cgroup.is_frozen():
        os.pread(events, 4096, 0)
        assert poll.poll(10)
    cgroup.freeze(False)
    assert cgroup.kill()
    assert sleeper.wait(10) == -signal.SIGKILL
    while cgroup.populated():
        os.pread(events, 4096, 0)
        assert poll.poll(10)
    os.close(events)
    poll.close()
    while not cgroup.remove():
        pass


@needs_root
def test_freezing_works_in_every_hierarchy(setup: CgroupSetup, sleeper: subprocess.Popen[bytes]) -> None:
    """Frozen and thawed again, by cgroup.freeze or by the v1 freezer; CPU time is counted."""
    cgroup = Cgroup(setup, f"{BASE}/web/1")
    cgroup.create(Limits())
    enter(cgroup, sleeper.pid)
    for wanted in (True, False):
        cgroup.freeze(wanted)
        while cgroup.is_frozen() != wanted:
            pass
    assert cgroup.cpu_ns() >= 0
    assert cgroup.kill() == (setup.unified is not None)
    sleeper.kill()
    sleeper.wait()
    while not cgroup.remove():
        pass
