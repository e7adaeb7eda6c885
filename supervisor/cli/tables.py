"""What the daemon knows, in words and columns: `ps`, `stats`, `why`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from supervisor.cli.output import table

Json = dict[str, Any]
_WHY_MIN = 12  # columns; a reason cut shorter tells nothing


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
            up = f"Up {duration(since(state['StartedAt']))}"
            health = state.get("Health", {}).get("Status")
            # Docker's words
            return f"{up} ({'health: ' if health == 'starting' else ''}{health})" if health else up
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


def size(count: int | None) -> str:
    """Bytes as Docker writes them: 182MiB, 1.5GiB; - where nobody counts."""
    if count is None:
        return "-"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g}{unit}" if value < 1000 else f"{value:.0f}{unit}"
        value /= 1024
    return f"{value:.4g}TiB"


def ps_table(views: Sequence[Json], width: int | None) -> str:
    """The table of `ps`. width: of a terminal; the reason is cut to it, then columns drop from the right."""
    head = ["NAME", "SERVICE", "STATUS", "RESTARTS", "PID", "CPU", "MEM"]
    if any(view.get("Ports") for view in views):
        head.insert(3, "PORTS")
    rows = [_ps_row(view, ports="PORTS" in head) for view in views]
    reasons = [_why_down(view) for view in views]
    if width is None:
        return table([*head, ""], [[*row, why] for row, why in zip(rows, reasons, strict=True)])
    columns = len(head)
    need = _WHY_MIN if any(reasons) else 0
    while columns > 3 and _width(head[:columns], [row[:columns] for row in rows]) + need > width:
        columns -= 1
    left = width - _width(head[:columns], [row[:columns] for row in rows]) - 2
    cut = [why if len(why) <= left else why[: max(0, left - 1)] + "…" if left > 1 else "" for why in reasons]
    return table([*head[:columns], ""], [[*row[:columns], why] for row, why in zip(rows, cut, strict=True)])


def _why_down(view: Json) -> str:
    """The reason of one that does not run, or is unhealthy, and when a stop for a time ends.

    Of one that runs, what it says of itself.
    """
    state = view["State"]
    match state["Status"]:
        case "restarting":
            return str(view["Reason"])
        case "created":
            return str(view["Reason"])
        case "running" if state.get("Health", {}).get("Status") == "unhealthy":
            notify = state.get("Notify", {})
            return str(notify.get("Why")) if notify.get("Why") else _last_failure(state["Health"])
        case "running":
            return str(state.get("Notify", {}).get("Status", ""))
        case "exited" if view["NextRestartAt"]:
            return f"{view['Reason']}; starts again in {duration(-since(view['NextRestartAt']))}"
        case "exited":
            return str(view["Reason"])
        case _:
            return ""


def _width(head: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    return max(len(line) for line in table(head, rows).splitlines())


def _ps_row(view: Json, *, ports: bool) -> list[str]:
    state, used = view["State"], view["Usage"]
    memory, cpu = "-", "-"
    if used is not None:
        limit = used["MemoryLimitBytes"]
        memory = size(used["MemoryBytes"]) + (f" / {size(limit)}" if limit else "")
        cpu = f"{used['CpuPercent']:.1f}%"
    return [
        view["Name"],
        view["Service"],
        status_words(view),
        *([ports_words(view)] if ports else []),
        _restarts(view),
        str(state["Pid"] or "-"),
        cpu,
        memory,
    ]


def ports_words(view: Json, *, both: bool = True) -> str:
    """Docker's words: 0.0.0.0:8080->80/tcp; with `both` the same of v4 and v6 once, as *:8080->80/tcp."""
    places: dict[tuple[int, int, str], list[str]] = {}
    plain = []
    for port in view.get("Ports") or ():
        if "PublicPort" in port:
            key = port["PublicPort"], port["PrivatePort"], port["Type"]
            places.setdefault(key, []).append(port["IP"])
        else:
            plain.append(f"{port['PrivatePort']}/{port['Type']}")
    words: list[str] = []
    for (public, private, kind), hosts in places.items():
        shown = ["*"] if both and set(hosts) == {"0.0.0.0", "::"} else hosts  # noqa: S104 - words
        words += [f"{f'[{host}]' if ':' in host else host}:{public}->{private}/{kind}" for host in shown]
    return ", ".join([*words, *plain])


