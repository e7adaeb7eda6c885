"""`config`: check the files of a project, and print what they come to."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli import output
from supervisor.cli.context import USAGE, Context, fail, project_options

if TYPE_CHECKING:
    from supervisor.compose import Loaded


@click.command()
@click.option("--format", "form", type=click.Choice(["yaml", "json"]), default="yaml", help="What to print.")
@click.option("-q", "--quiet", is_flag=True, help="Only check.")
@click.option("-o", "--output", "target", help="Write to this file.")
@click.option("--services", "what", flag_value="services", help="Only the names of the services.")
@click.option("--volumes", "what", flag_value="volumes", help="Only the names of the volumes.")
@click.option("--networks", "what", flag_value="networks", help="Only the names of the networks.")
@click.option("--models", "what", flag_value="models", help="None: models are refused.")
@click.option("--images", "what", flag_value="images", help="Only the names of the images.")
@click.option("--profiles", "what", flag_value="profiles", help="Only the names of the profiles.")
@click.option("--environment", "what", flag_value="environment", help="The variables that files may use.")
@click.option("--variables", "what", flag_value="variables", help="The variables that files do use.")
@click.option("--hash", "hashed", metavar="SERVICES", help="A hash of each service (a,b or *).")
@click.option("--no-env-resolution", is_flag=True, help="Leave env files apart from the environment.")
@click.option("--no-path-resolution", is_flag=True, help="Leave relative paths as they are.")
@click.option("--no-interpolate", is_flag=True, help="The merged files with their variables; no validation.")
@click.option("--no-normalize", is_flag=True, help="The merged files without defaults; no validation.")
@click.option("--no-consistency", is_flag=True, help="The merged files, whatever they refer to.")
@click.option("--resolve-image-digests", "pinned", is_flag=True, help="Not possible here.")
@click.option("--lock-image-digests", "pinned", is_flag=True, hidden=True)
@project_options
@click.argument("services", nargs=-1)
@click.pass_obj
def config(
    context: Context,
    form: str,
    quiet: bool,
    target: str | None,
    what: str | None,
    hashed: str | None,
    no_env_resolution: bool,
    no_path_resolution: bool,
    no_interpolate: bool,
    no_normalize: bool,
    no_consistency: bool,
    pinned: bool,
    services: tuple[str, ...],
) -> None:
    """Check the files and print the resolved model: merged, interpolated, short forms made long.

    The form is that of `docker compose config`. --no-interpolate, --no-normalize and --no-consistency print
    the files as they are merged, short forms as they were written.
    """
    if pinned:
        fail(
            USAGE,
            "cannot pin images to digests: an image is known by its id here; use `image: name@sha256:...`,"
            " or `pull_policy: never`",
        )
    merged = no_interpolate or no_normalize or no_consistency
    if what == "variables":
        text = _variables(context, form)
    elif merged and what is None and hashed is None:
        document = context.merged(
            interpolate=not no_interpolate, normalize=not no_normalize, keep_paths=no_path_resolution
        )
        text = _rendered(document, form)
    else:
        loaded = context.load(services, keep_paths=no_path_resolution, read_env_files=not no_env_resolution)
        if hashed is not None:
            text = _hashes(loaded, hashed)
        elif what is not None:
            text = "\n".join(_names(loaded, what))
        else:
            from supervisor.compose import config_document

            text = _rendered(config_document(loaded, env_files=no_env_resolution), form)
    if quiet:
        return
    if target is not None:
        Path(target).write_text(f"{text}\n")
    elif text:
        click.echo(text)


def _rendered(document: dict[str, Any], form: str) -> str:
    from supervisor.compose import to_yaml

    return json.dumps(document, indent=2) if form == "json" else to_yaml(document).rstrip()


def _names(loaded: Loaded, what: str) -> list[str]:
    match what:
        case "images":
            by_service = loaded.sources
            services = loaded.documents["services"]
            return [
                document.get("image") or f"{loaded.project.name}-{name}"
                for name, document in services.items()
                if name in by_service
            ]
        case "models":
            return []
        case "profiles":
            return list(loaded.profiles)
        case "environment":
            return [f"{name}={value}" for name, value in sorted(loaded.variables.items())]
        case _:
            return sorted(loaded.documents[what])


def _hashes(loaded: Loaded, names: str) -> str:
    """One line a service: a hash of its canonical form, which changes with everything that it says."""
    services = loaded.documents["services"]
    wanted = sorted(services) if names == "*" else names.split(",")
    unknown = [name for name in wanted if name not in services]
    if unknown:
        fail(USAGE, f"cannot hash {unknown[0]}: no such service; the file has {', '.join(sorted(services))}")
    lines = []
    for name in wanted:
        text = json.dumps(services[name], sort_keys=True)
        lines.append(f"{name} {hashlib.sha256(text.encode()).hexdigest()}")
    return "\n".join(lines)


def _variables(context: Context, form: str) -> str:
    found = context.variables()
    if form == "json":
        return json.dumps(
            {
                one.name: {
                    "Name": one.name,
                    "DefaultValue": one.default,
                    "PresenceValue": one.presence,
                    "Required": one.required,
                }
                for one in found
            },
            indent=4,
        )
    return output.table(
        ["NAME", "REQUIRED", "DEFAULT VALUE", "ALTERNATE VALUE"],
        [(one.name, str(one.required).lower(), one.default, one.presence) for one in found],
    )
