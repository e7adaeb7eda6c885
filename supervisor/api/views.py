"""Resources as the API shows them: Docker's field names where Docker has the same thing. Pure."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Any

import msgspec

from supervisor.core.exits import Exit, describe
from supervisor.core.images import held_further
from supervisor.core.state import Resting, Running, Waiting, docker_state, meant_to_run
from supervisor.daemon.engine import Entry
from supervisor.daemon.state import RunRecord
from supervisor.daemon.usage import ProcessRow, clock_text
from supervisor.kernel.usage import Usage

Json = dict[str, Any]
_NEVER = "0001-01-01T00:00:00Z"


def stamp(wall: float | None) -> str:
    """RFC 3339 in UTC; Docker's zero time for None."""
    return _NEVER if wall is None else datetime.fromtimestamp(wall, UTC).isoformat().replace("+00:00", "Z")


def instance_view(entry: Entry, used: Usage | None, *, now_s: float, now_wall: float) -> Json:
    """One service instance in full. used: what it uses, if that was asked for and it runs."""
    stored, instance, last = entry.stored, entry.instance, entry.last_run
    phase = instance.phase
    ending = instance.last
    state = docker_state(instance)
    next_wall: float | None = None
    match phase:
        case Waiting(until_s=at_s) | Resting(resume_s=float() as at_s):
            next_wall = now_wall + at_s - now_s
        case _:
            pass
    return {
        "Id": instance.id,
        "Name": stored.name,
        "Project": stored.project,
        "Service": stored.spec.name,
        "Number": stored.number,
        "OneOff": stored.spec.one_off,
        "Run": instance.run,
        "Created": stamp(stored.created_wall),
        "RestartCount": instance.history.restart_count,
        "Reason": instance.reason,
        "WantedUp": meant_to_run(instance),
        "NextRestartAt": None if next_wall is None else stamp(next_wall),
        "Exhausted": isinstance(phase, Resting) and phase.exhausted,
        "Usage": None if used is None else _usage_view(used, entry, now_wall),
        "Command": list(stored.spec.argv()),
        "Labels": dict(stored.spec.labels),
        "ConfigHash": stored.config_hash,
        "Rootfs": msgspec.to_builtins(stored.spec.rootfs),
        "FurtherImages": msgspec.to_builtins(held_further(stored.spec)),
        "Image": stored.spec.rootfs.path if stored.spec.rootfs.kind == "image" else "",
        "ImageID": stored.spec.rootfs.image_id,
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
            "ExitCode": 0 if ending is None or isinstance(phase, Running) else ending.code,
            "Error": "" if ending is None or isinstance(ending, Exit) else describe(ending),
            "StartedAt": stamp(entry.started_wall or (last.started_wall if last else None)),
            "FinishedAt": stamp(last.ended_wall if last else None),
            **_health_view(entry),
            **_notify_view(entry),
        },
    }


def _notify_view(entry: Entry) -> Json:
    """What it says of itself; absent where it was not asked to say anything."""
    if entry.stored.spec.ready is None:
        return {}
    known = entry.readiness if isinstance(entry.instance.phase, Running) else None
    if known is not None and known.run != entry.instance.run:
        known = None
    return {
        "Notify": {
            "Ready": known is not None and known.ready,
            "Status": known.said if known is not None else "",
            "Stopping": known is not None and known.stopping,
            "Why": known.why if known is not None else "",
        }
    }


def _health_view(entry: Entry) -> Json:
    """Docker's State.Health; it is absent where nothing is probed."""
    instance, known = entry.instance, entry.health
    if not instance.health:
        return {}
    log = known.log if known is not None and known.run == instance.run else ()
    return {
        "Health": {
            "Status": instance.health,
            "FailingStreak": known.streak if known is not None and known.run == instance.run else 0,
            "Log": [
                {
                    "Start": stamp(result.began_wall),
                    "End": stamp(result.ended_wall),
                    "ExitCode": result.exit_code,
                    "Output": result.output,
                }
                for result in log
            ],
        }
    }


