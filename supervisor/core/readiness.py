"""What a run says of itself: ready, its status in words, alive. Pure.

Source: sd_notify(3) and systemd.service(5), of which READY, STATUS, STOPPING, WATCHDOG and WATCHDOG_USEC mean
something here; and s6's notification descriptor, a newline on which is a READY. A run is `starting` until it
is ready, then healthy; one whose watchdog was not heard of in time is unhealthy until it is heard of again.
Not to be ready in time is a failed start, whatever is asked for of the unhealthy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, assert_never

from supervisor.core.health import Status
from supervisor.core.healthcheck import Ready

_STATUS_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Readiness:
    """What is known of one run. Times: CLOCK_BOOTTIME. heard_s: of the watchdog, or when that began to count.

    watchdog_s: what the run wants it to be. said: its status in words.
    """

    run: int
    started_s: float
    status: Status = "starting"
    heard_s: float = 0.0
    watchdog_s: float | None = None
    ready: bool = False
    stopping: bool = False
    said: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Begun:
    """The run is looked after from now on: it has begun, or there is a new daemon, or it was paused."""


@dataclass(frozen=True, slots=True)
class Said:
    """It sent a message: lines of NAME=VALUE."""

    text: str


@dataclass(frozen=True, slots=True)
class Due:
    """The time that was asked for has come."""


Event = Begun | Said | Due


@dataclass(frozen=True, slots=True)
class Changed:
    """The status is another one from now on. failed: the start has failed, and the run is to be ended."""

    status: Status
    why: str
    failed: bool = False


Step = tuple[Readiness, float | None, tuple[Changed, ...]]


def step(wanted: Ready, known: Readiness, event: Event, now_s: float) -> Step:
    """One event; what is known then, when `Due` is to come (None: never), and what has changed."""
    match event:
        case Begun():
            # The time in which nobody listened, or nobody could speak, is not the run's fault.
            known = replace(known, heard_s=now_s)
            changed: tuple[Changed, ...] = ()
        case Said():
            known, changed = _heard(known, event.text, now_s)
        case Due():
            known, changed = _late(wanted, known, now_s)
        case _:
            assert_never(event)
    return known, _due_s(wanted, known), changed


def _heard(known: Readiness, text: str, now_s: float) -> tuple[Readiness, tuple[Changed, ...]]:
    said = dict(line.partition("=")[::2] for line in text.splitlines())
    before = known.status
    if "STATUS" in said:
        known = replace(known, said=said["STATUS"].strip()[:_STATUS_CHARACTERS])
    if said.get("STOPPING") == "1":
        known = replace(known, stopping=True)
    if (usec := said.get("WATCHDOG_USEC", "")).isdecimal() and len(usec) < 16:
        known = replace(known, watchdog_s=int(usec) / 1e6)
    if said.get("READY") == "1" and known.status == "starting":
        known = replace(known, status="healthy", ready=True, heard_s=now_s, why="")
    elif said.get("WATCHDOG") == "1" and known.ready:
        known = replace(known, status="healthy", heard_s=now_s, why="")
    elif said.get("WATCHDOG") == "trigger" and known.status == "healthy":
        known = replace(known, status="unhealthy", why="its watchdog was triggered by itself")
    if known.status == before:
        return known, ()
    why = known.why or ("it said that it is ready" if before == "starting" else "its watchdog was heard of")
    return known, (Changed(known.status, why),)


def _late(wanted: Ready, known: Readiness, now_s: float) -> tuple[Readiness, tuple[Changed, ...]]:
    due_s = _due_s(wanted, known)
    if due_s is None or now_s < due_s:
        return known, ()
    if known.status == "starting":
        why = f"not ready within {wanted.timeout_s:g} s"
        return replace(known, status="unhealthy", why=why), (Changed("unhealthy", why, failed=True),)
    why = f"nothing was heard of its watchdog for {_interval_s(wanted, known):g} s"
    return replace(known, status="unhealthy", why=why), (Changed("unhealthy", why),)


def _interval_s(wanted: Ready, known: Readiness) -> float | None:
    """How long the watchdog may be silent; one that nobody asked for is not looked after."""
    if wanted.watchdog_s is None:
        return None
    return known.watchdog_s or wanted.watchdog_s


def _due_s(wanted: Ready, known: Readiness) -> float | None:
    match known.status:
        case "starting":
            return None if wanted.timeout_s is None else known.started_s + wanted.timeout_s
        case "healthy":
            interval_s = _interval_s(wanted, known)
            return None if interval_s is None or known.stopping else known.heard_s + interval_s
        case "unhealthy":
            return None
        case _:
            assert_never(known.status)


Part = Literal["probes", "notify"]
"""What can say how a run is."""


def overall(probed: Status | Literal[""], ready: Status | Literal[""]) -> Status | Literal[""]:
    """How a run is by all that is known: the worst of them; "" where nothing says anything."""
    for status in ("unhealthy", "starting", "healthy"):
        if status in (probed, ready):
            return status
    return ""
