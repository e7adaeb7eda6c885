"""The verb `build`: one image from a context, or the images of a project's services."""

from __future__ import annotations

import os
from typing import Any, Literal

import click

from supervisor.cli.context import USAGE, Context, fail, project_option

Mode = Literal["auto", "tty", "plain", "json", "quiet"]
_MODES = ("auto", "tty", "plain", "json", "quiet")


def chosen_mode(progress: str, *, quiet: bool) -> Mode:
    """--quiet, --progress, else BUILDKIT_PROGRESS, as people have it set."""
    if progress == "auto":
        progress = os.environ.get("BUILDKIT_PROGRESS", "auto").replace("rawjson", "json")
    if quiet:
        return "quiet"
    match progress:
        case "tty" | "plain" | "json" | "quiet":
            return progress
        case _:
            return "auto"


@click.command(
    epilog="""\b
CONTEXT is a directory, - (a Dockerfile or an archive on stdin), the URL of a git repository
(https://HOST/PATH.git#REF:DIRECTORY, git@HOST:PATH), of an archive, or of a Dockerfile.
Without CONTEXT, the services of the project of this directory are built; -f is a Compose file then.

\b
Exit codes:
  0    built
  1    a step failed
  2    wrong usage, or an error in a file
  130  cancelled by Ctrl-C
"""
)
@click.option(
    "-t", "--tag", "tags", multiple=True, metavar="NAME[:TAG]", help="Call the image so; repeatable."
)
@click.option("-f", "--file", "files", multiple=True, help="The Dockerfile (default: CONTEXT/Dockerfile).")
@click.option("--target", default="", help="The stage to build (default: the last).")
@click.option("--build-arg", "args", multiple=True, metavar="NAME[=VALUE]", help="Value of an ARG.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label of the image.")
@click.option("--no-cache", is_flag=True, help="Run every step anew.")
@click.option(
    "--no-cache-filter", "no_cache_stages", multiple=True, metavar="STAGE", help="Run these stages anew."
)
@click.option("--pull", is_flag=True, help="Look for newer base images.")
@click.option(
    "--secret", "secrets", multiple=True, metavar="id=ID[,src=PATH|env=NAME]", help="For RUN --mount."
)
@click.option(
    "--ssh", "agents", multiple=True, metavar="default|ID[=PATH]", help="Agent or keys for RUN --mount."
)
@click.option(
    "--build-context",
    "contexts",
    multiple=True,
    metavar="NAME=SOURCE",
    help="A context for COPY --from=NAME.",
)
@click.option(
    "--network", type=click.Choice(["default", "host", "none"]), default="default", help="Of RUN steps."
)
@click.option(
    "--allow",
    "allowed",
    multiple=True,
    type=click.Choice(["security.insecure", "network.host"]),
    help="security.insecure: RUN --security=insecure gets all of the host; network.host is always allowed.",
)
@click.option("--platform", "platforms", multiple=True, metavar="OS/ARCH", help="Has to be this host's.")
@click.option(
    "--progress",
    type=click.Choice(_MODES),
    default="auto",
    show_default=True,
    help="How to show it, on stderr: tty is live, json one document a line.",
)
@click.option("-q", "--quiet", is_flag=True, help="Print the id of the image, and nothing else.")
@click.option("--iidfile", help="Write the id of the image to a file.")
@click.option("--metadata-file", help="Write names and digests of the image to a file, as JSON.")
@click.option("--check", is_flag=True, help="Only check the Dockerfile, by BuildKit's rules; build nothing.")
@click.option("--verify", is_flag=True, help="Build twice without cache, and compare: is it reproducible?")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", help="Of --check.")
@click.option("--load", is_flag=True, hidden=True, help="The image is always in the store.")
@click.option(
    "--service", "services", multiple=True, help="Without CONTEXT: only this service; may be repeated."
)
@project_option
@click.argument("context", required=False, metavar="[CONTEXT]")
@click.pass_obj
def build(
    obj: Context, /, context: str | None, files: tuple[str, ...], quiet: bool, progress: str, **rest: Any
) -> None:
    """Build an image from a Dockerfile, as `docker build` does, into the store of images.

    What has not changed since the last build is taken from the cache. Nothing of the host gets into an image,
    and the same inputs give the same digest. It needs root, and no daemon.
    """
    mode = chosen_mode(progress, quiet=quiet)
    if context is None:
        named = next((file for file in files if "dockerfile" in file.rpartition("/")[2].lower()), None)
        if named is not None:
            fail(USAGE, f"cannot build: the CONTEXT is missing; write `shipkeeper build -f {named} .`")
        from supervisor.cli.buildservices import build_project

        build_project(obj, files, mode, rest)
        return
    if rest["services"]:
        fail(USAGE, "cannot build: --service is for the services of a project; leave CONTEXT away")
    if len(files) > 1:
        fail(USAGE, "cannot build: an image has one Dockerfile; give -f once")
    from supervisor.cli.buildsingle import build_one

    build_one(obj, context, files[0] if files else None, mode, rest)
