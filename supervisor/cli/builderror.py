"""A build that failed, told as BuildKit tells it: the step with what it wrote, the place. Pure."""

from __future__ import annotations

import re

from supervisor.cli.buildframe import one_line
from supervisor.cli.buildstate import State

_SHOWN_LINES = 40
_AROUND = 2
_PLACE = re.compile(r"(?m)^(?P<file>[^\n]+?):(?P<line>\d+)(?::\d+)?: ")


def failed_step(state: State, output: str = "") -> list[str]:
    """The step that failed, and its last lines. output: what is known of them where the state has none."""
    step = state.failed
    if step is None:
        return []
    lines = [f"{line.at_s:.3f} {line.text}" for line in step.lines] or output.splitlines()
    if not lines:
        return ["------", f" > {one_line(step.name)}:", "------"]
    left_out = len(lines) - _SHOWN_LINES
    head = [f"[{left_out} earlier lines are left out; --progress plain shows them]"] if left_out > 0 else []
    return ["------", f" > {one_line(step.name)}:", *head, *lines[-_SHOWN_LINES:], "------"]


def place_of(message: str) -> tuple[str, int] | None:
    """(file, line) that a message blames."""
    found = _PLACE.search(message)
    return None if found is None else (found["file"], int(found["line"]))


def excerpt(file: str, text: str, first: int, last: int) -> list[str]:
    """Lines around `first` to `last` (from 1), which are marked; none where the file has no such line."""
    rows = text.splitlines()
    if not 1 <= first <= len(rows):
        return []
    last = min(max(first, last), len(rows))
    begin, end = max(first - _AROUND, 1), min(last + _AROUND, len(rows))
    marked = [
        f"{number:4} | {'>>>' if first <= number <= last else '   '} {rows[number - 1].rstrip()}".rstrip()
        for number in range(begin, end + 1)
    ]
    return [f"{file}:{first}", "--------------------", *marked, "--------------------"]
