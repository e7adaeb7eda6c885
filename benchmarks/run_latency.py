"""`run --rm IMAGE true` over the API: one process that keeps its connections, as a library client would.

The same requests go to a daemon of ours and, where docker.io is installed, to a dockerd of its own, in turn:
create, attach, wait (removed), start, and then the output to its end and the removal. Beside them, a start of
the same program without any isolation.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.builders import busybox_root, missing
from benchmarks.ours import load_average, ours
from benchmarks.peers.dockerd import CLIENT, engine
from benchmarks.supervised import machine, show

PARTS = ("create", "attach", "wait sent", "start", "output's end", "removed", "all")
_PAUSE_S = 0.1
_DOCUMENT = {
    "Image": "bench",
    "Cmd": ["/bin/true"],
    "AttachStdout": True,
    "AttachStderr": True,
    "HostConfig": {"AutoRemove": True, "NetworkMode": "host"},
}


class _Kept(http.client.HTTPConnection):
    """A connection to a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """See HTTPConnection."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)

    def ask(self, path: str, document: object = None) -> http.client.HTTPResponse:
        """A POST; its answer begins. Raises RuntimeError where it is refused."""
        body = b"" if document is None else json.dumps(document).encode()
        self.request("POST", f"/v1.41{path}", body, {"Content-Type": "application/json"})
        answer = self.getresponse()
        if answer.status >= 400:
            raise RuntimeError(f"{path}: {answer.status} {answer.read().decode()}")
        return answer


class Client:
    """Connections to one daemon."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._calls, self._waits = _Kept(path), _Kept(path)

    def run(self) -> dict[str, float]:
        """One container; seconds of each part."""
        times = [time.monotonic()]
        made = json.loads(self._calls.ask("/containers/create", _DOCUMENT).read())["Id"]
        times.append(time.monotonic())
        attached = socket.socket(socket.AF_UNIX)
        attached.connect(self._path)
        attached.sendall(
            f"POST /v1.41/containers/{made}/attach?stream=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: x\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += attached.recv(4096)
        times.append(time.monotonic())
        ending = self._waits.ask(f"/containers/{made}/wait?condition=removed")
        times.append(time.monotonic())
        self._calls.ask(f"/containers/{made}/start").read()
        times.append(time.monotonic())
        while attached.recv(4096):
            pass
        times.append(time.monotonic())
        assert json.loads(ending.read())["StatusCode"] == 0
        times.append(time.monotonic())
        attached.close()
        spans = [after - before for before, after in itertools.pairwise(times)]
        return dict(zip(PARTS, [*spans, times[-1] - times[0]], strict=True))


@contextlib.contextmanager
def _peer(base: Path) -> Iterator[Client | None]:
    """A dockerd with the image; None where there is none."""
    if why := missing("dockerd"):
        print(why)
        yield None
        return
    with engine(base) as address:
        command = [CLIENT, "-H", address, "import", str(base / "root.tar"), "bench"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        yield Client(f"{base}/docker.sock")


def main() -> None:
    """Print minimum, median and p99 of the whole, and the medians of its parts."""
    parser = argparse.ArgumentParser(description="run latency")
    parser.add_argument("--rounds", type=int, default=50)
    rounds = parser.parse_args().rounds
    machine()
    with tempfile.TemporaryDirectory(prefix="bench-run-") as directory, ours() as world:
        base = Path(directory)
        (base / "root.tar").write_bytes(busybox_root())
        world.run("import", str(base / "root.tar"), "bench")
        with _peer(base) as peer:
            clients = {"shipkeeper": Client(f"{world.base}/run/shipkeeper.sock")}
            if peer is not None:
                clients["dockerd"] = peer
            took: dict[str, list[dict[str, float]]] = {name: [] for name in clients}
            plain = []
            for number in range(rounds + 2):
                for name, client in clients.items():
                    time.sleep(_PAUSE_S)
                    spans = client.run()
                    if number >= 2:  # the first ones warm up
                        took[name].append(spans)
                began = time.monotonic()
                subprocess.run([shutil.which("busybox") or "", "true"], check=True)
                plain.append(time.monotonic() - began)
            print(f"load {load_average()}")
    for name, runs in took.items():
        show(f"{name}: create to removed", [spans["all"] for spans in runs])
        medians = {part: sorted(spans[part] for spans in runs)[len(runs) // 2] for part in PARTS}
        print("  " + ", ".join(f"{part} {1000 * medians[part]:.1f}" for part in PARTS) + " (medians, ms)")
    show("the program without isolation", plain)


if __name__ == "__main__":
    main()