def _healthcheck_view(entry: Entry) -> Json:
    """Config.Healthcheck. What Docker has not, a probe without a process, is shown as what it asks for."""
    wanted = entry.stored.spec.healthcheck
    if wanted is None:
        return {}
    probe = wanted.probe
    test: list[str] = []
    if wanted.disabled:
        test = ["NONE"]
    elif probe is not None and probe.kind == "command":
        test = ["CMD", *probe.argv]
    elif probe is not None:
        path = probe.path if probe.kind == "http" else ""
        test = [probe.kind.upper(), f"{probe.host}:{probe.port}{path}"]
    times = {
        "Interval": wanted.interval_s,
        "Timeout": wanted.timeout_s,
        "StartPeriod": wanted.start_period_s,
        "StartInterval": wanted.start_interval_s,
    }
    shown = {name: round(value * 1e9) for name, value in times.items() if value is not None}
    retries = {} if wanted.retries is None else {"Retries": wanted.retries}
    return {"Healthcheck": {"Test": test, **shown, **retries, "OnUnhealthy": wanted.on_unhealthy}}


def config_view(entry: Entry) -> Json:
    """Docker's Config of a container; its clients ask it whether there is a terminal."""
    spec = entry.stored.spec
    return {
        "Image": spec.rootfs.path or "",
        "Cmd": list(spec.command or ()),
        "Entrypoint": list(spec.entrypoint or ()),
        "Env": [f"{name}={value}" for name, value in spec.environment],
        "WorkingDir": spec.working_dir or "",
        "User": spec.user or "",
        "Labels": dict(spec.labels),
        "Tty": spec.tty,
        "OpenStdin": spec.stdin_open,
        **_healthcheck_view(entry),
    }


def _usage_view(used: Usage, entry: Entry, now_wall: float) -> Json:
    """CpuPercent: of one processor, on average since the run began, as ps(1) has it."""
    ran_s = now_wall - entry.started_wall if entry.started_wall is not None else 0.0
    return {
        "CpuSeconds": used.cpu_ns / 1e9,
        "CpuPercent": round(100 * used.cpu_ns / 1e9 / ran_s, 2) if ran_s > 0 else 0.0,
        "MemoryBytes": used.memory_bytes,
        "MemoryLimitBytes": used.memory_limit_bytes,
        "Pids": used.pids,
    }


def stats_view(entry: Entry, used: Usage | None, host_bytes: int, now_wall: float) -> Json:
    """Docker's stats; all zero where nothing runs. One sample: precpu_stats is left to the client."""
    used = used or Usage(0, None, 0, 0, 0, 0, 0, 0)
    io = [
        {"major": 0, "minor": 0, "op": name, "value": value or 0}
        for name, value in (("read", used.read_bytes), ("write", used.written_bytes))
    ]
    return {
        "id": entry.instance.id,
        "name": f"/{entry.stored.name}",
        "read": stamp(now_wall),
        "num_procs": used.processes,
        "pids_stats": {"current": used.pids},
        "memory_stats": {
            "usage": used.memory_bytes or 0,
            "limit": used.memory_limit_bytes or host_bytes,
            "stats": {"inactive_file": 0},
        },
        "cpu_stats": {
            "cpu_usage": {
                "total_usage": used.cpu_ns,
                "usage_in_usermode": used.user_ns,
                "usage_in_kernelmode": used.system_ns,
            },
            "online_cpus": os.cpu_count(),
        },
        "blkio_stats": {"io_service_bytes_recursive": io if used.read_bytes is not None else None},
    }


def process_titles() -> list[str]:
    """Columns of `top`: those of `ps -ef`, and memory."""
    return ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "RSS", "CMD"]


def process_view(row: ProcessRow, now_wall: float) -> list[str]:
    """One row of `top`."""
    ran_s = max(now_wall - row.started_wall, 0.01)
    minutes, second = divmod(int(row.cpu_s), 60)
    hour, minute = divmod(minutes, 60)
    return [
        row.user,
        str(row.pid),
        str(row.parent),
        str(int(100 * row.cpu_s / ran_s)),
        clock_text(row.started_wall),
        row.tty,
        f"{hour:02}:{minute:02}:{second:02}",
        str(row.memory_bytes // 1024),
        row.command,
    ]


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
