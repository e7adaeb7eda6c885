"""Isolation, looked at from inside a service, and attacked from there.

Each probe is a Python program that runs as the service on the host view and leaves its findings in a
directory that is bound in; so nothing of the supervisor's own reporting is believed.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from launching import Executor, RealLauncher, UtilLinux

from supervisor.core.model import Device, Mount, Project, ServiceSpec, Ulimit
from supervisor.kernel import capabilities
from supervisor.runtime.hostview import HostView, prepare_host
from supervisor.runtime.masklayer import forget_masks
from supervisor.runtime.plan import MASKED_PATHS, READ_ONLY_PATHS, launch_plan, next_run
from supervisor.runtime.rootfs import prepare_instance
from supervisor.runtime.translate import DEFAULT_CAPABILITIES

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces, mounts and cgroups"),
]

PRELUDE = """
import ctypes, errno, json, os, socket, stat, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(call):
    try:
        call()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"
def syscall(name, *arguments):
    ctypes.set_errno(0)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
def write(path, text="x"):
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
def tell(**found):
    with open("/out/found", "w") as out:
        json.dump(found, out)
"""


class World:
    """An executor of plans, the host view and a way to run one probe after another."""

    def __init__(self, launcher: Executor, view: HostView, out: Path) -> None:
        self.launcher = launcher
        self.view = view
        self.out = out
        self._count = 0

    def needs(self, *abilities: str) -> None:
        """Skip the test if the executor lacks one of these."""
        for ability in self.launcher.lacks & set(abilities):
            pytest.skip(f"{type(self.launcher).__name__} lacks {ability}: needs the launcher")

    def run(
        self, program: str, *, instance: str | None = None, run: int = 1, **changes: Any
    ) -> dict[str, Any]:
        """Run a probe as a service to its end; what it told, with its exit code as `code`."""
        self._count += 1
        name = instance or f"probe{self._count}"
        mounts = (Mount("bind", "/out", str(self.out)), *changes.pop("mounts", ()))
        text = PRELUDE + textwrap.dedent(program)
        spec = replace(ServiceSpec("web", command=("python3", "-c", text), mounts=mounts), **changes)
        paths = self.launcher.paths
        ready = prepare_instance(spec, name, paths, Project("p", "/"), container_name=name, view=self.view)
        seccomp = None if spec.privileged else self.launcher.seccomp_path
        first = launch_plan(
            spec,
            ready,
            1,
            paths,
            host=self.view.facts,
            cgroup_base=self.launcher.cgroup_base,
            seccomp_path=seccomp,
        )
        (self.out / "found").unlink(missing_ok=True)
        code = self.launcher.run_to_end(next_run(first, run, ""))
        found = json.loads((self.out / "found").read_text()) if (self.out / "found").exists() else {}
        log = Path(ready.files.log)
        return {**found, "code": code, "log": log.read_text() if log.exists() else ""}


@pytest.fixture(scope="module", params=[RealLauncher, UtilLinux])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """One executor for all probes."""
    base = tempfile.mkdtemp(prefix="shipkeeper-test-")
    launcher: Executor = request.param(base)
    try:
        out = Path(base, "out")
        out.mkdir()
        out.chmod(0o777)
        yield World(launcher, prepare_host(launcher.paths), out)
    finally:
        launcher.close()
        forget_masks(launcher.paths)
        shutil.rmtree(base)


def mask(names: tuple[str, ...]) -> int:
    """The bit mask of capability names."""
    return sum(1 << capabilities.NUMBERS[name] for name in names)


STATUS = """
rows = open("/proc/self/status").read().splitlines()
status = dict(row.split(":\\t", 1) for row in rows if ":\\t" in row)
"""


def test_process_is_confined_as_docker_confines_it(world: World) -> None:
    """Docker's default capabilities and no other, no_new_privs, a seccomp filter, default signals, pid 1."""
    found = world.run(
        STATUS
        + """
fds = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
fds = [fd for fd in fds if os.path.exists(f"/proc/self/fd/{fd}")]
tell(status=status, fds=fds, pid=os.getpid(), ppid=os.getppid(), env=dict(os.environ), cwd=os.getcwd())
"""
    )
    assert found["code"] == 0, found["log"]
    status = found["status"]
    allowed = mask(DEFAULT_CAPABILITIES)
    for name, expected in (
        ("CapEff", allowed),
        ("CapPrm", allowed),
        ("CapBnd", allowed),
        ("CapAmb", 0),
        ("CapInh", 0),
    ):
        assert int(status[name], 16) == expected, name
    assert status["NoNewPrivs"] == "1"
    assert found["fds"] == [0, 1, 2]
    assert (found["pid"], found["ppid"], found["cwd"]) == (1, 0, "/")
    assert int(status["SigBlk"], 16) == 0
    env = found["env"]
    assert set(env) <= {"PATH", "HOSTNAME", "HOME", "LC_CTYPE"}
    assert env["HOME"] == "/root"


