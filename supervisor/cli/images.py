"""Verbs on images: images, load, save, import, tag, rmi, history, image inspect and prune.

They work on the store itself, with or without a daemon; who uses an image is asked of the daemon, or of its
database where none answers.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import click
import msgspec

from supervisor.cli import output
from supervisor.cli.context import FAILED, TABLE_OR_JSON, UNKNOWN, USAGE, Context, fail
from supervisor.cli.errors import UnreachableError
from supervisor.cli.tables import duration, size
from supervisor.core.images import held_further
from supervisor.core.labels import has_label
from supervisor.core.model import ServiceSpec
from supervisor.core.reference import InvalidReferenceError, Reference, parse_reference
from supervisor.image import config as oci
from supervisor.image.blobs import BlobError
from supervisor.image.builder.cache import StepCache, forget_builds
from supervisor.image.builder.session import sweep
from supervisor.image.load import import_layer, load_archive
from supervisor.image.machine import host_platform
from supervisor.image.save import save_archive
from supervisor.image.store import Image, ImageStore, NotFoundError, StoreError
from supervisor.image.unpacking import ArchiveError

_ERRORS = (StoreError, BlobError, ArchiveError, oci.ConfigError, OSError)


@contextlib.contextmanager
def opened(context: Context) -> Iterator[ImageStore]:
    """The store of these settings; what is wrong is one line."""
    try:
        yield ImageStore(context.settings.paths.images)
    except NotFoundError as error:
        fail(UNKNOWN, str(error))
    except PermissionError as error:
        fail(FAILED, f"cannot use the images at {error.filename}: {error.strerror}; be root")
    except InvalidReferenceError as error:
        fail(USAGE, str(error))
    except OSError as error:
        where = f" at {error.filename}" if error.filename else ""
        fail(FAILED, f"cannot use the images{where}: {error.strerror or error}")
    except _ERRORS as error:
        fail(FAILED, str(error))


def _roots(context: Context) -> list[tuple[str, dict[str, Any]]]:
    """Names of all instances, running or not, with each image, or other root, that they stand on or mount."""
    try:
        views = context.client.call("GET", "/containers/json", {"all": 1})
        return [
            (view["Name"], each)
            for view in views
            for each in (view["Rootfs"], *view.get("FurtherImages", ()))
        ]
    except UnreachableError:
        path = context.settings.paths.database
        if not Path(path).exists():
            return []
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            rows = database.execute("SELECT name, spec FROM instance")
            stored = [(name, msgspec.json.decode(spec, type=ServiceSpec)) for name, spec in rows]
            return [
                (name, msgspec.to_builtins(each))
                for name, spec in stored
                for each in (spec.rootfs, *held_further(spec))
            ]


def _kept_layers(store: ImageStore, roots: list[tuple[str, dict[str, Any]]]) -> frozenset[str]:
    """The layers that services stand on, and those that a build could use again."""
    services = {layer for _, rootfs in roots for layer in rootfs.get("layers", ())}
    return StepCache(store.root, store.layers).kept_layers() | services


def _created(image: Image) -> str:
    if not image.config.created:
        return "-"
    moment = datetime.fromisoformat(image.config.created)
    return f"{duration((datetime.now(UTC) - moment).total_seconds())} ago"


# --- looking -----------------------------------------------------------------------------------------
@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Only the ids.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@TABLE_OR_JSON
@click.argument("name", required=False)
@click.pass_obj
def images(context: Context, quiet: bool, no_trunc: bool, form: str, name: str | None) -> None:
    """List the images that are there."""
    with opened(context) as store:
        wanted = parse_reference(name).name if name else None
        rows = []
        for image in store.images():
            shown = image.id if no_trunc else image.id[7:19]
            for reference in image.names or (None,):
                if wanted is not None and (reference is None or reference.name != wanted):
                    continue
                rows.append((reference, image, shown))
        if quiet:
            for shown in dict.fromkeys(row[2] for row in rows):
                click.echo(shown)
        elif form == "json":
            for reference, image, shown in rows:
                output.print_json(
                    {
                        "Repository": reference.familiar_name if reference else "<none>",
                        "Tag": reference.tag if reference else "<none>",
                        "ID": shown,
                        "Created": image.config.created,
                        "Size": image.size_bytes,
                    }
                )
        elif not rows:
            output.print_error(
                "no images; `shipkeeper load -i FILE` or `shipkeeper import FILE NAME` adds one"
            )
        else:
            click.echo(
                output.table(
                    ["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"],
                    [
                        [
                            reference.familiar_name if reference else "<none>",
                            reference.tag if reference else "<none>",
                            shown,
                            _created(image),
                            size(image.size_bytes),
                        ]
                        for reference, image, shown in rows
                    ],
                )
            )


@click.command()
@click.option("--no-trunc", is_flag=True, help="Whole instructions.")
@TABLE_OR_JSON
@click.argument("name")
@click.pass_obj
def history(context: Context, no_trunc: bool, form: str, name: str) -> None:
    """Show the instructions that an image was made by, the newest first, with the size of their layers."""
    with opened(context) as store:
        image = store.find(name)
        layers = list(image.diff_ids)
        rows = []
        for entry in image.config.history:
            layer = store.layers.find(layers.pop(0)) if not entry.empty_layer and layers else None
            rows.append((entry, 0 if layer is None else layer.size))
        if form == "json":
            for entry, count in reversed(rows):
                output.print_json(
                    {
                        "Created": entry.created,
                        "CreatedBy": entry.created_by,
                        "Size": count,
                        "Comment": entry.comment,
                    }
                )
            return
        width = None if no_trunc else 60
        click.echo(
            output.table(
                ["CREATED", "CREATED BY", "SIZE", "COMMENT"],
                [
                    [entry.created[:19] or "-", entry.created_by[:width], size(count), entry.comment]
                    for entry, count in reversed(rows)
                ],
            )
        )


@click.group()
def image() -> None:
    """Images: inspect, prune; and ls, load, save, import, tag, rm, history as verbs of their own."""


@image.command()
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def inspect(context: Context, names: tuple[str, ...]) -> None:
    """Everything about images, as one JSON list, with Docker's names of fields."""
    with opened(context) as store:
        found = [store.find(name) for name in names]
        click.echo(json.dumps([_view(each) for each in found], indent=2))


