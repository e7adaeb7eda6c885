"""`shipkeeper doctor` on this host as it is, and with something really taken away."""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.core.paths import Paths
from supervisor.kernel import seccomp
from supervisor.kernel.hierarchies import detect
from supervisor.runtime.doctor import Check, leftovers, run_checks, worst
from supervisor.runtime.hostmounts import HostMount, parse_mountinfo

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the doctor tries what only root can"),
]

# Run as a program, since what is taken away must be taken from a whole process.
_PROGRAM = """
import dataclasses, json, os, sys
from supervisor.core.paths import Paths
from supervisor.runtime.doctor import run_checks
state, run, program = sys.argv[1:4]
if program:
    import ctypes
    text = open(program, "rb").read()
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))
    buffer = ctypes.create_string_buffer(text, len(text))
    record = Program(len(text) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    assert ctypes.CDLL(None).prctl(22, 2, ctypes.byref(record)) == 0
print(json.dumps([dataclasses.asdict(check) for check in run_checks(Paths(state, run))]))
"""
_ROOT = str(Path(__file__).resolve().parents[2])


@pytest.fixture
def paths() -> Iterator[Paths]:
    """A state and a run directory of its own, on the root's file system."""
    base = tempfile.mkdtemp(prefix="shipkeeper-test-", dir="/var/tmp")
    os.mkdir(f"{base}/state")
    os.mkdir(f"{base}/run")
    yield Paths(f"{base}/state", f"{base}/run")
    shutil.rmtree(base)


def examine(paths: Paths, setup: str = "", prefix: tuple[str, ...] = (), program: str = "") -> list[Check]:
    """Run the doctor in a mount namespace of its own, after a shell script has taken something away."""
    command = [*prefix, sys.executable, "-c", _PROGRAM, paths.state_dir, paths.run_dir, program]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-e", "-c", f'{setup}\nexec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        check=False,
        cwd=_ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [Check(**line) for line in json.loads(done.stdout)]


def line(checks: list[Check] | tuple[Check, ...], name: str) -> Check:
    """The one check of that name."""
    (found,) = [check for check in checks if check.name == name]
    return found


def traces(paths: Paths) -> tuple[object, ...]:
    """What a doctor might leave behind."""
    roots = sorted(detect().places())
    mine = [root for root in roots if any("doctor-" in name for name in os.listdir(root))]
    return sorted(os.listdir(paths.state_dir)), sorted(os.listdir(paths.run_dir)), mine


def test_this_host_runs_services_and_is_left_as_it_was(paths: Paths) -> None:
    """No check fails where the other tests run services; every complaint comes with a remedy."""
    before = traces(paths), Path("/proc/self/mountinfo").read_text()
    checks = run_checks(paths)
    assert [check for check in checks if check.status == "fail"] == []
    assert all(check.remedy for check in checks if check.status != "ok")
    assert not any(check.remedy for check in checks if check.status == "ok")
    assert "mount overlay" in line(checks, "isolation").detail
    assert (traces(paths), Path("/proc/self/mountinfo").read_text()) == before


def test_names_are_unique() -> None:
    """A line can be found by its name."""
    names = [check.name for check in run_checks(Paths())]
    assert len(names) == len(set(names))


def test_directories_that_are_not_there_yet_are_no_fault(paths: Paths) -> None:
    """Before the first start: said so, and not made."""
    fresh = Paths(f"{paths.state_dir}/a/b", f"{paths.run_dir}/c")
    checks = run_checks(fresh)
    assert "to be made" in line(checks, "state directory").detail
    assert "to be made" in line(checks, "run directory").detail
    assert worst(checks) != "fail"
    assert not os.path.exists(fresh.state_dir)


@pytest.mark.parametrize("cap", ["SYS_ADMIN", "SETUID", "MKNOD", "SETPCAP"])
def test_a_missing_capability_is_named_with_its_purpose(paths: Paths, cap: str) -> None:
    """Dropped for real; the line says what it was for."""
    checks = examine(paths, prefix=("setpriv", f"--bounding-set=-{cap.lower()}"))
    found = line(checks, f"capability CAP_{cap}")
    assert found.status == "fail"
    assert "needed for" in found.detail and f"CAP_{cap}" in found.remedy


def test_without_sys_admin_the_trials_say_what_was_refused(paths: Paths) -> None:
    """The call and the error, and that a container may be the reason."""
    checks = examine(paths, prefix=("setpriv", "--bounding-set=-sys_admin"))
    for name in ("namespace mount", "clone3", "mount overlay", "mount proc"):
        found = line(checks, name)
        assert found.status == "fail"
        assert "Operation not permitted" in found.detail and "container" in found.remedy


