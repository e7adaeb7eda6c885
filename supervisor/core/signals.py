"""Names and numbers of signals, as Docker takes them: the one place that reads what a person wrote."""

from __future__ import annotations

import re
import signal

_SIGNALS: dict[str, int] = {
    member.name.removeprefix("SIG"): int(member)
    for member in signal.Signals
    if member not in (signal.SIGRTMIN, signal.SIGRTMAX)
} | {"POLL": int(signal.SIGIO), "CLD": int(signal.SIGCHLD), "IOT": int(signal.SIGABRT)}
_REALTIME = re.compile(r"RT(MIN|MAX)(?:([+-])([0-9]{1,2}))?")

SIGNAL_NAMES = tuple(f"SIG{name}" for name in sorted(_SIGNALS, key=_SIGNALS.__getitem__))


def signal_number(text: str) -> int | None:
    """The number of a signal as Docker takes it: SIGTERM, TERM, term, 15, SIGRTMIN+3; None if unknown.

    SIGRTMIN is 34, as everywhere with glibc and in Docker.
    """
    if re.fullmatch(r"[0-9]{1,3}", text, re.ASCII):
        number = int(text)
        return number if 1 <= number <= 64 else None
    word = text.upper().removeprefix("SIG")
    if word in _SIGNALS:
        return _SIGNALS[word]
    match = _REALTIME.fullmatch(word)
    if match is None:
        return None
    offset = int(match[3] or 0) * (-1 if match[2] == "-" else 1)
    number = (34 if match[1] == "MIN" else 64) + offset
    return number if 34 <= number <= 64 else None
