"""`run` and `create` with an image that the store has not: from a registry, a recipe, or one clear error."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from registries import needs_registry, registry
from supervising import Supervisor
from test_images import root_archive

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox on this machine"),
]


@needs_registry
def test_an_image_comes_from_its_registry_when_pull_says_so(supervisor: Supervisor, tmp_path: Path) -> None:
    (supervisor.base / "auth.json").write_text("{}")
    with registry(tmp_path / "registry") as server:
        name = f"{server.host}/box:1"
        (supervisor.base / "root.tgz").write_bytes(root_archive("old"))
        supervisor.ok("import", "root.tgz", name)
        supervisor.ok("push", name)
        supervisor.ok("rmi", name)
        read = ("run", "--rm", "--pull")
        missing = supervisor.run(*read, "never", name, "/bin/cat", "/etc/version")
        assert (missing.returncode, missing.stdout) == (125, "")
        assert "No such image" in missing.stderr
        assert supervisor.ok(*read, "missing", name, "/bin/cat", "/etc/version") == "old"
        # Here it is another image now: only `always` asks again.
        (supervisor.base / "root.tgz").write_bytes(root_archive("new"))
        supervisor.ok("import", "root.tgz", name)
        assert supervisor.ok(*read, "missing", name, "/bin/cat", "/etc/version") == "new"
        assert supervisor.ok(*read, "always", name, "/bin/cat", "/etc/version") == "old"


def test_an_image_is_made_of_its_recipe(supervisor: Supervisor) -> None:
    recipe = supervisor.base / "recipe"
    recipe.mkdir()
    (recipe / "Dockerfile").write_text('FROM scratch\nADD root.tgz /\nCMD ["/bin/cat", "/etc/version"]\n')
    (recipe / "root.tgz").write_bytes(root_archive("made"))
    with (supervisor.base / "shipkeeper.yaml").open("a") as settings:
        settings.write(f"image_recipes: {{'127.0.0.1:1/base:1': {recipe}}}\n")
    assert supervisor.ok("run", "--rm", "127.0.0.1:1/base:1") == "made"


def test_what_nobody_has_is_one_error(supervisor: Supervisor) -> None:
    for verb in ("run", "create"):
        result = supervisor.run(verb, "127.0.0.1:1/nothing", "true")
        assert (result.returncode, result.stdout) == (125, "")
        (line,) = result.stderr.splitlines()
        for place in ("store: it is not there", "connection refused", "recipe: image_recipes has no"):
            assert place in line
    bad = supervisor.run("run", "Not/A/Name")
    assert bad.returncode == 125
    assert len(bad.stderr.splitlines()) == 1
