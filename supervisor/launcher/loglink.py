"""The launcher's end of the log writer: starts it, hands it streams, and holds everything it could lose.

For every stream the launcher keeps a second descriptor, and with it the journal and the holding pipe
(`launcher.logjournal`). A log writer that dies is started again and given all of them back; a launcher that
dies finds them at the log writer, which lives on at `<run_dir>/log.sock`.

Standard library only, no asyncio; nothing blocks but `start` (bounded). Not thread-safe.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import socket
import stat
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from supervisor.kernel.locks import try_lock
from supervisor.launcher import logjournal

_TAKEOVER_S = 10.0
_LOOK_AGAIN_S = 0.01
_PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


class Stream(NamedTuple):
    """One attached stream. `number` is its place in the journal; both ends own one descriptor `fd` each."""

    number: int
    instance: str
    run: int
    stream: str
    path: str
    max_size_bytes: int
    max_files: int
    fd: int


def _no_drained(instance: str, run: int) -> None: ...


class LogLink:
    """See the module. Call `on_ready()` when `fileno()` is readable, and at `deadline()`."""

    def __init__(
        self,
        run_dir: str,
        python: str,
        report: Callable[[str], None],
        drained: Callable[[str, int], None] = _no_drained,
    ) -> None:
        """No effect yet.

        run_dir: an existing directory for `log.sock` that only root can enter.
        python: interpreter for the log writer.
        report: told one line of text whenever the operator should hear of something (-> Problem).
        drained: told (instance, run) once all streams of a run have ended and everything is in the files.
            Both are called from within `on_ready`, `attach` and `start` only.
        """
        self._socket_path = f"{run_dir}/log.sock"
        self._lock_path = f"{run_dir}/log.lock"
        self._python = python
        self._report = report
        self._drained = drained
        self._epoll = select.epoll()
        self._sock: socket.socket | None = None
        self._streams: dict[int, Stream] = {}
        self._recovered: list[tuple[str, int, str]] = []
        self._past: dict[tuple[str, str], int] = {}
        self._free: list[int] = []
        self._next = 0
        self._queue: deque[tuple[bytes, list[int]]] = deque()
        self._quitting = False
        self._failures = 0
        self._spawned_at = 0.0
        self._written_at_spawn = 0
        self._pidfds: set[int] = set()
        self._retry_at: float | None = None
        self._memory = self._hold_r = self._hold_w = self._lock = -1
        self._journal: logjournal.Journal | None = None
        self.taken_over = False
        """Whether `start` found the log writer of an earlier launcher, which has read on meanwhile."""
        self.restarts = 0
        """How many times a log writer was started again after one died."""
        self.child_pid: int | None = None
        """Pid of the log writer if it is a child of this process. The link reaps it (through a pidfd)."""

    # --- life ---------------------------------------------------------------------------------
    def start(self) -> None:
        """Take over a log writer that an earlier launcher left (waits at most 10 s for it), else start one.

        After it `recovered()` and `counters()` speak of the streams taken over. Raises OSError if the
        journal cannot be made (no memory or descriptors). A log writer that cannot be started is
        reported and tried again at `deadline()`.
        """
        if self._find():
            self.taken_over = True
            return
        self._memory = logjournal.create()
        self._journal = logjournal.Journal(self._memory)
        self._hold_r, self._hold_w = os.pipe2(os.O_CLOEXEC)
        _widen(self._hold_w)
        self._spawn()

    def quit(self) -> None:
        """Ask the log writer to end once every stream has ended; it is not started again after that."""
        self._quitting = True
        self._send(["quit"], [])

    def close(self) -> None:
        """Let go of everything. While it has streams the log writer lives on, for the next launcher."""
        self._quitting = True
        self._forget_all()
        self._epoll.close()

    # --- the event loop -------------------------------------------------------------------------
    def fileno(self) -> int:
        """One descriptor to watch for reading (level-triggered); the same for the link's life."""
        return self._epoll.fileno()

    def filenos(self) -> list[int]:
        """`[fileno()]`."""
        return [self.fileno()]

    def deadline(self) -> float | None:
        """time.monotonic() at which to call `on_ready`: set only after a log writer could not be started."""
        return self._retry_at

    def on_ready(self) -> None:
        """Do what there is to do, without blocking: hear the log writer, flush to it, start it again."""
        if self._retry_at is not None and time.monotonic() >= self._retry_at:
            self._spawn()
        for fd, events in self._epoll.poll(0):
            if fd in self._pidfds:
                self._reap(fd)
                continue
            if events & select.EPOLLOUT:
                self._flush()
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self._receive()

    # --- streams --------------------------------------------------------------------------------
    def attach(
        self, instance: str, run: int, stream: str, fd: int, path: str, max_size_bytes: int, max_files: int
    ) -> None:
        """Have everything that comes out of `fd` written to `path`, rotated by those bounds.

        Takes ownership of `fd` in every case, also when it raises. fd: read end of a pipe, or the master of
        a pty (made non-blocking). stream: "stdout", "stderr" or "tty". max_size_bytes <= 0 never rotates;
        max_files counts `path` itself and is at least 1. Never blocks and survives a log writer that is
        away. Raises OSError (EMFILE) at 16,384 streams.
        """
        try:
            mode = os.fstat(fd).st_mode
            if stat.S_ISFIFO(mode):
                _widen(fd)
            else:
                os.set_blocking(fd, False)
            number = self._number()
        except OSError:
            with contextlib.suppress(OSError):
                os.close(fd)
            raise
        assert self._journal is not None, "start() comes first"
        self._journal.account(number, 0, False)
        entry = Stream(number, instance, run, stream, path, max_size_bytes, max_files, fd)
        self._streams[number] = entry
        if self._sock is not None:
            self._send(["attach", *entry[:-1]], [fd])

    def attached(self, instance: str, run: int, stream: str | None = None) -> bool:
        """Whether a stream (that stream) of that run has not ended yet."""
        return any(
            s.instance == instance and s.run == run and stream in (None, s.stream)
            for s in self._streams.values()
        )

    def terminal(self, instance: str, run: int) -> int:
        """The master of that run's pty, which stays ours; -1 where it has none, or the stream has ended."""
        for s in self._streams.values():
            if s.instance == instance and s.run == run and s.stream == "tty":
                return s.fd
        return -1

    def instances(self) -> list[str]:
        """Those of which a stream has not ended yet, sorted."""
        return sorted({entry.instance for entry in self._streams.values()})

    def recovered(self) -> list[tuple[str, int, str]]:
        """(instance, run, stream) of what `start` took over from an earlier launcher's log writer."""
        return list(self._recovered)

    def counters(self) -> list[tuple[str, str, int, int]]:
        """(instance, stream, bytes written, lines dropped) since this instance was first seen.

        Bytes are the service's own, without stamps. Survives the log writer; after a new launcher only the
        streams taken over keep their count. Dropped is always 0: a full disk makes services wait instead.
        """
        totals = dict(self._past)
        if self._journal is not None:
            for s in self._streams.values():
                key = (s.instance, s.stream)
                totals[key] = totals.get(key, 0) + self._journal.written(s.number)
        return [(instance, stream, count, 0) for (instance, stream), count in sorted(totals.items())]

    def forget(self, instance: str) -> None:
        """Drop the counters of an instance that was removed."""
        for key in [key for key in self._past if key[0] == instance]:
            del self._past[key]

    # --- inside ---------------------------------------------------------------------------------
    def _number(self) -> int:
        if self._free:
            return self._free.pop()
        if self._next >= logjournal.STREAMS:
            raise OSError(errno.EMFILE, f"cannot log one more stream: {logjournal.STREAMS} are attached")
        self._next += 1
        return self._next - 1

    def _find(self) -> bool:
        """Whether there was a log writer, and is ours now; if not, the lock is.

        Every log writer holds the lock from its birth. So one that does not listen yet, since its launcher
        died at once, is waited for: two that read the same pipes would write over each other.
        """
        deadline = time.monotonic() + _TAKEOVER_S
        problem: Exception | None = None
        while not isinstance(problem, ValueError):
            try:
                if self._take_over():
                    return True
            except (OSError, ValueError, EOFError) as error:
                problem = error
                self._forget_all()
            if self._take_lock() or time.monotonic() >= deadline:
                break
            time.sleep(_LOOK_AGAIN_S)
        if problem is not None:
            self._report(
                f"cannot take over the log writer at {self._socket_path}: {problem}; a new one is started"
            )
        return False

    def _take_lock(self) -> bool:
        lock = try_lock(self._lock_path)
        if lock is None:
            return False
        self._lock = lock
        return True

    def _take_over(self) -> bool:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(_TAKEOVER_S)
        try:
            sock.connect(self._socket_path)
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            return False
        except OSError:
            sock.close()
            raise
        try:
            tag, count, *_ = (message := receive(sock, 4))[0]
            if tag != "hello" or len(message[1]) != 4:
                raise ValueError(f"unexpected answer {tag!r}")
            self._memory, self._hold_r, self._hold_w, self._lock = message[1]
            self._journal = logjournal.Journal(self._memory)
            for _ in range(count):
                fields, fds = receive(sock, 1)
                entry = Stream._make([*fields[1:], fds[0]])
                self._streams[entry.number] = entry
        except BaseException:
            sock.close()
            raise
        self._next = max(self._streams, default=-1) + 1
        self._free = [n for n in range(self._next) if n not in self._streams]
        self._recovered = [(s.instance, s.run, s.stream) for s in self._streams.values()]
        self._use(sock)
        return True

    def _use(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._queue.clear()
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _spawn(self) -> None:
        """Start a log writer and give it everything; on failure set the deadline of the next try."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if self._lock < 0:  # an earlier one that does not answer has it
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CLOEXEC)
        fds = (theirs.fileno(), self._memory, self._hold_r, self._hold_w, self._lock)
        pause = 0.0 if self._failures < 3 else min(0.1 * 2 ** min(self._failures - 3, 7), 10.0)
        command = [
            self._python,
            "-OO",
            "-S",
            "-P",
            "-m",
            "supervisor.launcher.logwriter",
            self._socket_path,
            *map(str, fds),
        ]
        if pause:
            # The pause is the child's, so that the launcher's loop needs no timer for it.
            command = ["/bin/sh", "-c", 'sleep "$0"; exec "$@"', str(pause), *command]
        try:
            self.child_pid = os.posix_spawn(
                command[0],
                command,
                {"PYTHONPATH": _PACKAGE_ROOT, "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
                # dup2 onto itself clears close-on-exec.
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, fd) for fd in fds]
                + [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD],
            )
        except OSError as error:
            ours.close()
            self._failures += 1
            self._retry_at = time.monotonic() + min(0.1 * 2 ** min(self._failures, 7), 10.0)
            self._report(f"cannot start the log writer {self._python}: {error}; output waits in its pipe")
            return
        finally:
            theirs.close()
        self._retry_at = None
        self._spawned_at = time.monotonic()
        self._written_at_spawn = self._written()
        pidfd = os.pidfd_open(self.child_pid)
        self._pidfds.add(pidfd)
        self._epoll.register(pidfd, select.EPOLLIN)
        self._use(ours)
        for entry in self._streams.values():
            self._send(["attach", *entry[:-1]], [entry.fd])
        self._send(["go"], [])
        if self._quitting:
            self._send(["quit"], [])

    def _send(self, message: list[object], fds: list[int]) -> None:
        self._queue.append((json.dumps(message).encode(), fds))
        if len(self._queue) == 1:
            self._flush()

    def _flush(self) -> None:
        sock = self._sock
        if sock is None:
            self._queue.clear()  # the next log writer is told everything anew
            return
        while self._queue:
            data, fds = self._queue[0]
            try:
                socket.send_fds(sock, [data], fds)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:
                    break  # too many descriptors in flight: the log writer has to take some first
                self._queue.clear()
                return  # it died: the hang-up is on its way
            self._queue.popleft()
        self._epoll.modify(sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if self._queue else 0))

    def _receive(self) -> None:
        while self._sock is not None:
            try:
                data = self._sock.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._on_death()
                return
            match json.loads(data):
                case ["drained", int(number)]:
                    self._on_end(number)
                case ["problem", str(text)]:
                    self._report(text)
                case other:
                    self._report(f"cannot understand the log writer: {other!r}")

    def _on_end(self, number: int) -> None:
        entry = self._streams.pop(number, None)
        if entry is None:
            return  # said twice, around a restart
        os.close(entry.fd)
        assert self._journal is not None
        key = (entry.instance, entry.stream)
        self._past[key] = self._past.get(key, 0) + self._journal.written(number)
        self._free.append(number)
        self._failures = 0
        if not self.attached(entry.instance, entry.run):
            self._drained(entry.instance, entry.run)

    def _on_death(self) -> None:
        assert self._sock is not None
        self._epoll.unregister(self._sock.fileno())
        self._sock.close()
        self._sock = None
        self._queue.clear()
        self.child_pid = None
        if self._quitting and not self._streams:
            return
        useful = self._written() != self._written_at_spawn or time.monotonic() - self._spawned_at >= 1.0
        self._failures = 0 if useful else self._failures + 1
        self.restarts += 1
        self._report("the log writer ended; it is started again, nothing is lost")
        self._spawn()

    def _written(self) -> int:
        assert self._journal is not None
        return sum(self._journal.written(number) for number in self._streams)

    def _reap(self, pidfd: int) -> None:
        with contextlib.suppress(ChildProcessError):  # somebody else waits for every child: as good
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        self._pidfds.discard(pidfd)
        self._epoll.unregister(pidfd)
        os.close(pidfd)

    def _forget_all(self) -> None:
        for pidfd in self._pidfds:
            self._epoll.unregister(pidfd)
            os.close(pidfd)
        self._pidfds.clear()
        if self._sock is not None:
            self._epoll.unregister(self._sock.fileno())
            self._sock.close()
            self._sock = None
        for entry in self._streams.values():
            os.close(entry.fd)
        self._streams.clear()
        for fd in (self._memory, self._hold_r, self._hold_w, self._lock):
            if fd >= 0:
                os.close(fd)
        self._memory = self._hold_r = self._hold_w = self._lock = -1
        self._journal = None


def receive(sock: socket.socket, max_fds: int) -> tuple[list[Any], list[int]]:
    """One message and its descriptors, which the caller owns. Raises EOFError, BlockingIOError, OSError."""
    data, fds, _, _ = socket.recv_fds(sock, 65536, max_fds, socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise EOFError("the other end has closed the connection")
    return json.loads(data), list(fds)


def _widen(fd: int) -> None:
    """Ask for a larger pipe: fewer, larger batches, and more room while the log writer is away."""
    with contextlib.suppress(OSError):  # over the user's allowance it stays as it is: slower, no less right
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, logjournal.BATCH_BYTES)
