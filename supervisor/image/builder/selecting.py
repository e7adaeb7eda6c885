"""Which files COPY and ADD take, under which names, and the digest of them all. Reads, writes nothing.

Source of the rules: Dockerfile reference, COPY; Go's filepath.Match; BuildKit, solver/llbsolver/file and
tonistiigi/fsutil copy.go (links of a source are followed, those inside a directory are copied).
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import stat
from collections.abc import Iterable, Iterator

import msgspec

from supervisor.image.attributes import attributes
from supervisor.image.builder import ignore as patterns
from supervisor.image.builder.digests import FileDigests
from supervisor.image.builder.ignore import Ignore, PatternError
from supervisor.image.builder.progress import BuildError
from supervisor.image.builder.trees import Tree
from supervisor.image.layerstack import Entry

_WILD = frozenset("*?[\\")


class Item(msgspec.Struct, frozen=True):
    """One file, directory or link to copy.

    inner: its path in the tree. name: where it goes, relative to the target; "" is the target itself, or the
    file that is called as the target. implied: a directory that only has to be there.
    """

    inner: str
    name: str
    entry: Entry
    implied: bool = False


class Selected(msgspec.Struct, frozen=True):
    """One source that was found. name: as it was called, for a file that is copied into a directory."""

    path: str
    name: str
    items: tuple[Item, ...]

    @property
    def is_directory(self) -> bool:
        """Whether what it holds is copied."""
        return bool(self.items) and self.items[0].implied


class Taken(msgspec.Struct, frozen=True):
    """What a COPY or ADD takes from one tree. remote: fetched, and no archive unless that is said."""

    tree: Tree
    selected: tuple[Selected, ...]
    remote: bool = False


def excluding(texts: Iterable[str], where: str) -> Ignore:
    """The patterns of `--exclude`. Raises BuildError."""
    try:
        return patterns.make_ignore(
            patterns.pattern(
                posixpath.normpath(text.removeprefix("!")).lstrip("/"), negated=text.startswith("!")
            )
            for text in texts
        )
    except PatternError as error:
        raise BuildError(f"{where}: cannot use --exclude: {error}") from error


def select(
    tree: Tree, sources: Iterable[str], where: str, *, parents: bool = False, exclude: Ignore | None = None
) -> list[Selected]:
    """Each source that there is, with its items in order. Raises BuildError, OSError.

    Items of a directory are what it holds, of a file it is itself. where: FILE:LINE.
    """
    found = []
    for source in sources:
        for path, name, pivot in _matches(tree, source, where):
            items = list(_items(tree, path, exclude or Ignore()))
            if parents:
                items = list(_with_parents(tree, path, pivot, items))
            if items:
                found.append(Selected(path, name, tuple(items)))
    return found


def is_directory(tree: Tree, path: str) -> bool:
    """Whether a path is one, links followed."""
    entry = tree.entry(tree.resolve(path))
    return entry is not None and entry.is_dir


def digest(tree: Tree, selected: Iterable[Selected], digests: FileDigests) -> str:
    """Of names, kinds, modes, contents and attributes; of owners where they are kept. No times."""
    total = hashlib.sha256()
    for one in selected:
        total.update(json.dumps(os.fsencode(one.name).hex()).encode())
        for item in one.items:
            total.update(json.dumps(_row(tree, item, digests)).encode() + b"\n")
    return total.hexdigest()


def _row(tree: Tree, item: Item, digests: FileDigests) -> list[object]:
    status = item.entry.status
    owner = [status.st_uid, status.st_gid] if tree.keeps_owners else []
    content = ""
    if stat.S_ISREG(status.st_mode):
        content = digests.digest(status, lambda: tree.open(item.inner, item.entry)).hex()
    elif stat.S_ISLNK(status.st_mode):
        content = os.fsencode(os.readlink(item.entry.path)).hex()
    mode = 0 if item.entry.is_link else status.st_mode
    xattrs = (
        [] if item.entry.is_link else [(name, value.hex()) for name, value in attributes(item.entry.path)]
    )
    return [os.fsencode(item.name).hex(), mode, owner, content, xattrs, item.implied]


def _matches(tree: Tree, source: str, where: str) -> list[tuple[str, str, int]]:
    """(path in the tree, links followed; its name before; how many parts `/./` cuts off for --parents)."""
    before, dot, _ = source.partition("/./")
    clean = posixpath.normpath("/" + source).lstrip("/")
    pivot = len([part for part in before.split("/") if part not in ("", ".")]) if dot else 0
    if not _WILD & set(clean):
        resolved = tree.resolve(f"/{clean}")
        if tree.entry(resolved) is None or (tree.ignores(resolved) and not tree.may_hold(resolved)):
            why = "is excluded by .dockerignore" if tree.entry(resolved) is not None else "not found"
            hint = "; paths are relative to the context, and nothing outside of it can be copied"
            raise BuildError(f"{where}: cannot copy {source}: {why}{'' if tree.keeps_owners else hint}")
        return [(resolved, posixpath.basename(clean), pivot)]
    found = sorted(set(_glob(tree, "", [part for part in clean.split("/") if part], where)))
    return [(tree.resolve(path), posixpath.basename(path), pivot) for path in found]


def _glob(tree: Tree, above: str, parts: list[str], where: str) -> Iterator[str]:
    head, *rest = parts
    if head == "**":
        if rest:
            yield from _glob(tree, above, rest, where)
        for name in tree.names(above):
            path = f"{above}/{name}"
            entry = tree.entry(path)
            if tree.ignores(path) and not tree.may_hold(path):
                continue
            if not rest:
                yield path
            elif entry is not None and entry.is_dir:
                yield from _glob(tree, path, parts, where)
        return
    try:
        matcher = patterns.pattern(head)
    except PatternError as error:
        raise BuildError(f"{where}: cannot use source {head!r}: {error}") from error
    place = tree.resolve(above or "/")
    for name in tree.names(place):
        path = f"{place.rstrip('/')}/{name}"
        if not matcher.matches(name) or (tree.ignores(path) and not tree.may_hold(path)):
            continue
        if rest:
            if is_directory(tree, path):
                yield from _glob(tree, path, rest, where)
        elif tree.entry(tree.resolve(path)) is not None:
            yield path


def _items(tree: Tree, path: str, exclude: Ignore) -> Iterator[Item]:
    entry = tree.entry(path)
    assert entry is not None, "matched just now"
    if not entry.is_dir:
        if not exclude.excludes(posixpath.basename(path)) and not exclude.excludes(path.strip("/")):
            yield Item(path, "", entry)
        return
    yield Item(path, "", entry, implied=True)
    yield from _below(tree, path, "", exclude)


def _below(tree: Tree, directory: str, prefix: str, exclude: Ignore) -> Iterator[Item]:
    for name in tree.names(directory or "/"):
        path = f"{directory.rstrip('/')}/{name}"
        entry = tree.entry(path)
        if entry is None:
            continue
        relative = f"{prefix}{name}"
        unwanted = tree.ignores(path) or exclude.excludes(relative)
        if not entry.is_dir:
            if not unwanted and _copies(entry):
                yield Item(path, relative, entry)
            continue
        if unwanted and not tree.may_hold(path) and not exclude.may_include_below(relative):
            continue
        inside = list(_below(tree, path, f"{relative}/", exclude))
        if not unwanted or inside:
            yield Item(path, relative, entry)
        yield from inside


def _copies(entry: Entry) -> bool:
    """Sockets and devices mean nothing in an image."""
    mode = entry.status.st_mode
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISFIFO(mode)


def _with_parents(tree: Tree, path: str, pivot: int, items: list[Item]) -> Iterator[Item]:
    parts = [part for part in path.split("/") if part]
    kept = parts[pivot:]
    prefix = "/".join(kept)
    for count in range(1, len(kept)):
        inner = "/" + "/".join(parts[: pivot + count])
        entry = tree.entry(inner)
        assert entry is not None, "a parent of what was found"
        yield Item(inner, "/".join(kept[:count]), entry)
    for item in items:
        name = f"{prefix}/{item.name}".strip("/") if item.name else prefix
        yield Item(item.inner, name, item.entry, item.implied and not prefix)
