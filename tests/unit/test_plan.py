"""The launch plan: what Docker would set up, told in steps; every rule is checked on the data itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from supervisor.core.model import Device, Limits, Logging, Mount, SecurityOptions, ServiceSpec, Ulimit
from supervisor.core.paths import Paths
from supervisor.kernel import capabilities
from supervisor.launcher import plan
from supervisor.runtime.plan import (
    HostFacts,
    PreparedInstance,
    Submount,
    exec_process,
    launch_plan,
    next_run,
    service_hostname,
)
from supervisor.runtime.translate import DEFAULT_CAPABILITIES, PlanError, cgroup_limits, rlimits, tmpfs_mount

PATHS = Paths("/state", "/runtime")
ALL = frozenset(range(len(capabilities.NAMES)))
HOST = HostFacts(hostname="host1", cgroup_v2=False, capabilities=ALL)
DEFAULT = sorted(capabilities.NUMBERS[name] for name in DEFAULT_CAPABILITIES)


def prepared(**changes: Any) -> PreparedInstance:
    """A host view without submounts."""
    base = PreparedInstance("i1", "p-web-1", "host1", PATHS.instance("i1"), ("/state/mask/a", "/"), True)
    return replace(base, **changes)


def planned(
    spec: ServiceSpec | None = None,
    host: HostFacts = HOST,
    ready: PreparedInstance | None = None,
    **changes: Any,
) -> plan.LaunchPlan:
    """The plan of a service that runs `true`."""
    spec = spec or replace(ServiceSpec("web", command=("true",)), **changes)
    return launch_plan(
        spec, ready or prepared(), 7, PATHS, host=host, cgroup_base="sk", seccomp_path="/s.bpf", meta="m"
    )


def targets(of: plan.LaunchPlan) -> list[str]:
    """Mount points in the order in which they are mounted."""
    return [step.target for step in of.steps if isinstance(step, plan.Overlay | plan.Bind | plan.Mount)]


def test_identity_cgroup_and_log_name_the_instance_and_its_run() -> None:
    """The cgroup is fresh per run, the log is the instance's."""
    it = planned(logging=Logging(100, 2))
    assert (it.instance, it.run, it.cgroup, it.meta, it.root) == ("i1", 7, "sk/i1/7", "m", "/runtime/root")
    assert it.log == plan.LogPlan("/state/instances/i1/output.log", 100, 2)


def test_next_run_changes_nothing_but_the_run_and_builds_no_steps() -> None:
    """It lies between a death and the next life."""
    first = planned()
    second = next_run(first, 8, "n")
    assert second == first._replace(run=8, cgroup="sk/i1/8", meta="n")
    assert second.steps is first.steps


def test_read_only_and_masked_paths_come_after_every_mount_and_after_pivot() -> None:
    """A mask that a later mount could cover, or that needs /proc before it is there, protects nothing."""
    kinds = [type(step).__name__ for step in planned(read_only=True, network_mode="none").steps]
    pivot = kinds.index("Pivot")
    assert not {"Overlay", "Bind", "Mount", "Symlink"} & set(kinds[pivot:])
    assert kinds[pivot:] == ["Pivot", "Sysctl", "Sysctl", "ReadOnly", "Mask", "ReadOnlyRoot"]


def test_device_nodes_work_nowhere_but_on_the_nodes_that_were_let_in() -> None:
    """CAP_MKNOD is in the default set, so every place where a service can write is nodev."""
    it = planned(
        mounts=(Mount("tmpfs", "/t"), Mount("bind", "/b", "/x"), Mount("volume", "/v", "data")),
        devices=(Device("/dev/kvm", "/dev/kvm"),),
        spec=None,
        ready=prepared(sources={"/v": "/state/volumes/data/_data"}),
    )
    usable = []
    for step in it.steps:
        match step:
            case plan.Bind() | plan.Overlay():
                if step.dev:
                    usable.append(step.target)
            case plan.Mount() if step.fstype != "devpts":
                assert step.flags & 4, f"{step.target} lets devices in"
    assert usable == [f"/dev/{n}" for n in ("null", "zero", "full", "random", "urandom", "tty")] + [
        "/dev/kvm"
    ]


