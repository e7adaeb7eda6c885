"""The daemon: everything put together, started in order and ended in order.

Order of a start: lock, directories, cgroup, database, host view, launcher (its State is matched with what is
stored); only after that are services started that the policies bring back. A lost launcher is replaced, and
the survivors are handed to the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import time
from collections import deque
from collections.abc import Callable, Container, Coroutine
from pathlib import Path
from typing import Any

from supervisor.core.boot import Anew
from supervisor.core.state import Running, Starting, Stopping
from supervisor.daemon.adoption import Adoption
from supervisor.daemon.asked import AskedFiles, DownAsked, UpAsked
from supervisor.daemon.containers import Containers, beside
from supervisor.daemon.engine import Engine, Entry, boottime_s
from supervisor.daemon.execs import Execs
from supervisor.daemon.health import HealthChecks
from supervisor.daemon.hooks import Hooks
from supervisor.daemon.images import Images
from supervisor.daemon.inputs import Inputs
from supervisor.daemon.inside import Inside
from supervisor.daemon.membership import Memberships
from supervisor.daemon.names import Names
from supervisor.daemon.netwatch import NetWatch
from supervisor.daemon.networks import Networks
from supervisor.daemon.outcomes import is_down
from supervisor.daemon.plans import LaunchPlans
from supervisor.daemon.prestart import PreStart
from supervisor.daemon.projects import Projects
from supervisor.daemon.readiness import ReadyWatch
from supervisor.daemon.settings import Settings
from supervisor.daemon.shutdown import Shutdown
from supervisor.daemon.state import Boot, StateDatabase, Stored
from supervisor.daemon.systemd import SystemdError, patience, services_cgroup
from supervisor.daemon.volumes import Volumes
from supervisor.kernel import allocator, host
from supervisor.kernel.cgroups import Cgroup
from supervisor.kernel.hierarchies import CgroupSetup, detect, remove_empty
from supervisor.launcher import protocol
from supervisor.launcher.client import LauncherClient, LauncherError, gone
from supervisor.launcher.plan import LaunchPlan
from supervisor.runtime.leftovers import begun_runs
from supervisor.runtime.logs import read
from supervisor.runtime.projectfiles import ProjectFiles
from supervisor.runtime.rootfs import PrepareError, remove_instance
from supervisor.runtime.translate import PlanError
from supervisor.runtime.volumes import VolumeError

_RETRY_S = 1.0
_CONNECTS = 5
_COUNTS_S = 1.0
_LAST_LINES = 3


class DaemonError(Exception):
    """The daemon cannot run as things are. The text is for the operator."""


class Daemon:
    """One supervisor of one state directory. `start`, then `stop`; used from one event loop."""

    def __init__(self, settings: Settings, report: Callable[[str], None]) -> None:
        self.settings = settings
        self.paths = settings.paths
        self._report = report
        self._lock = -1
        self._launcher: LauncherClient | None = None
        self._adopted: asyncio.Future[list[str] | None] | None = None
        self._anew = Anew.SUPERVISOR
        self._shift_s = 0.0
        self._log_counts: deque[asyncio.Future[protocol.LogCounted]] = deque()
        self._leaving = False
        self._closing = False
        self._launcher_pid = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: asyncio.Task[None] | None = None
        self.cgroup_base = self.paths.own_cgroup
        self.database: StateDatabase
        self.engine: Engine
        self.networks: Networks
        self.watch: NetWatch
        self.memberships: Memberships
        self.projects: Projects
        self.containers: Containers
        self.volumes: Volumes
        self.health: HealthChecks
        self.readiness: ReadyWatch
        self.pre_start: PreStart
        self.plans: LaunchPlans
        self.cgroups: CgroupSetup
        self.execs = Execs()
        self.inputs = Inputs()
        self.names = Names(self.paths, report, lambda: self.cgroup_base)
        self.ready = False

    async def start(self, coming: Container[tuple[str, str]] = ()) -> None:
        """Raises DaemonError, StateError, LauncherError, HostError.

        coming: services, with their projects, that an `up` is about to start as they are wanted now, so that
        nothing is started as it was.
        """
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # one pidfd for each service
        allocator.use_one_arena()
        self._prepare_directories()
        try:
            self.cgroups = detect()
            await self._find_cgroup()
        except (SystemdError, OSError) as error:
            raise DaemonError(getattr(error, "strerror", None) or str(error)) from error
        self.database = StateDatabase(self.paths.database, self._report)
        self.networks = Networks(self.paths, self.settings.network_pools, self._report)
        self.watch = NetWatch(self.networks, self._report)
        plans = await asyncio.to_thread(
            LaunchPlans, self.paths, self.cgroup_base, self.settings.masked_paths, self.networks, self._find
        )
        self.engine = Engine(self.database, self._plan, self._report)
        self.engine.on_rest = self._on_rest
        self.plans = plans
        loop = asyncio.get_running_loop()
        self.networks.begun = lambda: _called(loop, self._look_after_networks)
        self.memberships = Memberships(self.networks, self.names, self._stored, self._report)
        self.networks.changed = self.memberships.changed
        try:
            self.networks.load()
        except OSError as error:
            raise DaemonError(f"cannot use {self.paths.network_namespaces}: {error.strerror}") from error
        images = Images(self.paths)
        self.volumes = Volumes(self.engine, self.paths, plans.held)
        inside = Inside(self.execs)
        self.readiness = ReadyWatch(self.engine)
        self.health = HealthChecks(self.engine, inside, plans)
        self.pre_start = PreStart(
            self.engine,
            plans,
            beside,
            lambda instance: self.paths.instance(instance).log,
            self._drained,
        )
        hooks = Hooks(self.engine, inside, plans, self.pre_start, self._report)
        self.projects = Projects(
            self.engine,
            plans.remove,
            self.volumes,
            plans.grants,
            images,
            plans.look_again,
            hooks,
            self.networks,
            self._last_words,
            ProjectFiles(self.paths),
            AskedFiles(self.paths, self._report),
        )
        self.containers = Containers(self.engine, self.projects, images, self._report, self.log_counts)
        await self.names.adopt()
        last, began = self.database.last_runs(), self.database.began()
        for stored in self.database.load(self._report):
            name = stored.instance.id
            run, wall = began.get(name, (0, 0.0))
            started = wall if run == stored.instance.run else None
            self.engine.entries[name] = Entry(stored, started_wall=started, last_run=last.get(name))
        boot_id = host.boot_id()
        offset_s = time.time() - boottime_s()
        before = self.database.boot()
        if before is None or before.id == boot_id:
            starting = await self._connect(Anew.SUPERVISOR)
        else:
            starting = await self._connect(Anew.HOST, before.clock_offset_s - offset_s)
        await self._settle_networks()
        # The phases of the earlier boot must be gone from the database before it is said to be of this one.
        await self.engine.stored()
        self.database.save_boot(Boot(boot_id, offset_s))
        await asyncio.to_thread(self._finish_removals, frozenset(self.engine.entries))
        unfinished = self.projects.unfinished()
        await self._take_over_mounts()
        self.containers.sweep()
        self.pre_start.sweep()
        self.ready = True
        allocator.give_back()  # what imports and loading left
        specs = {name: self.engine.entries[name].stored for name in starting}
        starting = [name for name in starting if (specs[name].project, specs[name].spec.name) not in coming]
        cut_short = self.projects.cut_short()
        if starting or unfinished or cut_short:
            self._starting = self._background(self._go_on(starting, cut_short, unfinished))

    async def _go_on(
        self, starting: list[str], cut_short: set[str], unfinished: dict[str, UpAsked | DownAsked]
    ) -> None:
        """With what the daemon before this one was in the middle of, and what is to be up."""
        entries = self.engine.entries
        updated = {entries[name].stored.project for name in cut_short}
        others = [name for name in starting if name not in cut_short]
        await asyncio.gather(
            self._start_again(others, unfinished),
            self._finish_updates([name for name in starting if name in cut_short], unfinished, updated),
            *(self.projects.go_on(name, what) for name, what in unfinished.items() if name not in updated),
        )

    async def _start_again(self, names: list[str], unfinished: dict[str, UpAsked | DownAsked]) -> None:
        """By the policies. What was asked of a project says more than those of its services."""
        there = [self.engine.entries[name] for name in names if name in self.engine.entries]
        entries = [e for e in there if not e.stored.spec.hook_of and e.stored.project not in unfinished]
        await self.projects.start(entries, self._anew.value, boot=True)

    async def _finish_updates(
        self, starting: list[str], unfinished: dict[str, UpAsked | DownAsked], updated: set[str]
    ) -> None:
        """Replacements that were cut short; then what they leave is started, or what was asked goes on."""
        try:
            await self.projects.finish_updates()
        except (PrepareError, VolumeError) as error:
            self._report(str(error))
        await asyncio.gather(
            self._start_again(starting, unfinished),
            *(self.projects.go_on(name, what) for name, what in unfinished.items() if name in updated),
        )

    def _finish_removals(self, there: frozenset[str]) -> None:
        """Files of instances that were removed by a daemon that was killed before it came to them."""
        for instance in self.database.going():
            if instance not in there:
                try:
                    remove_instance(instance, self.paths)
                except PrepareError as error:
                    self._report(str(error))

    async def _last_words(self, entry: Entry) -> list[str]:
        """The last lines of what an instance wrote that is down."""
        await self.containers.drained(entry)
        path = self.paths.instance(entry.instance.id).log
        try:
            records = await asyncio.to_thread(lambda: list(read(entry.instance.id, path, tail=_LAST_LINES)))
        except OSError:
            return []
        return [record.text.decode(errors="replace").rstrip() for record in records]

    async def _settle_networks(self) -> None:
        """What cannot be put right is said: services without a network run all the same."""
        entries = self.engine.entries
        up = [name for name, entry in entries.items() if not is_down(entry.instance)]
        try:
            await self.networks.settle(entries, up)
        except PlanError as error:
            self._report(str(error))
        await self.memberships.settle()

    async def _plan(self, stored: Stored) -> LaunchPlan:
        """What is launched for an instance; its names are in force. Raises what cannot be done."""
        plan = await asyncio.to_thread(self.plans.plan, stored)
        await self.memberships.admit(stored)
        return plan

    def _stored(self, instance: str) -> Stored | None:
        entry = self.engine.entries.get(instance)
        return entry.stored if entry is not None else None

    def _look_after_networks(self) -> None:
        try:
            self.watch.start()
        except OSError as error:
            self._report(
                f"cannot see who changes our networks: {error.strerror}; nothing is put right by itself"
            )

    def _find(self, project: str, name: str) -> Stored | None:
        """An instance of a project by its service; of any ("") by its name, else by how its id begins."""
        there = [entry.stored for entry in list(self.engine.entries.values())]  # also asked by other threads
        if project:
            found = [each for each in there if (each.project, each.spec.name) == (project, name)]
        else:
            found = [each for each in there if each.name == name]
            found = found or [each for each in there if each.instance.id.startswith(name)]
        # Of several instances of a service, the first is meant.
        return min(found, key=lambda each: (each.number, each.created_wall), default=None)

    def leave(self) -> None:
        """From now on nothing is started that does not run already; before the end of all services."""
        self._leaving = True
        if self._starting is not None:
            self._starting.cancel()
        self.projects.leave()

    async def stop(self, *, services: bool) -> None:
        """Let go of everything; with `services`, stop them first, dependents before what they need.

        That is no stop by a person: their policies decide at the next start.
        """
        if services:
            self.leave()
            ending = Shutdown(self.engine, self.projects, "the supervisor was shut down")
            async with patience(ending.status):
                await ending.run(self._report)
        self._closing = True
        self.projects.cut_off()
        self.health.close()
        self.readiness.close()
        await self.engine.close()
        if self._launcher is not None:
            await self._end_launcher(self._launcher)
        self.database.close()
        with contextlib.suppress(FileNotFoundError):
            Path(self.paths.api_socket).unlink()
        if self._lock >= 0:
            os.close(self._lock)

    async def _end_launcher(self, launcher: LauncherClient) -> None:
        """Leave it to the next daemon while services run; else end it, and leave no cgroup behind."""
        up = any(
            isinstance(entry.instance.phase, Starting | Running | Stopping)
            for entry in self.engine.entries.values()
        )
        await self.memberships.close()
        await self.names.close(end=not up)
        if up:
            launcher.close()
            await self._close_networks(clear=False)
            return
        launcher.send(protocol.Quit())
        await gone(self._launcher_pid)
        launcher.close()
        await self._close_networks(clear=True)
        setup = self.cgroups
        with contextlib.suppress(OSError):
            Path(self.paths.cgroup_base).unlink()
        if self.settings.services_unit:
            # systemd's own process is in there, and the unit is systemd's to remove.
            remove_empty(setup, self.cgroup_base, keep=True)
            await asyncio.to_thread(self.plans.forget)
            return
        left: list[int] = []
        with contextlib.suppress(OSError):
            left = Cgroup(setup, f"{self.cgroup_base}/launcher").procs()
        for pid in left:
            await gone(pid)  # the log writer, which ends after it
        remove_empty(setup, self.cgroup_base)
        await asyncio.to_thread(self.plans.forget)

    async def _close_networks(self, *, clear: bool) -> None:
        self.watch.close()
        try:
            await self.networks.close(clear=clear)
        except (PlanError, OSError) as error:
            self._report(f"cannot take the networks down: {error}")

    async def _find_cgroup(self) -> None:
        """Where our cgroups are: in the unit that systemd gave us for them, or below a name of our own.

        Asked before each start of a launcher: a unit ends with its last process. Raises SystemdError.
        """
        if self.settings.services_unit:
            self.cgroup_base = await services_cgroup(self.settings.services_unit)
        Path(self.paths.cgroup_base).write_text(f"{self.cgroup_base}\n")

    async def _connect(self, anew: Anew, shift_s: float = 0.0) -> list[str]:
        """Connect and adopt; which instances are to be started. Raises LauncherError."""
        for _ in range(_CONNECTS):
            self._anew, self._shift_s = anew, shift_s
            self._adopted = asyncio.get_running_loop().create_future()
            self._launcher = await LauncherClient.connect(
                self.paths, self._on_event, on_lost=self._on_lost, cgroup_base=self.cgroup_base
            )
            self.engine.send = self.execs.send = self._launcher.send
            self.execs.take_fds = self._launcher.take_fds
            starting = await self._adopted
            if starting is not None:
                return starting
        raise LauncherError("cannot use the launcher: it ends as soon as it is connected to")

    def _on_event(self, event: protocol.Event) -> None:
        """Before `State` nothing is news: what the launcher says then is in it, too."""
        assert self._adopted is not None
        if self._adopted.done():
            if isinstance(event, protocol.ExecStarted | protocol.ExecFailed | protocol.ExecExited):
                self.execs.on_launcher(event)
            elif isinstance(event, protocol.InputGiven):
                self.inputs.on_launcher(event)
            elif isinstance(event, protocol.LogCounted):
                if self._log_counts and not (asked := self._log_counts.popleft()).done():
                    asked.set_result(event)
            elif isinstance(event, protocol.Notified):
                self.readiness.on_launcher(event)
            elif not isinstance(event, protocol.State):
                self.engine.on_launcher(event)
        elif isinstance(event, protocol.State):
            # At once, so that no later event is taken for older than this.
            self._launcher_pid = event.pid
            if event.version == protocol.VERSION:
                self._adopted.set_result(self._adopt(event))
            else:
                self._adopted.set_exception(LauncherError(_other_version(event)))

    def _adopt(self, state: protocol.State) -> list[str]:
        adoption = Adoption(
            self.engine,
            state,
            self._anew,
            paths=self.paths,
            cgroup_base=self.cgroup_base,
            shift_s=self._shift_s,
        )
        starting = adoption.run(self.cgroups, begun_runs(self.cgroups, self.cgroup_base))
        assert self._launcher is not None
        self.inputs.adopted(self._launcher.send, self._launcher.take_fds)
        self.readiness.take_over()
        self.health.take_over()
        return starting

    async def _take_over_mounts(self) -> None:
        """What an earlier daemon mounted for instances, and kept for them."""
        up = [e.stored for e in self.engine.entries.values() if not is_down(e.instance)]
        try:
            await asyncio.to_thread(self.plans.take_over, up)
        except OSError as error:
            self._report(f"cannot unmount what nobody uses: {error.strerror}")
        await self.projects.sweep_contents()

    async def _drained(self, entry: Entry) -> None:
        await self.containers.drained(entry)

    def _on_rest(self, entry: Entry) -> None:
        """What it used while it was up goes: its ports are others' now, what was mounted for it is unmounted.

        The plan that names them goes, too: the next start asks for them again.
        """
        instance = entry.instance.id
        if instance in self.networks.open:
            entry.plan = None
            self.networks.release(instance)
        if self.plans.held.holds(instance):
            entry.plan = None
            self._background(self._release(entry.stored))

    async def _release(self, stored: Stored) -> None:
        try:
            await asyncio.to_thread(self.plans.release, stored)
        except OSError as error:
            self._report(f"cannot unmount what {stored.name} used: {error.strerror}")

    async def log_counts(self) -> protocol.LogCounted | None:
        """The log writer's counters as they are from now on; None where nobody answers in time."""
        if self._launcher is None or not self._launcher.connected:
            return None
        asked: asyncio.Future[protocol.LogCounted] = asyncio.get_running_loop().create_future()
        self._log_counts.append(asked)
        self._launcher.send(protocol.LogCounters())
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asked, _COUNTS_S)
        return None

    def _on_lost(self) -> None:
        self.execs.lost()
        self.inputs.lost()
        self._log_counts.clear()  # they time out
        if not self._closing:
            self.engine.measures.launchers_lost += 1
        if self._adopted is not None and not self._adopted.done():
            self._adopted.set_result(None)  # whoever connects looks for another
        elif not self._closing:
            self._report("the launcher died; its services run on, and a new one is started")
            self._background(self._reconnect())

    async def _reconnect(self) -> None:
        while not self._closing:
            try:
                await self._find_cgroup()
                await self._connect(Anew.LAUNCHER)
            except (LauncherError, SystemdError, OSError) as error:
                self._report(f"{error}; trying again in {_RETRY_S:g} s")
                await asyncio.sleep(_RETRY_S)
            else:
                return

    def _background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _prepare_directories(self) -> None:
        try:
            for directory in (self.paths.state_dir, self.paths.run_dir):
                Path(directory).mkdir(0o711, parents=True, exist_ok=True)
            Path(self.paths.instances).mkdir(0o700, exist_ok=True)
            Path(self.paths.notices).mkdir(0o700, exist_ok=True)  # who may say something is inside a service
            # No other user of the host may reach what a service wrote: it may be a setuid program.
            Path(self.paths.instances).chmod(0o700)
            Path(self.paths.root_mountpoint).mkdir(0o700, exist_ok=True)
            self._lock = os.open(self.paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DaemonError(
                f"cannot start: another daemon has the state directory {self.paths.state_dir}; stop it, or"
                " set SHIPKEEPER_STATE_DIR and SHIPKEEPER_RUN_DIR"
            ) from None
        except OSError as error:
            raise DaemonError(
                f"cannot use {error.filename}: {error.strerror}; the daemon runs as root"
            ) from error
        with contextlib.suppress(FileNotFoundError):
            Path(self.paths.api_socket).unlink()


def _other_version(state: protocol.State) -> str:
    return (
        f"cannot use the launcher that runs (pid {state.pid}): it speaks version {state.version} of the"
        f" protocol and this daemon version {protocol.VERSION}; its services run on. Go back to the version"
        " of before, or stop the services there, so that a new launcher is started"
    )


def _called(loop: asyncio.AbstractEventLoop, work: Callable[[], None]) -> None:
    """Have the event loop call that; not where it is over."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(work)
