"""A disk that fills up while an image is pulled or built: one line says so, and the store works on."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from registries import needs_registry, registry
from test_registry import Host, archive, make_host

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox on this machine"),
]
MEBIBYTE = 1024 * 1024


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """Its state is on a disk of 420 MiB; 256 stay free, whatever is unpacked."""
    made = make_host(tmp_path / "host")
    state = made.base / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=420m", "none", str(state)], check=True)
    yield made
    subprocess.run(["umount", str(state)], check=True)


def fill(state: Path, left_bytes: int) -> Path:
    """Take all of the disk but so much."""
    disk = os.statvfs(state)
    filler = state / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - left_bytes)
    return filler


def with_base(host: Host) -> None:
    busybox = Path(shutil.which("busybox") or "").read_bytes()
    archive(host.base / "base.tar", {"bin/sh": busybox}, name="base:1", mode=0o755)
    host.ok("load", "-i", "base.tar")


@needs_registry
def test_a_pull_onto_a_full_disk(host: Host, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as server:
        other = make_host(tmp_path / "other")
        name = f"{server.host}/big:1"
        archive(other.base / "big.tar", {"big": os.urandom(40 * MEBIBYTE)}, {"more": b"m"}, name=name)
        other.ok("load", "-i", "big.tar")
        other.ok("push", name)
        with_base(host)
        for left in (4 * MEBIBYTE, 60 * MEBIBYTE):  # in the middle of a blob; while it is unpacked
            filler = fill(host.base / "state", left)
            result = host.run("pull", name)
            assert result.returncode == 1
            assert "o space left" in result.stderr, result.stderr
            assert "Traceback" not in result.stderr
            filler.unlink()
            assert host.ok("images", "-q").count("\n") == 1
            host.ok("save", "-o", f"{tmp_path}/base.tar", "base:1")
        host.ok("pull", name)
        host.ok("image", "prune", "-f")
        host.ok("save", "-o", f"{tmp_path}/big.tar", name)


def test_a_build_on_a_full_disk(host: Host) -> None:
    """In COPY, and in RUN; the same build is done when there is room."""
    with_base(host)
    context = host.base / "context"
    context.mkdir()
    (context / "big").write_bytes(os.urandom(8 * MEBIBYTE))
    run = "while :; do echo 0123456789abcdef0123456789abcdef || exit 3; done > /filled"
    for text in ("COPY big /\n", f"RUN {run}\n"):
        (context / "Dockerfile").write_text(f"FROM base:1\n{text}")
        filler = fill(host.base / "state", 2 * MEBIBYTE)
        result = host.run("build", "-t", "made", "--network", "none", str(context))
        assert result.returncode == 1, result.stderr
        assert "o space left" in result.stderr, result.stderr
        assert "Traceback" not in result.stderr
        filler.unlink()
        host.ok("save", "-o", f"{host.base}/base2.tar", "base:1")
    (context / "Dockerfile").write_text("FROM base:1\nCOPY big /\nRUN echo x > /x\n")
    host.ok("build", "-t", "made", "--network", "none", str(context))
    host.ok("image", "prune", "-f", "--build-cache")
    assert host.ok("images", "-q").count("\n") == 2
    host.ok("save", "-o", f"{host.base}/made.tar", "made")
