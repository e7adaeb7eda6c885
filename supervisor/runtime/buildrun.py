"""RUN steps on a launcher of the build's own: as isolated as services are, gone with the build.

Where the launcher is, and what becomes of it where a build was killed, `runtime.buildplace` says.

What is only there while a step runs (/proc, /dev, /etc/hosts, targets of its mounts) lies in a layer of
stubs above the image's own, never in the layer that the step writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.core import model
from supervisor.core.paths import InstancePaths, Paths
from supervisor.image.builder.progress import BuildError
from supervisor.image.builder.runner import BindMount, OverlayMount, RunRequest, RunResult, TmpfsMount
from supervisor.image.layerstack import LayerStack, make_directories
from supervisor.kernel import seccomp
from supervisor.launcher import plan, protocol
from supervisor.launcher.client import LauncherClient, LauncherError, gone
from supervisor.runtime.buildoutput import OutputReader
from supervisor.runtime.buildplace import BuildPlace, end_killed_builds
from supervisor.runtime.etcfiles import etc_files, write_etc_files
from supervisor.runtime.hostview import host_facts
from supervisor.runtime.plan import PreparedInstance, launch_plan
from supervisor.runtime.translate import MS_NODEV, MS_NOSUID, PlanError, capability_numbers

_HOSTNAME = "builder"  # always the same: it must tell nothing of the machine
_DRAIN_S = 0.002
_DIRECTORIES = ("proc", "dev", "sys")
_FILES = ("etc/hostname", "etc/hosts", "etc/resolv.conf")

_End = protocol.Exited | protocol.LaunchFailed


@dataclass(slots=True)
class _Running:
    """One step. ended: its end, once the launcher has said it."""

    ended: asyncio.Future[_End]
    reader: OutputReader


@dataclass(slots=True)
class LauncherRunner:
    """A Runner. paths: the supervisor's. Used from one event loop; close it."""

    paths: Paths
    python: str | None = None
    _place: BuildPlace | None = None
    _starting: asyncio.Task[LauncherClient] | None = None
    _state: asyncio.Future[protocol.State] | None = None
    _attached: list[asyncio.Future[protocol.LogCounted]] = field(default_factory=list)
    _running: dict[str, _Running] = field(default_factory=dict)
    _count: int = 0

    async def prepare(self) -> None:
        """See Runner."""
        await asyncio.to_thread(end_killed_builds, self.paths)

    async def run(self, request: RunRequest, output: Callable[[bytes, bool], None]) -> RunResult:
        """See Runner."""
        try:
            client, place = await self._start()
        except (LauncherError, OSError) as error:
            raise BuildError(
                f"cannot run anything here: {getattr(error, 'strerror', None) or error}"
            ) from error
        self._count += 1
        name = f"step{self._count}"
        base = f"{place.directory}/{name}"
        try:
            launch = await asyncio.to_thread(self._plan, request, name, place)
        except (PlanError, OSError) as error:
            raise BuildError(f"cannot prepare a step: {getattr(error, 'strerror', None) or error}") from error
        running = _Running(asyncio.get_running_loop().create_future(), OutputReader(launch.log.path, output))
        self._running[name] = running
        try:
            return await self._finish(client, launch, running)
        finally:
            running.reader.close()
            del self._running[name]
            await asyncio.to_thread(shutil.rmtree, base, ignore_errors=True)

    async def close(self) -> None:
        """See Runner. Everything that still runs is ended."""
        if self._starting is not None:
            with contextlib.suppress(LauncherError, OSError):
                await self._quit(await self._starting)
            self._starting = None
        if self._place is not None:
            place, self._place = self._place, None
            await asyncio.to_thread(place.end)

    # --- one step -------------------------------------------------------------------------------
    async def _finish(self, client: LauncherClient, launch: plan.LaunchPlan, running: _Running) -> RunResult:
        client.send(protocol.Launch(launch))
        try:
            end = await asyncio.shield(running.ended)
        except asyncio.CancelledError:
            client.send(protocol.Kill(launch.instance, launch.run))
            with contextlib.suppress(LauncherError):
                await running.ended
            raise
        except LauncherError as error:
            raise BuildError(str(error)) from error
        client.send(protocol.Ack(launch.instance, launch.run))
        if isinstance(end, protocol.LaunchFailed):
            return RunResult(end.code, f"{end.stage}: {end.detail}")
        await self._drained(client, launch.instance)
        running.reader.read()
        return RunResult(end.code, oom=end.oom)

    async def _drained(self, client: LauncherClient, instance: str) -> None:
        """Until the log writer has all output of a run that has ended in the file."""
        while client.connected:
            answer: asyncio.Future[protocol.LogCounted] = asyncio.get_running_loop().create_future()
            self._attached.append(answer)
            client.send(protocol.LogCounters())
            counted = await answer
            if instance not in counted.attached:
                return
            await asyncio.sleep(_DRAIN_S)

    def _plan(self, request: RunRequest, name: str, place: BuildPlace) -> plan.LaunchPlan:
        files = InstancePaths(f"{place.directory}/{name}")
        os.makedirs(files.etc, 0o755)
        write_etc_files(files.etc, etc_files(_HOSTNAME, request.network), keep=False)
        lowers = self._with_stubs(request, f"{request.work}.stubs")
        status = os.stat(request.lowers[-1])
        os.chown(request.upper, status.st_uid, status.st_gid)
        Path(request.upper).chmod(0o755)
        facts = host_facts()
        spec = model.ServiceSpec(
            name=name,
            entrypoint=request.argv,
            environment=request.env,
            working_dir=request.cwd,
            user=request.user or None,
            hostname=_HOSTNAME,
            privileged=request.insecure,
            security=model.SecurityOptions(no_new_privileges=False),
            network_mode=request.network,
            logging=model.Logging(max_size_bytes=0),  # never rotated: it is read from one descriptor
        )
        caps: frozenset[str | int] = frozenset(
            capability_numbers((), (), privileged=False, available=facts.capabilities)
        )
        program = None
        if not request.insecure:
            program = seccomp.install(f"{place.directory}/seccomp", seccomp.compile_default(caps))
        launch = launch_plan(
            spec,
            PreparedInstance(name, name, _HOSTNAME, files, lowers, host_view=False),
            1,
            Paths(self.paths.state_dir, place.directory),
            host=facts,
            cgroup_base=place.cgroups,
            seccomp_path=program,
        )
        steps: list[plan.Step] = []
        for step in launch.steps:
            if isinstance(step, plan.Overlay):
                step = step._replace(upper=request.upper, work=request.work)
            if isinstance(step, plan.Pivot):
                steps += [_mount(mount) for mount in request.mounts]
            steps.append(step)
        return launch._replace(steps=steps)

    @staticmethod
    def _with_stubs(request: RunRequest, stubs: str) -> tuple[str, ...]:
        """The layers, with one above them that has what mounts need and the image lacks, if anything."""
        os.mkdir(stubs, 0o755)
        Path(stubs).chmod(0o755)
        stack = LayerStack((stubs, *request.lowers))
        wanted = [
            *((f"/{name}", True) for name in _DIRECTORIES),
            *((f"/{name}", False) for name in _FILES),
            *((mount.target, _is_directory(mount)) for mount in request.mounts),
        ]
        for target, directory in wanted:
            if target.startswith(("/proc/", "/dev/", "/sys/")):
                continue  # made in a file system of the step's own
            path = stack.resolve(target)
            if stack.entry(path) is not None:
                continue
            place = _make(stack, stubs, path if directory else posixpath.dirname(path))
            if not directory:
                Path(f"{place}/{posixpath.basename(path)}").touch()
        _settle(stubs, LayerStack(request.lowers))
        return (stubs, *request.lowers) if os.listdir(stubs) else request.lowers

    # --- the launcher ---------------------------------------------------------------------------
    async def _start(self) -> tuple[LauncherClient, BuildPlace]:
        """The launcher of this build, started for the first step. Cancelling leaves the start to `close`."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._begin())
        client = await asyncio.shield(self._starting)
        if self._place is None or not client.connected:
            raise LauncherError("the launcher of this build has died; build again")
        return client, self._place

    async def _begin(self) -> LauncherClient:
        self._place = place = BuildPlace.make(self.paths)
        self._state = asyncio.get_running_loop().create_future()
        arguments = () if self.python is None else (self.python,)
        client = await LauncherClient.connect(
            Paths(self.paths.state_dir, place.directory),
            self._on_event,
            *arguments,
            on_lost=self._on_lost,
            cgroup_base=place.cgroups,
        )
        await self._state
        return client

    def _on_event(self, event: protocol.Event) -> None:
        match event:
            case protocol.State():
                if self._state is not None and not self._state.done():
                    self._state.set_result(event)
            case protocol.LogCounted():
                while self._attached:
                    self._attached.pop().set_result(event)
            case protocol.Exited() | protocol.LaunchFailed():
                running = self._running.get(event.instance)
                if running is not None and not running.ended.done():
                    running.ended.set_result(event)
            case _:
                pass

    def _on_lost(self) -> None:
        lost = LauncherError("cannot go on: the launcher of this build has died")
        for future in (self._state, *self._attached, *(each.ended for each in self._running.values())):
            if future is not None and not future.done():
                future.set_exception(lost)
        self._attached.clear()

    async def _quit(self, client: LauncherClient) -> None:
        assert self._state is not None
        client.send(protocol.Quit())
        await gone(self._state.result().pid)
        client.close()


def _mount(mount: BindMount | OverlayMount | TmpfsMount) -> plan.Step:
    match mount:
        case BindMount():
            return plan.Bind(mount.source, mount.target, read_only=mount.read_only)
        case OverlayMount():
            return plan.Overlay(mount.target, list(mount.lowers), mount.upper or None, mount.work or None)
        case TmpfsMount():
            data = "mode=1777" + (f",size={mount.size_bytes}" if mount.size_bytes else "")
            return plan.Mount("tmpfs", mount.target, MS_NOSUID | MS_NODEV, data)


def _is_directory(mount: BindMount | OverlayMount | TmpfsMount) -> bool:
    return not isinstance(mount, BindMount) or os.path.isdir(mount.source)


def _make(stack: LayerStack, stubs: str, path: str) -> str:
    """A directory of the stubs, 0755 whatever the umask is where the image has none."""
    inner = ""
    place = stubs
    for part in filter(None, path.split("/")):
        inner, place = f"{inner}/{part}", f"{place}/{part}"
        known = stack.entry(inner) is not None
        make_directories(stack, stubs, inner)
        if not known:
            Path(place).chmod(0o755)
    return place


def _settle(stubs: str, below: LayerStack) -> None:
    """Times that are the same in each build, for a step that writes into a stub's directory brings it along.

    What the image has keeps the image's, though a stub was just put into it.
    """
    for directory, names, files in os.walk(stubs):
        for name in (*names, *files):
            path = f"{directory}/{name}"
            entry = below.entry(path.removeprefix(stubs))
            time_ns = entry.status.st_mtime_ns if entry is not None else 0
            os.utime(path, ns=(time_ns, time_ns), follow_symlinks=False)
