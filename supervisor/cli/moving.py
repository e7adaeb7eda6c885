"""Verbs on registries: pull, push, login, logout. By skopeo, without a daemon."""

from __future__ import annotations

import sys
from dataclasses import replace

import click

from supervisor.cli import output
from supervisor.cli.context import Context
from supervisor.cli.images import opened
from supervisor.cli.transferview import TransferView
from supervisor.core.reference import Reference, parse_reference
from supervisor.image.load import parse_platform
from supervisor.image.registry.pull import pull as pull_image
from supervisor.image.registry.push import push as push_image
from supervisor.image.registry.skopeo import Access, Skopeo, tls
from supervisor.image.store import StoreError

_QUIET = click.option("-q", "--quiet", is_flag=True, help="Only the name of what came or went.")
_FORM = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: one document a line, as it goes on.",
)
_ALL_TAGS = click.option("-a", "--all-tags", is_flag=True, help="Every tag of the repository.")


@click.command()
@click.option("--platform", help="OS/ARCH[/VARIANT] to pull, where not this host's.")
@_ALL_TAGS
@_QUIET
@_FORM
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def pull(
    context: Context, platform: str | None, all_tags: bool, quiet: bool, form: str, names: tuple[str, ...]
) -> None:
    """Fetch images from their registries. What is here already is not fetched again.

    A pull that was cut off goes on with the layers that are missing. Accounts are those of `shipkeeper
    login`, `docker login` or `podman login`; mirrors are those of registries.conf(5).
    """
    skopeo = Skopeo(Access(context.settings.registries))
    with opened(context) as store:
        wanted = parse_platform(platform) if platform else None
        references: list[Reference] = []
        for text in names:
            reference = parse_reference(text)
            if all_tags:
                references += [replace(reference, tag=tag, digest="") for tag in skopeo.tags(reference)]
            else:
                references.append(reference)
        for reference in references:
            view = TransferView(sys.stdout, "quiet" if quiet else form)
            if not quiet and form == "text":
                click.echo(f"{reference.tag or reference.digest}: Pulling from {reference.familiar_name}")
            try:
                pulled = pull_image(store, reference, skopeo, view.tell, wanted)
            finally:
                view.close()
            if form == "json":
                output.print_json(
                    {
                        "Name": reference.familiar,
                        "Digest": pulled.digest,
                        "ID": pulled.image.id,
                        "Fresh": pulled.fresh,
                    }
                )
                continue
            if not quiet:
                click.echo(f"Digest: {pulled.digest}")
                said = "Downloaded newer image for" if pulled.fresh else "Image is up to date for"
                click.echo(f"Status: {said} {reference.familiar}")
            click.echo(str(reference))


@click.command()
@_ALL_TAGS
@_QUIET
@_FORM
@click.argument("name")
@click.pass_obj
def push(context: Context, all_tags: bool, quiet: bool, form: str, name: str) -> None:
    """Send the image NAME to the registry that its name says. Layers that are there are not sent again.

    `shipkeeper tag` gives an image the name of a registry: shipkeeper tag app registry.example:5000/app:1
    """
    skopeo = Skopeo(Access(context.settings.registries))
    with opened(context) as store:
        reference = parse_reference(name)
        references = [reference]
        if all_tags:
            names = sorted((n for image in store.images() for n in image.names), key=str)
            references = [each for each in names if each.name == reference.name]
            if not references:
                raise StoreError(f"cannot push {reference.familiar_name}: no image here has a tag of it")
        for each in references:
            image = store.find(str(each))
            view = TransferView(sys.stdout, "quiet" if quiet else form)
            if not quiet and form == "text":
                click.echo(f"The push refers to repository [{each.name}]")
            try:
                pushed = push_image(store, image, each, skopeo, view.tell)
            finally:
                view.close()
            if form == "json":
                output.print_json(
                    {"Name": each.familiar, "Tag": each.tag, "Digest": pushed.digest, "Size": pushed.size}
                )
            elif quiet:
                click.echo(str(each))
            else:
                click.echo(f"{each.tag}: digest: {pushed.digest} size: {pushed.size}")


@click.command()
@click.option("-u", "--username", help="The account.")
@click.option("-p", "--password", help="Its password: seen by everyone on this host; better use stdin.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin.")
@click.argument("registry", default="docker.io")
@click.pass_obj
def login(
    context: Context, username: str | None, password: str | None, password_stdin: bool, registry: str
) -> None:
    """Keep an account for REGISTRY in the auth file that skopeo and podman use, too.

    The file is REGISTRY_AUTH_FILE, or /run/containers/0/auth.json for root, which ends with the host's run.
    """
    if password_stdin:
        password = sys.stdin.read().rstrip("\r\n")
    if username is None:
        username = click.prompt("Username")
    if password is None:
        password = click.prompt("Password", hide_input=True)
    text = Skopeo(Access(context.settings.registries)).run(
        "login", *tls(registry), "--username", username, "--password-stdin", registry,
        stdin=str(password).encode(), about=f"log in to {registry}",
    )  # fmt: skip
    click.echo(text.decode().strip())


@click.command()
@click.option("-a", "--all", "everything", is_flag=True, help="The accounts of all registries.")
@click.argument("registry", required=False)
@click.pass_obj
def logout(context: Context, everything: bool, registry: str | None) -> None:
    """Forget the account for REGISTRY (docker.io where none is named)."""
    named = registry or "docker.io"
    arguments = ("--all",) if everything else (named,)
    text = Skopeo(Access(context.settings.registries)).run("logout", *arguments, about=f"log out of {named}")
    click.echo(text.decode().strip())
