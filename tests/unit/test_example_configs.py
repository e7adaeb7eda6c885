"""The examples below configs/ are what users copy: each of them must load, without a doubt about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.compose import load_project

CONFIGS = Path(__file__).parents[2] / "configs"
EXAMPLES = sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("*/compose.yaml")])
PROFILES = ("*",)


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


@pytest.mark.parametrize("path", EXAMPLES, ids=name)
def test_an_example_loads_without_warnings(path: Path) -> None:
    """All services of an example are valid, those of its profiles too, and nothing in it is doubtful.

    But for the network: one idea each, so the small ones leave out the key that every service will need until
    project networks exist.
    """
    loaded = load_project([str(path)], project_name=None, project_dir=None, env={}, profiles=PROFILES)
    warnings = [str(warning) for warning in loaded.warnings]
    assert list(warnings) == []
    assert loaded.project.services


def test_examples_do_not_share_a_project_name() -> None:
    """Each is a project of its own: bringing one up never takes another's services for its own."""
    names = [
        load_project([str(path)], project_name=None, project_dir=None, env={}).project.name
        for path in EXAMPLES
    ]
    assert len(set(names)) == len(names)


def test_every_example_is_listed() -> None:
    """configs/README.md names each file."""
    text = (CONFIGS / "README.md").read_text()
    assert [path.name for path in CONFIGS.glob("*.yaml") if f"`{path.name}`" not in text] == []