def test_a_seccomp_filter_is_in_force(world: World) -> None:
    """Seccomp mode 2, and the calls that Docker's profile refuses beyond the capabilities are refused."""
    world.needs("seccomp")
    found = world.run(
        STATUS
        + """
tell(status=status, user=attempt(lambda: syscall("unshare", 0x10000000)),
     key=attempt(lambda: syscall("syscall", 250, 0, -3, 0)) if os.uname().machine == "x86_64" else "EPERM")
"""
    )
    assert found["status"]["Seccomp"] == "2", found["log"]
    assert (found["user"], found["key"]) == ("EPERM", "EPERM")


def test_capabilities_of_another_user_are_none(world: World) -> None:
    """As in Docker: a user other than root keeps the bounding set only."""
    found = world.run(STATUS + "tell(status=status)", user="65534:65534")
    assert found["code"] == 0, found["log"]
    status = found["status"]
    assert [int(status[name], 16) for name in ("CapEff", "CapPrm", "CapAmb")] == [0, 0, 0]
    assert status["Uid"].split() == ["65534"] * 4
    assert status["Groups"].split() in ([], ["65534"])


def test_dropped_and_added_capabilities_are_what_the_kernel_sees(world: World) -> None:
    """cap_drop ALL with one added leaves that one."""
    found = world.run(STATUS + "tell(status=status)", cap_drop=("ALL",), cap_add=("DAC_OVERRIDE",))
    assert int(found["status"]["CapEff"], 16) == mask(("CAP_DAC_OVERRIDE",)), found["log"]


def test_file_systems_are_the_services_own(world: World) -> None:
    """The mount table holds what the plan says; every place that can be written is nodev."""
    found = world.run(
        'tell(mounts=[l.split() for l in open("/proc/self/mounts")], dev=sorted(os.listdir("/dev")),'
        ' run=os.listdir("/run"), tmp=os.listdir("/tmp"))'
    )
    assert found["code"] == 0, found["log"]
    mounts = {row[1]: (row[2], set(row[3].split(","))) for row in found["mounts"]}
    assert mounts["/"][0] == "overlay"
    for target, fstype in (("/proc", "proc"), ("/dev", "tmpfs"), ("/sys", "sysfs"), ("/dev/pts", "devpts")):
        assert mounts[target][0] == fstype
    assert "ro" in mounts["/sys"][1]
    for target, (fstype, options) in mounts.items():
        if "rw" in options and fstype not in ("devtmpfs", "devpts"):
            assert "nodev" in options, f"{target} is writable and lets devices in"
    assert {
        "null",
        "zero",
        "full",
        "random",
        "urandom",
        "tty",
        "fd",
        "stdin",
        "stdout",
        "stderr",
        "core",
        "pts",
        "shm",
        "mqueue",
        "ptmx",
    } <= set(found["dev"])
    assert not [name for name in found["dev"] if name.startswith(("sd", "vd", "nvme", "mem", "kmsg", "loop"))]
    assert found["tmp"] == []
    assert found["run"] == ([] if "clean" not in world.launcher.lacks else ["mount"])


