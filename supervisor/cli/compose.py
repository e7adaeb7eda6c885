"""`shipkeeper compose`: the grammar of `docker compose`, so that an alias is enough.

Most verbs are those of `shipkeeper` itself; a name means a service of the project of the files here. Words
that Docker has twice (`run`, `images`, `pull` ...) mean what they mean for Compose. What there is of its
flags, and what is refused, is in docs/commands.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import click

from supervisor.cli import logview, output
from supervisor.cli.context import Context
from supervisor.cli.verbs import Verbs, go_flags, without

_ENGINE = "it is of Docker's registry of applications and its models; nothing of that is here"


class _Compose(Verbs):
    table: ClassVar[Mapping[str, str]] = {
        "attach": "run",
        "build": "composeimages",
        "commit": "copying",
        "config": "config",
        "cp": "copying",
        "create": "composeact",
        "down": "project",
        "events": "composelook",
        "exec": "execs:exec_",
        "export": "copying",
        "images": "composelook",
        "kill": "composeact",
        "logs": "logs",
        "ls": "composels",
        "pause": "act",
        "port": "composelook",
        "ps": "composeps",
        "pull": "composeimages",
        "push": "composeimages",
        "restart": "act",
        "rm": "composeact",
        "run": "oneoff",
        "start": "act",
        "scale": "project",
        "stats": "look",
        "stop": "act",
        "top": "composelook",
        "unpause": "act",
        "up": "project",
        "version": "composels",
        "volumes": "composelook",
        "wait": "composeact",
        "watch": "watch",
    }
    refused: ClassVar[Mapping[str, str]] = {
        "publish": f"{_ENGINE}; `shipkeeper compose push` sends the images",
        "bridge": f"{_ENGINE}; `shipkeeper compose config` prints the model for other tools",
        "alpha": "its commands are experiments of Docker's",
        "convert": "it is called `config`",
    }

    def adapted(self, name: str, command: click.Command) -> click.Command:
        """Without -f and -p, which stand before the verb here; with --dry-run, which may stand behind it."""
        has = any("--dry-run" in each.opts for each in command.params)
        made = without(command, "--file", "--project-name", adding=() if has else (_DRY_RUN,))
        if name == "commit":
            made = without(made, "--pause", adding=(_PAUSE,))
        if name in _PREVIEWED:
            made.callback = _previewed(name, command)
        return made

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Flags of the verb may have a value, as Go's have."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, rest if command is None else go_flags(command, rest)


# What changes something, and cannot itself tell what it would change.
_PREVIEWED = frozenset({"attach", "commit", "cp", "exec", "run", "watch"})


def _previewed(name: str, command: click.Command) -> Callable[..., Any]:
    """The verb, unless it is only to be told."""
    wanted = command.callback
    assert wanted is not None

    def run(**given: Any) -> Any:
        context = click.get_current_context()
        if isinstance(context.obj, Context) and context.obj.dry_run:
            words = [str(given[key]) for key in ("service", "name", "source", "target") if given.get(key)]
            click.echo(f"DRY-RUN MODE -  {' '.join([name, *words, *given.get('command', ())])}")
            return None
        return context.invoke(wanted, **given)

    return run


def _dry(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and isinstance(ctx.obj, Context):
        ctx.obj = replace(ctx.obj, dry_run=True)


_DRY_RUN = click.option(
    "--dry-run",
    is_flag=True,
    expose_value=False,
    callback=_dry,
    help="Tell what would be done, and do nothing.",
)


_PAUSE = click.option(
    "-p", "--pause/--no-pause", default=True, show_default=True, help="Pause the service meanwhile."
)


def _version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from supervisor.cli.composels import version_words

        click.echo(version_words())
        ctx.exit()


@click.group(
    cls=_Compose,
    options_metavar="[GLOBAL OPTIONS]",
    epilog="""\b
An alias makes scripts find it:
  alias docker=shipkeeper
  alias docker-compose='shipkeeper compose'
""",
)
@click.option("--all-resources", is_flag=True, help="Networks and volumes that no service uses, too.")
@click.option(
    "--ansi",
    type=click.Choice(["never", "always", "auto"]),
    default="auto",
    show_default=True,
    envvar="COMPOSE_ANSI",
    help="When to use colours.",
)
@click.option("--compatibility", is_flag=True, help="Refused: names are Compose's of today.")
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and do nothing.")
@click.option("--env-file", "env_files", multiple=True, help="Variables for the files, instead of .env.")
@click.option("-f", "--file", "files", multiple=True, help="A Compose file; several are merged.")
@click.option(
    "--parallel",
    type=int,
    default=-1,
    envvar="COMPOSE_PARALLEL_LIMIT",
    help="Accepted; nothing here has to be held back.",
)
@click.option("--profile", "profiles", multiple=True, help="Enable a profile.")
@click.option(
    "--progress",
    type=click.Choice(["auto", "tty", "plain", "json", "quiet"]),
    default="auto",
    envvar="COMPOSE_PROGRESS",
    help="How to show what is under way.",
)
@click.option(
    "--project-directory", "--workdir", "directory", help="Where the project is (default: of the first file)."
)
@click.option("-p", "--project-name", "project", help="Name of the project.")
@click.option(
    "-v",
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_version,
    help="Print the version.",
)
@click.option("--verbose", is_flag=True, hidden=True)
@click.pass_context
def compose(ctx: click.Context, /, **given: Any) -> None:
    """The words and flags of `docker compose`, for a project of several services.

    \b
    shipkeeper compose up -d --build    bring the project of this directory up
    shipkeeper compose ps               what it has
    shipkeeper compose run --rm web sh  a container like that of web, once
    shipkeeper compose watch            carry changes of the sources into the services
    """
    if given["compatibility"]:
        raise click.UsageError(
            "cannot use --compatibility: containers are named PROJECT-SERVICE-NUMBER here", ctx
        )
    if given["all_resources"]:
        output.print_error("warning: --all-resources: what no service uses is made when one does")
    logview.colour_by(given["ansi"])
    before = ctx.obj
    assert isinstance(before, Context)
    ctx.obj = replace(
        before,
        files=given["files"] or before.files,
        project=given["project"] or before.project,
        directory=given["directory"] or before.directory,
        profiles=given["profiles"] or before.profiles,
        env_files=given["env_files"] or before.env_files,
        compose=True,
        dry_run=given["dry_run"],
        progress=given["progress"],
    )