def test_mounts_are_ordered_by_depth_and_submounts_come_first() -> None:
    """What lies deeper is mounted later, whatever the order in the file."""
    ready = prepared(
        submounts=(
            Submount("/usr", ("/state/mask/a/usr", "/usr"), "/u", "/w"),
            Submount("/opt", hidden=("/opt/k",)),
        ),
        sources={"/data/a/b": "/one", "/data": "/two"},
    )
    it = planned(mounts=(Mount("volume", "/data/a/b", "one"), Mount("volume", "/data", "two")), ready=ready)
    assert targets(it)[:4] == ["/", "/usr", "/opt", "/proc"]
    assert targets(it)[-2:] == ["/data", "/data/a/b"]
    assert plan.Bind("/opt", "/opt", read_only=True) in it.steps
    assert plan.Mask(["/opt/k"]) in it.steps


def test_a_mount_of_the_service_replaces_the_default_at_the_same_place() -> None:
    """As in Docker: /run, /dev/shm, /etc/hosts and the like may be given by the user."""
    ready = prepared(sources={"/etc/hosts": "/h"})
    it = planned(
        mounts=(Mount("tmpfs", "/run"), Mount("tmpfs", "/dev/shm/"), Mount("volume", "/etc/hosts", "h")),
        ready=ready,
    )
    for target in ("/run", "/etc/hosts"):
        assert targets(it).count(target) == 1
    assert targets(it).count("/dev/shm") == 1


@pytest.mark.parametrize("target", ["/", "/proc", "/proc/sys", "/x/../proc", "//", "relative", "/.."])
def test_a_mount_that_would_undo_the_isolation_is_refused(target: str) -> None:
    """Neither the root nor anything in /proc can be a target, however it is spelt."""
    with pytest.raises(PlanError, match="cannot"):
        planned(mounts=(Mount("tmpfs", target),))


def test_two_mounts_at_one_place_are_refused() -> None:
    """Docker says "Duplicate mount point"."""
    with pytest.raises(PlanError, match="duplicate mount point"):
        planned(mounts=(Mount("tmpfs", "/a"), Mount("tmpfs", "/a/")))


def test_host_view_gets_a_fresh_run_and_an_image_keeps_its_own() -> None:
    """The host's /run holds sockets of the host; an image's belongs to the image."""
    assert "/run" in targets(planned())
    assert "/run" not in targets(planned(ready=prepared(host_view=False)))


def test_cgroup_file_system_is_shown_on_unified_hosts_only() -> None:
    """Read-only, in a cgroup namespace of its own."""
    assert "/sys/fs/cgroup" not in targets(planned())
    step = next(
        s for s in planned(host=replace(HOST, cgroup_v2=True)).steps if getattr(s, "fstype", "") == "cgroup2"
    )
    assert isinstance(step, plan.Mount)
    assert step.flags & 1


@pytest.mark.parametrize(
    ("add", "drop", "expected"),
    [
        ((), (), DEFAULT),
        (("SYS_TIME",), (), sorted([*DEFAULT, 25])),
        (("cap_sys_time",), (), sorted([*DEFAULT, 25])),
        ((), ("MKNOD",), [n for n in DEFAULT if n != 27]),
        ((), ("ALL",), []),
        (("CHOWN",), ("ALL",), [0]),
        (("ALL",), (), sorted(ALL)),
        (("ALL",), ("SYS_ADMIN",), sorted(ALL - {21})),
        (("ALL",), ("ALL",), sorted(ALL)),
        (("MKNOD",), ("MKNOD",), DEFAULT),
    ],
)
def test_capabilities_follow_moby(add: tuple[str, ...], drop: tuple[str, ...], expected: list[int]) -> None:
    """TweakCapabilities, row by row: an addition is done after a drop, ALL added wins over ALL dropped."""
    assert planned(cap_add=add, cap_drop=drop).process.caps == expected


def test_capabilities_that_the_supervisor_lacks_are_left_out_or_refused() -> None:
    """ALL and the defaults are what there is; one asked for by name is not dropped in silence."""
    host = replace(HOST, capabilities=ALL - {24, 27})
    assert 27 not in planned(host=host).process.caps
    assert 24 not in planned(host=host, cap_add=("ALL",)).process.caps
    with pytest.raises(PlanError, match="CAP_SYS_RESOURCE"):
        planned(host=host, cap_add=("SYS_RESOURCE",))
    with pytest.raises(PlanError, match="unknown capability"):
        planned(cap_drop=("NONSENSE",))


