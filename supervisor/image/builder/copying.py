"""COPY and ADD, from what was selected to the files of a layer. Blocks.

Source of the rules: Dockerfile reference, "COPY" and "ADD"; fsutil copy.go (prepareTargetDir).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
from collections.abc import Iterable

import msgspec

from supervisor.image.archive import DECOMPRESSION_ERRORS, decompressed
from supervisor.image.builder.digests import FileDigests
from supervisor.image.builder.progress import BuildError
from supervisor.image.builder.selecting import Item, Selected, Taken, select
from supervisor.image.builder.steps import CopyOp
from supervisor.image.builder.trees import DirectoryTree, Tree
from supervisor.image.builder.writing import LayerWriter, Owner, new_mode
from supervisor.image.unpacking import ArchiveError, Bounds, unpack_tar

_BLOCK = 512


class Copier(msgspec.Struct, frozen=True):
    """Carries out one operation. scratch: an empty directory for archives. owner: None keeps what is kept."""

    operation: CopyOp
    writer: LayerWriter
    digests: FileDigests
    owner: Owner | None
    scratch: str

    def run(self, taken: Iterable[Taken]) -> None:
        """Raises BuildError, OSError, StoppedError."""
        operation, writer = self.operation, self.writer
        try:
            new_mode(operation.chmod, 0o100644)
        except ValueError as error:
            raise BuildError(f"{writer.where}: cannot use --chmod: {error}") from error
        all_taken = list(taken)
        count = sum(len(one.selected) for one in all_taken) + len(operation.files)
        target = operation.target
        into = target.endswith("/") or operation.parents
        if count > 1 and not into and not self._is_directory(target):
            raise BuildError(
                f"{writer.where}: cannot copy {count} files to {target}: it is no directory; write {target}/"
            )
        if into and count == 0:
            writer.directory(writer.resolve(target), self.owner or (0, 0))
        for one in all_taken:
            for selected in one.selected:
                self._selected(one, selected, into=into)
        for name, text in operation.files:
            path = self._file_target(name, into=into)
            writer.write(path, text.encode(), self.owner or (0, 0), new_mode(operation.chmod, 0o644))
        writer.finish()

    def _selected(self, taken: Taken, selected: Selected, *, into: bool) -> None:
        if self.operation.parents or selected.is_directory:
            base = self.writer.resolve(self.operation.target.rstrip("/") or "/")
            self.writer.directory(base, self.owner or (0, 0))
            self._items(taken.tree, selected.items, base)
            return
        item = selected.items[0]
        unpacks = self.operation.add and self.operation.unpack is not False
        if unpacks and (not taken.remote or self.operation.unpack) and self._unpack(taken.tree, item):
            return
        self._put(taken.tree, item, self._file_target(selected.name, into=into))

    def _items(self, tree: Tree, items: Iterable[Item], base: str) -> None:
        for item in items:
            if not item.implied:
                self._put(tree, item, f"{base.rstrip('/')}/{item.name}")

    def _put(self, tree: Tree, item: Item, path: str) -> None:
        expected = None
        if not item.entry.is_dir and not item.entry.is_link and item.entry.status.st_size:
            expected = self.digests.digest(item.entry.status, lambda: tree.open(item.inner, item.entry))
        self.writer.put(tree, item, path, self.owner, self.operation.chmod, expected)

    def _is_directory(self, target: str) -> bool:
        return self.writer.is_directory(self.writer.resolve(target))

    def _file_target(self, name: str, *, into: bool) -> str:
        """Where a single file goes, with its parent made."""
        target = self.operation.target
        if into or self._is_directory(target):
            above = self.writer.resolve(target.rstrip("/") or "/")
        else:
            parent, _, name = target.rpartition("/")
            above = self.writer.resolve(parent or "/")
        self.writer.directory(above, self.owner or (0, 0))
        return f"{above.rstrip('/')}/{name}"

    # --- archives -------------------------------------------------------------------------------
    def _unpack(self, tree: Tree, item: Item) -> bool:
        """Unpack a file that is an archive into the target; whether it is one."""
        if item.entry.is_link or not item.entry.status.st_size:
            return False
        with os.fdopen(tree.open(item.inner, item.entry), "rb") as raw, decompressed(raw) as plain:
            try:
                head = plain.read(_BLOCK)
                tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
            except (tarfile.HeaderError, *DECOMPRESSION_ERRORS):
                return False
        place = f"{self.scratch}/unpacked"
        os.mkdir(place, 0o755)
        name = item.inner.strip("/")
        try:
            with os.fdopen(tree.open(item.inner, item.entry), "rb") as raw, decompressed(raw) as plain:
                unpack_tar(plain, name, place, Bounds())
        except (ArchiveError, *DECOMPRESSION_ERRORS) as error:
            raise BuildError(f"{self.writer.where}: cannot add {name}: {error}") from error
        base = self.writer.resolve(self.operation.target.rstrip("/") or "/")
        self.writer.directory(base, self.owner or (0, 0))
        with contextlib.closing(DirectoryTree(place, keeps_owners=True)) as unpacked:
            for one in select(unpacked, ["."], self.writer.where):
                self._items(unpacked, one.items, base)
        shutil.rmtree(place)
        return True
