"""Prometheus families, collected from an immutable snapshot of the engine.

Names and labels by the practices that promlint checks: base units, `_total` on counters only, one series for
each state with a `state` label. Counters count since this daemon started, as Prometheus expects of a process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import prometheus_client
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from supervisor import __version__
from supervisor.core.exits import Exit
from supervisor.core.state import Instance, Resting, Running, Waiting, docker_state
from supervisor.daemon.engine import Engine, boottime_s

LABELS = ("project", "service", "replica")
STATES = ("created", "running", "paused", "stopping", "restarting", "exited")
_TRIGGERS = ("exit", "oom", "manual")
_REASONS = ("success", "error", "signal", "oom", "stopped", "spawn")


@dataclass(frozen=True, slots=True)
class Sample:
    """One instance at the moment of the snapshot."""

    labels: tuple[str, str, str]
    instance: Instance
    config_hash: str
    started_wall: float | None
    counts: dict[tuple[str, str], int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a collection needs. boot_offset_s: wall clock minus CLOCK_BOOTTIME."""

    samples: tuple[Sample, ...]
    boot_offset_s: float


def snapshot(engine: Engine, now_wall: float) -> Snapshot:
    """Taken in the event loop; may be read anywhere."""
    counts: dict[str, dict[tuple[str, str], int]] = {}
    for (name, what, label), count in engine.counts.items():
        counts.setdefault(name, {})[what, label] = count
    samples = tuple(
        Sample(
            (entry.stored.project, entry.stored.spec.name, str(entry.stored.number)),
            entry.instance,
            entry.stored.config_hash,
            entry.started_wall,
            counts.get(entry.instance.id, {}),
        )
        for entry in engine.entries.values()
    )
    return Snapshot(samples, now_wall - boottime_s())


class _Services(Collector):
    def __init__(self, taken: Snapshot) -> None:
        self._taken = taken

    def collect(self) -> Iterable[Metric]:
        build = InfoMetricFamily("shipkeeper_build", "Version of the running daemon.")
        build.add_metric([], {"version": __version__})
        yield build
        yield from self._gauges()
        yield from self._counters()

    def _gauges(self) -> Iterable[Metric]:
        def gauge(name: str, text: str, *more: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"shipkeeper_service_{name}", text, labels=(*LABELS, *more))

        info = gauge("info", "What the service is.", "restart_policy", "config_hash")
        wanted = gauge("wanted_up", "1 while the service is meant to run.")
        up = gauge("up", "1 while its main process runs.")
        state = gauge("state", "1 for the state that it is in.", "state")
        began = gauge("start_time_seconds", "When the current run began.")
        code = gauge("last_exit_code", "Exit code of the last run; 128+n for signal n.")
        attempts = gauge("restart_attempts", "Automatic restarts since the last start by a person.")
        most = gauge("restart_attempts_max", "Automatic restarts allowed; absent without a limit.")
        exhausted = gauge("restarts_exhausted", "1 if it is down because its restarts are used up.")
        following = gauge(
            "next_restart_timestamp_seconds", "When the next attempt comes; absent if none does."
        )
        for sample in self._taken.samples:
            labels, instance = sample.labels, sample.instance
            phase = instance.phase
            rules = instance.rules
            info.add_metric([*labels, rules.policy.value, sample.config_hash[:12]], 1)
            wanted.add_metric(labels, int(instance.wanted))
            up.add_metric(labels, int(isinstance(phase, Running)))
            for name in STATES:
                state.add_metric([*labels, name], int(docker_state(instance) == name))
            if isinstance(phase, Running) and sample.started_wall is not None:
                began.add_metric(labels, sample.started_wall)
            if isinstance(instance.last, Exit):
                code.add_metric(labels, instance.last.code)
            attempts.add_metric(labels, instance.history.restart_count)
            if rules.max_attempts is not None:
                most.add_metric(labels, rules.max_attempts)
            exhausted.add_metric(labels, int(isinstance(phase, Resting) and phase.exhausted))
            if isinstance(phase, Waiting):
                following.add_metric(labels, phase.until_s + self._taken.boot_offset_s)
        yield from (info, wanted, up, state, began, code, attempts, most, exhausted, following)

    def _counters(self) -> Iterable[Metric]:
        for what, text, label, values in (
            ("starts", "Runs that were started.", None, ("",)),
            ("restarts", "Starts after an end, by what caused them.", "trigger", _TRIGGERS),
            ("exits", "Ends of runs, by how they ended.", "reason", _REASONS),
            ("spawn_failures", "Runs that never began, by the stage that failed.", "stage", ()),
            ("oom_kills", "Runs that the kernel ended for memory.", None, ("",)),
            ("forced_kills", "Stops that needed SIGKILL.", None, ("",)),
        ):
            labels = LABELS if label is None else (*LABELS, label)
            family = CounterMetricFamily(f"shipkeeper_service_{what}", text, labels=labels)
            for sample in self._taken.samples:
                seen = {value for name, value in sample.counts if name == what}
                for value in sorted(seen.union(values)):
                    extra = [] if label is None else [value]
                    family.add_metric([*sample.labels, *extra], sample.counts.get((what, value), 0))
            yield family


def exposition(taken: Snapshot) -> bytes:
    """The text format, with the daemon's own process_* families."""
    registry = CollectorRegistry()
    registry.register(_Services(taken))
    prometheus_client.ProcessCollector(registry=registry)
    return generate_latest(registry)
