"""Files of a new layer: an overlayfs upper directory that is written without mounting anything.

What lies below is looked up in the stack, links followed inside of it only, and a directory of it that is
written into comes up with its attributes as they are. Nothing depends on the umask, and times are the
build's. Rules of what may replace what: fsutil copy.go.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor.image.attributes import attributes
from supervisor.image.builder.progress import BuildError
from supervisor.image.builder.selecting import Item
from supervisor.image.builder.trees import Tree
from supervisor.image.layerstack import LayerStack, make_directories

_CHUNK_BYTES = 1024 * 1024
_OCTAL = re.compile(r"0?[0-7]{1,4}")
_CLAUSE = re.compile(r"([ugoa]*)([-+=])([rwxXst]*)")

Owner = tuple[int, int]
Stopped = threading.Event


class StoppedError(Exception):
    """The build was cancelled while this was under way."""


@dataclass(slots=True)
class LayerWriter:
    """One layer over others. epoch_s: the time of what has no time of its own. Raises OSError, BuildError."""

    upper: str
    lowers: tuple[str, ...]
    epoch_s: int
    stopped: Stopped
    where: str
    _stack: LayerStack = field(init=False)
    _fresh: set[str] = field(default_factory=set)
    _times: dict[str, int] = field(default_factory=dict)
    _links: dict[tuple[int, int], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stack = LayerStack((self.upper, *self.lowers))

    def resolve(self, path: str) -> str:
        """Links followed in what is there until now."""
        return self._stack.resolve(path)

    def is_directory(self, path: str) -> bool:
        """Whether a resolved path is one."""
        entry = self._stack.entry(path)
        return entry is not None and entry.is_dir

    def exists(self, path: str) -> bool:
        """Whether there is something at a resolved path."""
        return self._stack.entry(path) is not None

    def directory(self, path: str, owner: Owner = (0, 0), mode: int = 0o755) -> str:
        """Have a directory at a resolved path; those that are made belong to `owner`. The host's path."""
        inner = ""
        place = self.upper
        for part in filter(None, path.split("/")):
            above, inner, place = inner, f"{inner}/{part}", f"{place}/{part}"
            if inner in self._fresh:
                continue
            entry = None if above in self._fresh else self._stack.entry(inner)
            if entry is None:
                if above not in self._fresh:
                    make_directories(self._stack, self.upper, above)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(place)  # a whiteout of ours
                os.mkdir(place, 0o700)
                os.chown(place, *owner)
                os.chmod(place, mode)
                self._fresh.add(inner)
                self._times[place] = self.epoch_s * 1_000_000_000
            elif not entry.is_dir:
                raise BuildError(f"{self.where}: cannot copy to non-directory: {inner}")
            else:
                make_directories(self._stack, self.upper, inner)
                self._times.setdefault(place, os.lstat(place).st_mtime_ns)
        return place

    def put(
        self, tree: Tree, item: Item, path: str, owner: Owner | None, mode: str, expected: bytes | None
    ) -> None:
        """Copy one item to a path whose parent is there. expected: the digest that its content had."""
        if self.stopped.is_set():
            raise StoppedError
        status = item.entry.status
        whose = owner or ((status.st_uid, status.st_gid) if tree.keeps_owners else (0, 0))
        time_ns = status.st_mtime_ns if tree.keeps_owners else self.epoch_s * 1_000_000_000
        above = path.rpartition("/")[0]
        place = f"{self.upper}{path}"
        there = None if above in self._fresh and not os.path.lexists(place) else self._stack.entry(path)
        if item.entry.is_dir:
            made = there is None
            self.directory(path)
            if made:
                os.chown(place, *whose)
                self._attributes(item, place)
                os.chmod(place, new_mode(mode, status.st_mode))
                self._times[place] = time_ns
            return
        if there is not None and there.is_dir:
            raise BuildError(f"{self.where}: cannot copy file over the directory {path}; write {path}/")
        self.directory(above)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place)
        self._file(tree, item, place, expected)
        os.lchown(place, *whose)
        if not item.entry.is_link:
            self._attributes(item, place)
            os.chmod(place, new_mode(mode, status.st_mode))
        os.utime(place, ns=(time_ns, time_ns), follow_symlinks=False)

    def write(self, path: str, data: bytes, owner: Owner, mode: int) -> None:
        """A new file at a path whose parent is there."""
        place = f"{self.upper}{path}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place)
        with open(place, "xb") as file:
            file.write(data)
        os.chown(place, *owner)
        os.chmod(place, mode)
        os.utime(place, (self.epoch_s, self.epoch_s))

    def finish(self) -> None:
        """Times of directories, which change with what is written into them."""
        for place in sorted(self._times, reverse=True):
            os.utime(place, ns=(self._times[place], self._times[place]))

    def _file(self, tree: Tree, item: Item, place: str, expected: bytes | None) -> None:
        status = item.entry.status
        if item.entry.is_link:
            os.symlink(os.readlink(item.entry.path), place)
        elif stat.S_ISFIFO(status.st_mode):
            os.mkfifo(place)
        else:
            key = (status.st_dev, status.st_ino)
            if tree.keeps_owners and status.st_nlink > 1:
                if key in self._links:
                    os.link(self._links[key], place)
                    return
                self._links[key] = place
            self._content(tree.open(item.inner, item.entry), place, item, expected)

    def _content(self, fd: int, place: str, item: Item, expected: bytes | None) -> None:
        digest = hashlib.sha256()
        try:
            with open(place, "xb", buffering=0) as out:
                while data := os.read(fd, _CHUNK_BYTES):
                    if self.stopped.is_set():
                        raise StoppedError
                    digest.update(data)
                    out.write(data)
        finally:
            os.close(fd)
        if expected is not None and digest.digest() != expected:
            raise BuildError(
                f"{self.where}: cannot copy {item.inner}: it changed while the build was reading it;"
                " build again"
            )

    @staticmethod
    def _attributes(item: Item, place: str) -> None:
        for name, value in attributes(item.entry.path):
            os.setxattr(place, name, value)


