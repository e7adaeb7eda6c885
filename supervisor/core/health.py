"""Health of one run by Docker's rules: what a probe's result means, and when the next probe is due. Pure.

Source: moby daemon/health.go. A run is `starting` until its first success; `retries` failures in a row make
it unhealthy; a failure while it is starting and inside the start period counts for nothing.

One thing is better on purpose (docs/restart-semantics.md): Docker makes the first probe a whole interval
after the start. Here, until that moment, further probes are made: the first soon, each next one a quarter of
the age of the run later. Their success counts, their failure does not; so a service is known to be healthy
early, and never to be unhealthy before Docker would say so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from supervisor.core.healthcheck import Healthcheck, Probe

Status = Literal["starting", "healthy", "unhealthy"]

LOG_ENTRIES = 5
OUTPUT_BYTES = 4096
EARLY_S = 0.1
_EARLY_SHARE = 0.25
FAILED_TO_RUN = -1
"""Exit code of a probe that could not be started, or took too long (Docker)."""


@dataclass(frozen=True, slots=True)
class Check:
    """A healthcheck with Docker's defaults in place of what was left open."""

    probe: Probe
    interval_s: float = 30.0
    timeout_s: float = 30.0
    retries: int = 3
    start_period_s: float = 0.0
    start_interval_s: float = 5.0
    restarts: bool = False

    @property
    def counts_from_s(self) -> float:
        """Age of a run at which Docker makes the first probe whose failure counts."""
        if self.start_period_s <= 0:
            return self.interval_s
        return math.ceil(self.start_period_s / self.start_interval_s) * self.start_interval_s


def check_of(wanted: Healthcheck | None) -> Check | None:
    """None where nothing is to be probed. Zero is the default, as in Docker."""
    if wanted is None or wanted.disabled or wanted.probe is None:
        return None
    default = Check(wanted.probe)
    return Check(
        wanted.probe,
        wanted.interval_s or default.interval_s,
        wanted.timeout_s or default.timeout_s,
        wanted.retries or default.retries,
        wanted.start_period_s or default.start_period_s,
        wanted.start_interval_s or default.start_interval_s,
        wanted.on_unhealthy == "restart",
    )


@dataclass(frozen=True, slots=True)
class Result:
    """One probe. exit_code: 0 is a success. Times by the wall clock; `output` has at most OUTPUT_BYTES."""

    began_wall: float
    ended_wall: float
    exit_code: int
    output: str


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of one run. log: the newest results, oldest first."""

    run: int
    started_s: float
    status: Status = "starting"
    streak: int = 0
    log: tuple[Result, ...] = ()


# --- events --------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Begun:
    """The run has begun."""


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A daemon that was not there at the start looks after the run from now on. share: random, 0..1."""

    share: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """The run was paused, and goes on."""


@dataclass(frozen=True, slots=True)
class Probed:
    """A probe that began at `began_s` has come to a result."""

    began_s: float
    result: Result


@dataclass(frozen=True, slots=True)
class NotMade:
    """A probe came to nothing, and that says nothing of the service: the launcher was away."""


Event = Begun | TakenOver | Resumed | Probed | NotMade


# --- effects -------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Changed:
    """The status is another one from now on. why: in plain words, for an end that it may cause."""

    status: Status
    why: str


Step = tuple[Health, float, tuple[Changed, ...]]


def step(check: Check, health: Health, event: Event, now_s: float) -> Step:
    """One event; the health after it, when the next probe is due, and what has changed.

    now_s: CLOCK_BOOTTIME, as `started_s`. The interval runs from the end of a probe to the next (Docker).
    """
    match event:
        case Begun():
            return health, health.started_s + min(EARLY_S, _regular_s(check)), ()
        case TakenOver():
            if health.status == "starting":
                return health, _next(check, health, now_s), ()
            return health, now_s + event.share * check.interval_s, ()
        case Resumed() | NotMade():
            return health, _next(check, health, now_s), ()
        case Probed():
            health, changed = _judge(check, health, event)
            return health, _next(check, health, now_s), changed
        case _:
            assert_never(event)


def _judge(check: Check, health: Health, probed: Probed) -> tuple[Health, tuple[Changed, ...]]:
    result = probed.result
    health = replace(health, log=(*health.log, result)[-LOG_ENTRIES:])
    if result.exit_code == 0:
        was = health.status
        health = replace(health, status="healthy", streak=0)
        return health, () if was == "healthy" else (Changed("healthy", "a probe succeeded"),)
    if health.status == "starting" and probed.began_s < health.started_s + check.counts_from_s:
        return health, ()
    health = replace(health, streak=health.streak + 1)
    if health.streak < check.retries or health.status == "unhealthy":
        return health, ()
    return replace(health, status="unhealthy"), (Changed("unhealthy", failures(health)),)


def failures(health: Health) -> str:
    """What an unhealthy service failed at, in a line."""
    last = health.log[-1] if health.log else None
    times = "1 probe failed" if health.streak == 1 else f"{health.streak} probes failed in a row"
    return times if last is None else f"{times}: {in_words(last.exit_code, last.output)}"


def in_words(exit_code: int, output: str) -> str:
    """What a command came to, in a line: its code where it failed, and the first line of its output."""
    line = next((text.strip() for text in output.splitlines() if text.strip()), "")
    code = "" if exit_code in (0, FAILED_TO_RUN) else f"exit code {exit_code}"
    return ", ".join(part for part in (code, line) if part) or "no output"


def _regular_s(check: Check) -> float:
    return check.start_interval_s if check.start_period_s > 0 else check.interval_s


def _next(check: Check, health: Health, now_s: float) -> float:
    counts_s = health.started_s + check.counts_from_s
    if health.status != "starting" or now_s >= counts_s:
        return now_s + check.interval_s
    age_s = max(0.0, now_s - health.started_s)
    early_s = min(max(EARLY_S, age_s * _EARLY_SHARE), _regular_s(check))
    return min(now_s + early_s, counts_s)
