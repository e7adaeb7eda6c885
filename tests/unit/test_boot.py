"""Table 1.6: what comes back at a start of the supervisor or the host, policy by policy."""

from __future__ import annotations

import pytest

from supervisor.core.boot import recover, starts_at_boot
from supervisor.core.exits import LOST, Ending, Exit, SpawnFailure
from supervisor.core.model import Policy, RestartRules
from supervisor.core.restart import History
from supervisor.core.state import Created, Instance, Phase, Resting, Running, Starting, Waiting

POLICIES = (Policy.NO, Policy.ON_FAILURE, Policy.ALWAYS, Policy.UNLESS_STOPPED)
NO, YES = False, True

ROWS: list[tuple[str, Phase, Ending | None, bool, tuple[bool, bool, bool, bool]]] = [
    # name, phase before, last ending, manually stopped, back for no, on-failure, always, unless-stopped
    ("graceful stop, exit 0 on TERM", Resting(), Exit(0), False, (NO, NO, YES, YES)),
    ("graceful stop, exit 143", Resting(), Exit(143, signal=15), False, (NO, YES, YES, YES)),
    ("power loss while running", Running(9, 1.0), None, False, (NO, YES, YES, YES)),
    ("power loss while starting", Starting(1.0), None, False, (NO, YES, YES, YES)),
    ("manually stopped, exit 0", Resting(), Exit(0), True, (NO, NO, YES, NO)),
    # Docker starts on-failure here (moby#35166, #47846); a person stopped it, so here it stays down.
    ("manually stopped, exit 137", Resting(), Exit(137, signal=9), True, (NO, NO, YES, NO)),
    # Docker forgets unless-stopped after a HUP (moby#41302); here a signal that ended nothing is no stop.
    ("HUP once, then reboot", Running(9, 1.0, signalled=(1, 2.0)), None, False, (NO, YES, YES, YES)),
    ("exited 0 by itself", Resting(), Exit(0), False, (NO, NO, YES, YES)),
    ("start failed earlier", Resting(), SpawnFailure("mount", 2, "x", 128), False, (NO, YES, YES, YES)),
    ("in backoff", Waiting(3, 9.0), Exit(1), False, (NO, YES, YES, YES)),
    ("paused", Running(9, 1.0, paused=True), None, False, (NO, YES, YES, YES)),
    ("created, never started", Created(), None, False, (NO, NO, NO, NO)),
]


@pytest.mark.parametrize("column", range(4), ids=[p.value for p in POLICIES])
@pytest.mark.parametrize(
    ("phase", "last", "stopped", "expected"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
def test_table_1_6(
    column: int, phase: Phase, last: Ending | None, stopped: bool, expected: tuple[bool, ...]
) -> None:
    """Each row for each policy; where it differs from Docker the row says why."""
    instance = Instance(
        "i",
        rules=RestartRules(POLICIES[column]),
        phase=phase,
        last=last,
        manually_stopped=stopped,
        started_before=not isinstance(phase, Created),
        run=1,
        timer=3,
    )
    assert starts_at_boot(recover(instance)) is expected[column]


def test_exhausted_retries_stay_exhausted_at_boot() -> None:
    """on-failure:2 that gave up does not begin anew with the host."""
    rules = RestartRules(Policy.ON_FAILURE, max_attempts=2)
    instance = Instance(
        "i",
        rules=rules,
        phase=Resting(exhausted=True),
        last=Exit(1),
        started_before=True,
        history=History(restart_count=2),
    )
    assert not starts_at_boot(recover(instance))


def test_a_run_that_nobody_saw_end_is_recorded_as_255() -> None:
    """Docker's code for a task that was lost."""
    recovered = recover(Instance("i", phase=Running(9, 1.0), run=1, started_before=True))
    assert recovered.last == LOST
    assert recovered.last.code == 255
    assert recovered.phase == Resting()
