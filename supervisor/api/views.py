"""Resources as the API shows them: Docker's field names where Docker has the same thing. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from supervisor.core.exits import Exit, describe
from supervisor.core.state import Running, Waiting, docker_state
from supervisor.daemon.engine import Entry
from supervisor.daemon.state import RunRecord

Json = dict[str, Any]
_NEVER = "0001-01-01T00:00:00Z"


def stamp(wall: float | None) -> str:
    """RFC 3339 in UTC; Docker's zero time for None."""
    return _NEVER if wall is None else datetime.fromtimestamp(wall, UTC).isoformat().replace("+00:00", "Z")


def instance_view(entry: Entry, last: RunRecord | None, *, now_s: float, now_wall: float) -> Json:
    """One service instance in full."""
    stored, instance = entry.stored, entry.instance
    phase = instance.phase
    ending = instance.last
    state = docker_state(instance)
    next_wall = now_wall + phase.until_s - now_s if isinstance(phase, Waiting) else None
    return {
        "Id": instance.id,
        "Name": stored.name,
        "Project": stored.project,
        "Service": stored.spec.name,
        "Created": stamp(stored.created_wall),
        "RestartCount": instance.history.restart_count,
        "Reason": instance.reason,
        "WantedUp": instance.wanted,
        "NextRestartAt": None if next_wall is None else stamp(next_wall),
        "Command": list(stored.spec.argv()),
        "ConfigHash": stored.config_hash,
        "HostConfig": {
            "RestartPolicy": {
                "Name": instance.rules.policy.value,
                "MaximumRetryCount": instance.rules.max_attempts or 0,
            }
        },
        "State": {
            "Status": state,
            "Running": isinstance(phase, Running),
            "Restarting": state == "restarting",
            "Paused": state == "paused",
            "OOMKilled": isinstance(ending, Exit) and ending.oom,
            "Pid": phase.pid if isinstance(phase, Running) else 0,
            "ExitCode": 0 if ending is None else ending.code,
            "Error": "" if ending is None or isinstance(ending, Exit) else describe(ending),
            "StartedAt": stamp(entry.started_wall or (last.started_wall if last else None)),
            "FinishedAt": stamp(last.ended_wall if last else None),
        },
    }


def run_view(record: RunRecord) -> Json:
    """One run that ended."""
    return {
        "Run": record.run,
        "StartedAt": stamp(record.started_wall),
        "FinishedAt": stamp(record.ended_wall),
        "ExitCode": record.ending.code,
        "Ending": describe(record.ending),
        "Verdict": record.verdict,
        "CpuSeconds": record.cpu_ns / 1e9,
        "MaxRssBytes": record.max_rss_bytes,
    }