def _view(each: Image) -> dict[str, Any]:
    return {
        "Id": each.id,
        "RepoTags": [name.familiar for name in each.names],
        "RepoDigests": [name.familiar for name in each.digests],
        "Created": each.config.created,
        "Author": each.config.author,
        "Architecture": each.config.architecture,
        "Os": each.config.os,
        "Size": each.size_bytes,
        "Config": msgspec.to_builtins(each.config.config),
        "RootFS": {"Type": "layers", "Layers": list(each.diff_ids)},
        "Descriptor": {"mediaType": oci.MANIFEST, "digest": each.manifest_digest},
    }


@image.command()
@click.option("-a", "--all", "everything", is_flag=True, help="Also images with a name that no service uses.")
@click.option(
    "--build-cache", is_flag=True, help="Also what builds keep: layers of their steps, and cache mounts."
)
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option(
    "--filter", "filters", multiple=True, metavar="KEY=VALUE",
    help="Only images that fit: until=24h or a date, label=KEY[=VALUE], label!=KEY[=VALUE].",
)  # fmt: skip
@click.pass_obj
def prune(
    context: Context, everything: bool, build_cache: bool, force: bool, filters: tuple[str, ...]
) -> None:
    """Remove images that have no name and that no service uses, and all that no image needs.

    Layers that a build could use again stay, unless --build-cache is given.
    """
    fits = parse_filters(filters, datetime.now(UTC))
    if not force and sys.stdin.isatty():
        click.confirm(
            "Remove images that no service uses?" if everything else "Remove nameless images?", abort=True
        )
    with opened(context) as store:
        freed_mounts = forget_builds(store) if build_cache else 0
        gone, freed = prune_images(context, store, everything=everything, fits=fits)
        for line in gone:
            click.echo(line)
        click.echo(f"reclaimed {size(freed + freed_mounts)}")


