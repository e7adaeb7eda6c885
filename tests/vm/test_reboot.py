"""What holds when the host goes down: an orderly reboot, a loss of power, an upgrade.

State is read from the machine, over the serial line: `shipkeeper ps` for what the supervisor says, /proc and
/sys/fs/cgroup for whether that is so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from conftest import INSTALL
from machine import VirtualMachine
from scenario import CASES, UP, After, Case, compose

pytestmark = pytest.mark.timeout(1200)

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


def bring_into_states(machine: VirtualMachine, name: str) -> dict[str, Seen]:
    """Stop, signal and pause what the scenario says, and wait until every service has settled."""
    await_traps(machine, ps(machine, name))
    for verb in dict.fromkeys(case.state.verb for case in CASES if case.state.verb):
        chosen = " ".join(case.service for case in CASES if case.state.verb == verb)
        machine.run(f"shipkeeper -p {name} {verb} {chosen}")

    def unsettled(seen: dict[str, Seen]) -> list[str]:
        return [c.service for c in CASES if c.service not in seen or seen[c.service].state not in c.before]

    return await_states(machine, name, "did not come into the state to test", unsettled)


def check_after(
    machine: VirtualMachine,
    name: str,
    before: dict[str, Seen],
    expected: Callable[[Case], tuple[After, int]],
) -> None:
    """Each service is where the table puts it, and the pids that are shown are those services' processes."""

    def wrong(seen: dict[str, Seen]) -> list[str]:
        return [
            c.service for c in CASES if c.service not in seen or not as_expected(c, before, seen, expected(c))
        ]

    seen = await_states(machine, name, "after the boot, not as the table says", wrong)
    alive = live_pids(machine)
    for service, row in seen.items():
        assert (row.pid != 0) == (row.state == "running"), f"{service}: {row}"
        assert row.pid == 0 or row.pid in alive, f"{service}: {row} is not among {sorted(alive)}"


def as_expected(
    case: Case, before: dict[str, Seen], seen: dict[str, Seen], expected: tuple[After, int]
) -> bool:
    """Whether one service is where the table puts it."""
    after, code = expected
    was, now = before[case.service], seen[case.service]
    if after is UP:
        # A boot counts from zero; what fails again at once is waiting for restart number one.
        waits = case.state.settles_as == "restarting"
        fresh = now.started != was.started or case.state.name == "unstartable"
        return fresh and (now.state, now.restarts) == (("restarting", 1) if waits else ("running", 0))
    # Left alone: the same run is still its last one, with the code it had, or got when the host went down.
    ended = "exited" if was.state in {"running", "paused"} else was.state
    return (now.state, now.started, now.exit_code) == (ended, was.started, code)


def test_the_kernel_tests_pass_where_cgroup_v2_has_every_controller(machine: VirtualMachine) -> None:
    """Isolation, limits and launching on Debian's kernel, pure cgroup v2, as root of a real boot."""
    result = machine.run(
        "systemd-run --quiet --pipe --wait --collect --property=Delegate=yes"
        " --working-directory=/root/checkout"
        " --setenv=PYTHONPATH=/root/checkout:/seed/site"
        " python3 -m pytest tests/kernel -q -p no:cacheprovider -o timeout=600",
        timeout_s=1000,
        check=False,
    )
    print(result.output)
    assert result.exit_code == 0, result.output


def test_an_orderly_reboot_brings_back_what_the_policies_say(installed: VirtualMachine) -> None:
    """Every row of table 1.6 for a graceful reboot, under every policy."""
    with project(installed, "orderly", compose()):
        before = bring_into_states(installed, "orderly")
        installed.reboot()
        await_supervisor(installed)
        check_after(installed, "orderly", before, lambda case: case.reboot)


@pytest.mark.parametrize("kind", ["reboot -f", "power off"])
def test_a_loss_of_power_brings_back_what_the_policies_say(installed: VirtualMachine, kind: str) -> None:
    """Every row of table 1.6 for a host that went down without a word: what ran is recorded as 255."""
    name = kind.replace(" ", "").replace("-", "")
    with project(installed, name, compose()):
        before = bring_into_states(installed, name)
        if kind == "power off":
            installed.power_cut()
        else:
            installed.reboot("systemctl reboot --force --force")
        await_supervisor(installed)
        check_after(installed, name, before, lambda case: case.power_cut)


