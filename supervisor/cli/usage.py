"""Verbs about the disk: system df and prune, builder prune.

As `images`, they work on the disk itself, with or without a daemon. Sizes of images are those of their plain
layers, each counted once; all others are what the disk has allotted.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from supervisor.cli import output
from supervisor.cli.context import TABLE_OR_JSON, Context
from supervisor.cli.errors import UnreachableError
from supervisor.cli.images import opened, prune_images
from supervisor.cli.tables import size
from supervisor.core.paths import Paths
from supervisor.image.builder.cache import StepCache, bytes_of, forget_builds
from supervisor.image.store import ImageStore
from supervisor.runtime.volumes import volume_names


@dataclass(frozen=True, slots=True)
class _Thing:
    """One row of -v. used: by what is there, or runs."""

    name: str
    size_bytes: int
    used: bool
    shared_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Kind:
    """One row. free_bytes: what would be free if all that is not used went."""

    name: str
    things: tuple[_Thing, ...]
    size_bytes: int
    free_bytes: int

    @property
    def active(self) -> int:
        return sum(thing.used for thing in self.things)


@dataclass(frozen=True, slots=True)
class _Instance:
    name: str
    id: str
    running: bool
    image_id: str
    volumes: frozenset[str]


@click.group()
def system() -> None:
    """The disk of the supervisor: what takes how much, and what can go."""


@click.group()
def builder() -> None:
    """What builds keep: see `builder prune`."""


@system.command()
@click.option(
    "-v", "--verbose", is_flag=True, help="Each image, container, volume, and the parts of the cache."
)
@TABLE_OR_JSON
@click.pass_obj
def df(context: Context, verbose: bool, form: str) -> None:
    """Show how much disk images, containers, volumes and the build cache take, and how much could be free.

    ACTIVE are images and volumes that a container uses, and containers that run. What a reclaimable image
    shares with one in use stays.
    """
    with opened(context) as store:
        instances = _instances(context)
        kinds = [
            _images(store, instances),
            _containers(context.settings.paths, instances),
            _volumes(context.settings.paths, instances),
            _cache(store),
        ]
    if form == "json":
        for kind in kinds:
            row = {
                "Type": kind.name,
                "TotalCount": len(kind.things),
                "Active": kind.active,
                "Size": kind.size_bytes,
                "Reclaimable": kind.free_bytes,
            }
            if verbose:
                row["Items"] = [
                    {"Name": t.name, "Size": t.size_bytes, "SharedSize": t.shared_bytes, "Used": t.used}
                    for t in kind.things
                ]
            output.print_json(row)
        return
    rows = [
        [k.name, str(len(k.things)), str(k.active), size(k.size_bytes), _part(k.free_bytes, k.size_bytes)]
        for k in kinds
    ]
    click.echo(output.table(["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], rows))
    for kind in kinds if verbose else ():
        click.echo(f"\n{kind.name}:")
        things = [
            [t.name, size(t.size_bytes), size(t.shared_bytes), "yes" if t.used else "no"] for t in kind.things
        ]
        click.echo(output.table(["NAME", "SIZE", "SHARED", "IN USE"], things) if things else "none")


@builder.command("prune")
@click.option("-a", "--all", "_everything", is_flag=True, help="As Docker has it; all goes in any case.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.pass_obj
def prune_builder(context: Context, _everything: bool, force: bool) -> None:
    """Remove what builds keep for the next one: the layers of their steps, and cache mounts.

    What a build that is under way uses stays, and so do the layers of images.
    """
    if not force and sys.stdin.isatty():
        click.confirm("Remove the build cache?", abort=True)
    with opened(context) as store:
        freed = forget_builds(store)
        _, more = prune_images(context, store, everything=False, dangling=False)
        click.echo(f"reclaimed {size(freed + more)}")


@system.command("prune")
@click.option("-a", "--all", "everything", is_flag=True, help="Also images with a name that no service uses.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.pass_obj
def prune_system(context: Context, everything: bool, force: bool) -> None:
    """Remove images that no service uses, and the build cache. Services and volumes stay, also stopped ones.

    Docker's removes stopped containers too; here `rm` and `down` do that.
    """
    if not force and sys.stdin.isatty():
        click.confirm("Remove unused images and the build cache?", abort=True)
    with opened(context) as store:
        freed = forget_builds(store)
        gone, more = prune_images(context, store, everything=everything)
        for line in gone:
            click.echo(line)
        click.echo(f"reclaimed {size(freed + more)}")


# --- counting ----------------------------------------------------------------------------------------
def _images(store: ImageStore, instances: Sequence[_Instance]) -> _Kind:
    used_ids = {instance.image_id for instance in instances}
    found = store.images()
    users: dict[str, int] = {}
    for image in found:
        for diff_id in set(image.diff_ids):
            users[diff_id] = users.get(diff_id, 0) + 1
    kept = {diff_id for image in found if image.id in used_ids for diff_id in image.diff_ids}
    things = tuple(
        _Thing(
            ", ".join(name.familiar for name in image.names) or image.id[7:19],
            image.size_bytes,
            image.id in used_ids,
            _layers(store, (diff_id for diff_id in image.diff_ids if users[diff_id] > 1)),
        )
        for image in found
    )
    return _Kind("Images", things, _layers(store, users), _layers(store, users.keys() - kept))


def _containers(paths: Paths, instances: Sequence[_Instance]) -> _Kind:
    things = tuple(
        _Thing(each.name, bytes_of(paths.instance(each.id).upper), each.running) for each in instances
    )
    return _kind("Containers", things)


def _volumes(paths: Paths, instances: Sequence[_Instance]) -> _Kind:
    used = {name for instance in instances for name in instance.volumes}
    return _kind(
        "Local Volumes",
        tuple(_Thing(name, bytes_of(paths.volume(name)), name in used) for name in volume_names(paths)),
    )


def _cache(store: ImageStore) -> _Kind:
    """Only what no image has: the rest costs nothing."""
    images = {diff_id for image in store.images() for diff_id in image.diff_ids}
    layers = sorted(StepCache(store.root, store.layers).kept_layers() - images)
    things = [_Thing(f"layer {diff_id[7:19]}", _layers(store, [diff_id]), used=False) for diff_id in layers]
    mounts = Path(store.root, "build/mounts")
    names = sorted(path.name for path in mounts.iterdir()) if mounts.is_dir() else []
    things += [
        _Thing(f"mount {name[:12]}", bytes_of(f"{mounts}/{name}"), used=False)
        for name in names
        if not name.endswith(".lock")
    ]
    return _kind("Build Cache", tuple(things))


def _kind(name: str, things: tuple[_Thing, ...]) -> _Kind:
    free = sum(thing.size_bytes for thing in things if not thing.used)
    return _Kind(name, things, sum(thing.size_bytes for thing in things), free)


def _layers(store: ImageStore, diff_ids: Iterable[str]) -> int:
    found = (store.layers.find(diff_id) for diff_id in set(diff_ids))
    return sum(layer.size for layer in found if layer is not None)


def _part(free: int, whole: int) -> str:
    return f"{size(free)} ({100 * free // whole}%)" if whole else size(free)


def _instances(context: Context) -> list[_Instance]:
    """From the daemon, or, where none answers, from its database; nothing is known to run then."""
    client = context.client
    try:
        views = client.call("GET", "/containers/json", {"all": 1})
        return [
            _instance(
                view["Name"],
                view["Id"],
                client.call("GET", f"/containers/{view['Id']}/json")["Spec"],
                running=bool(view["State"].get("Running")),
            )
            for view in views
        ]
    except UnreachableError:
        path = context.settings.paths.database
        if not Path(path).exists():
            return []
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
            rows = database.execute("SELECT name, id, spec FROM instance ORDER BY name")
            return [
                _instance(name, id_, msgspec.json.decode(spec), running=False) for name, id_, spec in rows
            ]


def _instance(name: str, id_: str, spec: dict[str, Any], *, running: bool) -> _Instance:
    volumes = frozenset(
        mount["source"]
        for mount in spec.get("mounts", ())
        if mount.get("type") == "volume" and mount.get("source")
    )
    return _Instance(name, id_, running, spec.get("rootfs", {}).get("image_id", ""), volumes)