def prune_images(
    context: Context,
    store: ImageStore,
    *,
    everything: bool,
    dangling: bool = True,
    fits: Callable[[Image], bool] = lambda _: True,
) -> tuple[list[str], int]:
    """(what went, in words; bytes that are free). everything: also what has a name.

    What killed builds left goes, too. Raises StoreError, OSError.
    """
    from supervisor.runtime.buildplace import end_killed_builds

    end_killed_builds(context.settings.paths)
    sweep(store.root)
    roots = _roots(context)
    used = {rootfs.get("image_id") for _, rootfs in roots}
    layers = _kept_layers(store, roots)
    told = []
    if everything:
        for each in store.images():
            if each.id not in used and fits(each):
                for name in each.names:
                    store.untag(name)
                    told.append(f"untagged: {name.familiar}")
                store.forget(each)
                told.append(f"deleted: {each.id}")
    gone, freed = store.prune(
        dangling=dangling, used=lambda each: each.id in used or not fits(each), kept_layers=layers
    )
    return told + [f"deleted: {each.id}" for each in gone], freed


def parse_filters(filters: Sequence[str], now: datetime) -> Callable[[Image], bool]:
    """Whether an image fits all of them (docker image prune). Raises click.UsageError."""
    tests: list[Callable[[Image], bool]] = []
    for text in filters:
        key, equals, value = text.partition("=")
        negated = key.endswith("!")
        match key.rstrip("!"):
            case "label" if value:
                tests.append(_label_test(value, wanted=not negated))
            case "until" if value and not negated:
                tests.append(_until_test(value, now))
            case _:
                raise click.UsageError(
                    f"cannot filter by {text!r}: write until=24h, label=KEY[=VALUE] or label!=KEY[=VALUE]"
                )
        assert equals
    return lambda image: all(test(image) for test in tests)


def _label_test(text: str, *, wanted: bool) -> Callable[[Image], bool]:
    return lambda image: has_label(image.config.config.labels or {}, text) is wanted


