"""The one writer: event -> `lifecycle.step` -> effects, for every instance; and what the launcher reports.

Nothing that waits for a disk stands between a death and the next life: a launch is sent at once, what has
to be stored goes to `daemon.writer`, and only when it is stored are exit records acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, assert_never

from supervisor.core import events as ev
from supervisor.core.exits import LOST, Exit, SpawnFailure
from supervisor.core.health import Health
from supervisor.core.lifecycle import Step, step
from supervisor.core.model import ServiceSpec
from supervisor.core.readiness import Readiness
from supervisor.core.state import (
    Created,
    Instance,
    Resting,
    Running,
    Starting,
    Stopping,
    Waiting,
    meant_to_run,
)
from supervisor.daemon.measures import Histogram, Measures
from supervisor.daemon.state import RunRecord, StateDatabase, Stored, save_identity
from supervisor.daemon.writer import StateWriter
from supervisor.kernel import process
from supervisor.launcher import protocol
from supervisor.launcher.plan import LaunchPlan
from supervisor.runtime.plan import next_run


class Process(NamedTuple):
    """The main process of a run that was seen alive. `pidfd` is ours, or -1."""

    run: int
    pid: int
    pidfd: int
    ticks: int


@dataclass(slots=True)
class Entry:
    """One instance in memory: what is stored, and what belongs to this life of the daemon only."""

    stored: Stored
    plan: LaunchPlan | None = None
    started_wall: float | None = None
    cgroup: str = ""
    """Path of the current run's cgroup below the hierarchies; empty while none runs."""
    last_run: RunRecord | None = None
    ended: tuple[int, float] = (0, 0.0)
    """The run that ended last, and when by the wall clock."""
    stopping_s: float = 0.0
    backoff_s: float = 0.0
    past_cpu_ns: int = 0
    """Of the runs that ended while this daemon ran."""
    downtime_s: float = 0.0
    down_since_s: float | None = None
    """Since when it is meant to run and does not."""
    timer: asyncio.TimerHandle | None = None
    preparing: bool = False
    meta: str = ""
    process: Process | None = None
    health: Health | None = None
    """What the probes of the newest run said to this daemon; `daemon.health` writes it."""
    notified: tuple[int, str] = (0, "")
    """A run, and what it had said of itself when the launcher told of it."""
    readiness: Readiness | None = None
    """What the newest run says of itself; `daemon.readiness` writes it."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Have all look again who wait for a change."""
        self.changed.set()
        self.changed = asyncio.Event()

    def let_go(self) -> None:
        """Close the pidfd."""
        if self.process is not None and self.process.pidfd >= 0:
            os.close(self.process.pidfd)
        self.process = None

    @property
    def instance(self) -> Instance:
        return self.stored.instance

    def note_downtime(self, now_s: float) -> None:
        """Bring `downtime_s` up to now."""
        if self.down_since_s is not None:
            self.downtime_s += now_s - self.down_since_s
        down = meant_to_run(self.instance) and not isinstance(self.instance.phase, Running)
        self.down_since_s = now_s if down else None


@dataclass(frozen=True, slots=True)
class Published:
    """What the event stream carries: Docker's action, and why."""

    wall: float
    action: str
    run: int
    instance: str
    name: str
    project: str
    service: str
    why: str


def _unsent(request: protocol.Request) -> None:
    """Before a launcher is connected, and while it is away: its `State` settles everything later."""
    del request


