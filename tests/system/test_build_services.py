"""Services that are built: `build` in a project, and what `up` builds before it brings up."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from supervising import Supervisor, until
from test_images import root_archive

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox on this machine"),
]
PLAIN = "network_mode: none, stop_signal: SIGKILL"
SHOW = 'CMD ["/bin/sh", "-c", "cat /what; exec sleep 1000"]\n'
DOCKERFILE = f"FROM base\nENV PATH=/bin\nARG V=1\nRUN echo $V > /what\n{SHOW}"


def prepared(supervisor: Supervisor) -> None:
    """A base image, and a context in `web`."""
    (supervisor.base / "root.tgz").write_bytes(root_archive("1"))
    supervisor.ok("import", "root.tgz", "base")
    (supervisor.base / "web").mkdir()
    (supervisor.base / "web/Dockerfile").write_text(DOCKERFILE)


def says(supervisor: Supervisor, service: str, text: str) -> None:
    until(lambda: supervisor.ok("logs", "--no-log-prefix", service).split()[-1:] == [text], f"it says {text}")


def test_up_builds_what_is_missing_and_what_is_asked_for(supervisor: Supervisor) -> None:
    prepared(supervisor)
    text = f"name: shop\nservices: {{web: {{build: {{context: ./web, args: {{V: first}}}}, {PLAIN}}}}}\n"
    supervisor.compose(text)
    plan = supervisor.ok("up", "--dry-run", "--format", "json")
    assert [(row["verb"], row["name"]) for row in map(json.loads, plan.splitlines())] == [("build", "web")]
    assert "shop-web" not in supervisor.ok("images")
    refused = supervisor.run("up", "-d", "--no-build")
    assert refused.returncode == 1
    assert "shop-web" in refused.stderr
    first = supervisor.run("up", "-d")
    assert first.returncode == 0, first.stderr
    assert "web: built shop-web:latest" in first.stderr
    says(supervisor, "web", "first")

    # The image is there, so nothing is built, though the file says something else by now.
    supervisor.compose(text.replace("first", "two"))
    second = supervisor.run("up", "-d")
    assert "built" not in second.stderr
    assert "unchanged" in second.stdout
    third = supervisor.run("up", "-d", "--build")
    assert third.returncode == 0, third.stderr
    assert "its definition has changed" in third.stdout
    says(supervisor, "web", "two")
    fourth = supervisor.run("up", "-d", "--build")
    assert "CACHED" in fourth.stderr
    assert "unchanged" in fourth.stdout, "the same image: the service goes on"
    supervisor.compose(text.replace("first", "three").replace("build:", "pull_policy: build, build:"))
    supervisor.ok("up", "-d")
    says(supervisor, "web", "three")
    assert supervisor.run("up", "--build", "--no-build").returncode == 2


def test_a_build_that_fails_touches_nothing(supervisor: Supervisor) -> None:
    prepared(supervisor)
    (supervisor.base / "web/Dockerfile").write_text('FROM base\nRUN ["/bin/sh", "-c", "echo no; exit 7"]\n')
    supervisor.compose(
        f"name: shop\nservices:\n  web: {{build: ./web, {PLAIN}}}\n"
        f"  other: {{command: sleep 1000, {PLAIN}}}\n"
    )
    result = supervisor.run("up", "-d")
    assert result.returncode == 1
    assert "exit code: 7" in result.stderr
    assert "Dockerfile:2" in result.stderr
    assert supervisor.ok("ps", "-a", "-q") == ""


def test_builds_the_services_of_a_project(supervisor: Supervisor) -> None:
    """Same builds once, others beside each other, images of other services as contexts, secrets, inline."""
    prepared(supervisor)
    (supervisor.base / "token").write_text("sesame")
    supervisor.compose(
        "name: shop\n"
        "services:\n"
        f"  web: {{build: ./web, {PLAIN}}}\n"
        f"  twin: {{build: {{context: ./web, tags: ['extra:1']}}, {PLAIN}}}\n"
        "  top:\n"
        "    image: registry.example/top:2\n"
        "    build:\n"
        "      context: .\n"
        "      dockerfile_inline: |\n"
        "        FROM base\n"
        "        ENV PATH=/bin\n"
        "        COPY --from=below /what /below\n"
        "        RUN --mount=type=secret,id=t cat /run/secrets/t > /dev/null && cat /below > /what\n"
        f"        {SHOW}"
        "      additional_contexts: {below: 'service:web'}\n"
        "      secrets: [{source: token, target: t}]\n"
        "      labels: [made=here]\n"
        f"    {PLAIN.replace(', ', chr(10) + '    ')}\n"
        "  plain: {command: sleep 1000, network_mode: none}\n"
        "secrets: {token: {file: ./token}}\n"
    )
    result = supervisor.run("build")
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("RUN echo $V > /what\n") == 1, "two services of one build"
    rows = [json.loads(line) for line in supervisor.ok("images", "--format", "json").splitlines()]
    ids = {f"{row['Repository']}:{row['Tag']}": row["ID"] for row in rows}
    assert ids["shop-web:latest"] == ids["shop-twin:latest"] == ids["extra:1"]
    assert "registry.example/top:2" in ids
    (view,) = json.loads(supervisor.ok("image", "inspect", "registry.example/top:2"))
    assert view["Config"]["Labels"]["made"] == "here"
    supervisor.ok("up", "-d", "top")
    says(supervisor, "top", "1")

    (image_id,) = supervisor.ok("build", "-q", "--service", "web", "--build-arg", "V=9").split()
    (view,) = json.loads(supervisor.ok("image", "inspect", "shop-web"))
    assert view["Id"] == image_id
    assert supervisor.run("build", "--service", "plain").returncode == 4
    assert supervisor.run("build", "-t", "x").returncode == 2
    supervisor.compose("name: shop\nservices: {plain: {command: sleep 1000, network_mode: none}}\n")
    nothing = supervisor.run("build")
    assert nothing.returncode == 2
    assert "no service has `build`" in nothing.stderr


def test_builds_that_need_each_other_are_refused(supervisor: Supervisor) -> None:
    prepared(supervisor)
    supervisor.compose(
        "name: shop\nservices:\n"
        f"  a: {{build: {{context: ./web, additional_contexts: {{o: 'service:b'}}}}, {PLAIN}}}\n"
        f"  b: {{build: {{context: ./web, target: x, additional_contexts: {{o: 'service:a'}}}}, {PLAIN}}}\n"
        f"  c: {{build: {{context: ./web, platforms: [linux/s390x]}}, {PLAIN}}}\n"
    )
    result = supervisor.run("build", "--service", "a")
    assert result.returncode == 2
    assert "depend on each other" in result.stderr
    other = supervisor.run("build", "--service", "c")
    assert other.returncode == 2
    assert "cannot build for linux/s390x" in other.stderr


def test_down_takes_images_along(supervisor: Supervisor) -> None:
    """Those that no file names, or all; what another project uses stays, and is told."""
    prepared(supervisor)
    text = (
        "name: shop\nservices:\n"
        f"  web: {{build: ./web, {PLAIN}, scale: 2}}\n"
        f"  api: {{image: 'api:1', build: {{context: ./web, args: {{V: other}}}}, {PLAIN}}}\n"
    )

    def images() -> set[str]:
        rows = map(json.loads, supervisor.ok("images", "--format", "json").splitlines())
        return {str(row["Repository"]) for row in rows} - {"base"}

    supervisor.compose(text)
    supervisor.ok("up", "-d")
    assert images() == {"shop-web", "api"}
    told = supervisor.ok("down", "--rmi", "local")
    assert "untagged: shop-web:latest" in told
    assert images() == {"api"}
    supervisor.ok("up", "-d")
    (supervisor.base / "other.yaml").write_text(
        f"name: other\nservices: {{x: {{image: 'api:1', {PLAIN}}}}}\n"
    )
    supervisor.ok("-f", "other.yaml", "up", "-d")
    result = supervisor.run("down", "--rmi", "all")
    assert result.returncode == 1
    assert "other-x-1 uses it" in result.stderr
    assert images() == {"api"}
    supervisor.ok("-f", "other.yaml", "down", "--rmi", "all")
    assert images() == set()
