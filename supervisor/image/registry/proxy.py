"""Blobs of an image in a registry, one at a time, through `skopeo experimental-image-proxy`.

So each blob's bytes are seen as they come, and blobs that are here are not fetched. Protocol: skopeo,
cmd/skopeo/proxy.go: JSON requests and answers on a SOCK_SEQPACKET socket, content through pipes that come
with an answer. It is called experimental; the methods used here are those of its version 0.2.3.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

from supervisor.core.reference import Reference
from supervisor.image.registry.skopeo import RegistryError, Skopeo, address, shorten, tls

_MESSAGE_BYTES = 64 * 1024
_CHUNK_BYTES = 1024 * 1024


class RemoteImage:
    """An image that is open; `opened` makes it. One blob at a time."""

    def __init__(self, skopeo: Skopeo, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self._skopeo = skopeo
        self._process = process
        self._channel = channel
        self._image = 0

    def open(self, reference: Reference) -> None:
        """Raises RegistryError."""
        self._ask("Initialize")
        self._image = int(self._ask("OpenImage", address(reference))[0]["value"])

    def abort(self) -> None:
        """End it; whoever reads gets an error."""
        self._process.kill()

    def blob(self, digest: str, size: int, write: Callable[[bytes], object]) -> None:
        """Read one; no more of it than `size`. Its digest is the caller's to check. Raises RegistryError."""
        answer, fds = self._ask("GetBlob", self._image, digest, size)
        if len(fds) != 1:
            raise RegistryError("skopeo sent no content; is it older than 1.9?")
        pipe = fds[0]
        try:
            # skopeo closes its end only in FinishPipe, which waits for the last byte or for a failure. Asked
            # ahead, a connection that breaks is the end of the pipe, and not silence.
            self._send("FinishPipe", answer["pipeid"])
            self._copy(pipe, digest, size, write)
        finally:
            os.close(pipe)
        self._answer()

    def _copy(self, pipe: int, digest: str, size: int, write: Callable[[bytes], object]) -> None:
        poll = select.poll()
        poll.register(pipe, select.POLLIN | select.POLLHUP)
        left = size
        silence_s = self._skopeo.access.silence_s
        while True:
            if not poll.poll(silence_s * 1000):
                raise RegistryError(f"the registry sent nothing for {silence_s:g} s")
            data = os.read(pipe, _CHUNK_BYTES)
            self._skopeo.check_cancelled()
            if not data:
                return
            left -= len(data)
            if left < 0:
                raise RegistryError(f"blob {digest} is larger than the {size} bytes that its manifest says")
            write(data)

    def _ask(self, method: str, *arguments: object) -> tuple[dict[str, Any], list[int]]:
        self._send(method, *arguments)
        return self._answer()

    def _send(self, method: str, *arguments: object) -> None:
        try:
            self._channel.send(json.dumps({"method": method, "args": arguments}).encode())
        except OSError as error:
            self._skopeo.check_cancelled()
            raise RegistryError(f"skopeo went away: {error}") from error

    def _answer(self) -> tuple[dict[str, Any], list[int]]:
        try:
            data, fds, _, _ = socket.recv_fds(self._channel, _MESSAGE_BYTES, 1)
        except TimeoutError:
            raise RegistryError(
                f"the registry did not answer within {self._skopeo.access.answer_s:g} s"
            ) from None
        except OSError as error:
            self._skopeo.check_cancelled()
            raise RegistryError(f"skopeo went away: {error}") from error
        if not data:
            self._skopeo.check_cancelled()
            raise RegistryError("skopeo went away")
        answer = json.loads(data)
        if not answer["success"]:
            for fd in fds:
                os.close(fd)
            raise RegistryError(shorten(str(answer["error"])))
        return answer, fds


@contextlib.contextmanager
def opened(skopeo: Skopeo, reference: Reference) -> Iterator[RemoteImage]:
    """An image of a registry, open while the context lasts. Raises RegistryError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arguments = ("experimental-image-proxy", "--sockfd", str(theirs.fileno()), *tls(reference.domain))
    with ours, contextlib.ExitStack() as stack:
        try:
            process = stack.enter_context(
                skopeo.started(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                )
            )
        finally:
            theirs.close()
        assert process.stderr is not None
        # What it warns of is nobody's; a full pipe would stop it.
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        try:
            ours.settimeout(skopeo.access.answer_s)
            image = RemoteImage(skopeo, process, ours)
            image.open(reference)
            yield image
        finally:
            process.kill()
            drain.join()
