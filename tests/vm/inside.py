"""What tests ask of the machine: what the supervisor says of its services, and whether that is so.

State is read over the serial line: `shipkeeper ps` for what the supervisor says, /proc and /sys/fs/cgroup for
the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from machine import VirtualMachine

PROJECTS = "/etc/shipkeeper/projects"
SERVICES_CGROUP = "/sys/fs/cgroup/system.slice/shipkeeper-services.service"
SLEEPER = ["/bin/sh", "-c", "trap 'exit 0' TERM; sleep infinity & wait"]


@dataclass(frozen=True, slots=True)
class Seen:
    """One line of `shipkeeper ps`. pid 0: no process. started: the text of StartedAt."""

    state: str
    exit_code: int
    restarts: int
    pid: int
    started: str


def ps(machine: VirtualMachine, project: str) -> dict[str, Seen]:
    """What the supervisor says of a project's services, by name."""
    lines = machine.output(f"shipkeeper -p {project} ps -a --format json").splitlines()
    seen = {}
    for line in lines:
        row = json.loads(line)
        seen[row["Service"]] = Seen(
            row["State"], row["ExitCode"], row["RestartCount"], row["Pid"] or 0, row["StartedAt"] or ""
        )
    return seen


def await_states(
    machine: VirtualMachine, project: str, what: str, holds: Callable[[dict[str, Seen]], list[str]]
) -> dict[str, Seen]:
    """Look until `holds` names no service any more; the states seen then. Fails with the last list."""
    open_ones: list[str] = []
    for _ in range(60):
        seen = ps(machine, project)
        open_ones = holds(seen)
        if not open_ones:
            return seen
        machine.run("sleep 1")
    pytest.fail(f"{what}: " + ", ".join(f"{name}: {seen.get(name)}" for name in open_ones))


def await_supervisor(machine: VirtualMachine) -> None:
    """Until systemd has finished booting and the API answers."""
    machine.run("systemctl is-system-running --wait", check=False)
    machine.run("systemctl is-active shipkeeper && shipkeeper ps >/dev/null")


def live_pids(machine: VirtualMachine) -> set[int]:
    """Every process in the cgroups of the services, the launcher's own leaf aside, from the kernel."""
    text = machine.output(
        f"find {SERVICES_CGROUP} -mindepth 2 -name cgroup.procs -not -path '*/launcher/*' -exec cat {{}} +"
    )
    return {int(pid) for pid in text.split()}


@contextmanager
def project(machine: VirtualMachine, name: str, model: dict[str, object]) -> Iterator[None]:
    """A project that comes up at boot, from its file; removed at the end with all it left."""
    path = f"{PROJECTS}/{name}.yaml"
    machine.run(f"cat > {path} <<'EOF'\n{json.dumps(model)}\nEOF")
    try:
        up = machine.run(f"shipkeeper -p {name} -f {path} up -d", check=False)
        assert up.exit_code in (0, 1), up.output  # 1: some cannot be started, as they are meant to
        yield
    finally:
        machine.run(f"rm -f {path}; shipkeeper -p {name} down -v", check=False)


def await_traps(machine: VirtualMachine, seen: dict[str, Seen]) -> None:
    """Until the shell of each running service has its traps: it has the child that it starts after them."""
    pids = " ".join(str(row.pid) for row in seen.values() if row.pid)
    machine.run(f"for p in {pids}; do until pgrep -P $p >/dev/null; do sleep 0.2; done; done")


def await_running(machine: VirtualMachine, project: str) -> dict[str, Seen]:
    """Until every service of a project runs and is able to act on signals."""
    seen = await_states(
        machine, project, "is not up", lambda seen: [n for n, s in seen.items() if s.state != "running"]
    )
    await_traps(machine, seen)
    return seen
