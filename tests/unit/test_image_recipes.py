"""Recipes for images: what their files and the settings may say, and that the shipped ones can be read."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from supervisor.daemon.settings import Settings, SettingsError, load_settings
from supervisor.image.dockerfile import parse_dockerfile
from supervisor.image.recipes import _HOOK, RecipeError, Root, read_recipe, shipped_recipes
from supervisor.image.resolve import recipe_names
from supervisor.image.store import StoreError


def settings(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "shipkeeper.yaml").write_text(text)
    return load_settings({"SHIPKEEPER_CONFIG": str(tmp_path / "shipkeeper.yaml")})


def test_the_shipped_recipes_are_read_and_their_dockerfiles_are_in_order() -> None:
    shipped = shipped_recipes()
    assert {"debian:bookworm", "debian:bookworm-slim", "python:3.11-slim"} <= shipped.keys()
    for name, directory in shipped.items():
        recipe = read_recipe(directory)
        _, problems = parse_dockerfile(recipe.dockerfile, name)
        assert not problems
        assert (recipe.root is None) == name.startswith("python")


def test_the_settings_map_names_to_directories(tmp_path: Path) -> None:
    found = settings(
        tmp_path, "image_recipes: {base: /srv/base, 'reg.example/app:2': ''}\nregistries: /r.conf\n"
    )
    assert found.registries == "/r.conf"
    assert recipe_names(dict(found.image_recipes)) == {
        "docker.io/library/base:latest": "/srv/base",
        "reg.example/app:2": "",
    }
    with pytest.raises(SettingsError, match=r"cannot use image_recipes in .*: write `name: directory"):
        settings(tmp_path, "image_recipes: [a]\n")
    with pytest.raises(StoreError, match="debian: write an absolute path, not 'here'"):
        recipe_names({"debian": "here"})
    with pytest.raises(StoreError, match="must be lowercase"):
        recipe_names({"Debian": "/here"})


def test_what_a_rootfs_may_say(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    described = tmp_path / "rootfs.yaml"
    described.write_text("suite: trixie\npackages: [ca-certificates]\nleave_out: [/usr/share/man/*]\n")
    assert read_recipe(str(tmp_path)).root == Root(
        "trixie", packages=("ca-certificates",), leave_out=("/usr/share/man/*",)
    )
    for text, why in (
        ("variant: minbase\n", "write `suite: bookworm`"),
        ("suite: bookworm\nkept: []\n", "known are keep, leave_out, packages, suite, variant"),
        ("suite: '--help'\n", "cannot use suite in .*: write one word"),
        ("suite: bookworm\npackages: ['a b']\n", "'a b' is no name of a package"),
        ("suite: bookworm\npackages: a\n", "cannot use packages in .*: write a list"),
        ("suite: [\n", "cannot read the recipe"),
    ):
        described.write_text(text)
        with pytest.raises(RecipeError, match=why):
            read_recipe(str(tmp_path))


@pytest.mark.parametrize("leaves_out", [True, False])
def test_dpkgs_options_are_in_the_files_of_debians_images(tmp_path: Path, leaves_out: bool) -> None:
    """The Dockerfile of postgres takes lines out of dpkg.cfg.d/docker, if there is one."""
    options, conf = tmp_path / "etc/dpkg/dpkg.cfg.d", tmp_path / "etc/apt/apt.conf.d"
    options.mkdir(parents=True)
    conf.mkdir(parents=True)
    paths = (
        "path-exclude=/usr/share/locale/*\npath-include=/usr/share/doc/*/copyright\n" if leaves_out else ""
    )
    (options / "99mmdebstrap").write_text("force-unsafe-io\n" + paths)
    subprocess.run(["sh", "-c", _HOOK, "hook", str(tmp_path)], check=True)
    found = {path.name: path.read_text() for path in options.iterdir()}
    assert found == {"docker-apt-speedup": "force-unsafe-io\n"} | ({"docker": paths} if leaves_out else {})