def test_privileged_lifts_masks_seccomp_and_capabilities() -> None:
    """All capabilities, no seccomp, no masks, the host's devices, a writable /sys."""
    it = planned(privileged=True, cap_drop=("ALL",))
    assert it.process.caps == sorted(ALL)
    assert it.process.seccomp is None
    assert not it.process.no_new_privs
    assert not [s for s in it.steps if isinstance(s, plan.Mask | plan.ReadOnly)]
    assert plan.Bind("/dev", "/dev", read_only=True, dev=True) in it.steps
    bare = replace(HOST, dev_directories=frozenset(["pts"]))
    assert [t for t in targets(planned(privileged=True, host=bare)) if t.startswith("/dev")] == [
        "/dev",
        "/dev/pts",
    ]
    assert next(s for s in it.steps if isinstance(s, plan.Mount) and s.target == "/sys").flags == 14


def test_an_ordinary_service_is_confined() -> None:
    """no_new_privs and the compiled profile, unless the file says otherwise; no profile is an error."""
    process = planned().process
    assert (process.no_new_privs, process.seccomp) == (True, "/s.bpf")
    assert planned(security=SecurityOptions(seccomp="unconfined")).process.seccomp is None
    assert not planned(security=SecurityOptions(no_new_privileges=False)).process.no_new_privs
    with pytest.raises(PlanError, match="seccomp"):
        launch_plan(
            ServiceSpec("w", command=("x",)),
            prepared(),
            1,
            PATHS,
            host=HOST,
            cgroup_base="c",
            seccomp_path=None,
        )


