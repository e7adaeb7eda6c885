"""What COPY reads from, behind one interface: a directory of the host, or the layers of a stage or image.

A context belongs to whoever starts the build, and may hold anything: its links are followed within it only,
and a file is opened so that nothing leads out of it even if it changes meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Protocol

from supervisor.image.builder.ignore import Ignore
from supervisor.image.builder.request import NOTHING_IGNORED
from supervisor.image.layerstack import Entry, LayerStack
from supervisor.kernel import syscalls as sc


class Tree(Protocol):
    """Files to copy from. Paths are absolute within it. All raise OSError."""

    keeps_owners: bool
    """Whether owners and times of its files count, or they are root's and of the build's time."""

    def resolve(self, path: str) -> str:
        """The path with every link followed within the tree."""
        ...

    def entry(self, path: str) -> Entry | None:
        """What is at a path, itself not followed."""
        ...

    def names(self, path: str) -> list[str]:
        """Sorted names in a directory."""
        ...

    def ignores(self, path: str) -> bool:
        """Whether a path does not count."""
        ...

    def may_hold(self, path: str) -> bool:
        """Whether something in an ignored directory could count."""
        ...

    def open(self, path: str, entry: Entry) -> int:
        """A descriptor of a regular file, for reading. Raises OSError if it is no longer that file."""
        ...


class DirectoryTree:
    """A directory of the host, as it was when each of its directories was first looked at."""

    def __init__(self, root: str, ignore: Ignore = NOTHING_IGNORED, *, keeps_owners: bool = False) -> None:
        """`root` exists. Close it."""
        self._root = os.path.realpath(root)
        self._ignore = ignore
        self.keeps_owners = keeps_owners
        self._fd = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._found: dict[str, dict[str, Entry]] = {}
        self._links = LayerStack((self._root,))

    def close(self) -> None:
        """Twice is no error."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def resolve(self, path: str) -> str:
        """See Tree."""
        return self._links.resolve(path)

    def entry(self, path: str) -> Entry | None:
        """See Tree."""
        clean = path.strip("/")
        if not clean:
            return Entry(self._root, os.lstat(self._root))
        above, _, name = clean.rpartition("/")
        return self._directory(above).get(name)

    def names(self, path: str) -> list[str]:
        """See Tree."""
        return sorted(self._directory(path.strip("/")))

    def ignores(self, path: str) -> bool:
        """See Tree."""
        clean = path.strip("/")
        return bool(clean) and self._ignore.excludes(clean)

    def may_hold(self, path: str) -> bool:
        """See Tree."""
        return self._ignore.may_include_below(path.strip("/"))

    def open(self, path: str, entry: Entry) -> int:
        """See Tree."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        fd = sc.openat2(self._fd, path.strip("/"), flags, sc.RESOLVE_IN_ROOT)
        return _same(fd, entry)

    def _directory(self, clean: str) -> dict[str, Entry]:
        found = self._found.get(clean)
        if found is None:
            found = {}
            place = f"{self._root}/{clean}" if clean else self._root
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(place) as rows:
                for row in rows:
                    found[row.name] = Entry(row.path, row.stat(follow_symlinks=False))
            self._found[clean] = found
        return found


class LayersTree:
    """The merged view of layers, which nobody changes."""

    keeps_owners = True

    def __init__(self, lowers: tuple[str, ...]) -> None:
        """lowers: directories, topmost first."""
        self._stack = LayerStack(lowers)

    def resolve(self, path: str) -> str:
        """See Tree."""
        return self._stack.resolve(path) if self._stack.layers else path

    def entry(self, path: str) -> Entry | None:
        """See Tree."""
        return self._stack.entry(path) if self._stack.layers else None

    def names(self, path: str) -> list[str]:
        """See Tree."""
        return self._stack.names(path)

    def ignores(self, path: str) -> bool:  # noqa: ARG002 - nothing is
        """See Tree."""
        return False

    def may_hold(self, path: str) -> bool:  # noqa: ARG002 - nothing is
        """See Tree."""
        return False

    def open(self, path: str, entry: Entry) -> int:  # noqa: ARG002 - the layer's file has a path of its own
        """See Tree."""
        return _same(os.open(entry.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), entry)


def _same(fd: int, entry: Entry) -> int:
    now = os.fstat(fd)
    if not stat.S_ISREG(now.st_mode) or (now.st_dev, now.st_ino) != (
        entry.status.st_dev,
        entry.status.st_ino,
    ):
        os.close(fd)
        raise OSError(116, "it changed while the build was reading it; build again", entry.path)
    return fd
