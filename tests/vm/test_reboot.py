"""What holds when the host goes down: an orderly reboot, and a loss of power."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from inside import Seen, await_running, await_states, await_supervisor, await_traps, live_pids, project, ps
from machine import VirtualMachine
from scenario import CASES, UP, After, Case, compose

pytestmark = pytest.mark.timeout(600)


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
