"""The log writer: reads every service's output, stamps it, stores and rotates it. A process of its own.

    python -m supervisor.launcher.logwriter SOCKET_PATH SOCKET_FD MEMORY_FD HOLD_READ_FD HOLD_WRITE_FD LOCK_FD

It is started by `launcher.loglink`. It never drops output: a file that cannot be written keeps its batch
in the journal, its streams wait in their pipes, and it is tried again. When the launcher goes away it writes
on and listens at SOCKET_PATH; it ends when nobody is left on either side.
Standard library only. One thread, one epoll, no timer unless a file could not be written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
import termios
import time
from collections import deque
from typing import Any

from supervisor.launcher import logformat
from supervisor.launcher.logfile import Files, LogFile
from supervisor.launcher.logjournal import BATCH_BYTES, FREE, HELD, READ, TAKE, WRITE, Journal, Slot
from supervisor.launcher.loglink import Stream, receive

OPEN_FILES = 256
"""Log files that are kept open."""

_PAUSE_S = (0.25, 0.5, 1.0, 2.0, 4.0)


class Output:
    """One attached stream on this side."""

    __slots__ = ("file", "info")

    def __init__(self, info: Stream, file: LogFile) -> None:
        self.info = info
        self.file = file


class Stuck:
    """A batch whose file could not be written, and when to try it again."""

    __slots__ = ("at", "output", "slot", "tries")

    def __init__(self, slot: Slot, output: Output) -> None:
        self.slot = slot
        self.output = output
        self.tries = 0
        self.at = 0.0


class LogWriter:
    """See the module. Owns the descriptors it is given."""

    def __init__(self, socket_path: str, sock: socket.socket, shared: tuple[int, int, int, int]) -> None:
        """shared: the journal's memory, both ends of H, and the lock that there is one log writer by."""
        self._socket_path = socket_path
        self._shared = list(shared)
        memory, self._hold_r, self._hold_w, _ = shared
        self._journal = Journal(memory)
        self._free = [slot for slot in self._journal.slots if slot.state == FREE]
        self._outputs: dict[int, Output] = {}  # by our descriptor
        self._numbers: dict[int, Output] = {}  # by place in the journal
        self._files: dict[str, LogFile] = {}
        self._users: dict[str, int] = {}
        self._open = Files(OPEN_FILES)
        self._stuck: dict[str, Stuck] = {}  # by path
        self._paused: set[int] = set()  # descriptors that are out of the epoll
        self._epoll = select.epoll()
        self._sock: socket.socket | None = None
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._going = False
        self._quitting = False
        self._listener = self._listen()
        self._wake_r, self._wake_w = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._epoll.register(self._wake_r, select.EPOLLIN)
        self._use(sock)

    # --- the loop -------------------------------------------------------------------------------
    def run(self) -> None:
        """Until everything is written and nobody needs us."""
        signal.set_wakeup_fd(self._wake_w)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_quitting", True))
        for signum in (signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        outputs, poll = self._outputs, self._epoll.poll
        while not self._done():
            for fd, events in poll(self._timeout()):
                output = outputs.get(fd)
                if output is not None:
                    # A batch before this one may have stopped every stream, or this file's.
                    if fd not in self._paused:
                        self._take(fd, output)
                else:
                    self._control(fd, events)
            if self._stuck:
                self._retry()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket_path)  # ours: a successor waits for the lock that ends with us

    def _done(self) -> bool:
        if self._outputs or self._stuck or self._unsent:
            return False
        return self._quitting or self._sock is None

    def _timeout(self) -> float | None:
        if not self._stuck:
            return None
        return max(0.0, min(stuck.at for stuck in self._stuck.values()) - time.monotonic())

    # --- a batch --------------------------------------------------------------------------------
    def _take(self, fd: int, output: Output) -> None:
        """One batch of one stream: fairness is one a turn."""
        number = output.info.number
        slot = self._free[-1]
        slot.begin(number, self._journal.written(number), TAKE)
        try:
            taken = os.splice(fd, self._hold_w, BATCH_BYTES, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            slot.state = FREE
            return
        except OSError as error:
            if error.errno == errno.ENOMEM:
                slot.state = FREE
                return  # it is still readable: tried again at once
            # EIO: the last slave of this pty is closed.
            taken = self._take_by_copy(fd) if error.errno == errno.EINVAL else 0
        if taken < 0:
            slot.state = FREE
            return
        if not taken:
            slot.state = FREE
            self._ended(fd, output)
            return
        slot.taken = taken
        slot.state = READ
        self._read_held(slot, 0)
        del self._free[-1]
        self._store(slot, output)

    def _take_by_copy(self, fd: int) -> int:
        """For what cannot be spliced (ttys before Linux 5.10): the one place where a kill loses bytes."""
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return -1
        except OSError:
            return 0
        return os.write(self._hold_w, data) if data else 0

    def _read_held(self, slot: Slot, at: int) -> None:
        """Move what H holds into the buffer behind the `at` bytes that are there."""
        taken = slot.taken
        while at < taken:
            at += os.readv(self._hold_r, [slot.buffer[at:taken]])
        slot.state = HELD

    def _store(self, slot: Slot, output: Output) -> None:
        """Write a HELD or WRITE batch; a file that cannot be written is put aside with its streams."""
        try:
            self._write(slot, output)
        except OSError as error:
            self._put_aside(slot, output, error)
        else:
            self._free.append(slot)

    def _write(self, slot: Slot, output: Output) -> None:
        data = slot.buffer[: slot.taken].tobytes()
        stamp_ns = slot.stamp_ns if slot.state == WRITE else time.time_ns()
        chunks = logformat.encode(data, output.info.stream, stamp_ns)
        size = sum(map(len, chunks))
        file = output.file
        found = self._open.stat(file)
        begun = slot.state == WRITE and slot.file == (found.st_dev, found.st_ino)
        if not begun or slot.offset > found.st_size:
            if 0 < file.max_size_bytes < found.st_size + size and found.st_size:
                slot.state = HELD
                self._open.drop(file)
                file.rotate()
                found = self._open.stat(file)
            slot.place(stamp_ns, found.st_size, found.st_dev, found.st_ino)
        offset = slot.offset
        wrote = os.pwritev(file.fd, chunks, offset)
        if wrote != size:
            rest = b"".join(chunks)
            while wrote < size:
                wrote += os.pwrite(file.fd, rest[wrote:], offset + wrote)
        number = output.info.number
        midline = bool(data) and not data.endswith(b"\n")
        self._journal.account(number, slot.bytes_before + slot.taken, midline)
        slot.state = FREE

    def _put_aside(self, slot: Slot, output: Output, error: OSError) -> None:
        path = output.info.path
        stuck = self._stuck.get(path)
        if stuck is None:
            stuck = self._stuck[path] = Stuck(slot, output)
            why = error.strerror or str(error)
            hint = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend the directory"
            self._tell(
                ["problem", f"cannot write the log {path}: {why}; output waits, nothing is lost: {hint}"]
            )
        stuck.at = time.monotonic() + _PAUSE_S[min(stuck.tries, len(_PAUSE_S) - 1)]
        stuck.tries += 1
        self._open.drop(output.file)
        self._pause()

    def _retry(self) -> None:
        now = time.monotonic()
        for path, stuck in list(self._stuck.items()):
            if stuck.at > now:
                continue
            try:
                self._write(stuck.slot, stuck.output)
            except OSError as error:
                self._put_aside(stuck.slot, stuck.output, error)
                continue
            del self._stuck[path]
            self._free.append(stuck.slot)
            self._tell(["problem", f"the log {path} is written again; nothing was lost"])
        self._pause()

    def _pause(self) -> None:
        """Keep in the epoll exactly the streams that can go on: a slot is free, their file can be written."""
        for fd, output in self._outputs.items():
            wanted = self._going and bool(self._free) and output.info.path not in self._stuck
            if wanted and fd in self._paused:
                self._epoll.register(fd, select.EPOLLIN)
                self._paused.discard(fd)
            elif not wanted and fd not in self._paused:
                self._epoll.unregister(fd)
                self._paused.add(fd)

    def _ended(self, fd: int, output: Output) -> None:
        number = output.info.number
        if self._journal.midline(number):
            # An empty F piece ends the last words, so that the next run's first line is not joined to them.
            # Then we are here once more, for the end of file stays.
            slot = self._free.pop()
            slot.begin(number, self._journal.written(number), HELD)
            self._store(slot, output)
            return
        self._epoll.unregister(fd)
        os.close(fd)
        del self._outputs[fd], self._numbers[number]
        path = output.info.path
        self._users[path] -= 1
        if not self._users[path]:
            self._open.drop(self._files.pop(path))
            del self._users[path]
        self._tell(["drained", number])

    # --- recovery -------------------------------------------------------------------------------
    def _go(self) -> None:
        """All streams are back: finish what an earlier log writer left, then read on."""
        self._going = True
        for slot in self._journal.slots:
            state = slot.state
            if state == FREE:
                continue
            if state in (TAKE, READ):
                held = struct.unpack("i", fcntl.ioctl(self._hold_r, termios.FIONREAD, b"\0\0\0\0"))[0]
                if state == TAKE:
                    slot.taken = held
                    slot.state = READ if held else FREE
                if slot.state == READ:
                    self._read_held(slot, slot.taken - held)
            output = self._numbers.get(slot.stream)
            if output is None:
                self._tell(["problem", f"{slot.taken} bytes of output belong to no stream and are dropped"])
                slot.state = FREE
            if slot.state == FREE or output is None:
                self._free.append(slot)
            else:
                self._store(slot, output)
        self._pause()

    # --- the launcher ---------------------------------------------------------------------------
    def _control(self, fd: int, events: int) -> None:
        if fd == self._listener.fileno():
            self._accept()
        elif fd == self._wake_r:
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 512)
        elif self._sock is not None and fd == self._sock.fileno():
            if events & select.EPOLLOUT:
                self._flush()
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self._hear()

    def _listen(self) -> socket.socket:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket_path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mask = os.umask(0o177)
        try:
            listener.bind(self._socket_path)
        finally:
            os.umask(mask)
        listener.listen(4)
        listener.setblocking(False)
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        return listener

    def _accept(self) -> None:
        """A new launcher: it gets the journal, H and every stream. The newest connection is the launcher."""
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        uid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        if uid != os.geteuid():
            sock.close()
            return
        self._lose()
        self._use(sock)
        self._send(["hello", len(self._outputs), os.getpid()], self._shared)
        for fd, output in self._outputs.items():
            self._send(["stream", *output.info[:-1]], [fd])

    def _use(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _lose(self) -> None:
        if self._sock is not None:
            self._epoll.unregister(self._sock.fileno())
            self._sock.close()
            self._sock = None
            self._discard_unsent()
        if not self._going:
            # It died before it had told us everything: what it did tell is written.
            self._go()

    def _hear(self) -> None:
        while self._sock is not None:
            try:
                message, fds = receive(self._sock, 1)
            except BlockingIOError:
                return
            except (OSError, EOFError):
                self._lose()
                return
            match message:
                case ["attach", *fields] if len(fds) == 1:
                    self._attach(Stream._make([*fields, fds[0]]))
                case ["go"]:
                    self._go()
                case ["quit"]:
                    self._quitting = True
                case _:
                    self._tell(["problem", f"the log writer cannot understand {message!r}"])

    def _attach(self, info: Stream) -> None:
        file = self._files.get(info.path)
        if file is None:
            file = self._files[info.path] = LogFile(info.path, info.max_size_bytes, info.max_files)
        file.max_size_bytes, file.max_files = info.max_size_bytes, max(1, info.max_files)
        self._users[info.path] = self._users.get(info.path, 0) + 1
        output = Output(info, file)
        self._outputs[info.fd] = self._numbers[info.number] = output
        self._paused.add(info.fd)
        if self._going and self._free and info.path not in self._stuck:
            self._epoll.register(info.fd, select.EPOLLIN)
            self._paused.discard(info.fd)

    def _tell(self, message: list[Any]) -> None:
        self._send(message, [])

    def _send(self, message: list[Any], fds: list[int]) -> None:
        if self._sock is None:
            return
        # Own copies: a stream may end, and its descriptor close, before the message is out.
        self._unsent.append((json.dumps(message).encode(), [os.dup(fd) for fd in fds]))
        if len(self._unsent) == 1:
            self._flush()

    def _discard_unsent(self) -> None:
        for _, fds in self._unsent:
            for fd in fds:
                os.close(fd)
        self._unsent.clear()

    def _flush(self) -> None:
        sock = self._sock
        while sock is not None and self._unsent:
            data, fds = self._unsent[0]
            try:
                socket.send_fds(sock, [data], fds)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:
                    break
                self._discard_unsent()  # the hang-up is on its way
                return
            self._unsent.popleft()
            for fd in fds:
                os.close(fd)
        if sock is not None:
            self._epoll.modify(sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if self._unsent else 0))


def main(argv: list[str]) -> int:
    """Entry point of the process; see the module."""
    socket_path = argv[1]
    sock_fd, memory, hold_r, hold_w, lock = map(int, argv[2:7])
    for fd in (memory, hold_r, hold_w, lock):
        os.set_inheritable(fd, False)
    os.chdir("/")
    os.umask(0o027)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    # Nothing here makes reference cycles; a collection would only touch pages.
    gc.disable()
    LogWriter(socket_path, socket.socket(fileno=sock_fd), (memory, hold_r, hold_w, lock)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
