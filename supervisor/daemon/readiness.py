"""What runs say of themselves (`x-shipkeeper: {ready: ...}`): timers, and who is told. `core.readiness`
decides.

The launcher listens, for it outlives the daemon: what was said while no daemon lived it tells with the run.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from supervisor.core import events as ev
from supervisor.core import readiness as core
from supervisor.core.healthcheck import Ready
from supervisor.core.state import Running
from supervisor.daemon.engine import Engine, Entry, Published, boottime_s
from supervisor.launcher.protocol import Notified


@dataclass(slots=True)
class _Monitor:
    """Of one run."""

    entry: Entry
    wanted: Ready
    known: core.Readiness
    timer: asyncio.TimerHandle | None = None

    def rest(self) -> None:
        """No timer any more."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = None


class ReadyWatch:
    """See the module. Belongs to the event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._monitors: dict[str, _Monitor] = {}
        self._unwatch = engine.watch_runs(self._look)

    def take_over(self) -> None:
        """Look after what runs already: after every match with a launcher's State."""
        for entry in list(self._engine.entries.values()):
            self._begin(entry)

    def close(self) -> None:
        """Listen no more."""
        self._unwatch()
        for monitor in self._monitors.values():
            monitor.rest()
        self._monitors.clear()

    def on_launcher(self, event: Notified) -> None:
        """A run has said something. Of one that has not begun yet it comes again, when that begins."""
        monitor = self._monitors.get(event.instance)
        if monitor is not None and monitor.known.run == event.run:
            self._step(monitor, core.Said(event.text))

    def _look(self, event: Published) -> None:
        entry = self._engine.entries.get(event.instance)
        monitor = self._monitors.get(event.instance)
        if event.action == "start" and entry is not None:
            self._begin(entry)
        elif monitor is None or (monitor.known.run != event.run and event.action != "destroy"):
            return
        elif event.action == "pause":
            monitor.rest()
        elif event.action == "unpause":
            self._step(monitor, core.Begun())
        else:
            monitor.rest()
            del self._monitors[event.instance]

    def _begin(self, entry: Entry) -> None:
        instance, wanted, phase = entry.instance, entry.stored.spec.ready, entry.instance.phase
        if wanted is None or not isinstance(phase, Running):
            return
        monitor = self._monitors.get(instance.id)
        if monitor is None or monitor.known.run != instance.run:
            if monitor is not None:
                monitor.rest()
            status = instance.ready or "starting"
            known = core.Readiness(instance.run, phase.started_s, status, ready=status != "starting")
            monitor = self._monitors[instance.id] = _Monitor(entry, wanted, known)
            self._engine.post(instance.id, ev.HealthChanged(instance.run, known.status, part="notify"))
            self._step(monitor, core.Begun())
        run, text = entry.notified
        if run == instance.run and text:
            self._step(monitor, core.Said(text))

    def _step(self, monitor: _Monitor, event: core.Event) -> None:
        monitor.rest()
        now_s = boottime_s()
        monitor.known, due_s, effects = core.step(monitor.wanted, monitor.known, event, now_s)
        entry = monitor.entry
        entry.readiness = monitor.known
        entry.wake()
        for changed in effects:
            check = entry.stored.spec.healthcheck
            restarts = check is not None and check.on_unhealthy == "restart"
            news = ev.HealthChanged(
                monitor.known.run,
                changed.status,
                changed.why,
                restart=restarts and not changed.failed,
                part="notify",
                failed=changed.failed,
            )
            self._engine.post(entry.instance.id, news)
        phase = entry.instance.phase
        if due_s is None or not isinstance(phase, Running) or phase.paused:
            return
        wait_s = max(0.0, due_s - boottime_s())
        monitor.timer = asyncio.get_running_loop().call_later(wait_s, self._fire, monitor)

    def _fire(self, monitor: _Monitor) -> None:
        monitor.timer = None
        instance = monitor.entry.instance
        if instance.run == monitor.known.run and isinstance(instance.phase, Running):
            self._step(monitor, core.Due())
