"""`shipkeeper doctor`: is this host all that the supervisor needs, and how to mend what is missing.

A list of checks, each of which tries the thing itself where that is possible without a trace. A check
that breaks is a failed check: whatever is wrong with a host, `run_checks` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator

from supervisor.core.paths import Paths
from supervisor.runtime import doctor_cgroups, doctor_host, doctor_network, doctor_storage
from supervisor.runtime.doctor_types import Check, Examined
from supervisor.runtime.leftovers import Leftover, leftovers
from supervisor.runtime.nftables import RulesError
from supervisor.runtime.remnants import Remnant, mend

__all__ = ["Check", "Leftover", "fix", "leftovers", "run_checks", "worst"]

_CHECKS: tuple[tuple[str, Callable[[Examined], Iterable[Check]]], ...] = (
    ("python", doctor_host.python),
    ("root", doctor_host.root),
    ("capabilities", doctor_host.capabilities),
    ("kernel", doctor_host.kernel),
    ("system calls", doctor_host.system_calls),
    ("overlay layers", doctor_host.overlay_layers),
    ("exit status of survivors", doctor_host.exit_info),
    ("isolation", doctor_host.isolation),
    ("seccomp", doctor_host.seccomp),
    ("cgroups", doctor_cgroups.setup),
    ("cgroup limits", doctor_cgroups.limits),
    ("cgroup control", doctor_cgroups.control),
    ("state directory", doctor_storage.state_directory),
    ("disk space", doctor_storage.space),
    ("run directory", doctor_storage.run_directory),
    ("open files", doctor_host.open_files),
    ("networks", doctor_network.networks),
    ("clock", doctor_host.clock),
    ("systemd", doctor_host.systemd),
    ("leftovers", doctor_storage.left_behind),
    ("dead supervisors", doctor_storage.of_the_dead),
)


def run_checks(
    paths: Paths, known_instances: frozenset[str] = frozenset(), cgroup_base: str = "shipkeeper"
) -> tuple[Check, ...]:
    """Examine the host, in the order in which things must be mended. Takes about a fifth of a second.

    known_instances: ids of the instances in the daemon's state; everything of another one is left over.
    cgroup_base: path of the cgroup above those of all instances, below each hierarchy's mount point, unless
        a daemon has written down another one.
    Makes nothing that outlives the call and raises nothing: an error in a check is a line that says so.
    """
    host = Examined(paths, known_instances, cgroup_base)
    found: list[Check] = []
    try:
        for name, check in _CHECKS:
            try:
                found += check(host)
            except Exception as problem:  # noqa: BLE001 - see above
                found.append(
                    Check(
                        name,
                        "fail",
                        f"the check itself failed: {type(problem).__name__}: {problem}",
                        "a fault of the check, or a host that it does not know: please report this line",
                    )
                )
    finally:
        host.close()
    return tuple(found)


def fix(
    paths: Paths, only: Container[str] | None = None, cgroup_base: str = "shipkeeper"
) -> Iterator[tuple[Remnant, str]]:
    """Remove what dead supervisors left in the kernel; each thing, with "" or why it could not be.

    only: of these, by `Remnant.whose`. Raises OSError where it cannot be told who lives.
    """
    host = Examined(paths, frozenset(), cgroup_base)
    try:
        for remnant in host.remnants:
            if only is not None and remnant.whose not in only:
                continue
            try:
                mend(remnant, host.cgroups)
            except (OSError, RulesError) as error:
                yield remnant, getattr(error, "strerror", None) or str(error)
            else:
                yield remnant, ""
    finally:
        host.close()


def worst(checks: Iterable[Check]) -> str:
    """ "ok", "warn" or "fail": the exit code and the summary hang on it."""
    order = ("ok", "warn", "fail")
    return max((check.status for check in checks), key=order.index, default="ok")
