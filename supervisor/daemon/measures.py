"""What is counted and timed while the daemon runs, for Prometheus.

Belongs to the event loop; `freeze` copies it. Everything counts since this daemon started, as Prometheus
expects of a process.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from supervisor.core import events as ev
from supervisor.core.exits import Ending, Exit, SpawnFailure
from supervisor.core.state import Instance, Stopping

BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of all histograms: from a restart that is prompt to a stop that needed its grace."""


@dataclass(slots=True)
class Histogram:
    """Observations by bucket, the last one without a bound; `sum_s` of all of them."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0

    def observe(self, seconds: float) -> None:
        """One more."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def copy(self) -> Histogram:
        """As it is now."""
        return Histogram(self.counts[:], self.sum_s)


@dataclass(slots=True)
class Measures:
    """See the module.

    counts: by (instance id, what, label value). startup, stop: by (project, service). recovered: by (cause,
    outcome). last_reload_ok: None until projects were read once.
    """

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    startup: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    stop: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    reaction: Histogram = field(default_factory=Histogram)
    loop_lag: Histogram = field(default_factory=Histogram)
    recovered: Counter[tuple[str, str]] = field(default_factory=Counter)
    orphans: int = 0
    launchers_lost: int = 0
    state_write_failures: int = 0
    state_written_wall: float | None = None
    reloads: int = 0
    reload_failures: int = 0
    last_reload_ok: bool | None = None
    reloaded_wall: float | None = None

    def ended(self, instance: Instance, ending: Ending) -> None:
        """A run has ended; `instance` as it was before."""
        name = instance.id
        match ending:
            case SpawnFailure():
                reason = "spawn"
                self.counts[name, "spawn_failures", ending.stage] += 1
            case Exit(oom=True):
                reason = "oom"
                self.counts[name, "oom_kills", ""] += 1
            case Exit() if isinstance(instance.phase, Stopping):
                reason = "unhealthy" if instance.phase.then == "decide" else "stopped"
                self.counts[name, "forced_kills", ""] += int(instance.phase.killed)
            case Exit():
                reason = "signal" if ending.signal else "error" if ending.code else "success"
        self.counts[name, "exits", reason] += 1

    def probed(self, instance_id: str, *, failed: bool) -> None:
        """A probe of its health has come to a result."""
        self.counts[instance_id, "health_checks", ""] += 1
        self.counts[instance_id, "health_check_failures", ""] += int(failed)

    def launched(self, instance: Instance, event: ev.Event, *, booting: bool) -> None:
        """A launch was asked for; `instance` as it is now."""
        self.counts[instance.id, "starts", ""] += 1
        trigger = "boot" if booting else _trigger(instance, event)
        if trigger:
            self.counts[instance.id, "restarts", trigger] += 1

    def reloaded(self, *, ok: bool, wall: float) -> None:
        """The projects were read."""
        self.reloads += 1
        self.reload_failures += int(not ok)
        self.last_reload_ok = ok
        if ok:
            self.reloaded_wall = wall

    def forget(self, instance_id: str) -> None:
        """An instance that is gone has no series."""
        for key in [key for key in self.counts if key[0] == instance_id]:
            del self.counts[key]

    def freeze(self) -> Measures:
        """A copy that nobody changes."""
        return Measures(
            self.counts.copy(),
            {key: histogram.copy() for key, histogram in self.startup.items()},
            {key: histogram.copy() for key, histogram in self.stop.items()},
            self.reaction.copy(),
            self.loop_lag.copy(),
            self.recovered.copy(),
            self.orphans,
            self.launchers_lost,
            self.state_write_failures,
            self.state_written_wall,
            self.reloads,
            self.reload_failures,
            self.last_reload_ok,
            self.reloaded_wall,
        )


def _trigger(instance: Instance, event: ev.Event) -> str:
    """Why a start is a restart, as the metric says it; empty for a first start."""
    match event:
        case ev.Exited() | ev.LaunchFailed() | ev.TimerFired():
            if isinstance(event, ev.Exited) and not instance.history.restart_count:
                return "manual"
            if isinstance(instance.last, Exit) and (instance.last.unhealthy or instance.last.not_ready):
                return "unhealthy"
            return "oom" if isinstance(instance.last, Exit) and instance.last.oom else "exit"
        case ev.RestartRequested():
            return "manual"
        case _:
            return ""
