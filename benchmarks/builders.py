"""Who builds images: ours, and its peers from Debian's packages, each with a store of its own."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.ours import COMMAND, answering, environment
from benchmarks.peers.dockerd import CLIENT, engine


@dataclass(frozen=True, slots=True)
class Builder:
    """One of them. build: the command before its context; the Dockerfile is in there. load: reads stdin."""

    name: str
    build: tuple[str, ...]
    load: tuple[str, ...]
    run: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    from_file: bool = False

    def timed(self, command: Sequence[str], log: Path, stdin: Path | None = None) -> float:
        """Run a command to its end; the seconds that it took. Raises RuntimeError with its last lines."""
        with contextlib.ExitStack() as stack:
            output = stack.enter_context(log.open("wb"))
            source = stack.enter_context(stdin.open("rb")) if stdin is not None else subprocess.DEVNULL
            began = time.perf_counter()
            done = subprocess.run(
                command,
                stdin=source,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                check=False,
            )
            took = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(command)}: {log.read_text()[-800:]}")
        return took


@contextlib.contextmanager
def ours(base: Path) -> Iterator[Builder]:
    """Shipkeeper, with a daemon for `run`."""
    variables = environment(base)
    with answering(base, variables):
        yield Builder(
            "shipkeeper",
            (*COMMAND, "build", "--progress", "plain", "-t", "bench"),
            (*COMMAND, "load"),
            (*COMMAND, "run", "--rm", "--network", "host"),
            variables,
        )


@contextlib.contextmanager
def dockerd(base: Path, *, buildkit: bool) -> Iterator[Builder]:
    """Debian's docker.io; its own client, for others need a plug-in to build."""
    with engine(base) as address:
        yield Builder(
            "dockerd, BuildKit" if buildkit else "dockerd, classic",
            (CLIENT, "build", "--network", "host", "-t", "bench"),
            (CLIENT, "load"),
            (CLIENT, "run", "--rm", "--network", "host"),
            {"DOCKER_HOST": address, "DOCKER_BUILDKIT": "1" if buildkit else "0"},
        )


@contextlib.contextmanager
def buildah(base: Path) -> Iterator[Builder]:
    """Debian's buildah, with layers, which are its cache. It has no `run` of an image."""
    storage = ("--root", f"{base}/storage", "--runroot", f"{base}/run", "--storage-driver", "overlay")
    command = ("buildah", *storage)
    yield Builder(
        "buildah",
        (*command, "build", "--layers", "--network", "host", "--isolation", "chroot", "-t", "bench"),
        (*command, "pull", "--quiet"),
        (),
        from_file=True,
    )


def busybox_root() -> bytes:
    """An archive of a root with a busybox and its names."""
    program = shutil.which("busybox")
    if program is None:
        raise SystemExit("cannot measure: no busybox (apt-get install busybox-static)")
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        for directory in ("bin", "tmp", "etc"):
            made = tarfile.TarInfo(directory)
            made.type, made.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(made)
        tar.add(program, "bin/busybox")
        for name in ("sh", "echo", "true"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return output.getvalue()


def missing(name: str) -> str:
    """Why a peer cannot take part; "" if it can."""
    programs = (CLIENT, "dockerd") if name == "dockerd" else (name,)
    package = "docker.io" if name == "dockerd" else name
    lacks = [program for program in programs if shutil.which(program) is None]
    return f"{name}: no {', no '.join(lacks)} (apt-get install {package})" if lacks else ""