def _restarts(view: Json) -> str:
    """3, 4 of 5, 5 gave up."""
    most = view["HostConfig"]["RestartPolicy"]["MaximumRetryCount"]
    if view["Exhausted"]:
        return f"{view['RestartCount']} gave up"
    return f"{view['RestartCount']} of {most}" if most else str(view["RestartCount"])


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
        "Health": state.get("Health", {}).get("Status", ""),
        "ExitCode": state["ExitCode"],
        "RestartCount": view["RestartCount"],
        "NextRestartAt": view["NextRestartAt"],
        "WantedUp": view["WantedUp"],
        "Reason": view["Reason"],
        "Pid": state["Pid"],
        "StartedAt": state["StartedAt"],
        "Status": status_words(view),
        "Ports": ports_words(view),
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
    lines += _health_story(view["State"].get("Health"), alone="Notify" not in view["State"])
    lines += _notify_story(view["State"].get("Notify"))
    if tail:
        lines.append("last lines that it wrote:")
        lines += [f"  | {text}" for text in tail]
    if view["NextRestartAt"]:
        lines.append(f"next attempt: {view['NextRestartAt'][:19]}Z")
    elif view["Reason"]:
        lines.append(f"now: {view['Reason']}")
    return "\n".join(lines)


def _last_failure(health: Json) -> str:
    failed = [result for result in health["Log"] if result["ExitCode"] != 0]
    return _result_words(failed[-1]) if failed else ""


def _result_words(result: Json) -> str:
    line = next((text.strip() for text in result["Output"].splitlines() if text.strip()), "")
    code = result["ExitCode"]
    words = "succeeded" if code == 0 else "failed" if code < 0 else f"failed with exit code {code}"
    return f"{words}: {line}" if line else words


def _health_story(health: Json | None, *, alone: bool) -> list[str]:
    """What the last probes said, in plain words. alone: nothing but probes says how it is."""
    if not health:
        return []
    streak = health["FailingStreak"]
    more = f", {streak} failure{'s' if streak > 1 else ''} in a row" if streak else ""
    lines = [f"health: {health['Status']}{more}"]
    for result in health["Log"]:
        took_s = since(result["Start"], datetime.fromisoformat(result["End"]))
        lines.append(f"  probe at {result['Start'][:19]}Z, {took_s:.3f} s: {_result_words(result)}")
    if not health["Log"] and alone:
        lines.append("  no probe has ended since the supervisor started")
    return lines


def _notify_story(notify: Json | None) -> list[str]:
    """What it says of itself, in plain words."""
    if not notify:
        return []
    words = "ready" if notify["Ready"] else "not ready"
    parts = [f"says that it is {'stopping' if notify['Stopping'] else words}"]
    parts += [text for text in (notify["Status"], notify["Why"]) if text]
    return [": ".join(parts)]


_IDLE: Json = {"CpuSeconds": 0.0, "MemoryBytes": 0, "MemoryLimitBytes": None, "Pids": 0}


def stats_rows(before: Sequence[Json], now: Sequence[Json], passed_s: float) -> list[Json]:
    """What each used between two looks; new ones count from their beginning. What is down uses nothing."""
    former = {view["Id"]: view["Usage"] for view in before if view["Usage"]}
    rows = []
    for view in now:
        used = view["Usage"] or _IDLE
        earlier = former.get(view["Id"], {"CpuSeconds": used["CpuSeconds"]})
        cpu_s = max(0.0, used["CpuSeconds"] - earlier["CpuSeconds"])
        limit = used["MemoryLimitBytes"]
        rows.append(
            {
                "ID": view["Id"],
                "Name": view["Name"],
                "Project": view["Project"],
                "Service": view["Service"],
                "CPUPerc": round(100 * cpu_s / passed_s, 2),
                "MemUsage": used["MemoryBytes"],
                "MemLimit": limit,
                "MemPerc": round(100 * (used["MemoryBytes"] or 0) / limit, 2) if limit else None,
                "PIDs": used["Pids"],
            }
        )
    return rows


def stats_table(rows: Sequence[Json]) -> str:
    """The table of `stats`."""
    return table(
        ["NAME", "CPU %", "MEM USAGE / LIMIT", "MEM %", "PIDS"],
        [
            [
                row["Name"],
                f"{row['CPUPerc']:.2f}%",
                f"{size(row['MemUsage'])} / {size(row['MemLimit'])}",
                "-" if row["MemPerc"] is None else f"{row['MemPerc']:.2f}%",
                str(row["PIDs"]),
            ]
            for row in rows
        ],
    )
