"""What all verbs share: the options before or behind the verb, the project, the client, completion."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from click.shell_completion import CompletionItem

from supervisor.cli import output
from supervisor.cli.errors import ApiError
from supervisor.daemon.settings import Settings, load_settings

if TYPE_CHECKING:
    from supervisor.cli.client import Client
    from supervisor.compose import Loaded, Variable

FAILED, USAGE, NOT_MET, UNKNOWN, NO_DAEMON, TIMED_OUT, DAEMON_FAILED = 1, 2, 3, 4, 5, 124, 125
"""Exit codes; 0 is done."""
_told: set[str] = set()


@dataclass(frozen=True, slots=True)
class Context:
    """What the options say.

    compose: `shipkeeper compose`, where a name is that of a service of the project of the files here, and
    nothing else is meant. dry_run: tell what would be done. progress: how (--progress there).
    """

    files: tuple[str, ...]
    project: str | None
    directory: str | None
    profiles: tuple[str, ...]
    env_files: tuple[str, ...]
    settings: Settings
    compose: bool = False
    dry_run: bool = False
    progress: Literal["auto", "tty", "plain", "json", "quiet"] = "auto"

    @property
    def client(self) -> Client:
        """Of the daemon of these settings."""
        from supervisor.cli.client import Client

        return Client(self.settings.paths.api_socket)

    def compose_files(self) -> list[str]:
        """Those of -f, or what is found. Raises ComposeErrors."""
        from supervisor import compose

        return list(self.files) or compose.find_files(
            self.directory or str(Path.cwd()), os.environ, self.env_files
        )

    def load(
        self,
        services: tuple[str, ...] = (),
        *,
        keep_paths: bool = False,
        read_env_files: bool = True,
        said_later: Callable[[Loaded], Collection[str]] = lambda _: (),
        dependencies: bool = True,
    ) -> Loaded:
        """The project of the files, warnings told. Raises ComposeErrors.

        said_later: the places of which the command itself is going to say what is wrong. Others: as for
        `load_project`.
        """
        from supervisor import compose

        loaded = compose.load_project(
            self.compose_files(),
            project_name=self.project,
            project_dir=self.directory,
            env=os.environ,
            env_files=self.env_files,
            profiles=self.profiles,
            services=services,
            keep_paths=keep_paths,
            read_env_files=read_env_files,
            dependencies=dependencies,
        )
        later = said_later(loaded) if loaded.warnings else ()
        for warning in loaded.warnings:
            text = str(warning)
            if warning.path not in later and text not in _told:  # some verbs load the files more than once
                output.print_error(f"warning: {text}")
                _told.add(text)
        return loaded

    def merged(self, *, interpolate: bool, normalize: bool, keep_paths: bool) -> dict[str, Any]:
        """The files as one document, not validated. Raises ComposeErrors."""
        from supervisor import compose

        return compose.merged_document(
            self.compose_files(),
            project_name=self.project,
            project_dir=self.directory,
            env=os.environ,
            env_files=self.env_files,
            interpolate=interpolate,
            normalize=normalize,
            keep_paths=keep_paths,
        )

    def variables(self) -> list[Variable]:
        """Those that the files name. Raises ComposeErrors."""
        from supervisor import compose

        return compose.file_variables(self.compose_files())

    def project_name(self) -> str:
        """-p, or what the files say. Raises ComposeErrors."""
        from supervisor import compose

        if self.project:
            return compose.normalize_project_name(self.project)
        return self.load().project.name

    def scope(self, names: tuple[str, ...]) -> str | None:
        """The project that names are looked up in; None: all, where neither names nor options say which."""
        if self.is_scoped or not names:
            return self.project_name()
        return None

    @property
    def is_scoped(self) -> bool:
        """The options say which project is meant."""
        return bool(self.compose or self.project or self.files or self.directory)


def _change(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def change(ctx: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value and isinstance(ctx.obj, Context):
            ctx.obj = replace(ctx.obj, **{field: value})

    return change


def project_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """-p behind the verb, too."""
    return click.option(
        "-p",
        "--project-name",
        expose_value=False,
        callback=_change("project"),
        help="The project, where not the one of the files here.",
    )(command)


def project_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """-f and -p behind the verb, too."""
    return click.option(
        "-f",
        "--file",
        multiple=True,
        expose_value=False,
        callback=_change("files"),
        help="A Compose file; several are merged.",
    )(project_option(command))


def complete_names(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of services and containers that the daemon has; none where it does not answer."""
    from supervisor.cli.client import Client

    parent = ctx.find_root()
    try:
        settings = load_settings(
            os.environ,
            state_dir=parent.params.get("state_dir"),
            run_dir=parent.params.get("run_dir"),
        )
        views = Client(settings.paths.api_socket).call("GET", "/containers/json", {"all": 1})
    except Exception:  # noqa: BLE001 - a completion never prints an error
        return []
    names = {view["Service"] for view in views} | {view["Name"] for view in views}
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


NAMES = click.argument("names", nargs=-1, shell_complete=complete_names)
NAME = click.argument("name", shell_complete=complete_names)
TABLE_OR_JSON = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="json: one document a line.",
)
INDEX = click.option("--index", type=int, help="Which of its replicas, where a service has several.")
TIMEOUT = click.option(
    "-t", "--timeout", type=float, help="Seconds of grace before SIGKILL, instead of the service's own."
)


def fail(code: int, text: str) -> None:
    """One line on stderr, and out."""
    output.print_error(text)
    sys.exit(code)


def instance_name(context: Context, name: str, index: int | None) -> str:
    """The container of a service that is meant: that of --index; in `compose`, without it, the first.

    `name` itself where nobody asks for one of several, or where it is no service: the daemon judges it then.
    """
    if index is None and not context.compose:
        return name
    query = {"all": 1, "project": context.project_name()}
    views = [
        view
        for view in context.client.call("GET", "/containers/json", query)
        if view["Service"] == name and not view["OneOff"]
    ]
    numbered = {view["Number"]: view["Name"] for view in views}
    if index is not None and index not in numbered:
        here = ", ".join(str(number) for number in sorted(numbered)) or "none"
        fail(UNKNOWN, f'service "{name}" has no container #{index}; there is {here}')
    if not numbered:
        return name
    return str(numbered[min(numbered) if index is None else index])


def code_of(status: int) -> int:
    """Exit code for an HTTP status."""
    return UNKNOWN if status == 404 else FAILED


def in_project(context: Context, ask: Callable[[str | None], Any], names: tuple[str, ...]) -> Any:
    """Ask with names as they are; where they mean several, with the project of the files here."""
    scope = context.scope(names)
    try:
        return ask(scope)
    except ApiError as error:
        if error.status != 409 or scope is not None or "is meant" not in str(error):
            raise
        try:
            here = context.project_name()
        except Exception:  # noqa: BLE001 - no usable file here: the first error says it best
            raise error from None
        return ask(here)
