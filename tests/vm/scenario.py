"""Table 1.6 as data: one service for each policy and each state that it can be in before the host goes down.

`CASES` is the whole of docs/restart-semantics.md for boots, and what a test compares the machine with.
A row is written for one policy after the other: no, on-failure, always, unless-stopped; None is "does not
occur". UP is started again by the boot, DOWN is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

POLICIES = ("no", "on-failure", "always", "unless-stopped")


class After(Enum):
    """What the boot does with a service."""

    UP = "started again"
    DOWN = "left alone"


UP, DOWN = After.UP, After.DOWN
Row = tuple[After | None, After | None, After | None, After | None]

# Shells as the main process: `wait` is interrupted by a signal, so traps act at once.
ENDS_WELL = "trap 'exit 0' TERM; sleep infinity & wait"
ENDS_BADLY = "trap 'exit 3' TERM; sleep infinity & wait"
RELOADS = "trap : HUP; trap 'exit 3' TERM; sleep infinity & while :; do wait; done"
# Long enough to be found waiting at every moment of the test, and short enough to show a fresh start.
LONG_BACKOFF = {"backoff": {"initial": "20m", "max": "20m"}}


@dataclass(frozen=True, slots=True)
class Ends:
    """What one kind of boot makes of a state: for each policy, and the exit code of those left alone."""

    row: Row
    code: int


@dataclass(frozen=True, slots=True)
class State:
    """How a service comes into a state, and what an orderly reboot and a loss of power make of it.

    settles_as: the state word before the host goes down, where the policy restarts at all; "restarting" is
    made to last by a long backoff. power_cut: None where nothing runs that the manner of the end could matter
    to. verb: the command that brings a running service there, if any.
    """

    name: str
    command: tuple[str, ...]
    settles_as: str
    reboot: Ends
    power_cut: Ends | None = None
    verb: str = ""
    max_attempts: int | None = None


def _shell(script: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", script)


_RUNNING: Row = (DOWN, UP, UP, UP)
_ENDED_WELL: Row = (DOWN, DOWN, UP, UP)
_STOPPED: Row = (DOWN, DOWN, UP, DOWN)

STATES = (
    State("well", _shell(ENDS_WELL), "running", Ends(_ENDED_WELL, 0), Ends(_RUNNING, 255)),
    State("badly", _shell(ENDS_BADLY), "running", Ends(_RUNNING, 3), Ends(_RUNNING, 255)),
    State("stopped0", _shell(ENDS_WELL), "exited", Ends(_STOPPED, 0), verb="stop"),
    # Docker starts an on-failure service that a person stopped; here a stop is a stop.
    State("stopped3", _shell(ENDS_BADLY), "exited", Ends(_STOPPED, 3), verb="stop"),
    # Docker forgets unless-stopped after any signal; here one that did not end the process is no stop.
    State("reloaded", _shell(RELOADS), "running", Ends(_RUNNING, 3), Ends(_RUNNING, 255), verb="kill -s HUP"),
    State("paused", _shell(ENDS_BADLY), "paused", Ends(_RUNNING, 3), Ends(_RUNNING, 255), verb="pause"),
    State("finished", _shell("exit 0"), "exited", Ends((DOWN, DOWN, None, None), 0)),
    State("backoff0", _shell("exit 0"), "restarting", Ends((None, None, UP, UP), 0)),
    State("backoff3", _shell("exit 3"), "restarting", Ends(_RUNNING, 3)),
    State("exhausted", _shell("exit 3"), "exited", Ends((None, DOWN, None, None), 3), max_attempts=2),
    # Docker never tries again what failed at its first start; here the policy does.
    State("unstartable", ("/no/such/program",), "restarting", Ends(_RUNNING, 127)),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One service of the scenario. before: the state words that are right before the host goes down.

    reboot, power_cut: what each does, and the exit code if the service is left alone.
    """

    service: str
    policy: str
    state: State
    before: frozenset[str]
    reboot: tuple[After, int]
    power_cut: tuple[After, int]


def _cases() -> Iterator[Case]:
    for state in STATES:
        power_cut = state.power_cut or state.reboot
        for policy, after_reboot, after_cut in zip(POLICIES, state.reboot.row, power_cut.row, strict=True):
            if after_reboot is None or after_cut is None:
                continue
            waits = state.settles_as == "restarting"
            # Without a policy nothing waits: it ended, or never came to be.
            before = frozenset({"exited", "created"} if waits and policy == "no" else {state.settles_as})
            yield Case(
                service=f"{state.name}-{policy}",
                policy=policy,
                state=state,
                before=before,
                reboot=(after_reboot, state.reboot.code),
                power_cut=(after_cut, power_cut.code),
            )


CASES = tuple(_cases())


def compose() -> dict[str, object]:
    """The Compose file of all cases."""
    services: dict[str, object] = {}
    for case in CASES:
        limit = case.state.max_attempts
        service: dict[str, object] = {
            "command": list(case.state.command),
            "restart": case.policy if limit is None else f"{case.policy}:{limit}",
        }
        if case.state.settles_as == "restarting":
            service["x-shipkeeper"] = LONG_BACKOFF
        services[case.service] = service
    return {"services": services}