def test_hostname_and_namespaces_are_the_services_own(world: World) -> None:
    """Mount, pid, ipc, uts and cgroup differ from the host's; the network does where asked for."""
    program = (
        'tell(ns={n: os.readlink(f"/proc/self/ns/{n}") for n in os.listdir("/proc/self/ns")},'
        " host=socket.gethostname())"
    )
    here = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
    found = world.run(program, hostname="inside", network_mode="none")
    assert found["host"] == "inside", found["log"]
    for name in ("mnt", "pid", "ipc", "uts", "cgroup", "net"):
        assert found["ns"][name] != here[name], name
    shared = world.run(program)
    assert shared["ns"]["net"] == here["net"]
    assert shared["host"] == socket.gethostname()


def test_secrets_of_the_host_cannot_be_read(world: World) -> None:
    """Neither by name nor through /proc."""
    key = world.launcher.paths.state_dir
    found = world.run(
        f"""
        paths = ["/etc/machine-id", "/etc/shadow-", {key!r}, "/proc/1/root{key}", "/sys/firmware/efi"]
        seen = [p for p in paths if os.path.exists(p)]
        kcore = open("/proc/kcore", "rb").read(10).hex() if os.path.exists("/proc/kcore") else ""
        homes = os.listdir("/root") + os.listdir("/home")
        hashes = sorted({{line.split(":")[1] for line in open("/etc/shadow")}})
        tell(seen=seen, kcore=kcore, homes=homes, hashes=hashes)
        """
    )
    assert found["code"] == 0, found["log"]
    assert (found["seen"], found["kcore"], found["homes"], found["hashes"]) == ([], "", [], ["*"])


def test_masked_and_read_only_paths_hold(world: World) -> None:
    """Nothing is read in the masked ones, nothing is written in the others."""
    found = world.run(
        f"""
        def content(path):
            if not os.path.exists(path):
                return ""
            if os.path.isdir(path):
                return "".join(os.listdir(path))
            return open(path, "rb").read(10).decode("latin1")
        masked = {{p: content(p) for p in {MASKED_PATHS!r}}}
        tries = ["/proc/sys/kernel/core_pattern", "/proc/sys/vm/swappiness", "/proc/sysrq-trigger",
                 "/proc/sys/kernel/hostname", "/proc/irq/default_smp_affinity", "/sys/kernel/profiling",
                 "/sys/power/state", "/sys/fs/cgroup/cgroup.procs", "/sys/module/overlay/parameters/metacopy"]
        tell(masked=masked, written={{p: attempt(lambda: write(p)) for p in tries if os.path.exists(p)}})
        """
    )
    assert found["code"] == 0, found["log"]
    assert set(found["masked"].values()) == {""}
    assert found["written"], READ_ONLY_PATHS
    assert set(found["written"].values()) <= {"EROFS", "EACCES", "EPERM"}, found["written"]


def test_forbidden_calls_fail(world: World) -> None:
    """mount, unshare, setns, pivot_root, ptrace outward, modules, reboot, keys, a new user namespace."""
    found = world.run(
        """
        CLONE_NEWNS = 0x20000
        calls = {
            "mount": lambda: syscall("mount", b"none", b"/tmp", b"tmpfs", 0, None),
            "remount": lambda: syscall("mount", None, b"/proc/sys", None, 32 | 4096, None),
            "umount": lambda: syscall("umount2", b"/proc/sys", 2),
            "mountns": lambda: syscall("unshare", CLONE_NEWNS),
            "setns": lambda: syscall("setns", os.open("/proc/self/ns/mnt", os.O_RDONLY), 0),
            "ptrace": lambda: syscall("ptrace", 16, 2, None, None),
            "reboot": lambda: syscall("reboot", 0),
            "clock": lambda: syscall("settimeofday", ctypes.create_string_buffer(16), None),
            "swap": lambda: syscall("swapon", b"/etc/passwd", 0),
            "acct": lambda: syscall("acct", b"/tmp/x"),
            "hostname": lambda: syscall("sethostname", b"evil", 4),
        }
        if os.uname().machine == "x86_64":  # no wrapper in the C library: by number
            calls |= {
                "pivot": lambda: syscall("syscall", 155, b"/", b"/tmp"),
                "module": lambda: syscall("syscall", 175, b"", 0, b""),
                "fsopen": lambda: syscall("syscall", 430, b"tmpfs", 0),
                "kexec": lambda: syscall("syscall", 246, 0, 0, 0, 0),
            }
        def alone(call):  # in a child, so that one that succeeds does not open the way for the next
            reading, writing = os.pipe()
            if os.fork() == 0:
                os.write(writing, attempt(call).encode())
                os._exit(0)
            os.close(writing)
            os.wait()
            return os.read(reading, 100).decode()
        tell(**{name: alone(call) for name, call in calls.items()})
        """
    )
    code, log = found.pop("code"), found.pop("log")
    assert code == 0, log
    assert found.pop("ptrace") == "ESRCH", "no process outside can even be named"
    assert set(found.values()) <= {"EPERM", "EACCES", "ENOSYS"}, found


