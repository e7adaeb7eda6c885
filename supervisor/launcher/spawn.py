"""The launcher's side of a launch and of an exec: prepare everything, clone once, keep what is ours."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
from collections.abc import Iterator
from typing import NamedTuple

from supervisor.kernel import privileges, process
from supervisor.kernel.cgroups import Cgroup
from supervisor.launcher import child, nursery, plan, spare
from supervisor.launcher.ahead import NOTHING, Ahead, Made
from supervisor.launcher.descriptors import Descriptors, cgroups_of, moves, stdio_of
from supervisor.launcher.order import Order, Packed, pack, to_bytes, unpack
from supervisor.launcher.program import Arena
from supervisor.launcher.steps import StepError
from supervisor.launcher.templates import Assembly, Templates

_PROGRAMS = 64


class Spawned(NamedTuple):
    """A process on its way. The descriptors are the caller's; stdin, stdout, stderr are our ends, or -1.

    made: what of its root had been there before. For an exec `pid` and `pidfd` are those of the helper that
    enters the namespaces.
    """

    pid: int
    pidfd: int
    channel: socket.socket
    stdin: int
    stdout: int
    stderr: int
    made: Made = Made()


class Spawner:
    """Knows what is the same for every child, and keeps a spare."""

    def __init__(self, *, spares: bool) -> None:
        """Looks at this process: call it when its signals are set up."""
        self._spares = spares
        handled = [
            number
            for number in signal.valid_signals()
            if isinstance(number, signal.Signals) and signal.getsignal(number) is not signal.SIG_DFL
        ]
        self._common = child.Common(privileges.last_capability(), handled)
        self._everything = signal.valid_signals()
        self._filters: dict[str, bytes] = {}
        self._arena = Arena()
        self._templates = Templates(self._arena.address)
        self._spare: spare.Spare | None = None
        self._nursery: nursery.Nursery | None = None
        self._next: tuple[Ahead, str] | None = None

    # --- the spare ------------------------------------------------------------------------------
    def keep_spare(self) -> None:
        """Have one again, for launches like the last. Raises OSError, StepError."""
        if not self._spares or self._next is None:
            return
        if self._spare is not None and self._spare.ahead != self._next[0]:
            self.drop_spare()
        if self._spare is None:
            with Descriptors() as fds:
                channel, far = fds.channel()
                made = self._clone(channel, far, -1)
                if made is not None:
                    self._spare = made.prepare(*self._next, self._arena)

    def drop_spare(self) -> None:
        """Have none."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    # --- the nursery ----------------------------------------------------------------------------
    def begin(self) -> None:
        """Have a nursery: call it when what lives for the launcher's life is there, before the first run."""
        if self._nursery is None:
            with contextlib.suppress(OSError), self._signals_blocked():
                self._nursery = nursery.make(self._arena, self._common)

    def close(self) -> None:
        """Have none, and no spare."""
        self.drop_spare()
        if self._nursery is not None:
            self._nursery.close()
            self._nursery = None

    def _clone(self, channel: socket.socket, far: socket.socket, cgroup_fd: int) -> spare.Spare | None:
        """A process that waits for an order at the other end of `channel`; None where no nursery can be.

        Raises OSError.
        """
        for _ in range(2):
            self.begin()
            if self._nursery is None:
                break
            try:
                pid = self._nursery.clone(far, cgroup_fd)
            except nursery.NurseryError:
                self._nursery.close()
                self._nursery = None
                continue
            return spare.Spare(pid, os.pidfd_open(pid), channel)
        return None

    # --- launch ---------------------------------------------------------------------------------
    def launch(self, launch: plan.LaunchPlan, cgroup: Cgroup, roots: list[int]) -> Spawned:
        """Start the first process of a run in a cgroup that exists. Raises StepError.

        roots: writable overlays that an earlier run of the same plan left, or none; they stay the caller's.
        """
        if launch.net not in ("host", "none") and not launch.net.startswith("/"):
            raise StepError("network", 0, f"cannot use network {launch.net!r}: it is host, none or a path")
        _check_command(launch.process)
        assembly = self._templates.look(launch)
        ahead = assembly.ahead
        if self._next != (ahead, launch.root):
            self._next = ahead, launch.root
        spec = launch.process
        seccomp = self._filter(spec.seccomp)
        with Descriptors() as fds:
            v1, v2 = cgroups_of(cgroup, fds)
            given, ends = stdio_of(fds, tty=spec.tty, stdin=spec.stdin_open, open_stdin=spec.stdin_open)
            if (ready := self._spare) is not None and ready.ahead == ahead:
                self._spare = None
                made = Made(bool(roots), ready.ahead)
                order = to_bytes(self._order(assembly, made))
                if ready.send(order, seccomp, moves(v1, v2, fds), given, roots):
                    return Spawned(ready.pid, ready.pidfd, ready.channel, *ends, made)
                ready.close()
            made = Made(bool(roots))
            first = self._order(assembly, made)
            fds.stage = "clone"
            channel, far = fds.channel()
            order = to_bytes(first)
            if spare.fits(order, seccomp) and (born := self._clone(channel, far, v2)) is not None:
                if not born.send(order, seccomp, v1, given, roots):
                    os.close(born.pidfd)
                    raise StepError("clone", errno.ECHILD, "the new process has died")
                return Spawned(born.pid, born.pidfd, channel, *ends, made)
            self._arena.load(first.data)
            with self._signals_blocked():
                pid, pidfd = process.clone(child.NAMESPACES, cgroup_fd=v2)
                if pid == 0:
                    child.launch(first, seccomp, child.Given(far, v1, given, roots), self._common)
        return Spawned(pid, pidfd, channel, *ends, made)

    def _order(self, assembly: Assembly, made: Made, *, parks: bool = False) -> Order:
        program = self._templates.program(assembly, made)
        launch = assembly.launch
        return Order(
            launch.process,
            launch.hostname,
            launch.net,
            program.rows,
            program.data,
            program.results,
            made.ahead is not NOTHING,
            parks,
        )

    # --- a launch before it is asked for --------------------------------------------------------
    def pack(self, launch: plan.LaunchPlan) -> Packed | None:
        """The order for the next run by this plan, for `park`; None if it cannot be. Raises StepError."""
        if any(isinstance(step, plan.Mount) and step.fstype == "cgroup2" for step in launch.steps):
            return None  # which cgroup it shows is settled when it is mounted
        assembly = self._templates.look(launch)
        ahead = assembly.ahead
        if self._next is not None and self._next[0] == ahead:
            ahead = self._next[0]  # one object for all that are equal
        return pack(self._order(assembly, Made(True, ahead), parks=True), ahead)

    def can_park(self, packed: Packed) -> bool:
        """Whether the spare is there and the right one."""
        return self._spare is not None and self._spare.ahead == packed.ahead

    def park(self, packed: Packed, roots: list[int]) -> Spawned:
        """As `launch`, but the process waits for `unpark` while it is still ours. Raises StepError."""
        ready, self._spare = self._spare, None
        assert ready is not None
        try:
            with Descriptors() as fds:
                stdin = packed.stdin_open
                given, ends = stdio_of(fds, tty=packed.tty, stdin=stdin, open_stdin=stdin)
                if not ready.send(unpack(packed), self._filter(packed.seccomp), [], given, roots):
                    raise StepError("clone", errno.ECHILD, "the spare has died")
        except StepError:
            ready.close()
            raise
        return Spawned(ready.pid, ready.pidfd, ready.channel, *ends, Made(True, packed.ahead))

    def unpark(self, parked: Spawned, cgroup: Cgroup) -> None:
        """Have it go on, in a cgroup that exists. What failed before is in its channel. Raises StepError."""
        with Descriptors() as fds:
            v1, v2 = cgroups_of(cgroup, fds)
            written = moves(v1, v2, fds)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                socket.send_fds(parked.channel, [b"!"], written)

    def let_go(self, fds: list[int]) -> tuple[int, int]:
        """Close descriptors, but have another process be the last to close them: it may wait for a disk.

        Returns (pid, pidfd) of that process. Raises OSError.
        """
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            with self._signals_blocked():
                pid, pidfd = process.clone(0)
                if pid == 0:
                    child.hold(fds, reading)
        finally:
            for fd in (*fds, reading, writing):
                os.close(fd)
        return pid, pidfd

    # --- exec -----------------------------------------------------------------------------------
    def join(self, spec: plan.Process, cgroup: Cgroup, target: int) -> Spawned:
        """Clone the helper of an exec into the run that `target` is a pidfd of. Raises StepError."""
        _check_command(spec)
        with Descriptors() as fds:
            v1, v2 = cgroups_of(cgroup, fds)
            seccomp = self._filter(spec.seccomp)
            # An exec always gives three descriptors; without stdin_open nobody reads from the first.
            given, ends = stdio_of(fds, tty=spec.tty, stdin=True, open_stdin=spec.stdin_open)
            channel, far = fds.channel()
            fds.stage = "clone"
            with self._signals_blocked():
                pid, pidfd = process.clone(0, cgroup_fd=v2)
                if pid == 0:
                    child.join(spec, seccomp, child.Given(far, v1, given, []), self._common, target)
        return Spawned(pid, pidfd, channel, *ends)

    # --- both -----------------------------------------------------------------------------------
    @contextlib.contextmanager
    def _signals_blocked(self) -> Iterator[None]:
        """A signal that is handled in the child would be handled by the launcher's handlers."""
        before = signal.pthread_sigmask(signal.SIG_SETMASK, self._everything)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _filter(self, path: str | None) -> bytes | None:
        """The file is named by its digest, so it never changes. Raises StepError."""
        if path is None:
            return None
        program = self._filters.get(path)
        if program is None:
            try:
                with open(path, "rb") as file:
                    program = file.read()
            except OSError as error:
                raise StepError("seccomp", error.errno or 0, f"{error.strerror}: {path}") from error
            if len(self._filters) >= _PROGRAMS:
                self._filters.clear()
            self._filters[path] = program
        return program


def _check_command(spec: plan.Process) -> None:
    if not spec.argv:
        raise StepError("exec", errno.ENOENT, "no command specified")
