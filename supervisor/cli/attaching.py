"""A container on these pipes or on this terminal: for `run` and `attach`."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from socket import SHUT_RDWR, SHUT_WR, socket
from typing import Any

from supervisor.cli import output
from supervisor.cli.client import Client, Pending
from supervisor.cli.context import DAEMON_FAILED
from supervisor.cli.detachkeys import DetachKeys
from supervisor.cli.errors import ApiError, UnreachableError
from supervisor.cli.terminal import BLOCK, copy_frames, copy_raw, raw_terminal, terminal_size

NEVER_BEGAN = 128
_SIGNALS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attachment:
    """How. keys: bytes that detach from a terminal. sig_proxy: signals to us are passed on to it.

    waits: its start may wait for others; until then a signal ends this command.
    """

    container: str
    stdin: bool
    tty: bool
    keys: bytes
    sig_proxy: bool = True
    condition: str = "next-exit"
    waits: bool = False

    @property
    def on_terminal(self) -> bool:
        """Our own terminal becomes its."""
        return self.tty and self.stdin and sys.stdin.isatty()


def attached(client: Client, wanted: Attachment, start: Callable[[], object] | None = None) -> int:
    """Attach, start it if that is to be done, and stay until its end, or until the keys let go of it.

    The exit code: its own; 0 if it was let go of; 125 if it did not begin or the daemon went away. Raises
    ApiError, UnreachableError.
    """
    path = f"/containers/{wanted.container}"
    streams = {"stream": 1, "stdin": int(wanted.stdin), "stdout": 1, "stderr": 1}
    raw = client.hijack(f"{path}/attach", b"", streams)
    # Its head is an answer that counts: from here on no end is missed.
    ending = client.begin("POST", f"{path}/wait", {"condition": wanted.condition})
    detached, begun = threading.Event(), threading.Event()
    if not wanted.waits:
        begun.set()
    with _signals(client, wanted, begun), raw_terminal(0) if wanted.on_terminal else contextlib.nullcontext():
        if start is not None:
            try:
                start()
            except ApiError as error:
                output.print_error(str(error))
                if error.status == 409:
                    return DAEMON_FAILED  # no run of it has begun, and none will end
                code = _code(ending)
                return DAEMON_FAILED if code is None or code >= NEVER_BEGAN else code
        begun.set()
        if wanted.on_terminal:
            _resize(client, wanted)
        if wanted.stdin:
            keys = DetachKeys(wanted.keys) if wanted.tty else None
            threading.Thread(target=_feed, args=(raw.sock, keys, detached), daemon=True).start()
        with contextlib.suppress(ConnectionError):
            (copy_raw if wanted.tty else copy_frames)(raw)
        code = 0 if detached.is_set() else _code(ending)
    if detached.is_set():
        what = wanted.container[:12]
        output.print_error(f"left; what runs in {what} runs on, and `shipkeeper attach {what}` comes back")
    if code is None:
        output.print_error(f"the daemon went away; what runs in {wanted.container[:12]} runs on")
        return DAEMON_FAILED
    return code


def _code(ending: Pending) -> int | None:
    try:
        return int(ending.result()["StatusCode"])
    except (ApiError, UnreachableError):
        return None


@contextlib.contextmanager
def _signals(client: Client, wanted: Attachment, begun: threading.Event) -> Iterator[None]:
    """Pass signals on, or end by them; in each case the terminal is put back."""

    def pass_on(number: int, frame: Any) -> None:
        if not begun.is_set():
            end(number, frame)
        with contextlib.suppress(ApiError, UnreachableError):
            client.call("POST", f"/containers/{wanted.container}/kill", {"signal": number})

    def end(number: int, _frame: Any) -> None:
        sys.exit(128 + number)

    handlers: dict[int, Any] = dict.fromkeys(_SIGNALS, pass_on if wanted.sig_proxy else end)
    if wanted.on_terminal:
        handlers[signal.SIGWINCH] = lambda _number, _frame: _resize(client, wanted)
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _resize(client: Client, wanted: Attachment) -> None:
    """It may not have begun, or have ended."""
    height, width = terminal_size()
    with contextlib.suppress(ApiError, UnreachableError):
        client.call("POST", f"/containers/{wanted.container}/resize", {"h": height, "w": width})


def _feed(sock: socket, keys: DetachKeys | None, detached: threading.Event) -> None:
    """What comes on stdin, until its end or the keys."""
    with contextlib.suppress(OSError):
        while data := os.read(0, BLOCK):
            over = False
            if keys is not None:
                data, over = keys.typed(data)
            sock.sendall(data)
            if over:
                detached.set()
                sock.shutdown(SHUT_RDWR)
                return
        sock.shutdown(SHUT_WR)