def test_a_disk_of_the_host_cannot_be_reached_by_making_its_node(world: World) -> None:
    """mknod is allowed, as in Docker; opening the node is not, wherever it is made."""
    major, minor = os.major(os.stat("/").st_dev), os.minor(os.stat("/").st_dev)
    found = world.run(
        f"""
        def disk(place):
            path = f"{{place}}/disk"
            os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev({major}, {minor}))
            os.close(os.open(path, os.O_RDONLY))
        places = ["/", "/tmp", "/dev", "/dev/shm", "/run", "/out", "/vol", "/var/tmp", "/tmpfs"]
        tell(**{{place: attempt(lambda: disk(place)) for place in places}})
        """,
        mounts=(Mount("volume", "/vol", "v"), Mount("tmpfs", "/tmpfs", tmpfs_options=("exec", "suid"))),
    )
    code, log = found.pop("code"), found.pop("log")
    (world.out / "disk").unlink(missing_ok=True)
    assert code == 0, log
    assert set(found.values()) <= {"EACCES", "EPERM"}, found


def test_the_root_cannot_be_left(world: World) -> None:
    """Not by .., not by a link in a volume, not through /proc, not by a relative working directory."""
    marker = world.launcher.paths.state_dir
    found = world.run(
        f"""
        os.symlink("/" * 1 + "../" * 20 + {marker[1:]!r}, "/tmp/up")
        ways = ["/.." * 20, "/tmp/up", "/proc/1/cwd/../../..", "/proc/self/root/../..", "/proc/1/root"]
        seen = [w for w in ways if os.path.exists(w + {marker!r}) or (w == "/tmp/up" and os.path.exists(w))]
        pids = [int(p) for p in os.listdir("/proc") if p.isdigit()]
        tell(seen=seen, pids=pids)
        """
    )
    assert found["code"] == 0, found["log"]
    assert found["seen"] == []
    assert found["pids"] == [1]


def test_a_link_planted_at_a_mount_point_does_not_lead_out(world: World) -> None:
    """A mount point below a link to a place of the host: the next run mounts inside."""
    world.needs("resolve")
    victim = Path(world.launcher.paths.run_dir, "victim")
    victim.mkdir()
    mounts = (Mount("tmpfs", "/made/by/us"),)
    first = world.run(
        """
        import shutil
        os.makedirs("/plant", exist_ok=True)
        tell(ok=1)
        os.makedirs("/evil/by", exist_ok=True)
        """,
        instance="planter",
    )
    assert first["code"] == 0, first["log"]
    upper = world.launcher.paths.instance("planter").upper
    os.symlink(str(victim), f"{upper}/made")
    second = world.run("tell(there=os.path.exists('/made/by/us'))", instance="planter", run=2, mounts=mounts)
    assert second["code"] in (0, 126, 127, 128), second["log"]
    assert list(victim.iterdir()) == []


def test_the_hosts_programs_cannot_be_overwritten(world: World) -> None:
    """/proc/self/exe and /proc/1/exe are files of the view; writing them (CVE-2019-5736) reaches a copy."""
    found = world.run(
        """
        real = os.path.realpath(sys.executable)
        results = {p: attempt(lambda: write(p)) for p in ("/proc/self/exe", "/proc/1/exe")}
        with open("/usr/bin/env", "ab") as copy:
            copy.write(b"evil")
        tell(results=results, real=real)
        """
    )
    assert found["code"] == 0, found["log"]
    assert set(found["results"].values()) <= {"ETXTBSY", "EACCES", "EPERM", "EROFS"}
    assert not Path("/usr/bin/env").read_bytes().endswith(b"evil")


