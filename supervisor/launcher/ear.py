"""What a run says of itself: datagrams as of sd_notify(3), or a newline on a descriptor as for s6.

The launcher listens, since it outlives the daemon. Both ends are files of a directory of the instance, which
is mounted into its runs: a launcher that comes after another makes the socket anew there, and opens the pipe
that the service still has. A datagram counts if its sender is in the run's cgroup, or has ended already: the
directory is nobody else's to reach.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from supervisor.launcher import plan

_MESSAGE_BYTES = 4096
_PER_TURN = 32
_KEPT = ("READY", "STATUS", "STOPPING", "WATCHDOG_USEC")
"""What a daemon that comes back has to know; of a watchdog it only has to hear from then on."""
_CREDENTIALS = struct.Struct("3i")
_SCM_CREDENTIALS = 2
_ANCILLARY = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(253 * 4)


class Ear:
    """One end to listen at. Owns its descriptor."""

    def __init__(self, path: str, *, fresh: bool) -> None:
        """fresh: what is there already is of an earlier run, and of no interest. Raises OSError."""
        directory, _, name = path.rpartition("/")
        os.makedirs(directory, 0o755, exist_ok=True)
        self.said: dict[str, str] = {}
        self.socket: socket.socket | None = None
        if name == plan.NOTIFY_PIPE:
            with contextlib.suppress(FileExistsError):
                os.mkfifo(path, 0o600)
            # For reading and writing: it has no end, whoever closes it.
            self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            while fresh and self._read_pipe():
                pass
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self.socket = made = socket.socket(socket.AF_UNIX, kind)
        place = -1
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            place = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            made.bind(f"/proc/self/fd/{place}/{name}")  # a path may be too long for an address
            os.chmod(path, 0o666)  # noqa: S103 - for every user of the service
        except OSError:
            made.close()
            raise
        finally:
            if place >= 0:
                os.close(place)
        self._fd = made.fileno()

    def fileno(self) -> int:
        """To watch."""
        return self._fd

    def hear(self, cgroup: str) -> str:
        """What is there, as one message. cgroup: path of the run's."""
        texts: list[str] = []
        for _ in range(_PER_TURN):
            text = self._read_pipe() if self.socket is None else self._receive(self.socket, cgroup)
            if text is None:
                break
            if text:
                texts.append(text)
        merged = dict(line.partition("=")[::2] for text in texts for line in text.splitlines())
        self.said.update({name: value for name, value in merged.items() if name in _KEPT})
        return _lines(merged)

    def kept(self) -> str:
        """What was said until now, as far as it still says something."""
        return _lines(self.said)

    def close(self) -> None:
        """Twice is no error."""
        if self.socket is not None:
            self.socket.close()
        elif self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _read_pipe(self) -> str | None:
        try:
            data = os.read(self._fd, _MESSAGE_BYTES)
        except BlockingIOError:
            return None
        return "READY=1" if b"\n" in data else ""

    @staticmethod
    def _receive(receiving: socket.socket, cgroup: str) -> str | None:
        try:
            data, ancillary, _, _ = receiving.recvmsg(_MESSAGE_BYTES, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return None
        pid = 0
        for level, kind, body in ancillary:
            if level != socket.SOL_SOCKET:
                continue
            if kind == socket.SCM_RIGHTS:
                # Of a barrier, which is answered by closing it; or to be kept, which is not done here.
                for (fd,) in struct.iter_unpack("i", body[: len(body) // 4 * 4]):
                    os.close(fd)
            elif kind == _SCM_CREDENTIALS:
                pid, _, _ = _CREDENTIALS.unpack(body[: _CREDENTIALS.size])
        return data.decode(errors="replace") if _is_of(pid, cgroup) else ""


def _lines(said: dict[str, str]) -> str:
    return "\n".join(f"{name}={value}" for name, value in said.items() if name)


def _is_of(pid: int, cgroup: str) -> bool:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="ascii", errors="replace") as file:
            paths = [line.rstrip("\n").split(":", 2)[2] for line in file]
    except OSError:
        return pid > 0  # it has ended
    return any(f"{path}/".startswith(f"/{cgroup}/") for path in paths)
