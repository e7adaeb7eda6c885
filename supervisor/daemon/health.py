"""The probes of all services that have a healthcheck: timers, and what is to be done; `core.health` decides.

A service without a healthcheck costs nothing, one with has a single timer. What probes said stays in memory,
as Docker has it; the status is part of the instance and is stored when it changes, so that a daemon that
comes back finds a healthy service healthy.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

from supervisor.core import events as ev
from supervisor.core import health as core
from supervisor.core.healthcheck import Probe
from supervisor.core.state import Running
from supervisor.daemon.engine import Engine, Entry, Published, boottime_s
from supervisor.daemon.inside import AwayError, Inside
from supervisor.daemon.plans import ExecRequest, LaunchPlans
from supervisor.launcher.plan import Process
from supervisor.runtime import probes


@dataclass(slots=True)
class _Monitor:
    """Of one run. process: of its command, once that was made ready. task: the probe that is under way."""

    entry: Entry
    check: core.Check
    health: core.Health
    due_s: float = 0.0
    timer: asyncio.TimerHandle | None = None
    task: asyncio.Task[None] | None = None
    process: Process | None = None

    def rest(self) -> None:
        """No probe is under way or to come."""
        if self.timer is not None:
            self.timer.cancel()
        if self.task is not None:
            self.task.cancel()
        self.timer = self.task = None

    def lives(self) -> bool:
        """Its run is there and is not being stopped."""
        instance = self.entry.instance
        return instance.run == self.health.run and isinstance(instance.phase, Running)


class HealthChecks:
    """See the module. Belongs to the event loop."""

    def __init__(self, engine: Engine, inside: Inside, plans: LaunchPlans) -> None:
        self._engine = engine
        self._inside = inside
        self._plans = plans
        self._monitors: dict[str, _Monitor] = {}
        self._unwatch = engine.watch_runs(self._look)

    def take_over(self) -> None:
        """Look after what runs already: after every match with a launcher's State."""
        for entry in list(self._engine.entries.values()):
            self._begin(entry, core.TakenOver(random.random()))  # noqa: S311 - no two at once

    def close(self) -> None:
        """No probe any more."""
        self._unwatch()
        for monitor in self._monitors.values():
            monitor.rest()
        self._monitors.clear()

    def _look(self, event: Published) -> None:
        entry = self._engine.entries.get(event.instance)
        monitor = self._monitors.get(event.instance)
        if event.action == "start" and entry is not None:
            self._begin(entry, core.Begun())
        elif monitor is None or (monitor.health.run != event.run and event.action != "destroy"):
            return
        elif event.action == "pause":
            monitor.rest()
        elif event.action == "unpause":
            monitor.rest()
            self._step(monitor, core.Resumed())
        else:
            self._end(event.instance, monitor)

    def _begin(self, entry: Entry, event: core.Begun | core.TakenOver) -> None:
        check = core.check_of(entry.stored.spec.healthcheck)
        instance = entry.instance
        phase = instance.phase
        if check is None or not isinstance(phase, Running):
            return
        known = self._monitors.get(instance.id)
        if known is not None and known.health.run == instance.run:
            return
        if known is not None:
            known.rest()
        # An earlier version noted only what there was then: the probes' word alone.
        earlier = instance.health if entry.stored.spec.ready is None else ""
        health = core.Health(instance.run, phase.started_s, instance.probed or earlier or "starting")
        monitor = _Monitor(entry, check, health)
        self._monitors[instance.id] = monitor
        self._engine.post(instance.id, ev.HealthChanged(instance.run, health.status))
        self._step(monitor, event)

    def _end(self, instance_id: str, monitor: _Monitor) -> None:
        monitor.rest()
        if self._monitors.get(instance_id) is monitor:
            del self._monitors[instance_id]

    def _step(self, monitor: _Monitor, event: core.Event) -> None:
        monitor.health, monitor.due_s, effects = core.step(monitor.check, monitor.health, event, boottime_s())
        monitor.entry.health = monitor.health
        for changed in effects:
            instance_id, run = monitor.entry.instance.id, monitor.health.run
            news = ev.HealthChanged(run, changed.status, changed.why, restart=monitor.check.restarts)
            self._engine.post(instance_id, news)
        if not monitor.lives():
            self._end(monitor.entry.instance.id, monitor)
            return
        if isinstance(phase := monitor.entry.instance.phase, Running) and phase.paused:
            return
        wait_s = max(0.0, monitor.due_s - boottime_s())
        monitor.timer = asyncio.get_running_loop().call_later(wait_s, self._fire, monitor)

    def _fire(self, monitor: _Monitor) -> None:
        monitor.timer = None
        if not monitor.lives():
            self._end(monitor.entry.instance.id, monitor)
            return
        monitor.task = asyncio.get_running_loop().create_task(self._probe(monitor))

    async def _probe(self, monitor: _Monitor) -> None:
        # A timer may fire a little early; for the rules it is on time.
        began_s, began_wall = max(boottime_s(), monitor.due_s), time.time()
        try:
            code, output = await self._ask(monitor)
        except AwayError:
            event: core.Event = core.NotMade()
        except Exception as error:  # noqa: BLE001 - whatever it is, the probe did not succeed
            event = core.Probed(began_s, core.Result(began_wall, time.time(), core.FAILED_TO_RUN, str(error)))
        else:
            event = core.Probed(began_s, core.Result(began_wall, time.time(), code, output))
        monitor.task = None
        if not monitor.lives():
            self._end(monitor.entry.instance.id, monitor)
            return
        if isinstance(event, core.Probed):
            failed = event.result.exit_code != 0
            self._engine.measures.probed(monitor.entry.instance.id, failed=failed)
        self._step(monitor, event)

    async def _ask(self, monitor: _Monitor) -> tuple[int, str]:
        """Exit code and output. Raises AwayError, and what making the command ready raises."""
        probe, timeout_s = monitor.check.probe, monitor.check.timeout_s
        if probe.kind != "command":
            try:
                async with asyncio.timeout(timeout_s):
                    return await probes.ask(probe, self._network(monitor))
            except TimeoutError:
                return core.FAILED_TO_RUN, _too_long(timeout_s, "")
        entry = monitor.entry
        if monitor.process is None:
            monitor.process = await self._process(entry, probe)
        outcome = await self._inside.run(
            entry.instance.id, entry.stored.name, monitor.health.run, monitor.process, timeout_s
        )
        if outcome.timed_out:
            return core.FAILED_TO_RUN, _too_long(timeout_s, outcome.output)
        return outcome.code, outcome.output

    async def _process(self, entry: Entry, probe: Probe) -> Process:
        return await asyncio.to_thread(self._plans.exec_process, entry.stored, ExecRequest(probe.argv))

    @staticmethod
    def _network(monitor: _Monitor) -> int | None:
        """A pidfd of a process in the service's network; None where that is the host's. Raises AwayError."""
        entry = monitor.entry
        if entry.stored.spec.network_mode == "host":
            return None
        process = entry.process
        if process is None or process.run != monitor.health.run or process.pidfd < 0:
            raise AwayError("the main process is not known")
        return process.pidfd


def _too_long(timeout_s: float, output: str) -> str:
    """Docker's words."""
    text = f"Health check exceeded timeout ({timeout_s:g}s)"
    return f"{text}: {output}"[: core.OUTPUT_BYTES] if output else text
