"""A launcher in a directory of its own, a client with which tests talk to it, and plans made by hand."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from supervisor.core.paths import Paths
from supervisor.kernel import hierarchies
from supervisor.launcher import plan, protocol
from supervisor.launcher.client import LauncherClient

DEADLINE_S = 30.0
DEFAULT_CAPS = [0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31]
E = TypeVar("E")


class Bench:
    """One run directory with its launcher and a connection."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.paths = Paths(f"{base}/state", f"{base}/run")
        os.makedirs(self.paths.root_mountpoint)
        self.cgroup_base = f"shipkeeper-test-{os.path.basename(base)}"
        self.setup = hierarchies.detect()
        self.events: list[Any] = []
        self.lost = False
        self._news = asyncio.Event()
        self._client: LauncherClient | None = None

    @property
    def client(self) -> LauncherClient:
        assert self._client is not None
        return self._client

    # --- connection -----------------------------------------------------------------------------
    async def connect(self) -> protocol.State:
        """Connect anew (starting a launcher where there is none); the State that answers."""
        if self._client is not None:
            self._client.close()
        self.events.clear()
        self.lost = False
        self._news = asyncio.Event()  # of the loop that we are in now
        self._client = await LauncherClient.connect(self.paths, self._on_event, on_lost=self._on_lost)
        return await self.event(protocol.State)

    def disconnect(self) -> None:
        self.client.close()

    def _on_event(self, event: protocol.Event) -> None:
        self.events.append(event)
        self._news.set()

    def _on_lost(self) -> None:
        self.lost = True
        self._news.set()

    def send(self, request: protocol.Request) -> None:
        self.client.send(request)

    async def until(self, condition: Callable[[], E], what: str = "the condition") -> E:
        """Wait for news until something holds."""

        async def wait() -> E:
            while not (found := condition()):
                self._news.clear()
                # Conditions may also be about the kernel, which sends no news.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), 0.02)
            return found

        try:
            return await asyncio.wait_for(wait(), DEADLINE_S)
        except TimeoutError:
            raise AssertionError(f"timed out waiting for {what}; events: {self.events[-5:]}") from None

    async def event(self, kind: type[E], **fields: Any) -> E:
        """The first event of a kind with these fields, removed from the list."""

        def take() -> E | None:
            for event in self.events:
                if isinstance(event, kind) and all(getattr(event, k) == v for k, v in fields.items()):
                    self.events.remove(event)
                    return event
            return None

        found = await self.until(take, f"{kind.__name__} {fields}")
        assert found is not None
        return found

    async def settled(self) -> None:
        """Everything sent before has been dealt with."""
        self.send(protocol.Ping(7))
        await self.event(protocol.Pong)

    # --- launches -------------------------------------------------------------------------------
    def plan(
        self,
        *argv: str,
        instance: str = "web",
        run: int = 1,
        steps: list[plan.Step] | None = None,
        limits: plan.Limits | None = None,
        net: str = "host",
        hostname: str | None = "inside",
        meta: str = "",
        env: dict[str, str] | None = None,
        **process: Any,
    ) -> plan.LaunchPlan:
        files = self.paths.instance(instance)
        for directory in (files.upper, files.work):
            os.makedirs(directory, exist_ok=True)
        process.setdefault("caps", DEFAULT_CAPS)
        pairs = [["PATH", "/usr/bin:/bin"], *([k, v] for k, v in (env or {}).items())]
        return plan.LaunchPlan(
            instance,
            run,
            f"{self.cgroup_base}/{instance}/{run}",
            limits or plan.Limits(),
            hostname,
            net,
            self.paths.root_mountpoint,
            root_steps(files.upper, files.work) if steps is None else steps,
            plan.Process(list(argv), pairs, **process),
            plan.LogPlan(files.log, 1 << 24, 3),
            meta,
        )

    async def start(self, *argv: str, **arguments: Any) -> protocol.RunInfo:
        """Launch and wait until it is started."""
        launch = self.plan(*argv, **arguments)
        self.send(protocol.Launch(launch))
        return (await self.event(protocol.Started)).info

    async def run(self, *argv: str, **arguments: Any) -> protocol.Exited:
        """Launch, wait for the end, acknowledge it."""
        launch = self.plan(*argv, **arguments)
        self.send(protocol.Launch(launch))
        await self.event(protocol.Started)
        exited = await self.event(protocol.Exited, instance=launch.instance, run=launch.run)
        self.send(protocol.Ack(launch.instance, launch.run))
        return exited

    async def fails(self, *argv: str, **arguments: Any) -> protocol.LaunchFailed:
        """Launch what cannot start; its record."""
        launch = self.plan(*argv, **arguments)
        self.send(protocol.Launch(launch))
        failed = await self.event(protocol.LaunchFailed, instance=launch.instance, run=launch.run)
        self.send(protocol.Ack(launch.instance, launch.run))
        return failed

    def output(self, instance: str = "web", stream: str | None = None) -> str:
        """What a service has written so far, without stamps."""
        path = Path(self.paths.instance(instance).log)
        rows = path.read_text().splitlines() if path.exists() else []
        parts = [row.split(" ", 3) for row in rows]
        # "P" is a part of a line; the rest of it follows.
        chosen = [part for part in parts if stream is None or part[1] == stream]
        return "".join(part[3] + ("\n" if part[2] == "F" else "") for part in chosen).rstrip("\n")

    async def says(self, text: str, instance: str = "web") -> str:
        """Wait until the log of a service contains a text."""
        await self.until(lambda: text in self.output(instance), f"{text!r} in the log")
        return self.output(instance)

    # --- what is left ---------------------------------------------------------------------------
    def cgroup_directories(self) -> list[str]:
        """Every cgroup below our base, in every hierarchy."""
        places = [self.setup.unified] if self.setup.unified else []
        places += list(self.setup.v1.values()) if self.setup.mode != "unified" else []
        found = []
        for place in dict.fromkeys(places):
            for directory, _, _ in os.walk(f"{place}/{self.cgroup_base}"):
                found.append(directory)
        return [path for path in found if not path.endswith(self.cgroup_base)]

    async def shut_down(self) -> None:
        """End every run, the launcher and the log writer; remove the cgroups."""
        launcher = -1
        with contextlib.suppress(Exception):
            state = await self.connect()
            launcher = state.pid
            for info in state.runs:
                self.send(protocol.Kill(info.instance, info.run))
            for info in state.runs:
                await self.event(protocol.Exited, instance=info.instance)
            await self.until(lambda: not self.cgroup_directories())
        if self._client is not None:
            self.send(protocol.Quit())
            with contextlib.suppress(AssertionError):
                await self.until(lambda: self.lost and not alive(launcher), "the end of the launcher")
            self._client.close()
        places = [self.setup.unified, *self.setup.v1.values()]
        for place in places:
            for directory, _, _ in os.walk(f"{place}/{self.cgroup_base}", topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(directory)


def root_steps(upper: str, work: str) -> list[plan.Step]:
    """The host's root, copied on write, with what a process needs."""
    strict = 2 | 4 | 8
    return [
        plan.Overlay("/", ["/"], upper, work),
        plan.Mount("proc", "/proc", strict),
        plan.Mount("tmpfs", "/dev", strict, "mode=755"),
        *[plan.Bind(f"/dev/{name}", f"/dev/{name}", dev=True) for name in ("null", "zero", "tty", "urandom")],
        plan.Mount("devpts", "/dev/pts", 2 | 8, "newinstance,ptmxmode=0666,mode=0620,gid=5"),
        plan.Symlink("pts/ptmx", "/dev/ptmx"),
        plan.Mount("sysfs", "/sys", strict | 1),
        plan.Pivot(),
        plan.ReadOnly(["/proc/sys", "/proc/bus"]),
        plan.Mask(["/proc/kcore", "/proc/keys", "/sys/firmware", "/sys/devices/virtual", "/nonexistent"]),
    ]


def with_bench(test: Callable[[Bench], Awaitable[None]]) -> None:
    """Run a test against a launcher of its own, and leave nothing behind."""

    async def scenario() -> None:
        base = tempfile.mkdtemp(prefix="skl-")
        bench = Bench(base)
        try:
            await bench.connect()
            await test(bench)
        finally:
            await bench.shut_down()
            shutil.rmtree(base)

    asyncio.run(scenario())


async def kill_and_wait(bench: Bench, pid: int) -> None:
    """SIGKILL for a process that this test knows, and wait until it is gone or a zombie."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await bench.until(lambda: not alive(pid), f"the end of {pid}")
    finally:
        os.close(pidfd)


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


PYTHON = os.path.realpath(sys.executable)
