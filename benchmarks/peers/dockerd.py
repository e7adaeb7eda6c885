"""Debian's docker.io, a daemon of its own without bridge and iptables; services in the host's network."""

from __future__ import annotations

import contextlib
import io as streams
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

NAME = "dockerd"
SETTLE_S = 10.5  # shorter runs double its delay of 0.1 s
CLIENT = "/usr/bin/docker"
_START_S = 60.0


def missing() -> str:
    """Why it cannot take part; "" if it can."""
    return "" if shutil.which("dockerd") and os.path.exists(CLIENT) else "no dockerd (docker.io)"


@contextlib.contextmanager
def running(base: Path, io: Path, names: list[str]) -> Iterator[None]:
    """An empty image, a container for each, eight clients at a time."""
    with engine(base) as address:
        client = [CLIENT, "-H", address]
        subprocess.run([*client, "import", "-", "bench"], input=_empty(), check=True, capture_output=True)
        options = ["--restart=always", "--network=host", "-v", f"{io}:/io"]
        waiting = list(names)
        clients: list[subprocess.Popen[bytes]] = []
        while waiting or clients:
            while waiting and len(clients) < 8:
                name = waiting.pop(0)
                run = [*client, "run", "-d", f"--name={name}", *options, "bench", "/io/probe", name, "/io/up"]
                clients.append(subprocess.Popen(run, stdout=subprocess.DEVNULL))
            clients.pop(0).wait()
        yield
        containers = subprocess.run([*client, "ps", "-aq"], check=True, capture_output=True, text=True).stdout
        subprocess.run([*client, "rm", "-f", *containers.split()], check=True, capture_output=True)


@contextlib.contextmanager
def engine(
    base: Path,
    options: tuple[str, ...] = ("--bridge=none", "--iptables=false"),
    before: tuple[str, ...] = (),
) -> Iterator[str]:
    """A dockerd that answers, with all it keeps below `base`; its address.

    before: words before its command, which become it. Raises RuntimeError.
    """
    address = f"unix://{base}/docker.sock"
    places = [f"--data-root={base}/data", f"--exec-root={base}/exec", f"--pidfile={base}/pid"]
    with (base / "dockerd.log").open("wb") as log:
        command = [*before, "dockerd", *places, f"--host={address}", *options]
        daemon = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _START_S
        while subprocess.run([CLIENT, "-H", address, "info"], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline or daemon.poll() is not None:
                raise RuntimeError(f"dockerd does not answer: {(base / 'dockerd.log').read_text()[-500:]}")
            time.sleep(0.1)
        yield address
    finally:
        daemon.terminate()
        daemon.wait()
        # Its default network namespace, which it leaves mounted.
        subprocess.run(["umount", "-l", f"{base}/exec/netns/default"], capture_output=True, check=False)


def _empty() -> bytes:
    """A root with a place for the probe."""
    made = streams.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        member = tarfile.TarInfo("io")
        member.type, member.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(member)
    return made.getvalue()
