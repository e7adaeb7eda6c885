"""Points in time as people write them for logs: RFC 3339, seconds since the epoch, or how long ago."""

from __future__ import annotations

from datetime import UTC, datetime


def parse_time_ns(text: str, now_ns: int) -> int:
    """Nanoseconds since the epoch, for 2026-01-02T15:04:05[.9][Z|+02:00], 2026-01-02, 1767366245[.9] or 10m.

    Without a zone, local time, as Docker has it. Raises ValueError with a sentence.
    """
    from supervisor.compose.units import duration_ns

    try:
        return int(float(text) * 1e9)
    except ValueError:
        pass
    if text[:4].isdigit() and text[4:5] == "-":
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise ValueError(f"{text!r} is no time: {error}; write 2026-01-02T15:04:05Z") from error
        if moment.tzinfo is None:
            moment = moment.astimezone()
        return int((moment - datetime.fromtimestamp(0, UTC)).total_seconds() * 1e6) * 1000
    try:
        return now_ns - duration_ns(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no time: write 10m, 1h30m, 2026-01-02T15:04:05Z or 1767366245"
        ) from error
