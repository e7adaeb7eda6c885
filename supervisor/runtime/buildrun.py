"""RUN steps on a launcher of the build's own: as isolated as services are, gone with the build.

`<run_dir>/builds/<id>` is the launcher's run directory; whoever builds holds its file `builder.lock`. The
cgroups are below `<base of the supervisor>/builds/<id>`. A launcher outlives whoever started it; so what a
killed build left running the next one ends (`sweep`).

What is only there while a step runs (/proc, /dev, /etc/hosts, targets of its mounts) lies in a layer of
stubs above the image's own, never in the layer that the step writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import posixpath
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.core import model
from supervisor.core.paths import InstancePaths, Paths
from supervisor.image.builder.progress import BuildError
from supervisor.image.builder.runner import BindMount, OverlayMount, RunRequest, RunResult, TmpfsMount
from supervisor.image.layerstack import LayerStack, make_directories
from supervisor.kernel import hierarchies, seccomp
from supervisor.kernel.cgroups import Cgroup
from supervisor.launcher import plan, protocol
from supervisor.launcher.client import LauncherClient, LauncherError
from supervisor.runtime.buildoutput import OutputReader
from supervisor.runtime.etcfiles import etc_files, write_etc_files
from supervisor.runtime.hostview import host_facts
from supervisor.runtime.plan import PreparedInstance, launch_plan
from supervisor.runtime.translate import MS_NODEV, MS_NOSUID, PlanError, capability_numbers

_HOSTNAME = "builder"  # always the same: it must tell nothing of the machine
_QUIT_S = 10.0
_DRAIN_S = 0.002
_DIRECTORIES = ("proc", "dev", "sys")
_FILES = ("etc/hostname", "etc/hosts", "etc/resolv.conf")

_End = protocol.Exited | protocol.LaunchFailed


def cgroup_base(paths: Paths) -> str:
    """The cgroup that builds are below: the supervisor's own, as its daemon noted it, or would call it."""
    with contextlib.suppress(OSError):
        noted = Path(paths.cgroup_base).read_text().strip()
        if noted:
            return f"{noted}/builds"
    return f"shipkeeper-{hashlib.sha256(paths.state_dir.encode()).hexdigest()[:8]}/builds"


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
    _place: str = ""
    _lock: int = -1
    _cgroups: str = ""
    _client: LauncherClient | None = None
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _state: asyncio.Future[protocol.State] | None = None
    _attached: list[asyncio.Future[protocol.LogCounted]] = field(default_factory=list)
    _running: dict[str, _Running] = field(default_factory=dict)
    _count: int = 0

    async def prepare(self) -> None:
        """See Runner."""
        await sweep(self.paths)

    async def run(self, request: RunRequest, output: Callable[[bytes, bool], None]) -> RunResult:
        """See Runner."""
        try:
            await self._start()
        except (LauncherError, OSError) as error:
            raise BuildError(
                f"cannot run anything here: {getattr(error, 'strerror', None) or error}"
            ) from error
        self._count += 1
        name = f"step{self._count}"
        base = f"{self._place}/{name}"
        try:
            launch = await asyncio.to_thread(self._plan, request, name, base)
        except (PlanError, OSError) as error:
            raise BuildError(f"cannot prepare a step: {getattr(error, 'strerror', None) or error}") from error
        running = _Running(asyncio.get_running_loop().create_future(), OutputReader(launch.log.path, output))
        self._running[name] = running
        try:
            return await self._finish(launch, running)
        finally:
            running.reader.close()
            del self._running[name]
            await asyncio.to_thread(shutil.rmtree, base, ignore_errors=True)

    async def close(self) -> None:
        """See Runner. Everything that still runs is ended."""
        if self._client is not None:
            await self._end_launcher(self._client)
            self._client = None
        if self._lock >= 0:
            await asyncio.to_thread(shutil.rmtree, self._place, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1

    # --- one step -------------------------------------------------------------------------------
    async def _finish(self, launch: plan.LaunchPlan, running: _Running) -> RunResult:
        client = self._client
        assert client is not None
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
        await self._drained(launch.instance)
        running.reader.read()
        return RunResult(end.code, oom=end.oom)

    async def _drained(self, instance: str) -> None:
        """Until the log writer has all output of a run that has ended in the file."""
        while self._client is not None and self._client.connected:
            answer: asyncio.Future[protocol.LogCounted] = asyncio.get_running_loop().create_future()
            self._attached.append(answer)
            self._client.send(protocol.LogCounters())
            counted = await answer
            if instance not in counted.attached:
                return
            await asyncio.sleep(_DRAIN_S)

    def _plan(self, request: RunRequest, name: str, base: str) -> plan.LaunchPlan:
        files = InstancePaths(base)
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
            program = seccomp.install(f"{self._place}/seccomp", seccomp.compile_default(caps))
        launch = launch_plan(
            spec,
            PreparedInstance(name, name, _HOSTNAME, files, lowers, host_view=False),
            1,
            Paths(self.paths.state_dir, self._place),
            host=facts,
            cgroup_base=self._cgroups,
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
    async def _start(self) -> None:
        async with self._starting:
            if self._client is not None:
                if not self._client.connected:
                    raise LauncherError("the launcher of this build has died; build again")
                return
            parent = f"{self.paths.run_dir}/builds"
            os.makedirs(parent, 0o700, exist_ok=True)
            name = secrets.token_hex(4)
            new = f"{parent}/.{name}"
            os.mkdir(new, 0o700)
            self._lock = os.open(f"{new}/builder.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            os.rename(new, f"{parent}/{name}")
            self._place = f"{parent}/{name}"
            self._cgroups = f"{cgroup_base(self.paths)}/{name}"
            Path(f"{self._place}/cgroup-base").write_text(f"{self._cgroups}\n")
            os.mkdir(f"{self._place}/root", 0o755)
            self._state = asyncio.get_running_loop().create_future()
            arguments = () if self.python is None else (self.python,)
            self._client = await LauncherClient.connect(
                Paths(self.paths.state_dir, self._place),
                self._on_event,
                *arguments,
                on_lost=self._on_lost,
                cgroup_base=self._cgroups,
            )
            await self._state

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

    async def _end_launcher(self, client: LauncherClient) -> None:
        state = self._state
        pid = state.result().pid if state is not None and state.done() and not state.exception() else 0
        client.send(protocol.Quit())
        await _gone(pid)
        client.close()
        await asyncio.to_thread(_end_cgroups, self._cgroups)


async def sweep(paths: Paths) -> None:
    """End what killed builds left running, and remove what they left. Raises OSError."""
    parent = f"{paths.run_dir}/builds"
    for name in os.listdir(parent) if os.path.isdir(parent) else ():
        place = f"{parent}/{name}"
        try:
            lock = os.open(f"{place}/builder.lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # just being made
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            with contextlib.suppress(OSError):
                base = Path(f"{place}/cgroup-base").read_text().strip()
                await asyncio.to_thread(_end_cgroups, base)
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
        finally:
            os.close(lock)


def _end_cgroups(base: str) -> None:
    """Kill what is in the cgroups of a build, its launcher too, and remove them."""
    if not base:
        return
    setup = hierarchies.detect()
    for place in setup.places():
        for directory, _, _ in os.walk(f"{place}/{base}", topdown=False):
            group = Cgroup(setup, os.path.relpath(directory, place))
            with contextlib.suppress(OSError):
                for pid in group.procs():
                    _kill(pid)
    hierarchies.remove_empty(setup, base)


def _kill(pid: int) -> None:
    """End one process and wait for it, for a moment."""
    import select
    import signal

    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], 5.0)
    except OSError:
        pass
    finally:
        os.close(pidfd)


async def _gone(pid: int) -> None:
    """Wait for the end of the launcher, which has been told to."""
    if pid <= 0:
        return
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), _QUIT_S)
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)


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