def test_what_is_written_stays_with_its_service_and_survives_its_restart(world: World) -> None:
    """Not on the host, not in another service, still there in the next run; /run is fresh in each."""
    program = """
        tell(kept=os.path.exists("/kept"), run=os.path.exists("/run/x"),
             passwd=open("/etc/passwd").read()[:4])
        open("/kept", "w").write("1"); open("/run/x", "w").write("1"); open("/etc/passwd", "w").write("evil")
    """
    before = Path("/etc/passwd").read_bytes()
    first = world.run(program, instance="keeper", run=1, user="0:0")
    second = world.run(program, instance="keeper", run=2, user="0:0")
    other = world.run(program, instance="other", run=1, user="0:0")
    assert (first["kept"], second["kept"], other["kept"]) == (False, True, False)
    assert (first["run"], second["run"]) == (False, False)
    assert (second["passwd"], other["passwd"]) == ("evil", first["passwd"])
    assert Path("/etc/passwd").read_bytes() == before
    assert not Path("/kept").exists()


def test_read_only_root_keeps_volumes_writable(world: World) -> None:
    """read_only is for the root; what is mounted keeps its own flags."""
    found = world.run(
        'tell(root=attempt(lambda: os.mkdir("/x")), vol=attempt(lambda: os.mkdir("/vol/x")),'
        ' ro=attempt(lambda: os.mkdir("/ro/x")))',
        read_only=True,
        mounts=(Mount("volume", "/vol", "rw"), Mount("volume", "/ro", "ro", read_only=True)),
    )
    assert found["code"] == 0, found["log"]
    assert (found["root"], found["vol"], found["ro"]) == ("EROFS", "done", "EROFS")


def test_shared_memory_is_as_large_as_asked(world: World) -> None:
    """64 MiB, or `shm_size`."""
    program = 's = os.statvfs("/dev/shm"); tell(size=s.f_blocks * s.f_frsize)'
    assert world.run(program)["size"] == 64 << 20
    assert world.run(program, shm_size_bytes=8 << 20)["size"] == 8 << 20


def test_what_was_asked_for_is_given(world: World) -> None:
    """ulimits, sysctls, working directory, groups, a device, the environment."""
    found = world.run(
        """
        import resource
        tell(nofile=resource.getrlimit(resource.RLIMIT_NOFILE), cwd=os.getcwd(), groups=os.getgroups(),
             shm=open("/proc/sys/kernel/shmmni").read().strip(), null=os.stat("/dev/other").st_rdev,
             env=os.environ["A"],
             write=attempt(lambda: write("/dev/other")))
        """,
        ulimits=(Ulimit("nofile", 100, 200),),
        sysctls=(("kernel.shmmni", "123"),),
        working_dir="/new/dir",
        group_add=("12345",),
        devices=(Device("/dev/null", "/dev/other"),),
        environment=(("A", "b"),),
        network_mode="none",
    )
    assert found["code"] == 0, found["log"]
    assert (found["nofile"], found["cwd"], found["shm"], found["env"]) == ([100, 200], "/new/dir", "123", "b")
    assert 12345 in found["groups"]
    assert (found["null"], found["write"]) == (os.makedev(1, 3), "done")


def test_privileged_has_the_hosts_devices_and_no_masks(world: World) -> None:
    """All capabilities of the supervisor, no seccomp, writable /proc/sys."""
    found = world.run(
        STATUS
        + """
tell(status=status, dev=os.listdir("/dev"),
     sys=attempt(lambda: os.close(os.open("/proc/sys/kernel/hostname", os.O_WRONLY))))
""",
        privileged=True,
    )
    assert found["code"] == 0, found["log"]
    assert found["status"]["Seccomp"] == "0"
    assert int(found["status"]["CapEff"], 16) == sum(1 << n for n in world.view.facts.capabilities)
    assert found["sys"] == "done"
    assert {name for name in os.listdir("/dev") if stat.S_ISBLK(os.lstat(f"/dev/{name}").st_mode)} <= set(
        found["dev"]
    )
