"""Whether a build is reproducible: it is done twice, from nothing, and the two images are compared.

The second one differs in what must not matter: another directory, files that were made in another order at
another time, another umask, a later second. The machine, its kernel and its clock are the same; what
depends on these only another machine can show.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from supervisor.image.attributes import attributes
from supervisor.image.builder.bases import Bases
from supervisor.image.builder.build import build
from supervisor.image.builder.progress import Built, Event
from supervisor.image.builder.request import BuildRequest
from supervisor.image.builder.runner import Runner
from supervisor.image.config import ImageConfig
from supervisor.image.store import Image, ImageStore

_OTHER_UMASK = 0o077
_LONG_AGO_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of it. first: the image, with its names. same: the second one is it, to the last byte.

    step: the first instruction that came out otherwise. path, difference: its first file that did, and how;
    path is "" where it is the configuration alone.
    """

    first: Built
    second: Built
    same: bool
    step: str = ""
    path: str = ""
    difference: str = ""

    def __str__(self) -> str:
        if self.same:
            return f"reproducible: both builds are {self.first.id}"
        where = f"{self.path}: {self.difference}" if self.path else self.difference
        return f"not reproducible: {where}; written by {self.step}"


async def verify(
    request: BuildRequest,
    store: ImageStore,
    bases: Bases,
    runner: Runner,
    tell: Callable[[Event], None],
) -> Verified:
    """Build twice, without the cache. Only the first image gets the names. Raises BuildError, OSError.

    Layers of the second one that differ stay until the next `prune`.
    """
    first = await build(request, store, bases, runner, tell, cached=False)
    second_began = int(time.time())
    place = await asyncio.to_thread(tempfile.mkdtemp, prefix="shipkeeper-verify-")
    umask = os.umask(_OTHER_UMASK)
    try:
        other = msgspec.structs.replace(request, names=(), pull=False)
        if request.context:
            copy = f"{place}/elsewhere/context"
            await asyncio.to_thread(_copy_otherwise, request.context, copy)
            other = msgspec.structs.replace(other, context=copy)
        while int(time.time()) == second_began:  # times are whole seconds in a layer
            await asyncio.sleep(0.05)
        second = await build(other, store, bases, runner, tell, cached=False)
    finally:
        os.umask(umask)
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, place, ignore_errors=True))
    if first.id == second.id:
        return Verified(first, second, same=True)
    one, two = store.find(first.id), store.find(second.id)
    step, path, difference = await asyncio.to_thread(_difference, store, one, two)
    await asyncio.to_thread(store.forget, two)
    return Verified(first, second, False, step, path, difference)


def _copy_otherwise(source: str, target: str) -> None:
    """The same tree to a build: modes, contents and links; made in another order, at another time."""
    os.makedirs(target)
    shutil.copystat(source, target)
    for name in sorted(os.listdir(source), reverse=True):
        old, new = f"{source}/{name}", f"{target}/{name}"
        status = os.lstat(old)
        if stat.S_ISDIR(status.st_mode):
            _copy_otherwise(old, new)
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(old), new)
        elif stat.S_ISREG(status.st_mode):
            shutil.copyfile(old, new)
            Path(new).chmod(stat.S_IMODE(status.st_mode))
            for key, value in attributes(old):
                os.setxattr(new, key, value)
        elif stat.S_ISFIFO(status.st_mode):
            os.mkfifo(new)
            Path(new).chmod(stat.S_IMODE(status.st_mode))
        else:
            continue
        os.utime(new, (_LONG_AGO_S, _LONG_AGO_S), follow_symlinks=False)


# --- what differs ----------------------------------------------------------------------------------------
def _difference(store: ImageStore, one: Image, two: Image) -> tuple[str, str, str]:
    """(the step, the file, how they differ)."""
    for index, (left, right) in enumerate(zip(one.diff_ids, two.diff_ids, strict=False)):
        if left != right:
            step = _step(one.config, index)
            path, difference = _first_file(store.layers.directory(left), store.layers.directory(right))
            return step, path, difference
    if len(one.diff_ids) != len(two.diff_ids):
        index = min(len(one.diff_ids), len(two.diff_ids))
        longer = one if len(one.diff_ids) > index else two
        return _step(longer.config, index), "", "one build made this layer, and the other did not"
    for left_row, right_row in zip(one.config.history, two.config.history, strict=False):
        if left_row != right_row:
            return left_row.created_by, "", "the history of the images differs"
    return "the configuration", "", "the configurations differ"


def _step(config: ImageConfig, layer: int) -> str:
    """The instruction that made a layer."""
    made = [row.created_by for row in config.history if not row.empty_layer]
    # A base may tell of fewer steps than it has layers: those of this build come last.
    return made[layer - len(config.rootfs.diff_ids)] if made else "an unknown step"


def _first_file(left: str, right: str) -> tuple[str, str]:
    """The first file of two layers, by name, that is not the same, and how they differ."""
    for name in sorted(set(_names(left)) | set(_names(right))):
        one, two = _lstat(f"{left}/{name}"), _lstat(f"{right}/{name}")
        if one is None or two is None:
            return f"/{name}", "it is only in the " + ("second" if one is None else "first") + " build"
        difference = _compare(f"{left}/{name}", one, f"{right}/{name}", two)
        if difference:
            return f"/{name}", difference
    return "", "the layers' archives differ, though no file does"


def _compare(left: str, one: os.stat_result, right: str, two: os.stat_result) -> str:
    if one.st_mode != two.st_mode:
        return f"its mode is {one.st_mode:o} in the first build and {two.st_mode:o} in the second"
    if (one.st_uid, one.st_gid) != (two.st_uid, two.st_gid):
        return f"its owner is {one.st_uid}:{one.st_gid} and {two.st_uid}:{two.st_gid}"
    if stat.S_ISLNK(one.st_mode):
        first, second = os.readlink(left), os.readlink(right)
        return "" if first == second else f"it leads to {first} and to {second}"
    if stat.S_ISREG(one.st_mode):
        if one.st_size != two.st_size:
            return f"it has {one.st_size} bytes in the first build and {two.st_size} in the second"
        at = _first_byte(left, right)
        if at is not None:
            return f"its content differs from byte {at} on"
    if int(one.st_mtime) != int(two.st_mtime):
        return f"its time is {int(one.st_mtime)} and {int(two.st_mtime)}"
    if attributes(left) != attributes(right):
        return "its extended attributes differ"
    return ""


def _first_byte(left: str, right: str) -> int | None:
    with open(left, "rb") as one, open(right, "rb") as two:
        at = 0
        while True:
            first, second = one.read(65536), two.read(65536)
            if first != second:
                pairs = zip(first, second, strict=False)
                return at + next(
                    (i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second))
                )
            if not first:
                return None
            at += len(first)


def _names(root: str) -> Iterator[str]:
    for directory, names, files in os.walk(root):
        for name in (*names, *files):
            yield os.path.relpath(f"{directory}/{name}", root)


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None
