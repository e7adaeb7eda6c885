"""The groups of verbs: what is completed, and what an unknown verb is told."""

from __future__ import annotations

import click
import pytest
from click.shell_completion import ShellComplete

from supervisor.cli.compose import compose
from supervisor.cli.main import cli


def completed(words: list[str], incomplete: str) -> set[str]:
    found = ShellComplete(cli, {}, "shipkeeper", "_SHIPKEEPER_COMPLETE").get_completions(words, incomplete)
    return {item.value for item in found}


def test_verbs_and_flags_are_completed_in_both_groups() -> None:
    assert {"compose", "config", "commit", "completion"} <= completed([], "co")
    assert completed(["compose"], "vol") == {"volumes"}
    assert completed(["compose", "-p", "x"], "ev") == {"events"}
    assert "--exit-code-from" in completed(["compose", "up"], "--exit")
    assert "--index" in completed(["compose", "exec"], "--ind")


def test_every_verb_has_help() -> None:
    """Each module is there, and each verb and option says what it is for."""
    for group in (cli, compose):
        assert isinstance(group, click.Group)
        context = click.Context(group, info_name="shipkeeper")
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None, name
            assert command.get_short_help_str(), name
            assert command.get_help(click.Context(command, info_name=name, parent=context)), name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compse"], "did you mean compose?"),
        (["compose", "execc"], "did you mean exec?"),
        (["compose", "zzz"], "see shipkeeper compose --help"),
        (["compose", "bridge"], "cannot bridge"),
        (["compose", "--compatibility", "ps"], "cannot use --compatibility"),
    ],
)
def test_a_verb_that_is_not_there_gets_a_hint(words: list[str], said: str) -> None:
    with pytest.raises(click.UsageError) as error:
        cli.main(words, prog_name="shipkeeper", standalone_mode=False)
    assert said in str(error.value)
