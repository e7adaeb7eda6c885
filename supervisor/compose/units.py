"""Durations and sizes as Compose reads and prints them. Pure; every reader raises ValueError.

A duration always has units (`1m30s`, `1.5h`, `1w2d`); only 0 goes without. Sizes count in 1024 (`512m`,
`1.5gb`), except those of log files, where Docker counts in 1000 (units.FromHumanSize).
"""

from __future__ import annotations

import re

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3_600 * 10**9,
    "d": 86_400 * 10**9,
    "w": 604_800 * 10**9,
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h|d|w)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) ?(?:([kmgtp])(?:i?b)?|b)?", re.IGNORECASE)
_MAX_INT64 = 2**63 - 1


def duration_ns(text: str) -> int:
    """Nanoseconds of a duration."""
    unsigned = text[1:] if text[:1] in ("+", "-") else text
    if unsigned == "0":
        return 0
    if len(unsigned) > 100 or not _DURATION.fullmatch(unsigned):
        raise ValueError(f"invalid duration {text!r}")
    total = 0
    for figure, unit in _PART.findall(unsigned):
        whole, _, fraction = figure.partition(".")
        total += int(whole or "0") * _UNITS_NS[unit]
        if fraction:
            total += int(fraction) * _UNITS_NS[unit] // 10 ** len(fraction)
    if total > _MAX_INT64:
        raise ValueError(f"invalid duration {text!r}")
    return -total if text.startswith("-") else total


def duration_text(ns: int) -> str:
    """A duration as Go prints it: 1h0m0s, 1m30s, 1.5s, 100ms."""
    if ns < 0:
        return "-" + duration_text(-ns)
    if ns == 0:
        return "0s"
    for unit in ("ns", "µs", "ms"):
        if ns < 1_000 * _UNITS_NS[unit]:
            return _fraction(ns, _UNITS_NS[unit]) + unit
    minutes, rest = divmod(ns, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{head}{_fraction(rest, 10**9)}s"


def _fraction(ns: int, unit: int) -> str:
    whole, rest = divmod(ns, unit)
    digits = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{digits}" if digits else str(whole)


def size_bytes(text: str, base: int = 1024) -> int:
    """Bytes of a size; a plain number may be negative (-1 is "without limit" where that is allowed)."""
    if re.fullmatch(r"[+-]?[0-9]{1,19}", text, re.ASCII):
        number = int(text)
        if -_MAX_INT64 <= number <= _MAX_INT64:
            return number
        raise ValueError(f"invalid size {text!r}; write 64m or 1g")
    match = _SIZE.fullmatch(text) if len(text) <= 40 else None
    if match is None:
        raise ValueError(f"invalid size {text!r}; write 64m or 1g")
    factor = base ** ("kmgtp".index(match[2].lower()) + 1) if match[2] else 1
    size = int(float(match[1]) * factor)
    if size > _MAX_INT64:
        raise ValueError(f"invalid size {text!r}; write 64m or 1g")
    return size
