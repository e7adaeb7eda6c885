"""A group of verbs whose modules are imported when a verb is used: a start costs only what is needed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import click


class Verbs(click.Group):
    """`table` says where each verb is: "module" of this package, or "module:name" if it is called otherwise.

    What is in `refused` is known and not here: verb -> why, and what to do instead.
    """

    table: ClassVar[Mapping[str, str]] = {}
    refused: ClassVar[Mapping[str, str]] = {}

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """Every verb, in the order of the table."""
        return list(self.table)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """One verb; its module is imported now."""
        place = self.table.get(name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        command = getattr(importlib.import_module(f"supervisor.cli.{module}"), attribute or name)
        assert isinstance(command, click.Command)
        return self.adapted(name, command)

    def adapted(self, _name: str, command: click.Command) -> click.Command:
        """A verb as this group has it."""
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Click's, with the nearest verb in the error."""
        if args and args[0] in self.refused:
            raise click.UsageError(f"cannot {args[0]}: {self.refused[args[0]]}", ctx)
        if args and args[0] not in self.table and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], self.table, 1)
            advice = f"did you mean {near[0]}?" if near else f"see {ctx.command_path} --help"
            raise click.UsageError(f"no such command: {args[0]}; {advice}", ctx)
        return super().resolve_command(ctx, args)


def without(command: click.Command, *flags: str, adding: tuple[Any, ...] = ()) -> click.Command:
    """The same command with other options: those of these flags are gone, `adding` (decorators) are there."""
    import copy

    made = copy.copy(command)
    made.params = [each for each in command.params if not set(each.opts) & set(flags)]
    for decorate in adding:
        made = decorate(made)
    return made


_TRUTHS = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}


def go_flags(command: click.Command, args: list[str]) -> list[str]:
    """The words behind a verb; `--flag=true` and `--flag=false` of Go's commands as click has them. Pure.

    What stands behind the first argument of a verb that runs a command is that command's.
    """
    options = {
        flag: each
        for each in command.params
        if isinstance(each, click.Option)
        for flag in (*each.opts, *each.secondary_opts)
    }
    made: list[str] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--" or (not word.startswith("-") and not command.allow_interspersed_args):
            return [*made, word, *rest]
        name, equals, value = word.partition("=")
        option = options.get(name)
        if equals and option is not None and option.is_flag and value.lower() in _TRUTHS:
            on = _TRUTHS[value.lower()]
            if on:
                made.append(name)
            elif option.secondary_opts:
                made.append(option.secondary_opts[0])
            continue
        made.append(word)
        if rest and not equals and _takes_next(word, options):
            made.append(rest.pop(0))
    return made


def _takes_next(word: str, options: dict[str, click.Option]) -> bool:
    """Whether the next word is the value of this one."""
    if word.startswith("--"):
        option = options.get(word)
        return option is not None and not option.is_flag
    for place, letter in enumerate(word[1:], 1):
        option = options.get(f"-{letter}")
        if option is not None and not option.is_flag:
            return place == len(word) - 1  # else the rest of the word is its value
    return False
