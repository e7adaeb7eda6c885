"""What the command prints: tables, times and states in words. Pure but for `print_*`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two spaces apart."""
    lines = [list(head), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def duration(seconds: float) -> str:
    """Docker's rough words: 5 seconds, 2 minutes, 3 hours, 4 days."""
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {name}{'s' if count != 1 else ''}"
    count = max(0, int(seconds))
    return f"{count} second{'s' if count != 1 else ''}"


def since(stamp: str, now: datetime | None = None) -> float:
    """Seconds since an RFC 3339 time."""
    return ((now or datetime.now(UTC)) - datetime.fromisoformat(stamp)).total_seconds()


def status_words(view: Json) -> str:
    """The STATUS column of `ps`."""
    state = view["State"]
    match state["Status"]:
        case "running":
            return f"Up {duration(since(state['StartedAt']))}"
        case "paused":
            return f"Up {duration(since(state['StartedAt']))} (Paused)"
        case "restarting":
            code = state["ExitCode"]
            following = view["NextRestartAt"]
            wait = f" next in {duration(-since(following))}" if following else ""
            return f"Restarting ({code}){wait}"
        case "exited":
            return f"Exited ({state['ExitCode']}) {duration(since(state['FinishedAt']))} ago"
        case other:
            return str(other).capitalize()


def ps_row(view: Json) -> list[str]:
    """NAME SERVICE STATUS RESTARTS PID and, where it is down, why."""
    state = view["State"]
    down = state["Status"] in ("exited", "restarting")
    return [
        view["Name"],
        view["Service"],
        status_words(view),
        str(view["RestartCount"]),
        str(state["Pid"] or "-"),
        view["Reason"] if down else "",
    ]


def ps_json(view: Json) -> Json:
    """One line of `ps --format json`: Compose's keys and ours."""
    state = view["State"]
    return {
        "ID": view["Id"],
        "Name": view["Name"],
        "Command": " ".join(view["Command"]),
        "Project": view["Project"],
        "Service": view["Service"],
        "State": state["Status"],
        "ExitCode": state["ExitCode"],
        "RestartCount": view["RestartCount"],
        "NextRestartAt": view["NextRestartAt"],
        "WantedUp": view["WantedUp"],
        "Reason": view["Reason"],
        "Pid": state["Pid"],
        "StartedAt": state["StartedAt"],
        "Status": status_words(view),
    }


def story(view: Json, runs: list[Json], tail: list[str]) -> str:
    """What `why` says: the last runs in plain words, the last lines, what was decided and what comes."""
    lines = [f"{view['Name']} is {view['State']['Status']}: {status_words(view)}"]
    for run in runs[-5:]:
        began = run["StartedAt"]
        length = (
            f"ran {duration(since(began, datetime.fromisoformat(run['FinishedAt'])))}"
            if not began.startswith("0001")
            else "never began"
        )
        lines.append(f"  run {run['Run']}: {length}, ended {run['FinishedAt'][:19]}Z: {run['Ending']}")
        lines.append(f"    -> {run['Verdict']}")
    if not runs:
        lines.append("  no run has ended yet")
    if tail:
        lines.append("last lines that it wrote:")
        lines += [f"  | {text}" for text in tail]
    if view["NextRestartAt"]:
        lines.append(f"next attempt: {view['NextRestartAt'][:19]}Z")
    elif view["Reason"]:
        lines.append(f"now: {view['Reason']}")
    return "\n".join(lines)


def print_json(document: object) -> None:
    """One JSON document on one line."""
    print(json.dumps(document))


def print_error(text: str) -> None:
    """One line on stderr."""
    print(f"shipkeeper: {text}", file=sys.stderr)
