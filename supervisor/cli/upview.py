"""`up` on a terminal: a line a container that says where it stands, painted again and again. The frame
is pure.

[+] up 1/2
 ✔ Container shop-db-1   healthy                        1.2s
 ⠙ Container shop-web-1  waits for db to be healthy     1.2s
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from supervisor.cli.buildframe import cells
from supervisor.cli.following import CAUSED
from supervisor.cli.screen import PERIOD_S, painting

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_GREEN, _RED, _BLUE, _RESET = "\x1b[32m", "\x1b[31m", "\x1b[34m", "\x1b[0m"
_WAITS = "waits for"


@dataclass(slots=True)
class Row:
    """One container. ended_s: when it came to what it has come to; good: that it is no failure."""

    name: str
    text: str
    began_s: float
    ended_s: float | None = None
    good: bool = True


class UpView:
    """Takes the plan and the lines of an `up`; `shown` paints meanwhile."""

    def __init__(self, stream: TextIO, plan: Iterable[Mapping[str, Any]]) -> None:
        now_s = time.monotonic()
        self._stream = stream
        self._rows = {
            op["name"]: Row(op["name"], _FIRST.get(op["verb"], "waiting"), now_s)
            for op in plan
            if op["verb"] != "orphan"
        }

    def tell(self, line: Mapping[str, Any], *, good: bool) -> None:
        """One line of the API."""
        if "name" not in line or line.get("verb") == "orphan":
            return
        now_s = time.monotonic()
        row = self._rows.setdefault(line["name"], Row(line["name"], "", now_s))
        because = f" ({line['cause']})" if line["verb"] in CAUSED else ""
        row.text, row.good = line["outcome"] + because, good
        row.ended_s = None if line["outcome"].startswith(_WAITS) else now_s

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Paint while the block runs; the last frame stays."""
        with painting(self._stream, self._frame):
            yield

    def _frame(self, width: int, height: int | None, now_s: float, colour: bool) -> list[str]:
        return frame(list(self._rows.values()), width, height, now_s, colour=colour)


_FIRST = {"keep": "unchanged", "remove": "to be removed"}


def frame(rows: list[Row], width: int, height: int | None, now_s: float, *, colour: bool) -> list[str]:
    """The lines, none wider than `width`. height: at most so many; what has ended goes first (None: all)."""
    done = sum(row.ended_s is not None for row in rows)
    lines = [f"[+] up {done}/{len(rows)}"[:width]]
    shown = rows
    if height is not None and len(rows) > height - 1:
        shown = [row for row in rows if row.ended_s is None or not row.good][: max(height - 1, 0)]
    names = max((cells(row.name) for row in shown), default=0)
    for row in shown:
        seconds = f"{(row.ended_s or now_s) - row.began_s:.1f}s"
        text = f" {_mark(row, now_s)} Container {_filled(row.name, names)}  {row.text}"
        room = max(width - len(seconds) - 1, 0)
        text = text if cells(text) <= room else f"{text[: max(room - 1, 0)]}…"
        line = f"{_filled(text, min(room, 90))} {seconds}"
        ink = _BLUE if row.ended_s is None else _GREEN if row.good else _RED
        lines.append(f"{ink}{line}{_RESET}" if colour else line)
    return lines


def _mark(row: Row, now_s: float) -> str:
    if row.ended_s is None:
        return _SPINNER[int(now_s / PERIOD_S) % len(_SPINNER)]
    return "✔" if row.good else "✘"


def _filled(text: str, width: int) -> str:
    return text + " " * max(width - cells(text), 0)
