"""The launcher's side of a launch and of an exec: prepare everything, clone once, keep what is ours."""

from __future__ import annotations

import errno
import os
import signal
import socket
from pathlib import Path
from typing import NamedTuple

from supervisor.kernel import privileges, process
from supervisor.kernel import syscalls as sc
from supervisor.kernel.cgroups import Cgroup
from supervisor.launcher import child, plan
from supervisor.launcher.steps import StepError

_PROGRAMS = 64


class Spawned(NamedTuple):
    """A process on its way. The descriptors are the caller's; stdin, stdout, stderr are our ends, or -1.

    For an exec `pid` and `pidfd` are those of the helper that enters the namespaces.
    """

    pid: int
    pidfd: int
    channel: socket.socket
    stdin: int
    stdout: int
    stderr: int


class Spawner:
    """Knows what is the same for every child: signals, capabilities, cached seccomp programs."""

    def __init__(self) -> None:
        """Looks at this process: call it when its signals are set up."""
        self._last_cap = privileges.last_capability()
        self._signals = [
            number
            for number in signal.valid_signals()
            if isinstance(number, signal.Signals) and signal.getsignal(number) is not signal.SIG_DFL
        ]
        self._everything = signal.valid_signals()
        self._programs: dict[str, bytes] = {}

    def launch(self, launch: plan.LaunchPlan, cgroup: Cgroup) -> Spawned:
        """Clone the first process of a run into a cgroup that exists. Raises StepError."""
        flags = sc.CLONE_NEWNS | sc.CLONE_NEWPID | sc.CLONE_NEWIPC | sc.CLONE_NEWUTS
        if launch.net == "none":
            flags |= sc.CLONE_NEWNET
        elif launch.net != "host":
            raise StepError("network", 0, f"cannot use network {launch.net!r}: it is host or none")
        return self._spawn(launch.process, cgroup, flags, launch, -1)

    def join(self, spec: plan.Process, cgroup: Cgroup, target: int) -> Spawned:
        """Clone the helper of an exec into the run that `target` is a pidfd of. Raises StepError."""
        return self._spawn(spec, cgroup, 0, None, target)

    def _spawn(
        self, spec: plan.Process, cgroup: Cgroup, flags: int, launch: plan.LaunchPlan | None, target: int
    ) -> Spawned:
        if not spec.argv:
            raise StepError("exec", errno.ENOENT, "no command specified")
        mine: list[int] = []
        theirs: list[int] = []
        stage = "cgroup"
        try:
            v1 = cgroup.open_v1()
            theirs += v1
            v2 = cgroup.open_v2()
            if v2 >= 0:
                theirs.append(v2)
            stage = "seccomp"
            program = self._program(spec.seccomp) if spec.seccomp is not None else None
            stage = "stdio"
            ends = [-1, -1, -1]
            given = [-1, -1, -1]
            if not spec.tty:
                given[1], given[2] = self._output(ends, mine, theirs, lasting=launch is not None)
                # An exec always gives three descriptors; without stdin_open nobody reads from the first.
                if spec.stdin_open or launch is None:
                    reading, writing = os.pipe2(os.O_CLOEXEC)
                    theirs.append(reading)
                    mine.append(writing)
                    ends[0] = writing
                    if spec.stdin_open:
                        given[0] = reading
            channel, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            channel.setblocking(False)
            prepared = child.Prepared(
                spec,
                far,
                v1,
                given[0],
                given[1],
                given[2],
                program,
                self._last_cap,
                self._signals,
            )
            stage = "clone"
            # A signal that is handled in the child would be handled by the launcher's handlers.
            before = signal.pthread_sigmask(signal.SIG_SETMASK, self._everything)
            try:
                pid, pidfd = process.clone(flags, cgroup_fd=v2)
                if pid == 0:
                    if launch is not None:
                        child.run(prepared, launch)
                    child.join(prepared, target)
            except BaseException:
                channel.close()
                raise
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                far.close()
        except OSError as error:
            for fd in mine:
                os.close(fd)
            where = f": {error.filename}" if error.filename else ""
            raise StepError(stage, error.errno or 0, f"{error.strerror}{where}") from error
        finally:
            for fd in theirs:
                os.close(fd)
        return Spawned(pid, pidfd, channel, *ends)

    @staticmethod
    def _output(ends: list[int], mine: list[int], theirs: list[int], *, lasting: bool) -> tuple[int, int]:
        """Pipes for stdout and stderr.

        lasting: the service's own end is open for reading, too. So a pipe always has a reader: while launcher
        and log writer are both dead, output waits in it, and nobody dies of SIGPIPE.
        """
        for place in (1, 2):
            ends[place], writing = os.pipe2(os.O_CLOEXEC)
            mine.append(ends[place])
            theirs.append(writing)
            if lasting:
                theirs[-1] = os.open(f"/proc/self/fd/{writing}", os.O_RDWR | os.O_CLOEXEC)
                os.close(writing)
        return theirs[-2], theirs[-1]

    def _program(self, path: str) -> bytes:
        """The file is named by its digest, so it never changes."""
        program = self._programs.get(path)
        if program is None:
            program = Path(path).read_bytes()
            if len(self._programs) >= _PROGRAMS:
                self._programs.clear()
            self._programs[path] = program
        return program