def _until_test(text: str, now: datetime) -> Callable[[Image], bool]:
    from supervisor.compose.units import duration_ns  # YAML comes with it

    try:
        limit = now - timedelta(microseconds=duration_ns(text) // 1000)
    except ValueError:
        try:
            limit = datetime.fromisoformat(text)
        except ValueError:
            raise click.UsageError(
                f"cannot filter by until={text}: write a duration, as 24h, or a date, as 2024-01-31"
            ) from None
        if limit.tzinfo is None:
            limit = limit.astimezone()

    def test(image: Image) -> bool:
        return bool(image.config.created) and datetime.fromisoformat(image.config.created) < limit

    return test


# --- changing ----------------------------------------------------------------------------------------
@click.command()
@click.argument("source")
@click.argument("target")
@click.pass_obj
def tag(context: Context, source: str, target: str) -> None:
    """Give the image SOURCE one more name, TARGET."""
    with opened(context) as store:
        store.tag(store.find(source), parse_reference(target))


@click.command()
@click.option("-f", "--force", is_flag=True, help="Also where it has more names, if an id is given.")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def rmi(context: Context, force: bool, names: tuple[str, ...]) -> None:
    """Take names away from images; with its last one an image goes. One that a service uses stays.

    Names, ids and beginnings of ids. All are tried; where one cannot go, the command fails in the end.
    """
    if code := remove_images(context, names, force=force):
        sys.exit(code)


def remove_images(
    context: Context, names: Iterable[str], *, force: bool = False, missing: bool = False
) -> int:
    """As `rmi`; the exit code. All are tried. missing: one that is not there is no mistake."""
    with opened(context) as store:
        roots = _roots(context)
        users: dict[str, list[str]] = {}
        for name, rootfs in roots:
            users.setdefault(rootfs.get("image_id", ""), []).append(name)
        code = 0
        for text in names:
            try:
                _remove_one(store, text, users, force=force)
            except (StoreError, InvalidReferenceError) as error:  # the others are tried still
                if missing and isinstance(error, NotFoundError):
                    continue
                output.print_error(str(error))
                code = max(code, UNKNOWN if isinstance(error, NotFoundError) else FAILED)
        layers = _kept_layers(store, roots)
        with contextlib.suppress(StoreError):  # somebody adds something now: the next prune takes the layers
            store.prune(dangling=False, used=lambda _: True, kept_layers=layers)
        return code


def _remove_one(store: ImageStore, text: str, users: dict[str, list[str]], *, force: bool) -> None:
    each = store.find(text)
    named = _name_of(each, text)
    if users.get(each.id) and (named is None or each.names == (named,)):
        raise StoreError(f"cannot remove {text}: {', '.join(users[each.id])} uses it; remove that first")
    if named is None and len(each.names) > 1 and not force:
        listed = ", ".join(name.familiar for name in each.names)
        raise StoreError(f"cannot remove {text}: it has several names ({listed}); name one, or use --force")
    if named is not None and len(each.names) > 1:
        store.untag(named)
        click.echo(f"untagged: {named.familiar}")
        return
    for reference in each.names:
        click.echo(f"untagged: {reference.familiar}")
    store.forget(each)
    click.echo(f"deleted: {each.id}")


def _name_of(each: Image, text: str) -> Reference | None:
    """The name by which an image was meant; None for an id."""
    with contextlib.suppress(InvalidReferenceError):
        wanted = parse_reference(text)
        if wanted in each.names:
            return wanted
    return None


# --- moving ------------------------------------------------------------------------------------------
@click.command()
@click.option("-i", "--input", "path", help="The archive; without it, stdin.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.pass_obj
def load(context: Context, path: str | None, quiet: bool) -> None:
    """Load images from an archive of `docker save`, `podman save` or an OCI tool, compressed or not."""
    if path is None and sys.stdin.isatty():
        raise click.UsageError("name an archive with -i, or give one on stdin")
    progress = output.Progress(sys.stderr)
    with opened(context) as store, _seekable(path) as stream:
        told = (lambda _: None) if quiet else progress.say
        found = load_archive(store, stream, path or "the archive on stdin", told)
        progress.clear()
        for each in found:
            for name in each.names:
                click.echo(f"Loaded image: {name.familiar}")
            if not each.names:
                click.echo(f"Loaded image ID: {each.id}")


@contextlib.contextmanager
def _seekable(path: str | None) -> Iterator[IO[bytes]]:
    """A file, or all of stdin, which can be a pipe."""
    if path not in (None, "-"):
        assert path is not None
        try:
            given = open(path, "rb")  # noqa: PTH123, SIM115 - as everywhere here; closed below
        except OSError as error:
            fail(
                FAILED,
                f"cannot read the archive {path}: {error.strerror}; name one that is there, or - for stdin",
            )
        with given:
            yield given
        return
    with tempfile.TemporaryFile() as file:
        while data := sys.stdin.buffer.read(1 << 20):
            file.write(data)
        file.seek(0)
        yield file


@click.command()
@click.option("-o", "--output", "path", help="Where to write; without it, stdout.")
@click.argument("names", nargs=-1, required=True)
@click.pass_obj
def save(context: Context, path: str | None, names: tuple[str, ...]) -> None:
    """Write images to an archive that Docker, Podman and OCI tools load; always the same bytes."""
    if path is None and sys.stdout.isatty():
        raise click.UsageError("an archive is nothing for a terminal: use -o FILE, or a pipe")
    with opened(context) as store:
        chosen = []
        for text in names:
            each = store.find(text)
            named = _name_of(each, text)
            chosen.append((each, (named,) if named is not None else each.names))
        if path is None:
            save_archive(store, chosen, sys.stdout.buffer.write)
            sys.stdout.buffer.flush()
            return
        try:
            with output.whole_file(path) as file:
                save_archive(store, chosen, file.write)
        except output.WriteError as error:
            fail(FAILED, f"{error}; name a place that can be written, with room")


@click.command("import")
@click.option("-m", "--message", default="", help="A comment for its history.")
@click.argument("path")
@click.argument("name", required=False)
@click.pass_obj
def import_(context: Context, message: str, path: str, name: str | None) -> None:
    """Make an image of the root file system in the archive PATH (- is stdin), and call it NAME."""
    with opened(context) as store, _seekable(path) as stream, store.working():
        reference = parse_reference(name) if name else None
        layer = import_layer(store, stream, path)
        created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        comment = message or f"imported from {path}"
        config = oci.ImageConfig(
            host_platform()[1],
            host_platform()[0],
            oci.RootFs(diff_ids=[layer.diff_id]),
            history=[oci.History(created, comment=comment)],
            created=created,
        )
        click.echo(store.add(oci.encode(config), reference).id)
