"""Whether and when a service that ended is started again: Docker's rules, and the tuning of `x-shipkeeper`.

Source: moby daemon/internal/restartmanager. Where this differs on purpose (each is in
docs/restart-semantics.md with its reason): the first restart after a run of `reset_after` or more is
immediate; a failed start is an ending like another; a window may bound the attempts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from supervisor.core.exits import Ending, Exit, SpawnFailure, describe, failed
from supervisor.core.model import Backoff, Policy, RestartRules


@dataclass(frozen=True, slots=True)
class History:
    """What a decision has to know of the past.

    restart_count: automatic restarts since the last start by a person, or at boot (Docker's RestartCount).
    short_runs: runs in a row that were shorter than `reset_after`; what the delay grows with.
    restarts_s: when the automatic restarts of the last window were decided (kept only with a window).
    """

    restart_count: int = 0
    short_runs: int = 0
    restarts_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Restart:
    """Start again `after_s` from now. `history` is what to remember; `why` is for every reader."""

    after_s: float
    history: History
    why: str


@dataclass(frozen=True, slots=True)
class Rest:
    """Stay down. `exhausted`: only because the attempts are used up."""

    history: History
    why: str
    exhausted: bool = False


def delay_s(backoff: Backoff, short_runs: int, jitter: float) -> float:
    """The delay before the next start after that many short runs in a row. `jitter` is random, 0..1."""
    if short_runs <= 0:
        return 0.0
    try:
        plain = backoff.initial_s * backoff.factor ** (short_runs - 1)
    except OverflowError:
        plain = backoff.max_s
    plain = min(plain, backoff.max_s)
    return plain + plain * backoff.jitter * jitter


def decide(
    rules: RestartRules,
    history: History,
    ending: Ending,
    *,
    ran_s: float,
    manually_stopped: bool,
    now_s: float,
    jitter: float = 0.0,
) -> Restart | Rest:
    """What becomes of a service that just ended. Pure: time and randomness are arguments."""
    long_run = not isinstance(ending, SpawnFailure) and ran_s >= rules.backoff.reset_after_s
    short_runs = 0 if long_run else history.short_runs + 1
    window = rules.window_s
    recent = tuple(at for at in history.restarts_s if window is not None and now_s - at < window)
    remembered = History(history.restart_count, short_runs, recent)

    if manually_stopped:
        return Rest(remembered, "stopped by you")
    wanted, why = _wanted(rules, ending)
    if not wanted:
        return Rest(remembered, why)
    used = len(recent) if window is not None else history.restart_count
    if rules.max_attempts is not None and used >= rules.max_attempts:
        within = f" within {window:g} s" if window is not None else ""
        return Rest(
            remembered,
            f"gave up after {used} of {rules.max_attempts} restarts{within}: {why}",
            exhausted=True,
        )
    after_s = delay_s(rules.backoff, short_runs, jitter)
    kept = (*recent, now_s) if window is not None else ()
    return Restart(after_s, History(history.restart_count + 1, short_runs, kept), why)


def _wanted(rules: RestartRules, ending: Ending) -> tuple[bool, str]:
    how = describe(ending)
    if isinstance(ending, Exit) and ending.unhealthy:
        # Asked for in so many words, whatever the policy makes of other ends; its code is that of our stop.
        return True, f"{how}; on_unhealthy restart"
    if isinstance(ending, Exit) and not ending.not_ready:  # else its code is that of our stop, too
        if ending.code in rules.no_restart_on:
            return False, f"{how}; no_restart_on names {ending.code}"
        if ending.code in rules.restart_on:
            return True, f"{how}; restart_on names {ending.code}"
    name = rules.policy.value
    match rules.policy:
        case Policy.NO:
            return False, f"{how}; restart policy {name}"
        case Policy.ALWAYS | Policy.UNLESS_STOPPED:
            return True, f"{how}; restart policy {name}"
        case Policy.ON_FAILURE:
            if failed(ending):
                return True, f"{how}; restart policy {name}"
            return False, f"{how}; restart policy {name} restarts failures only"
        case _:
            assert_never(rules.policy)
