"""Registries for tests: Debian's docker-registry on loopback, and a door before one that can be shut."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PATIENCE_S = 60.0
needs_registry = pytest.mark.skipif(
    shutil.which("docker-registry") is None or shutil.which("skopeo") is None,
    reason="no docker-registry or no skopeo on this machine; deploy/bootstrap.sh test gets both",
)
ACCOUNT = ("somebody", "secret")
_HTPASSWD = "somebody:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


@dataclass(slots=True)
class Registry:
    """A running docker-registry."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def put(self, path: str, kind: str, body: bytes) -> None:
        """PUT something, as a manifest."""
        request = urllib.request.Request(
            f"http://{self.host}/v2/{path}", body, {"Content-Type": kind}, method="PUT"
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S):
            pass

    def get(self, path: str, accept: str) -> bytes:
        request = urllib.request.Request(f"http://{self.host}/v2/{path}", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return bytes(response.read())


@contextlib.contextmanager
def registry(base: Path, *, account: bool = False) -> Iterator[Registry]:
    """A docker-registry whose files are below `base`. account: it wants ACCOUNT's password."""
    base.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    auth = ""
    if account:
        (base / "htpasswd").write_text(_HTPASSWD)
        auth = f"auth: {{htpasswd: {{realm: test, path: {base}/htpasswd}}}}\n"
    (base / "config.yml").write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {base}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n{auth}"
    )
    with (base / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(base / "config.yml")], stdout=log, stderr=log
        )
    try:
        while True:
            assert process.poll() is None, (base / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), PATIENCE_S):
                break
        yield Registry(port, process)
    finally:
        process.kill()
        process.wait(PATIENCE_S)


@dataclass(slots=True)
class Door:
    """Passes connections on to a registry; shut after so many bytes of answers, or at once."""

    server: socket.socket
    target: int
    limit: int | None = None
    requests: list[str] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)
    broken: bool = False
    sockets: list[socket.socket] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server.getsockname()[1]}"

    def hold_after(self, count: int) -> None:
        """Let `count` bytes of answers pass on each connection, then none until `open`."""
        self.limit = count
        self.held.clear()
        self.opened.clear()

    def open(self) -> None:
        self.limit = None
        self.opened.set()

    def break_off(self) -> None:
        """Cut every connection; later ones are cut as well."""
        self.broken = True
        self.cut()

    def cut(self) -> None:
        for each in list(self.sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        self.opened.set()

    def blobs_asked(self) -> list[str]:
        """Digests of the blobs that were asked for, in order."""
        found = [re.match(r"GET \S*/blobs/(sha256:\w+)", line) for line in self.requests]
        return [match[1] for match in found if match]

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            if self.broken:
                client.close()
                continue
            upstream = socket.create_connection(("127.0.0.1", self.target))
            self.sockets += [client, upstream]
            threading.Thread(target=self._pass, args=(client, upstream, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(upstream, client, True), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(16384):
                passed += len(data)
                if answers and self.limit is not None and passed > self.limit:
                    self.held.set()
                    self.opened.wait(PATIENCE_S)
                else:
                    lines = data.decode(errors="replace").splitlines()
                    self.requests += [line for line in lines if line.startswith("GET ")]
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def door(target: Registry) -> Iterator[Door]:
    """A door before a registry; closed with everything that went through it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        made = Door(server, target.port)
        thread = threading.Thread(target=made.accept, daemon=True)
        thread.start()
        try:
            yield made
        finally:
            made.cut()
            server.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE_S)
            for each in made.sockets:
                each.close()