def new_mode(text: str, before: int) -> int:
    """A mode after `--chmod`: octal, or as chmod(1) has it (u=rwX,go-w). Raises ValueError."""
    mode = stat.S_IMODE(before)
    if not text:
        return mode
    if _OCTAL.fullmatch(text):
        return int(text, 8)
    for clause in text.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            raise ValueError(f"invalid mode {text!r}; write 755, or u=rwX,go=rX")
        mode = _clause(mode, match[1] or "a", match[2], match[3], directory=stat.S_ISDIR(before))
    return mode


def _clause(mode: int, who: str, operator: str, rights: str, *, directory: bool) -> int:
    executable = directory or bool(mode & 0o111)
    bits = {"r": 4, "w": 2, "x": 1, "X": 1 if executable else 0}
    value = 0
    for right in rights:
        value |= bits.get(right, 0)
    shifts = {"u": 6, "g": 3, "o": 0}
    classes = "ugo" if "a" in who else who
    mask = sum({7 << shifts[name] for name in classes})
    change = sum({value << shifts[name] for name in classes})
    if "s" in rights:
        change |= (0o4000 if "u" in classes else 0) | (0o2000 if "g" in classes else 0)
    if "t" in rights:
        change |= 0o1000
    match operator:
        case "+":
            return mode | change
        case "-":
            return mode & ~change
        case _:
            return mode & ~mask | change


def owner_of(text: str, read: Callable[[str], str]) -> Owner:
    """`--chown`, and whose WORKDIR's directories are, by the image's own files. Raises ValueError.

    read: the text of a file of the image, "" where there is none. A number alone is user and group; a name
    alone has its group by /etc/passwd (BuildKit, solver/llbsolver/file/user_linux.go).
    """
    name, colon, group = text.partition(":")
    if name.isdigit():
        uid = gid = int(name)
    else:
        rows = [row for row in _rows(read("/etc/passwd")) if len(row) >= 4 and row[0] == name]
        if not rows:
            raise ValueError(f"unable to find user {name}: no matching entries in its /etc/passwd")
        uid, gid = int(rows[0][2]), int(rows[0][3])
    if colon and group:
        if group.isdigit():
            gid = int(group)
        else:
            found = [row for row in _rows(read("/etc/group")) if len(row) >= 3 and row[0] == group]
            if not found:
                raise ValueError(f"unable to find group {group}: no matching entries in its /etc/group")
            gid = int(found[0][2])
    return uid, gid


def _rows(text: str) -> list[list[str]]:
    return [row.strip().split(":") for row in text.splitlines() if row and not row.startswith("#")]