def test_the_environment_is_built_from_nothing() -> None:
    """PATH and HOSTNAME by default, TERM with a terminal; the service's own values win."""
    assert planned().process.env == [
        ["PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        ["HOSTNAME", "host1"],
    ]
    env = dict(planned(tty=True, environment=(("A", "1"), ("PATH", "/x"))).process.env)  # type: ignore[arg-type,var-annotated]  # pairs as lists, for JSON
    assert env == {"PATH": "/x", "HOSTNAME": "host1", "TERM": "xterm", "A": "1"}
    with pytest.raises(PlanError, match="environment"):
        planned(environment=(("A", "\0"),))


def test_hostname_follows_docker() -> None:
    """Its own, else the host's in the host's network, else the first twelve of the id."""
    spec = ServiceSpec("w")
    ident = "0123456789abcdef"
    assert service_hostname(spec, ident, HOST) == "host1"
    assert service_hostname(replace(spec, network_mode="none"), ident, HOST) == "0123456789ab"
    assert service_hostname(replace(spec, hostname="h"), ident, HOST) == "h"


def test_a_service_without_a_command_is_refused() -> None:
    """Docker's words, with what to write."""
    with pytest.raises(PlanError, match="no command specified"):
        planned(command=None)


def test_ulimits_are_numbered() -> None:
    """By their Compose names; -1 is unlimited."""
    assert rlimits([Ulimit("nofile", 10, 20), Ulimit("core", 0, -1)]) == [[7, 10, 20], [4, 0, -1]]
    for bad in (Ulimit("nonsense", 1, 1), Ulimit("nofile", 2, 1), Ulimit("nofile", -1, 1)):
        with pytest.raises(PlanError, match="cannot set ulimit"):
            rlimits([bad])


def test_a_service_does_not_inherit_the_supervisors_limit_of_open_files() -> None:
    """What systemd gives a service, less where the host allows less; a limit of its own goes before."""
    assert planned().process.rlimits == [[7, 1024, 524288]]
    assert rlimits([], 4096) == [[7, 1024, 4096]]
    assert rlimits([], 512) == [[7, 512, 512]]
    assert planned(ulimits=(Ulimit("nofile", 10, 20),)).process.rlimits == [[7, 10, 20]]


def test_limits_are_in_the_units_of_the_cgroup() -> None:
    """cpus is a quota of 100 ms; memory without swap allows as much swap again; no limit is None."""
    got = cgroup_limits(Limits(memory_bytes=64 << 20, cpus=1.5, cpu_shares=512, pids=9))
    assert got == plan.Limits(64 << 20, 128 << 20, None, 150_000, 100_000, 512, 9)
    assert cgroup_limits(Limits()) == plan.Limits()
    assert cgroup_limits(Limits(memory_bytes=64 << 20, memory_swap_bytes=-1)).memory_swap_bytes == -1
    assert cgroup_limits(Limits(pids=-1, cpus=0)) == plan.Limits()
    quota = cgroup_limits(Limits(cpu_quota_us=5_000, cpu_period_us=20_000, memory_swappiness=0))
    assert (quota.cpu_quota_us, quota.cpu_period_us, quota.memory_swappiness) == (5_000, 20_000, 0)
    for bad in (
        Limits(memory_bytes=1000),
        Limits(memory_swap_bytes=1 << 30),
        Limits(memory_bytes=64 << 20, memory_swap_bytes=1 << 20),
        Limits(cpus=0.001),
        Limits(cpus=1, cpu_quota_us=5_000),
        Limits(memory_bytes=64 << 20, memory_reservation_bytes=65 << 20),
    ):
        with pytest.raises(PlanError, match="cannot"):
            cgroup_limits(bad)


@pytest.mark.parametrize(
    ("name", "network", "good"),
    [
        ("net.core.somaxconn", "none", True),
        ("net.core.somaxconn", "host", False),
        ("kernel.shmmax", "host", True),
        ("fs.mqueue.msg_max", "host", True),
        ("kernel.core_pattern", "none", False),
        ("vm.swappiness", "none", False),
        ("net..core", "none", False),
        ("net/../kernel/core_pattern", "none", False),
        ("net.ipv4.", "none", False),
    ],
)
def test_only_namespaced_sysctls_are_written(name: str, network: str, good: bool) -> None:
    """Anything else would change the host."""
    spec = ServiceSpec("w", command=("x",), sysctls=((name, "1"),), network_mode=network)  # type: ignore[arg-type]  # a parameter
    if good:
        assert plan.Sysctl(name, "1") in planned(spec).steps
    else:
        with pytest.raises(PlanError, match="cannot set sysctl"):
            planned(spec)


def test_tmpfs_options_are_dockers() -> None:
    """nosuid, nodev and noexec by default; exec and suid can be asked for, dev cannot."""
    assert tmpfs_mount(Mount("tmpfs", "/t"), "/t", 0o755) == plan.Mount("tmpfs", "/t", 14, "mode=0755")
    options = ("size=1m,exec", "mode=1777", "ro")
    assert tmpfs_mount(Mount("tmpfs", "/t", tmpfs_options=options), "/t", None) == plan.Mount(
        "tmpfs", "/t", 7, "size=1m,mode=1777"
    )
    sized = Mount("tmpfs", "/t", tmpfs_size_bytes=4096, tmpfs_mode=0o700)
    assert tmpfs_mount(sized, "/t", 0o755).data == "mode=0700,size=4096"
    for bad in ("dev", "nonsense", "size=x", "mode=999"):
        with pytest.raises(PlanError, match="invalid tmpfs option"):
            tmpfs_mount(Mount("tmpfs", "/t", tmpfs_options=(bad,)), "/t", None)


def test_a_device_that_cannot_be_restricted_is_refused() -> None:
    """Better no device than one with more rights than were given."""
    with pytest.raises(PlanError, match="cannot allow device"):
        planned(devices=(Device("/dev/sda", "/dev/sda", "r"),))


def test_exec_keeps_the_rules_of_the_service_unless_privileged() -> None:
    """As docker exec: the same user, capabilities, limits and profile; --privileged lifts them."""
    spec = ServiceSpec("w", command=("x",), user="u", group_add=("g",), cap_drop=("ALL",), working_dir="/w")
    plain = exec_process(spec, "box", ["sh"], host=HOST, seccomp_path="/s", env=[("E", "1")], tty=True)
    assert (plain.user, plain.groups, plain.caps, plain.cwd, plain.seccomp) == ("u", ["g"], [], "/w", "/s")
    assert plain.no_new_privs
    assert ["E", "1"] in plain.env
    assert ["TERM", "xterm"] in plain.env
    strong = exec_process(spec, "box", ["sh"], host=HOST, seccomp_path="/s", user="0", privileged=True)
    assert (strong.user, strong.caps, strong.seccomp, strong.no_new_privs) == ("0", sorted(ALL), None, False)
