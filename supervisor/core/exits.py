"""How a run ended, and how that is said in words.

Codes are Docker's: 0..255, 128+n for a death by signal n; 255 where nobody could know (the host lost power,
or the launcher died on a kernel without PIDFD_GET_INFO); 126, 127 and 128 for a run that never began.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import assert_never


@dataclass(frozen=True, slots=True)
class Exit:
    """The main process ran and ended. oom: the kernel killed something of the run for memory.

    unhealthy: it was ended because of what its probes said, which is this. not_ready: because it was not
    ready in time, in these words: a start that failed.
    """

    code: int
    signal: int = 0
    oom: bool = False
    lost: bool = False
    unhealthy: str = ""
    not_ready: str = ""


@dataclass(frozen=True, slots=True)
class SpawnFailure:
    """The run never reached its first instruction. `stage` is the launcher's; errno 0 where there is none."""

    stage: str
    errno: int
    detail: str
    code: int


Ending = Exit | SpawnFailure

LOST = Exit(255, lost=True)

_MEANINGS = {
    1: "a general error",
    2: "wrong usage, or an error of the program's own",
    125: "the program's own choice (Docker uses it for its own errors)",
    126: "a command that cannot be executed",
    127: "a command that was not found",
    255: "an error out of range, or the program's own choice",
}


def failed(ending: Ending) -> bool:
    """What on-failure means by a failure: any code but 0, a failed start, an unhealthy service."""
    match ending:
        case Exit():
            return ending.code != 0 or bool(ending.unhealthy or ending.not_ready)
        case SpawnFailure():
            return True
        case _:
            assert_never(ending)


def signal_name(number: int) -> str:
    """SIGTERM for 15; SIG40 for a real-time signal without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def describe(ending: Ending) -> str:
    """One phrase: what ended the run, with the meaning of its code."""
    match ending:
        case SpawnFailure():
            return f"could not start ({ending.stage}): {ending.detail}"
        case Exit(unhealthy=why) if why:
            return f"unhealthy: {why}"
        case Exit(not_ready=why) if why:
            return f"start failed: {why}"
        case Exit(lost=True):
            return "ended while nobody watched (exit status unknown, recorded as 255)"
        case Exit(oom=True):
            return f"out of memory, exit code {ending.code}"
        case Exit(signal=number) if number:
            return f"killed by {signal_name(number)} (exit code {ending.code})"
        case Exit(code=0):
            return "exit code 0"  # by itself or after a stop signal: the status does not tell
        case Exit(code=code) if 128 < code < 128 + 65:
            return f"exit code {code}, as after {signal_name(code - 128)}"
        case Exit(code=code):
            meaning = _MEANINGS.get(code)
            return f"exit code {code}" + (f": {meaning}" if meaning else "")
        case _:
            assert_never(ending)
