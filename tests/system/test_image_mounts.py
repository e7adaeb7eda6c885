"""Mounts of images: their files inside a service, to read only."""

from __future__ import annotations

import os
import shutil

import pytest
from supervising import Supervisor
from test_images import root_archive

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox on this machine"),
]


def image(supervisor: Supervisor, name: str, version: str) -> None:
    (supervisor.base / "root.tgz").write_bytes(root_archive(version))
    supervisor.ok("import", "root.tgz", name)


def project(supervisor: Supervisor) -> None:
    supervisor.compose(
        "name: p\nservices:\n  web:\n    command: sleep 1000\n    stop_signal: SIGKILL\n"
        "    network_mode: none\n    volumes:\n"
        "    - {type: image, source: 'tools:1', target: /opt/tools}\n"
        "    - {type: image, source: 'tools:1', target: /opt/etc, image: {subpath: etc}}\n"
        "    - {type: image, source: 'tools:1', target: /opt/file, image: {subpath: etc/version}}\n"
    )


def test_an_image_is_mounted_whole_or_in_part(clean: Supervisor) -> None:
    """It is held as long as the service is there; another one of its name is another definition."""
    image(clean, "tools:1", "7")
    project(clean)
    clean.ok("up", "-d")
    inside = ("exec", "web")
    assert clean.ok(*inside, "cat", "/opt/tools/etc/version", "/opt/etc/version", "/opt/file") == "777"
    assert clean.ok(*inside, "ls", "/opt/etc").split() == ["passwd", "version"]
    written = clean.run(*inside, "touch", "/opt/tools/x", "/opt/etc/version", "/opt/file")
    assert written.stderr.count("Read-only file system") == 3
    assert clean.ok("cp", "web:/opt/etc/version", "-")  # also of one that runs
    refused = clean.run("rmi", "tools:1")
    assert refused.returncode == 1
    assert "p-web-1 uses it" in refused.stderr
    clean.ok("image", "prune", "-a", "-f")
    clean.ok("stop", "web")
    clean.ok("start", "web")
    assert clean.ok(*inside, "cat", "/opt/file") == "7"
    image(clean, "tools:1", "8")
    assert "its definition has changed" in clean.ok("up", "-d")
    assert clean.ok(*inside, "cat", "/opt/file") == "8"
    clean.ok("down")
    clean.ok("rmi", "tools:1")


def test_what_is_not_there_is_said_before_anything_is_touched(clean: Supervisor) -> None:
    """An image that nobody has, and a path that it has not."""
    project(clean)
    missing = clean.run("up", "-d", "--pull", "never")
    assert missing.returncode == 1
    assert "tools:1" in missing.stderr
    assert clean.rows() == []
    image(clean, "tools:1", "7")
    compose = clean.base / "compose.yaml"
    compose.write_text(compose.read_text().replace("subpath: etc/version", "subpath: etc/gone"))
    result = clean.run("up", "-d")
    assert "the image has no etc/gone" in result.stdout + result.stderr
    clean.ok("down")
    clean.ok("rmi", "tools:1")


def test_run_mounts_an_image(clean: Supervisor) -> None:
    """As Docker's --mount has it."""
    image(clean, "tools:1", "7")
    image(clean, "base:1", "base")
    mount = "type=image,source=tools:1,target=/opt/etc,image-subpath=etc"
    assert clean.ok("run", "--rm", "--mount", mount, "base:1", "/bin/cat", "/opt/etc/version") == "7"
    clean.ok("rmi", "tools:1", "base:1")
