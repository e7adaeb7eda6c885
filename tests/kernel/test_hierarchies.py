"""Which cgroup hierarchies a host has, and the part of them that a supervisor makes its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.kernel import hierarchies
from supervisor.kernel.hierarchies import detect

pytestmark = pytest.mark.kernel
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: cgroups are made")

BASE = f"shipkeeper-test-hierarchies-{os.getpid()}"
V2 = "30 24 0:26 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 31 0:27 / /sys/fs/cgroup/{0} rw - cgroup cgroup rw,{0}\n"
NAMED = "40 31 0:35 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n"
UNIFIED = "41 31 0:36 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,favordynmods\n"


@pytest.mark.parametrize(
    ("mountinfo", "mode", "unified", "v1", "others"),
    [
        (V2, "unified", "/sys/fs/cgroup", [], []),
        (NAMED + UNIFIED, "unified", "/sys/fs/cgroup/unified", [], ["name=systemd"]),
        (V1.format("memory") + NAMED, "legacy", None, ["memory"], ["name=systemd"]),
        (
            V1.format("memory") + V1.format("blkio") + NAMED + UNIFIED,
            "hybrid",
            "/sys/fs/cgroup/unified",
            ["memory", "blkio"],
            ["name=systemd"],
        ),
        (V1.format("cpuset") + UNIFIED, "unified", "/sys/fs/cgroup/unified", [], ["cpuset"]),
        (V1.format("cpu,cpuacct") + UNIFIED, "hybrid", "/sys/fs/cgroup/unified", ["cpu", "cpuacct"], []),
    ],
)
def test_the_kind_of_host_is_seen_by_its_mounts(
    mountinfo: str, mode: str, unified: str | None, v1: list[str], others: list[str]
) -> None:
    """Every setup that distributions have; hierarchies that runs are not put into are kept apart."""
    found = detect("22 1 254:0 / / rw - ext4 /dev/vda rw\n" + mountinfo)
    assert (found.mode, found.unified, list(found.v1), list(found.others)) == (mode, unified, v1, others)


def test_a_controller_is_where_it_can_be_used() -> None:
    """Two that share a hierarchy have one place; a name is no controller."""
    found = detect(V1.format("cpu,cpuacct") + NAMED)
    place = "/sys/fs/cgroup/cpu,cpuacct"
    assert found.controllers() == {"cpu": place, "cpuacct": place}
    assert found.places() == [place, "/sys/fs/cgroup/systemd"]


def test_a_host_without_cgroups_is_an_error() -> None:
    """The text says what to do."""
    with pytest.raises(OSError, match="mount cgroup2"):
        detect("22 1 254:0 / / rw - ext4 /dev/vda rw\n")


def test_this_hosts_cgroups_are_where_they_are_said_to_be() -> None:
    """This process is somewhere in each hierarchy that was named."""
    found = detect()
    listed = Path("/proc/self/cgroup").read_text().splitlines()
    mine = {name for entry in listed for name in entry.split(":")[1].split(",")}
    for controller, place in found.controllers().items():
        assert "cgroup.procs" in os.listdir(place)
        assert controller in mine or place == found.unified


def test_controllers_that_are_active_are_not_written_again(tmp_path: Path) -> None:
    """A part of the tree that systemd delegates is left alone; what is missing is asked for."""
    for directory, active in (
        (tmp_path, "cpu memory pids"),
        (tmp_path / "unit", ""),
        (tmp_path / "unit/x", ""),
    ):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.controllers").write_text("cpu memory pids")
        (directory / "cgroup.subtree_control").write_text(active)
    hierarchies.enable_controllers(str(tmp_path), "unit/x")
    assert (tmp_path / "cgroup.subtree_control").read_text() == "cpu memory pids"
    assert (tmp_path / "unit/cgroup.subtree_control").read_text().startswith("+")


@pytest.fixture
def base() -> Iterator[str]:
    """A path below the hierarchies, made in all of them as systemd makes a delegated unit's."""
    made = [f"{place}/{BASE}" for place in detect().places() if not place.endswith("cpuset")]
    for path in made:
        os.mkdir(path)
    try:
        yield BASE
    finally:
        for path in made:
            for directory, _, _ in os.walk(path, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
        assert not any(os.path.exists(path) for path in made)


@needs_root
def test_a_launcher_and_what_was_in_a_units_cgroup_go_into_a_leaf_of_it(base: str) -> None:
    """In every hierarchy, so that a unit is found to have processes, and no inner cgroup of v2 has any."""
    code = f"""
import subprocess
from pathlib import Path
from supervisor.kernel import hierarchies
setup = hierarchies.detect()
keeper = subprocess.Popen(["sleep", "1000"])
if setup.unified:
    Path(f"{{setup.unified}}/{base}/cgroup.procs").write_text(str(keeper.pid))
hierarchies.enter_leaf(setup, {base!r})
print(Path("/proc/self/cgroup").read_text())
print(Path(f"/proc/{{keeper.pid}}/cgroup").read_text() if setup.unified else "")
keeper.kill()
keeper.wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    lines = done.stdout.splitlines()
    for line in lines[: lines.index("")]:
        number, controllers, path = line.split(":")
        assert path == f"/{base}/launcher" or controllers == "cpuset" or (number == "0" and not controllers)
    if detect().unified is not None:
        assert lines.count(f"0::/{base}/launcher") == 2


@needs_root
def test_what_is_empty_is_removed_and_a_base_of_others_is_kept(base: str) -> None:
    """Below the base everything goes, in all hierarchies; the base itself only if it is ours."""
    places = [place for place in detect().places() if os.path.isdir(f"{place}/{base}")]
    for place in places:
        os.makedirs(f"{place}/{base}/web/1")
    hierarchies.remove_empty(detect(), base, keep=True)
    assert [os.path.exists(f"{place}/{base}/web") for place in places] == [False] * len(places)
    assert all(os.path.isdir(f"{place}/{base}") for place in places)
    hierarchies.remove_empty(detect(), base)
    assert not any(os.path.exists(f"{place}/{base}") for place in places)