def test_a_reboot_stops_in_reverse_dependency_order_and_starts_in_order(installed: VirtualMachine) -> None:
    """Dependents end before what they depend on, each in its own time, and start after it."""

    def service(name: str, *needs: str) -> dict[str, object]:
        script = (
            f"echo start {name} >> /order/log; trap 'sleep 1; echo stop {name} >> /order/log; exit 0' TERM;"
            " sleep infinity & wait"
        )
        return {
            "command": ["/bin/sh", "-c", script],
            "restart": "always",
            "volumes": ["/srv/order:/order"],
            "depends_on": list(needs),
        }

    installed.run("rm -rf /srv/order; mkdir -p /srv/order")
    model: dict[str, object] = {
        "services": {"web": service("web", "api"), "api": service("api", "db"), "db": service("db")}
    }
    with project(installed, "order", model):
        await_running(installed, "order")
        installed.run("sync; : > /srv/order/log")
        installed.reboot()
        await_supervisor(installed)
        await_running(installed, "order")
        lines = installed.output("cat /srv/order/log").splitlines()
    assert lines == ["stop web", "stop api", "stop db", "start db", "start api", "start web"]


RESTARTS = {
    "systemctl restart": "systemctl restart shipkeeper",
    "kill -9": "kill -9 $(systemctl show --property=MainPID --value shipkeeper)",
    "an upgrade": INSTALL,
}


@pytest.mark.parametrize("how", list(RESTARTS))
def test_a_restart_of_the_daemon_leaves_every_service_running(installed: VirtualMachine, how: str) -> None:
    """The same processes, counters and start times before and after, and a new daemon that knows them."""
    model: dict[str, object] = {
        "services": {
            policy: {"command": SLEEPER, "restart": policy} for policy in ("no", "always", "unless-stopped")
        }
    }
    with project(installed, "stay", model):
        before = await_running(installed, "stay")
        alive = live_pids(installed)
        daemon = installed.output("systemctl show --property=MainPID --value shipkeeper")
        installed.run(RESTARTS[how], timeout_s=600)
        # RestartSec is half a second: a wait for the new main process, however it came.
        installed.run(
            f"for i in $(seq 100); do p=$(systemctl show --property=MainPID --value shipkeeper);"
            f' [ "$p" != 0 ] && [ "$p" != {daemon} ] && systemctl is-active --quiet shipkeeper && exit 0;'
            " sleep 0.2; done; exit 1"
        )
        assert ps(installed, "stay") == before
        assert live_pids(installed) == alive


def test_what_ended_while_the_daemon_was_away_is_judged_by_its_true_exit(installed: VirtualMachine) -> None:
    """Table 1.6, live restore: `no` keeps the code, on-failure looks at it, always starts from count 0."""
    services: dict[str, object] = {}
    for policy in ("no", "on-failure", "always", "unless-stopped"):
        for code in (0, 3):
            script = f"trap 'exit {code}' TERM; sleep infinity & wait"
            services[f"{policy}-{code}"] = {"command": ["/bin/sh", "-c", script], "restart": policy}
    with project(installed, "away", {"services": services}):
        before = await_running(installed, "away")
        installed.run("systemctl stop shipkeeper")
        pids = " ".join(str(row.pid) for row in before.values())
        installed.run(f"kill -TERM {pids}; for p in {pids}; do timeout 60 tail --pid=$p -f /dev/null; done")
        installed.run("systemctl start shipkeeper")
        rests = {"no-0": 0, "no-3": 3, "on-failure-0": 0}

        def wrong(seen: dict[str, Seen]) -> list[str]:
            return [
                name
                for name, row in seen.items()
                if (
                    (row.state, row.exit_code) != ("exited", rests[name])
                    if name in rests
                    else row.state != "running" or row.restarts != 0 or row.pid == before[name].pid
                )
            ]

        await_states(installed, "away", "not as the table says", wrong)


def test_stopping_the_services_unit_ends_everything(installed: VirtualMachine) -> None:
    """`systemctl stop shipkeeper-services` stops daemon and services; a start brings back what is wanted."""
    with project(installed, "all", {"services": {"web": {"command": SLEEPER, "restart": "unless-stopped"}}}):
        await_running(installed, "all")
        installed.run("systemctl stop shipkeeper-services")
        assert installed.run("systemctl is-active shipkeeper shipkeeper-services", check=False).exit_code != 0
        assert installed.run(f"test -e {SERVICES_CGROUP}", check=False).exit_code == 1
        installed.run("systemctl start shipkeeper")
        await_running(installed, "all")


def test_uninstalling_leaves_state_and_settings_until_they_are_purged(installed: VirtualMachine) -> None:
    """`make uninstall` removes the program and all processes; PURGE=1 the rest. Both may be repeated."""
    for _ in range(2):
        installed.run("make -C /root/checkout uninstall")
        installed.run("test -d /var/lib/shipkeeper && test -d /etc/shipkeeper && ! test -e /opt/shipkeeper")
    assert installed.run(f"test -e {SERVICES_CGROUP}", check=False).exit_code == 1
    installed.run("PURGE=1 make -C /root/checkout uninstall")
    installed.run("! test -e /var/lib/shipkeeper && ! test -e /etc/shipkeeper && ! getent group shipkeeper")