def test_an_ordinary_user_is_told_to_become_root(paths: Paths) -> None:
    """Everything fails in lines, nothing by an exception."""
    os.chmod(os.path.dirname(paths.state_dir), 0o755)
    if not os.access(sys.executable, os.X_OK) or os.stat(_ROOT).st_mode & 0o005 != 0o005:
        pytest.skip("the checkout or the interpreter cannot be read by another user")
    done = subprocess.run(
        [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            sys.executable,
            "-c",
            "import supervisor.core",
        ],
        cwd=_ROOT,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("the checkout or the interpreter cannot be read by another user")
    checks = examine(paths, prefix=("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"))
    assert line(checks, "root").status == "fail"
    assert line(checks, "state directory").status == "fail"
    assert line(checks, "isolation").status == "fail"
    assert not any("itself failed" in check.detail for check in checks)


def test_a_file_system_that_cannot_hold_a_layer_is_named(paths: Paths) -> None:
    """The state on an overlay: overlayfs takes none as its upper layer."""
    base = paths.run_dir
    setup = f"""
        mount -t tmpfs tmpfs {base}
        cd {base}
        mkdir lower upper work
        mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work {paths.state_dir}
        cd {_ROOT}
    """
    found = line(examine(paths, setup), "mount overlay")
    assert found.status == "fail"
    assert "overlay (mounted at" in found.remedy and "ext4" in found.remedy


@pytest.mark.parametrize(
    ("options", "name", "status", "words"),
    [
        ("size=512m,noexec", "state directory", "fail", "noexec"),
        ("size=512m,ro", "state directory", "fail", "read-only"),
        ("size=512m,nosuid", "state directory", "warn", "tmpfs"),
        ("size=16m", "disk space", "fail", "MiB free"),
        ("size=512m", "disk space", "warn", "MiB free"),
        ("size=2g,nr_inodes=2000", "disk space", "warn", "inodes"),
    ],
)
def test_an_unfit_state_directory_is_told(
    paths: Paths, options: str, name: str, status: str, words: str
) -> None:
    """Mounted wrongly or too small, each with its own line."""
    found = line(examine(paths, f"mount -t tmpfs -o {options} tmpfs {paths.state_dir}"), name)
    assert (found.status, words in found.detail, bool(found.remedy)) == (status, True, True)


def test_a_state_directory_that_is_a_file_is_told(paths: Paths) -> None:
    """Something else of that name."""
    Path(f"{paths.state_dir}/file").touch()
    found = line(run_checks(Paths(f"{paths.state_dir}/file", paths.run_dir)), "state directory")
    assert found.status == "fail" and "no directory" in found.detail


def test_a_run_directory_too_deep_for_sockets_is_told(paths: Paths) -> None:
    """sun_path has 108 bytes."""
    found = line(run_checks(Paths(paths.state_dir, f"{paths.run_dir}/{'x' * 100}")), "run directory")
    assert found.status == "fail" and "shorter" in found.remedy


def test_absent_libseccomp_names_the_package(paths: Paths) -> None:
    """The library is hidden from the process."""
    libraries = [str(path) for path in Path("/usr/lib").glob("*/libseccomp.so.2*") if not path.is_symlink()]
    if not libraries:
        pytest.skip("libseccomp2 lies at an unknown place")
    setup = "\n".join(f"mount --bind /dev/null {library}" for library in libraries)
    found = line(examine(paths, setup), "seccomp")
    assert found.status == "fail"
    assert "libseccomp.so.2" in found.detail and "libseccomp2" in found.remedy


def test_a_refused_system_call_is_found_by_trying(paths: Paths, tmp_path: Path) -> None:
    """A filter around the doctor makes two calls absent, as an old kernel or a container would."""
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["clone3", "openat2"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
    }
    (tmp_path / "profile.json").write_text(json.dumps(profile))
    program = seccomp.install(
        str(tmp_path), seccomp.compile_profile(str(tmp_path / "profile.json"), frozenset())
    )
    checks = examine(paths, program=program)
    for name in ("system call clone3", "system call openat2"):
        assert line(checks, name).status == "fail"
        assert "not implemented" in line(checks, name).detail
    assert "system call close_range" not in [check.name for check in checks]
    assert line(checks, "clone3").status == "fail"


def test_no_cgroups_are_told_with_how_to_mount_them(paths: Paths) -> None:
    """All hierarchies unmounted."""
    checks = examine(paths, "umount -R /sys/fs/cgroup")
    assert line(checks, "cgroups").status == "fail" and "mount -t cgroup2" in line(checks, "cgroups").remedy
    assert line(checks, "limit mem_limit").status == "fail"


def test_read_only_cgroups_are_told(paths: Paths) -> None:
    """As in a container."""
    setup = "for m in $(awk '$9 ~ /^cgroup/ || $10 ~ /^cgroup/ {print $5}' /proc/self/mountinfo); do"
    setup += ' mount -o remount,bind,ro "$m"; done'
    found = line(examine(paths, setup), "limit mem_limit")
    assert found.status == "fail" and "Read-only" in found.detail and "writable" in found.remedy


def test_a_check_that_breaks_is_a_line(paths: Paths) -> None:
    """Without /proc nearly nothing can be found out; the doctor says so and goes on to the end."""
    checks = examine(paths, "mount -t tmpfs tmpfs /proc")
    assert "itself failed" in line(checks, "capabilities").detail
    assert line(checks, "capabilities").status == "fail"
    assert line(checks, "root").status == "ok"
    assert line(checks, "open files").status in ("ok", "warn")


def test_the_limit_of_open_files_is_that_of_the_launcher_that_runs(paths: Paths) -> None:
    """Found by its socket, here one of this process; a shell with less changes nothing."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(paths.launcher_socket)
        listening.listen()
        found = line(examine(paths, "ulimit -n 1000"), "open files")
    assert f"hard limit {hard} (of the launcher)" in found.detail


def test_too_few_open_files_are_told(paths: Paths) -> None:
    """The hard limit is what the launcher can have."""
    assert line(examine(paths, "ulimit -n 1000"), "open files").status == "fail"


def test_leftovers_are_what_no_known_instance_owns(paths: Paths) -> None:
    """Directories and cgroups of known instances are none; a cgroup with processes is more than litter."""
    for instance in ("known", "dead"):
        os.makedirs(f"{paths.instances}/{instance}/upper")
    cgroups = detect()
    if cgroups.unified is None:
        pytest.skip("needs a version 2 hierarchy, alone or beside version 1")
    base = f"shipkeeper-test-{os.getpid()}"
    made = [
        f"{cgroups.unified}/{base}",
        *(f"{cgroups.unified}/{base}/{name}" for name in ("known", "dead", "alive")),
    ]
    process = subprocess.Popen(["sleep", "60"])
    try:
        for path in made:
            os.mkdir(path)
        Path(f"{made[-1]}/cgroup.procs").write_text(str(process.pid))
        known = frozenset(("known",))
        mounts = parse_mountinfo(Path("/proc/self/mountinfo").read_text())
        found = leftovers(paths, known, cgroups, mounts, base)
        assert {(one.kind, one.instance, one.alive) for one in found} == {
            ("directory", "dead", False),
            ("cgroup", "dead", False),
            ("cgroup", "alive", True),
        }
        checks = run_checks(paths, known, base)
        assert line(checks, "leftover processes").status == "fail"
        assert f"{base}/alive" in line(checks, "leftover processes").detail
        assert f"{paths.instances}/dead" in line(checks, "leftover directory").detail
        assert line(checks, "leftover cgroup").status == "warn"
    finally:
        process.kill()
        process.wait()
        for path in reversed(made):
            if os.path.isdir(path):
                os.rmdir(path)


def test_what_the_daemon_has_mounted_is_no_leftover(paths: Paths) -> None:
    own = (paths.masks, paths.held_mounts, paths.network_namespaces)
    places = [*own, *(f"{place}/one" for place in own), f"{paths.run_dir}/other"]
    mounts = [HostMount(os.path.realpath(place), "tmpfs", "tmpfs") for place in places]
    found = leftovers(paths, frozenset(), None, mounts)
    assert [one.path for one in found] == [os.path.realpath(f"{paths.run_dir}/other")]


def test_the_cgroup_of_a_build_is_a_leftover_when_the_build_is_gone(paths: Paths) -> None:
    cgroups = detect()
    place = cgroups.unified or cgroups.v1["memory"]
    base = f"shipkeeper-test-build-{os.getpid()}"
    group = Path(place, base, "build-0a")
    try:
        group.mkdir(parents=True)
        Path(paths.builds, "0a").mkdir(parents=True)
        assert leftovers(paths, frozenset(), cgroups, [], base) == ()
        Path(paths.builds, "0a").rmdir()
        assert [one.path for one in leftovers(paths, frozenset(), cgroups, [], base)] == [str(group)]
    finally:
        for path in (group, group.parent):
            if path.exists():
                path.rmdir()


def test_a_forgotten_mount_is_a_leftover(paths: Paths) -> None:
    """Runs mount in namespaces of their own: one in the host's belongs to nobody, known instance or not."""
    os.makedirs(f"{paths.instances}/dead/root")
    found = line(examine(paths, f"mount -t tmpfs tmpfs {paths.instances}/dead/root"), "leftover mount")
    assert found.status == "warn" and f"{paths.instances}/dead/root" in found.detail
