"""The command `shipkeeper`: options before the verb, the verbs, and what an error becomes.

A verb's module is imported when the verb is used: a start costs only what is needed. Every foreseen error is
one line and a next step, never a traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import ClassVar

import click

from supervisor.cli import output
from supervisor.cli.context import FAILED, NO_DAEMON, USAGE, Context, code_of
from supervisor.cli.errors import ApiError, UnreachableError
from supervisor.cli.verbs import Verbs
from supervisor.daemon.settings import SettingsError, load_settings

_TABLE = {
    "compose": ("compose",),
    "project": ("up", "scale", "down"),
    "config": ("config",),
    "watch": ("watch",),
    "composels": ("ls",),
    "look": ("ps", "inspect", "why", "top", "stats", "events"),
    "act": ("start", "stop", "restart", "kill", "rm", "pause", "unpause", "wait"),
    "logs": ("logs",),
    "execs": ("exec:exec_",),
    "run": ("run", "create", "attach"),
    "container": ("rename", "container"),
    "network": ("network", "port"),
    "build": ("build",),
    "images": ("images", "load", "save", "import:import_", "tag", "rmi", "history", "image"),
    "copying": ("cp", "export", "commit"),
    "usage": ("system", "builder"),
    "volumes": ("volume",),
    "moving": ("pull", "push", "login", "logout"),
    "system": ("daemon", "doctor", "completion", "version"),
}

_EPILOG = """\b
Exit codes:
  0    done
  1    it failed for some service
  2    wrong usage, or an error in a file
  3    the condition that was waited for will not be met
  4    no such service
  5    no daemon answers
  124  timed out

\b
Files:
  compose.yaml ...                 the project; looked for here and above
  /etc/shipkeeper/shipkeeper.yaml  settings (SHIPKEEPER_CONFIG)
  /etc/shipkeeper/projects/*.yaml  Compose files brought up at boot
  /var/lib/shipkeeper              state (SHIPKEEPER_STATE_DIR)
  /run/shipkeeper                  sockets (SHIPKEEPER_RUN_DIR)
"""


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Verbs(Verbs):
    table: ClassVar[Mapping[str, str]] = {
        verb: f"{module}:{name or verb}"
        for module, verbs in _TABLE.items()
        for verb, _, name in (each.partition(":") for each in verbs)
    }


@click.group(cls=_Verbs, epilog=_EPILOG, context_settings=_SETTINGS)
@click.option("-f", "--file", "files", multiple=True, help="A Compose file; several are merged.")
@click.option(
    "-p", "--project-name", "project", help="Name of the project (default: from the file or directory)."
)
@click.option(
    "--project-directory", "directory", help="Where the project is (default: directory of the file)."
)
@click.option("--profile", "profiles", multiple=True, help="Enable a profile.")
@click.option("--env-file", "env_files", multiple=True, help="Variables for the file, instead of .env.")
@click.option("--config", help="Settings of the supervisor (SHIPKEEPER_CONFIG).")
@click.option("--state-dir", help="State of the supervisor (SHIPKEEPER_STATE_DIR).")
@click.option("--run-dir", help="Its sockets (SHIPKEEPER_RUN_DIR).")
@click.option("--metrics-address", help="HOST:PORT for Prometheus (SHIPKEEPER_METRICS_ADDRESS).")
@click.pass_context
def cli(
    ctx: click.Context,
    files: tuple[str, ...],
    project: str | None,
    directory: str | None,
    profiles: tuple[str, ...],
    env_files: tuple[str, ...],
    config: str | None,
    state_dir: str | None,
    run_dir: str | None,
    metrics_address: str | None,
) -> None:
    """Run isolated services from Compose files, restarted by Docker's exact rules.

    \b
    shipkeeper up                 bring up the project of this directory, in the foreground
    shipkeeper up -d --wait       under the daemon; return when everything is up
    shipkeeper ps                 what runs, and why something does not
    shipkeeper why web            the story of its last runs
    shipkeeper logs -f            what all of them write
    shipkeeper compose ...        the words and flags of `docker compose`
    """
    env = {**os.environ, **({"SHIPKEEPER_CONFIG": config} if config else {})}
    settings = load_settings(env, state_dir=state_dir, run_dir=run_dir, metrics_address=metrics_address)
    ctx.obj = Context(files, project, directory, profiles, env_files, settings)


def main() -> None:
    """The entry point."""
    try:
        cli(prog_name="shipkeeper")
    except SettingsError as error:
        output.print_error(str(error))
        sys.exit(USAGE)
    except UnreachableError as error:
        output.print_error(str(error))
        sys.exit(NO_DAEMON)
    except ApiError as error:
        output.print_error(str(error))
        sys.exit(code_of(error.status))
    except BrokenPipeError:
        # The reader of our output went away (`| head`); nothing more to say, and not at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(FAILED)
    except Exception as error:  # told by its class, so that a start does not import what it needs not
        if type(error).__name__ in ("ComposeErrors", "ComposeError"):
            print(error, file=sys.stderr)
            sys.exit(USAGE)
        if output.is_foreseen(error):
            output.print_error(str(error))
            sys.exit(FAILED)
        raise


if __name__ == "__main__":
    main()
