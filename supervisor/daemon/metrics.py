"""Prometheus families, collected from an immutable snapshot.

Names and labels by the practices that promlint checks: base units, `_total` on counters only, one series for
each state with a `state` label. `service` is what Compose calls it; where Prometheus has such a target label,
it arrives as `exported_service`. docs/metrics.md lists all families.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import prometheus_client
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from supervisor import __version__
from supervisor.core.exits import Exit
from supervisor.core.state import Instance, Resting, Running, Waiting, docker_state, meant_to_run
from supervisor.daemon.engine import Engine, boottime_s
from supervisor.daemon.making import is_stand_in
from supervisor.daemon.measures import BOUNDS_S, Histogram, Measures
from supervisor.kernel.usage import Usage

LABELS = ("project", "service", "replica")
STATES = ("created", "running", "paused", "stopping", "restarting", "exited")
HEALTH = ("none", "starting", "healthy", "unhealthy")
_TRIGGERS = ("exit", "oom", "unhealthy", "manual", "boot")
_REASONS = ("success", "error", "signal", "oom", "unhealthy", "stopped", "spawn")
_OUTCOMES = ("adopted", "restarted", "lost")
_ANSWERS = ("answered", "forwarded", "limited", "malformed")
_CAUSES = ("supervisor_restart", "host_reboot")

LogCounts = Mapping[str, Mapping[str, tuple[int, int]]]
"""By instance id and stream: bytes written, lines dropped."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One instance at the moment of the snapshot. past_cpu_ns: of runs that have ended."""

    labels: tuple[str, str, str]
    instance: Instance
    config_hash: str
    started_wall: float | None
    ended_wall: float | None
    backoff_s: float
    downtime_s: float
    past_cpu_ns: int
    counts: dict[tuple[str, str], int]
    usage: Usage | None
    logs: Mapping[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a collection needs. boot_offset_s: wall clock minus CLOCK_BOOTTIME.

    names: the resolver's counters, empty where there is none.
    """

    samples: tuple[Sample, ...]
    measures: Measures
    boot_offset_s: float
    log_writer_restarts: int
    names: Mapping[str, int] = field(default_factory=dict)
    resolver_losses: int = 0


def snapshot(
    engine: Engine,
    now_wall: float,
    usages: Mapping[str, Usage] | None = None,
    logs: LogCounts | None = None,
    log_writer_restarts: int = 0,
    names: Mapping[str, int] | None = None,
    resolver_losses: int = 0,
) -> Snapshot:
    """Taken in the event loop; may be read anywhere. usages: by instance id."""
    measures = engine.measures.freeze()
    counts: dict[str, dict[tuple[str, str], int]] = {}
    for (name, what, label), count in measures.counts.items():
        counts.setdefault(name, {})[what, label] = count
    now_s = boottime_s()
    samples = []
    for entry in engine.entries.values():
        if is_stand_in(entry.stored):
            continue  # the one whose place it is to take has its labels
        entry.note_downtime(now_s)
        name, last = entry.instance.id, entry.last_run
        samples.append(
            Sample(
                (entry.stored.project, entry.stored.spec.name, str(entry.stored.number)),
                entry.instance,
                entry.stored.config_hash,
                entry.started_wall,
                None if last is None else last.ended_wall,
                entry.backoff_s,
                entry.downtime_s,
                entry.past_cpu_ns,
                counts.get(name, {}),
                (usages or {}).get(name),
                (logs or {}).get(name, {}),
            )
        )
    return Snapshot(
        tuple(samples), measures, now_wall - now_s, log_writer_restarts, names or {}, resolver_losses
    )


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"shipkeeper_{name}", text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"shipkeeper_{name}", text, labels=labels)


def _histogram(
    name: str, text: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], Histogram]]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(f"shipkeeper_{name}", text, labels=labels)
    for values, histogram in rows:
        total, buckets = 0, []
        for bound, count in zip((*map(str, BOUNDS_S), "+Inf"), histogram.counts, strict=True):
            total += count
            buckets.append((bound, total))
        family.add_metric(values, buckets, histogram.sum_s)
    return family


class _States(Collector):
    """What each service is meant to be, is, and will be next."""

    def __init__(self, taken: Snapshot) -> None:
        self._taken = taken

    def collect(self) -> Iterable[Metric]:
        info = _gauge("service_info", "What the service is.", *LABELS, "restart_policy", "config_hash")
        wanted = _gauge("service_wanted_up", "1 while the service is meant to run.", *LABELS)
        up = _gauge("service_up", "1 while its main process runs.", *LABELS)
        state = _gauge("service_state", "1 for the state that it is in.", *LABELS, "state")
        health = _gauge(
            "service_health_status", "1 for the health that it has: none without a check.", *LABELS, "status"
        )
        began = _gauge("service_start_time_seconds", "When the current run began.", *LABELS)
        ended = _gauge("service_last_exit_timestamp_seconds", "When the last run ended.", *LABELS)
        code = _gauge("service_last_exit_code", "Exit code of the last run; 128 + n for signal n.", *LABELS)
        attempts = _gauge(
            "service_restart_attempts", "Automatic restarts since the last start by a person.", *LABELS
        )
        most = _gauge(
            "service_restart_attempts_max", "Automatic restarts allowed; absent without a limit.", *LABELS
        )
        exhausted = _gauge(
            "service_restarts_exhausted", "1 if it is down because its restarts are used up.", *LABELS
        )
        backoff = _gauge("service_restart_backoff_seconds", "Length of the pause that it is in.", *LABELS)
        following = _gauge(
            "service_next_restart_timestamp_seconds",
            "When the next attempt comes; absent if none does.",
            *LABELS,
        )
        for sample in self._taken.samples:
            labels, instance = sample.labels, sample.instance
            phase, rules = instance.phase, instance.rules
            info.add_metric([*labels, rules.policy.value, sample.config_hash[:12]], 1)
            wanted.add_metric(labels, int(meant_to_run(instance)))
            up.add_metric(labels, int(isinstance(phase, Running)))
            for name in STATES:
                state.add_metric([*labels, name], int(docker_state(instance) == name))
            known = instance.health if isinstance(phase, Running) and instance.health else "none"
            for name in HEALTH:
                health.add_metric([*labels, name], int(known == name))
            if isinstance(phase, Running) and sample.started_wall is not None:
                began.add_metric(labels, sample.started_wall)
            if sample.ended_wall is not None:
                ended.add_metric(labels, sample.ended_wall)
            if isinstance(instance.last, Exit):
                code.add_metric(labels, instance.last.code)
            attempts.add_metric(labels, instance.history.restart_count)
            if rules.max_attempts is not None:
                most.add_metric(labels, rules.max_attempts)
            exhausted.add_metric(labels, int(isinstance(phase, Resting) and phase.exhausted))
            backoff.add_metric(labels, sample.backoff_s if isinstance(phase, Waiting) else 0)
            if isinstance(phase, Waiting):
                following.add_metric(labels, phase.until_s + self._taken.boot_offset_s)
        yield from (
            info,
            wanted,
            up,
            state,
            health,
            began,
            ended,
            code,
            attempts,
            most,
            exhausted,
            backoff,
            following,
        )


class _Happenings(Collector):
    """What happened to each service, counted and timed."""

    def __init__(self, taken: Snapshot) -> None:
        self._taken = taken

    def collect(self) -> Iterable[Metric]:
        for what, text, label, values in (
            ("starts", "Runs that were started.", None, ("",)),
            ("restarts", "Starts after an end, by what caused them.", "trigger", _TRIGGERS),
            ("exits", "Ends of runs, by how they ended.", "reason", _REASONS),
            ("spawn_failures", "Runs that never began, by the stage that failed.", "stage", ()),
            ("oom_kills", "Runs that the kernel ended for memory.", None, ("",)),
            ("forced_kills", "Stops that needed SIGKILL.", None, ("",)),
            ("health_checks", "Probes of its health that came to a result.", None, ("",)),
            ("health_check_failures", "Those of them that failed.", None, ("",)),
        ):
            family = _counter(f"service_{what}", text, *LABELS, *(() if label is None else (label,)))
            for sample in self._taken.samples:
                seen = {value for name, value in sample.counts if name == what}
                for value in sorted(seen.union(values)):
                    extra = [] if label is None else [value]
                    family.add_metric([*sample.labels, *extra], sample.counts.get((what, value), 0))
            yield family
        downtime = _counter(
            "service_downtime_seconds", "Time in which it was meant to run and did not.", *LABELS
        )
        for sample in self._taken.samples:
            downtime.add_metric(sample.labels, sample.downtime_s)
        yield downtime
        for name, text, rows in (
            ("startup", "From a launch to the first instruction.", self._taken.measures.startup),
            ("stop", "From a stop to the end of the last process.", self._taken.measures.stop),
        ):
            yield _histogram(f"service_{name}_duration_seconds", text, LABELS[:2], sorted(rows.items()))


class _Usages(Collector):
    """What each service uses, and what it wrote."""

    def __init__(self, taken: Snapshot) -> None:
        self._taken = taken

    def collect(self) -> Iterable[Metric]:
        cpu = _counter("service_cpu_seconds", "Processor time of all its processes, over all runs.", *LABELS)
        memory = _gauge("service_memory_usage_bytes", "Memory, without inactive page cache.", *LABELS)
        limit = _gauge("service_memory_limit_bytes", "Its limit; absent without one.", *LABELS)
        processes = _gauge("service_processes", "Processes that are alive.", *LABELS)
        threads = _gauge("service_threads", "Threads that are alive.", *LABELS)
        written = _counter(
            "service_log_written_bytes", "Bytes of output that were stored.", *LABELS, "stream"
        )
        dropped = _counter("service_log_dropped_lines", "Lines of output that were lost.", *LABELS, "stream")
        for sample in self._taken.samples:
            labels, usage = sample.labels, sample.usage
            running_ns = 0 if usage is None else usage.cpu_ns
            cpu.add_metric(labels, (sample.past_cpu_ns + running_ns) / 1e9)
            processes.add_metric(labels, 0 if usage is None else usage.processes)
            threads.add_metric(labels, 0 if usage is None else usage.pids)
            if usage is not None and usage.memory_bytes is not None:
                memory.add_metric(labels, usage.memory_bytes)
            if usage is not None and usage.memory_limit_bytes is not None:
                limit.add_metric(labels, usage.memory_limit_bytes)
            for stream, (count, lost) in sorted(sample.logs.items()):
                written.add_metric([*labels, stream], count)
                dropped.add_metric([*labels, stream], lost)
        yield from (cpu, memory, limit, processes, threads, written, dropped)


class _Supervisor(Collector):
    """The supervisor itself."""

    def __init__(self, taken: Snapshot) -> None:
        self._taken = taken

    def collect(self) -> Iterable[Metric]:
        measures = self._taken.measures
        build = _gauge("build_info", "Version of the running daemon.", "version", "python_version")
        build.add_metric([__version__, platform.python_version()], 1)
        yield build
        yield from self._configuration(measures)
        found = "Services found at a start of the daemon, by what came of them."
        recovered = _counter("recovered_services", found, "cause", "outcome")
        for cause in _CAUSES:
            for outcome in _OUTCOMES:
                recovered.add_metric([cause, outcome], measures.recovered[cause, outcome])
        yield recovered
        for name, text, count in (
            ("orphans_reaped", "Runs of no known service that were ended.", measures.orphans),
            ("launcher_losses", "Times that the launcher died.", measures.launchers_lost),
            ("log_writer_restarts", "Times that the log writer died.", self._taken.log_writer_restarts),
            ("resolver_losses", "Times that the resolver died.", self._taken.resolver_losses),
            (
                "resolver_failures",
                "Questions for names that no server beyond the networks answered.",
                self._taken.names.get("failed", 0),
            ),
            ("state_write_failures", "Failed writes of the state.", measures.state_write_failures),
        ):
            family = _counter(name, text)
            family.add_metric([], count)
            yield family
        queries = _counter("resolver_queries", "Questions for names, since the resolver's start.", "outcome")
        for outcome in _ANSWERS:
            queries.add_metric([outcome], self._taken.names.get(outcome, 0))
        yield queries
        written = _gauge("state_last_write_timestamp_seconds", "When the state was last stored.")
        if measures.state_written_wall is not None:
            written.add_metric([], measures.state_written_wall)
        yield written
        yield _histogram(
            "restart_reaction_seconds",
            "From the death of a process, or the end of its backoff, to the request for the next run.",
            (),
            [((), measures.reaction)],
        )
        yield _histogram(
            "event_loop_lag_seconds",
            "How late timers fired, and a turn of the loop at each scrape.",
            (),
            [((), measures.loop_lag)],
        )

    @staticmethod
    def _configuration(measures: Measures) -> Iterable[Metric]:
        good = _gauge("config_last_reload_successful", "1 if the projects could all be read the last time.")
        when = _gauge("config_last_reload_success_timestamp_seconds", "When they last could.")
        if measures.last_reload_ok is not None:
            good.add_metric([], int(measures.last_reload_ok))
        if measures.reloaded_wall is not None:
            when.add_metric([], measures.reloaded_wall)
        reloads = _counter("config_reloads", "Times that the projects were read.")
        reloads.add_metric([], measures.reloads)
        failures = _counter("config_reload_failures", "Times that one of them could not be used.")
        failures.add_metric([], measures.reload_failures)
        yield from (good, when, reloads, failures)


def exposition(taken: Snapshot) -> bytes:
    """The text format, with the daemon's own process_* families."""
    registry = CollectorRegistry()
    for collector in (_Supervisor, _States, _Happenings, _Usages):
        registry.register(collector(taken))
    prometheus_client.ProcessCollector(registry=registry)
    return generate_latest(registry)
