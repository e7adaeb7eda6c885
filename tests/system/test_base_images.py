"""Where FROM finds an image: the store, a registry, a recipe of this host; what is said if none has it."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from registries import door, needs_registry, registry
from supervising import Supervisor
from test_registry import Host, archive, make_host, push

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    needs_registry,
]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path / "host")


def build(host: Host, dockerfile: str, *options: str) -> str:
    """Build it; what was said."""
    context = host.base / "context"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(dockerfile)
    result = host.run("build", "--progress", "plain", *options, "-t", "made", str(context))
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_a_base_comes_from_its_registry_once(host: Host, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as server, door(server) as between:
        digest = push(make_host(tmp_path / "other"), f"{server.host}/base:1", {"a": b"1"})
        dockerfile = f"FROM {between.host}/base:1\nLABEL x=1\n"
        assert f"registry {between.host}, {digest}" in build(host, dockerfile)
        (view,) = json.loads(host.ok("image", "inspect", "made"))
        assert view["Config"]["Labels"]["org.opencontainers.image.base.digest"] == digest
        asked = len(between.requests)
        build(host, dockerfile)
        assert len(between.requests) == asked, "what is here is not asked for"
        build(host, dockerfile, "--pull")
        assert len(between.requests) > asked


def test_a_recipe_is_built_where_no_registry_has_the_image(host: Host) -> None:
    recipe = host.base / "recipe"
    recipe.mkdir()
    (recipe / "Dockerfile").write_text("FROM scratch\nCOPY file /\n")
    (recipe / "file").write_text("1")
    (host.base / "shipkeeper.yaml").write_text(f"image_recipes: {{'127.0.0.1:1/base:1': {recipe}}}\n")
    said = build(host, "FROM 127.0.0.1:1/base:1\nLABEL x=1\n")
    assert "connection refused; making it of the recipe" in said
    (view,) = json.loads(host.ok("image", "inspect", "127.0.0.1:1/base:1"))
    labels = view["Config"]["Labels"]
    assert labels["io.shipkeeper.recipe"] == "127.0.0.1:1/base:1"
    assert labels["io.shipkeeper.recipe.digest"].startswith("sha256:")
    assert "making it" not in build(host, "FROM 127.0.0.1:1/base:1\nLABEL x=2\n"), "now it is in the store"


def test_one_message_says_what_each_said(host: Host) -> None:
    context = host.base / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM 127.0.0.1:1/base:1\n")
    result = host.run("build", "--progress", "plain", str(context))
    assert result.returncode == 1
    (said,) = [line for line in result.stderr.splitlines() if line.startswith("shipkeeper: ")]
    for part in (
        "cannot find image 127.0.0.1:1/base:1: store: it is not there; registry: ",
        "connection refused; recipe: image_recipes has no recipe of that name; `shipkeeper load`",
    ):
        assert part in said


def test_an_image_for_another_platform_is_not_this_hosts(host: Host) -> None:
    archive(host.base / "app.tar", {"a": b"1"}, name="127.0.0.1:1/base:1")
    host.ok("load", "-i", "app.tar")
    context = host.base / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM --platform=linux/arm64 127.0.0.1:1/base:1\n")
    assert "cannot find image" in host.run("build", str(context)).stderr
    build(host, "FROM --platform=linux/amd64 127.0.0.1:1/base:1\nLABEL x=1\n")


def test_up_gets_what_its_services_stand_on(supervisor: Supervisor, tmp_path: Path) -> None:
    """By pull_policy: what is missing, always, or never."""
    with registry(tmp_path / "registry") as server, door(server) as between:
        busybox = Path(shutil.which("busybox") or "").read_bytes()
        other = make_host(tmp_path / "other")
        archive(other.base / "app.tar", {"busybox": busybox}, name=f"{server.host}/app:1", mode=0o755)
        other.ok("load", "-i", "app.tar")
        other.ok("push", f"{server.host}/app:1")
        line = "network_mode: none, stop_signal: SIGKILL, command: [/busybox, sleep, '1000']"
        supervisor.compose(f"services: {{web: {{image: '{between.host}/app:1', {line}}}}}\n")
        assert supervisor.run("up", "-d", "--pull", "never").returncode == 1
        assert between.requests == []
        assert supervisor.ok("up", "--dry-run") == f"pull     {between.host}/app:1: by its pull policy\n"
        supervisor.ok("up", "-d", "--wait")
        asked = len(between.requests)
        assert asked
        supervisor.ok("up", "-d")
        assert len(between.requests) == asked
        supervisor.ok("up", "-d", "--pull", "always")
        assert len(between.requests) > asked
        supervisor.compose(
            f"services: {{web: {{image: '{between.host}/app:1', pull_policy: always, {line}}}}}\n"
        )
        asked = len(between.requests)
        assert "unchanged" in supervisor.ok("up", "-d")
        assert len(between.requests) > asked
        for policy, asks in (("daily", False), ("every_0s", True)):
            supervisor.compose(
                f"services: {{web: {{image: '{between.host}/app:1', pull_policy: {policy}, {line}}}}}\n"
            )
            asked = len(between.requests)
            supervisor.ok("up", "-d")
            assert (len(between.requests) > asked) is asks, policy
        name = f"{between.host}/app:1"
        supervisor.ok("tag", name, name)  # its name was given here now
        supervisor.compose(f"services: {{web: {{image: '{name}', pull_policy: weekly, {line}}}}}\n")
        supervisor.ok("up", "-d")
        assert len(between.requests) > asked


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("mmdebstrap") is None, reason="no mmdebstrap on this machine")
def test_debian_is_made_of_its_packages_and_is_the_same_each_time(host: Host, tmp_path: Path) -> None:
    (host.base / "registries.conf").write_text(
        '[[registry]]\nprefix = "docker.io"\nlocation = "127.0.0.1:1"\n'
    )
    (host.base / "shipkeeper.yaml").write_text(f"registries: {host.base}/registries.conf\n")
    digests = []
    for base in (host, make_host(tmp_path / "other")):
        shutil.copy(host.base / "shipkeeper.yaml", base.base / "new.yaml")
        (base.base / "new.yaml").replace(base.base / "shipkeeper.yaml")
        base.patience_s = 280
        # The second as the Dockerfiles of databases do that want the languages.
        said = build(
            base,
            "FROM debian:bookworm-slim\nRUN apt-get --version\n"
            "RUN grep -q /usr/share/locale /etc/dpkg/dpkg.cfg.d/docker"
            " && ! ls /etc/dpkg/dpkg.cfg.d | grep mmdeb\n",
        )
        assert "connection refused" in said, "the file of the settings says where docker.io is"
        (view,) = json.loads(base.ok("image", "inspect", "debian:bookworm-slim"))
        digests.append(view["Id"])
    assert digests[0] == digests[1]
    host.ok("save", "-o", "debian.tar", "debian:bookworm-slim")
    with tarfile.open(host.base / "debian.tar") as saved:
        assert sum(member.name.startswith("blobs/") for member in saved) == 4, "two layers"