def boottime_s() -> float:
    """CLOCK_BOOTTIME in seconds: runs on while the host sleeps, never jumps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Engine:
    """See the module. All methods belong to the event loop.

    plans: makes the launch plan of a stored instance. Raises an error
    whose text is for the user.
    """

    def __init__(
        self,
        database: StateDatabase,
        plans: Callable[[Stored], Awaitable[LaunchPlan]],
        report: Callable[[str], None],
    ) -> None:
        self._plans = plans
        self.report = report
        self.entries: dict[str, Entry] = {}
        self.send: Callable[[protocol.Request], None] = _unsent
        self.subscribers: set[Callable[[Published], None]] = set()
        self.measures = Measures()
        self.booting: set[str] = set()
        self.on_rest: Callable[[Entry], None] = lambda _: None
        """Told of an instance that has come down, before anything else happens to it."""
        self._writer = StateWriter(database, self._current, self._acknowledge, report, self.measures)
        self._tasks: set[asyncio.Task[None]] = set()

    # --- events ---------------------------------------------------------------------------------
    def post(self, instance_id: str, event: ev.Event, at_s: float | None = None) -> None:
        """Apply an event, of now or of when it happened. One for an instance that is gone is dropped."""
        entry = self.entries.get(instance_id)
        if entry is None:
            return
        now_s = boottime_s() if at_s is None else at_s
        before = entry.instance
        stepped = step(before, event, now_s, random.random())  # noqa: S311 - jitter
        self.apply(entry, stepped)
        # Measured when everything is on its way.
        instance, effects = stepped
        self._time(entry, before, instance, now_s)
        if any(isinstance(effect, ev.Launch) for effect in effects):
            self.measures.launched(instance, event, booting=instance_id in self.booting)
            self.booting.discard(instance_id)

    def apply(self, entry: Entry, stepped: Step) -> None:
        """Take over a step, and carry out its effects."""
        instance, effects = stepped
        self._set(entry, instance)
        for effect in effects:
            self._carry_out(entry, effect)

    def _time(self, entry: Entry, before: Instance, after: Instance, now_s: float) -> None:
        key = entry.stored.project, entry.stored.spec.name
        was, now = before.phase, after.phase
        if isinstance(was, Starting) and isinstance(now, Running):
            self.measures.startup.setdefault(key, Histogram()).observe(now_s - was.since_s)
        if isinstance(was, Stopping) and not isinstance(now, Stopping):
            self.measures.stop.setdefault(key, Histogram()).observe(now_s - entry.stopping_s)
        if isinstance(now, Stopping) and not isinstance(was, Stopping):
            entry.stopping_s = now_s
        if isinstance(was, Waiting) and isinstance(now, Starting):
            self.measures.reaction.observe(now_s - was.until_s)

    def on_launcher(self, event: protocol.Event) -> None:
        """An event of the launcher, except `State`, which `daemon.adoption` takes."""
        match event:
            case protocol.Begun():
                entry = self.entries.get(event.instance)
                if entry is not None and entry.instance.run == event.run:
                    self._witness(entry, event.run, event.pid)
            case protocol.Started(info=info):
                entry = self.entries.get(info.instance)
                if entry is not None and entry.instance.run == info.run:
                    self.follow(entry, info)
                started = ev.Started(info.run, info.pid, info.start_ticks)
                self.post(info.instance, started, info.started_ns / 1e9)
            case protocol.LaunchFailed():
                failure = SpawnFailure(event.stage, event.errno, event.detail, event.code)
                self._end(event.instance, event.run, failure, None)
            case protocol.Exited():
                entry = self.entries.get(event.instance)
                ending = LOST if entry is None else self._told_by_kernel(entry, event)
                self._end(event.instance, event.run, ending, event)
            case protocol.Frozen():
                if event.error:
                    self.report(f"cannot freeze or thaw {event.instance}: {event.error}")
                else:
                    self.post(event.instance, ev.Paused(event.run, event.frozen))
            case protocol.Problem():
                self.report(event.what)
            case (
                protocol.State()
                | protocol.ExecStarted()  # execs are `daemon.execs`
                | protocol.ExecFailed()
                | protocol.ExecExited()
                | protocol.InputGiven()
                | protocol.LogCounted()
                | protocol.Notified()  # notices are `daemon.readiness`
                | protocol.Pong()
            ):
                pass
            case _:
                assert_never(event)

    def _end(
        self, instance_id: str, run: int, ending: Exit | SpawnFailure, record: protocol.Exited | None
    ) -> None:
        entry = self.entries.get(instance_id)
        if entry is None:
            self.send(protocol.Ack(instance_id, run))
            return
        entry.ended = run, time.time() if record is None else record.ended_wall
        if entry.instance.run == run:
            self.measures.ended(entry.instance, ending)
        at_s = None if record is None else record.ended_ns / 1e9
        if isinstance(ending, Exit):
            self.post(instance_id, ev.Exited(run, ending), at_s)
            if record is not None and isinstance(entry.instance.phase, Starting):
                self.measures.reaction.observe(boottime_s() - record.ended_ns / 1e9)
        else:
            self.post(instance_id, ev.LaunchFailed(run, ending))
        kept = RunRecord(run, None, time.time(), ending, entry.instance.reason)
        if record is not None:
            kept = replace(
                kept,
                started_wall=record.started_wall,
                ended_wall=record.ended_wall,
                user_s=record.user_s,
                system_s=record.system_s,
                max_rss_bytes=record.max_rss_bytes,
                cpu_ns=record.cpu_ns,
            )
        entry.last_run = kept
        entry.past_cpu_ns += kept.cpu_ns
        if entry.instance.run == run:
            entry.cgroup = ""
        if entry.process is not None and entry.process.run == run:
            entry.let_go()
        self._writer.ended(instance_id, kept)

    @staticmethod
    def _witness(entry: Entry, run: int, pid: int) -> None:
        """Hold on to a process: the kernel tells its exit status even where the launcher died before."""
        entry.let_go()
        with contextlib.suppress(OSError):
            ticks = process.start_ticks(pid)
            entry.process = Process(run, pid, process.open_pidfd(pid, ticks), ticks)

    def follow(self, entry: Entry, info: protocol.RunInfo) -> None:
        """The run lives."""
        entry.started_wall = info.started_wall
        entry.cgroup = info.cgroup
        entry.notified = info.run, info.notified
        known = entry.process
        if known is None or (known.run, known.pid, known.ticks) != (info.run, info.pid, info.start_ticks):
            self._witness(entry, info.run, info.pid)

    @staticmethod
    def _told_by_kernel(entry: Entry, record: protocol.Exited) -> Exit:
        """How the run of an exit record ended."""
        known = entry.process
        if record.lost and known is not None and known.run == record.run and known.pidfd >= 0:
            status = process.status_of_stranger(known.pid, known.pidfd, known.ticks)
            if status is not None:
                return Exit(status.code, status.signal, record.oom)
        return Exit(record.code, record.signal, record.oom, record.lost)

    # --- effects ----------------------------------------------------------------------------------
    def _carry_out(self, entry: Entry, effect: ev.Effect) -> None:
        instance = entry.instance
        match effect:
            case ev.Launch():
                self._launch(entry, effect.run)
            case ev.Signal():
                self.send(protocol.Signal(instance.id, effect.run, effect.signum))
            case ev.KillAll():
                self.send(protocol.Kill(instance.id, effect.run))
            case ev.Freeze():
                self.send(protocol.Freeze(instance.id, effect.run, effect.paused))
            case ev.Arm():
                if entry.timer is not None:
                    entry.timer.cancel()
                entry.backoff_s = wait_s = max(0.0, effect.at_s - boottime_s())
                loop = asyncio.get_running_loop()
                entry.timer = loop.call_later(wait_s, self._fire, instance.id, effect)
            case ev.Save():
                self._writer.changed(instance.id)
            case ev.Tell():
                self._publish(entry, effect)
            case ev.StopProject():
                for other in list(self.entries.values()):
                    if other.stored.project == entry.stored.project and other is not entry:
                        self.post(
                            other.instance.id,
                            ev.StopRequested(manual=True, why=f"{entry.stored.name} gave up"),
                        )
            case _:
                assert_never(effect)

    def _fire(self, instance_id: str, armed: ev.Arm) -> None:
        self.measures.loop_lag.observe(boottime_s() - armed.at_s)
        self.post(instance_id, ev.TimerFired(armed.timer))

    def _launch(self, entry: Entry, run: int) -> None:
        if entry.plan is not None:
            self.send(protocol.Launch(next_run(entry.plan, run, self.meta(entry))))
            return
        if entry.preparing:
            return  # it is on its way, and looks at the newest run when it is there
        entry.preparing = True
        task = asyncio.get_running_loop().create_task(self._prepare_and_launch(entry, run))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _prepare_and_launch(self, entry: Entry, run: int) -> None:
        try:
            plan = await self._plans(entry.stored)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this start that failed
            entry.preparing = False
            failure = SpawnFailure("prepare", getattr(error, "errno", None) or 0, str(error), 128)
            self._end(entry.instance.id, run, failure, None)
            return
        entry.preparing = False
        entry.plan = plan
        if entry.instance.run == run and isinstance(entry.instance.phase, Starting):
            self.send(protocol.Launch(next_run(plan, run, self.meta(entry))))
        else:
            # The stop overtook the preparation: no launcher will report this run.
            self._end(
                entry.instance.id, run, SpawnFailure("prepare", 0, "stopped before it began", 128), None
            )
            if isinstance(entry.instance.phase, Resting):
                self.on_rest(entry)  # also of what was prepared since it came down

    @staticmethod
    def meta(entry: Entry) -> str:
        """What the launcher keeps for us: enough to know the instance again without the database."""
        if not entry.meta:
            entry.meta = save_identity(entry.stored).decode("utf-8", "surrogateescape")
        return entry.meta

    def watch_runs(self, look: Callable[[Published], None]) -> Callable[[], None]:
        """Have `look` called after what happens to a run: start, pause, unpause, die, destroy.

        Not from within the step that tells of it: that is still being carried out. Call the result to end it.
        """

        def on_event(event: Published) -> None:
            if event.action in ("start", "pause", "unpause", "die", "destroy"):
                asyncio.get_running_loop().call_soon(look, event)

        self.subscribers.add(on_event)
        return partial(self.subscribers.discard, on_event)

    def _publish(self, entry: Entry, tell: ev.Tell) -> None:
        stored = entry.stored
        run, wall = entry.instance.run, time.time()
        if tell.action == "die":
            run, wall = entry.ended  # the next run may be on its way already
        elif tell.action == "start" and entry.started_wall is not None:
            wall = entry.started_wall
        event = Published(
            wall,
            tell.action,
            run,
            stored.instance.id,
            stored.name,
            stored.project,
            stored.spec.name,
            tell.why,
        )
        for subscriber in list(self.subscribers):
            subscriber(event)

    def _set(self, entry: Entry, instance: Instance) -> None:
        if instance is entry.stored.instance:
            return
        came_down = isinstance(instance.phase, Resting) and not isinstance(entry.instance.phase, Resting)
        entry.stored = replace(entry.stored, instance=instance)
        if came_down:
            self.on_rest(entry)
        entry.note_downtime(boottime_s())
        entry.wake()

    # --- storing ----------------------------------------------------------------------------------
    async def stored(self) -> None:
        """Wait until all that was decided until now is stored. Raises StateError if it cannot be."""
        await self._writer.flushed()

    async def close(self) -> None:
        """Store what is left; afterwards nothing is stored or sent any more."""
        await self._writer.close()
        self.send = _unsent
        for entry in self.entries.values():
            entry.let_go()

    def _current(self, names: Iterable[str]) -> list[tuple[Instance, float | None]]:
        found = [self.entries[name] for name in names if name in self.entries]
        return [
            (entry.instance, entry.started_wall if isinstance(entry.instance.phase, Running) else None)
            for entry in found
        ]

    def _acknowledge(self, ends: list[tuple[str, RunRecord]]) -> None:
        for instance_id, record in ends:
            self.send(protocol.Ack(instance_id, record.run))

    def record_lost(self, entry: Entry, run: int, why: str) -> None:
        """Store the end of a run that a boot of the host took along."""
        entry.last_run = RunRecord(run, entry.started_wall, time.time(), LOST, why)
        self._writer.ended(entry.instance.id, entry.last_run)

    # --- instances --------------------------------------------------------------------------------
    def add(self, stored: Stored) -> Entry:
        """A new instance, which is stored soon."""
        entry = self.restore(stored)
        self._publish(entry, ev.Tell("create"))
        return entry

    def restore(self, stored: Stored) -> Entry:
        """An instance that is not new, but not known here; stored soon."""
        self._writer.new(stored)
        entry = Entry(stored)
        self.entries[stored.instance.id] = entry
        return entry

    def redefine(self, entry: Entry, spec: ServiceSpec) -> None:
        """Give an instance another definition, by which its next run is prepared."""
        entry.stored = replace(entry.stored, spec=spec)
        entry.meta, entry.plan = "", None
        self._writer.new(entry.stored)

    def move(self, entry: Entry, working_dir: str) -> None:
        """The files of its project are in another directory now."""
        entry.stored = replace(entry.stored, working_dir=working_dir)
        entry.meta, entry.plan = "", None
        self._writer.new(entry.stored)

    def rename(self, entry: Entry, name: str) -> None:
        """Give an instance another name, which is free; one that belongs to no project is its own service."""
        spec = entry.stored.spec
        entry.stored = replace(
            entry.stored, name=name, spec=spec if entry.stored.project else replace(spec, name=name)
        )
        entry.meta, entry.plan = "", None
        self._writer.new(entry.stored)
        self._publish(entry, ev.Tell("rename"))

    def forget(self, entry: Entry) -> None:
        """Drop an instance that is down, from memory and soon from the database."""
        if not isinstance(entry.instance.phase, Created | Resting):
            raise AssertionError("only an instance that is down can be forgotten")
        if entry.timer is not None:
            entry.timer.cancel()
        self._writer.removed(entry.instance.id)
        self.measures.forget(entry.instance.id)
        entry.let_go()
        del self.entries[entry.instance.id]
        entry.wake()
        self._publish(entry, ev.Tell("destroy"))

    async def gone(self, entry: Entry) -> None:
        """Wait until an instance was forgotten."""
        while self.entries.get(entry.instance.id) is entry:
            await entry.changed.wait()

    async def until(self, entry: Entry, reached: Callable[[Instance], bool]) -> None:
        """Wait for a condition on an instance, or until it was forgotten."""
        while not reached(entry.instance) and self.entries.get(entry.instance.id) is entry:
            await entry.changed.wait()
