"""`build` in a Compose file: where an image comes from, and what it is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.compose import Loaded, load_project
from supervisor.core.build import BuildSecret, BuildSpec, ImageSource


def loaded(directory: Path, text: str, **env: str) -> Loaded:
    (directory / "compose.yaml").write_text(text)
    return load_project(
        [str(directory / "compose.yaml")], project_name="shop", project_dir=None, env={"HOME": "/h", **env}
    )


def test_a_service_that_is_built_stands_on_an_image_of_its_own_name(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        "services:\n"
        "  web: {build: ./web}\n"
        "  db: {build: ., image: 'registry.example/db:2', pull_policy: build}\n"
        "  cache: {image: redis, pull_policy: if_not_present}\n"
        "  plain: {command: x}\n",
    )
    assert found.sources == {
        "web": ImageSource("web", "docker.io/library/shop-web:latest", "", BuildSpec(f"{tmp_path}/web")),
        "db": ImageSource("db", "registry.example/db:2", "build", BuildSpec(str(tmp_path))),
        "cache": ImageSource("cache", "docker.io/library/redis:latest", "missing"),
    }
    assert found.project.service("web").rootfs.path == "docker.io/library/shop-web:latest"


@pytest.mark.parametrize(
    ("policy", "every_s"),
    [("daily", 86400), ("weekly", 604800), ("every_12h", 43200), ("every_1w2d3h4m5s", 788645)],
)
def test_a_policy_may_say_how_old_a_pull_may_be(tmp_path: Path, policy: str, every_s: int) -> None:
    found = loaded(tmp_path, f"services: {{web: {{image: x, pull_policy: {policy}}}}}")
    assert (found.sources["web"].policy, found.sources["web"].every_s) == ("every", every_s)


def test_a_build_is_no_part_of_what_is_brought_up(tmp_path: Path) -> None:
    """Other build arguments make no other service: only another image does."""
    one = loaded(tmp_path, "services: {web: {build: {context: ., args: {A: 1}}}}")
    two = loaded(tmp_path, "services: {web: {build: {context: ., args: {A: 2}}, pull_policy: build}}")
    assert one.project == two.project
    assert one.sources != two.sources


def test_everything_that_a_build_can_say(tmp_path: Path) -> None:
    found = loaded(
        tmp_path,
        "services:\n"
        "  base: {build: .}\n"
        "  web:\n"
        "    build:\n"
        "      context: https://example.com/x/y.git#main:sub\n"
        "      dockerfile_inline: FROM scratch\n"
        "      args: [A=1, FROM_SHELL, NOWHERE]\n"
        "      target: t\n"
        "      labels: {l: 1.50}\n"
        "      secrets: [token, {source: file, target: other}]\n"
        "      ssh: [default]\n"
        "      additional_contexts: {o: ./o, i: 'docker-image://debian', s: 'service:base'}\n"
        "      network: none\n"
        "      no_cache: true\n"
        "      no_cache_filter: [t]\n"
        "      pull: true\n"
        "      tags: [one, two:2]\n"
        "      platforms: [linux/amd64]\n"
        "      cache_from: [x]\n"
        "secrets: {token: {environment: TOKEN}, file: {file: ~/f}}\n",
        FROM_SHELL="yes",
    )
    assert found.sources["web"].build == BuildSpec(
        "https://example.com/x/y.git#main:sub",
        inline="FROM scratch",
        args=(("A", "1"), ("FROM_SHELL", "yes")),
        target="t",
        labels=(("l", "1.5"),),
        secrets=(BuildSecret("token", env="TOKEN"), BuildSecret("other", path="/h/f")),
        ssh=(("default", ""),),
        contexts=(("o", f"{tmp_path}/o"), ("i", "docker-image://debian"), ("s", "service:base")),
        network="none",
        no_cache=True,
        no_cache_stages=("t",),
        pull=True,
        tags=("one", "two:2"),
        platforms=("linux/amd64",),
    )
    assert any("cache_from has no effect" in str(warning) for warning in found.warnings)
