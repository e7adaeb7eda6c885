"""One pass over a tar archive, into a directory.

An archive is hostile until unpacked: no member leaves the root, whatever its name, link or order says;
nothing in it can be a device or speak to overlayfs; and it cannot fill the disk or the memory. A layer's
whiteouts become overlayfs' own (OCI image specification, layer.md; Documentation/filesystems/overlayfs.rst).
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from supervisor.image.attributes import is_kept
from supervisor.image.layerstack import OPAQUE, is_whiteout
from supervisor.image.skeleton import Content
from supervisor.kernel import syscalls as sc

_HEADER_BYTES = 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_MAX_LINKS = 40
_MAX_CONTENTS = 1_000_000  # noted in memory
_MAX_DEPTH = 400
"""Of directories: shutil.rmtree calls itself for each, with a descriptor open; what it cannot take stays."""
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class ArchiveError(Exception):
    """An archive that cannot be, or must not be, unpacked. The text is for the user."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much an archive may become; `reserve_bytes` stay free on the disk whatever it holds."""

    max_bytes: int = 64 * 1024**3
    max_members: int = 5_000_000
    reserve_bytes: int = 256 * 1024**2


def unpack_tar(
    plain: IO[bytes],
    name: str,
    root: str,
    bounds: Bounds,
    *,
    layer: bool = False,
    contents: list[Content] | None = None,
) -> None:
    """Unpack a plain archive into the empty directory `root`, that nobody else may write.

    name: of the archive, for errors. layer: it is one of an image, with whiteouts. contents: gets those of
    files but empty and sparse ones, none where a member replaces another. `plain` is read to its end. Raises
    ArchiveError, OSError, and what reading `plain` raises.
    """
    try:
        with tarfile.open(fileobj=plain, mode="r|", tarinfo=BoundedHeader, bufsize=_CHUNK_BYTES) as archive:
            _Unpacking(name, root, bounds, layer=layer, contents=contents).run(archive)
        left = bounds.max_bytes
        while data := plain.read(_CHUNK_BYTES):  # what follows the end mark counts for digests
            left -= len(data)
            if left < 0:
                raise ArchiveError(f"cannot unpack {name}: it does not end")
    except (tarfile.TarError, ValueError) as error:
        raise ArchiveError(f"cannot unpack {name}: {error}; is it a tar archive, and whole?") from error


class BoundedHeader(tarfile.TarInfo):
    """tarfile reads long names and pax records into memory, as long as they say they are."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED and self.size > _HEADER_BYTES:
            raise ArchiveError(
                f"cannot unpack {archive.name!r}: a header of {self.size} bytes; the archive is damaged"
            )
        return cast("tarfile.TarInfo", super()._proc_member(archive))  # type: ignore[misc]  # not in the stubs


class _Unpacking:
    """One pass over an archive. Directories get their attributes last: a read-only one is hard to fill."""

    def __init__(
        self, file: str, root: str, bounds: Bounds, *, layer: bool, contents: list[Content] | None
    ) -> None:
        self._file = file
        self._layer = layer
        self._contents = contents
        self._root = root
        self._bounds = bounds
        self._bytes = 0
        self._directories: dict[str, tarfile.TarInfo] = {}

    def run(self, archive: tarfile.TarFile) -> None:
        for count, member in enumerate(archive):
            if count >= self._bounds.max_members:
                raise self._error(f"more than {self._bounds.max_members} members")
            self._member(archive, member)
        root = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for path in sorted(self._directories, reverse=True):
                if _is_still_there(root, path.removeprefix(self._root).strip("/")):
                    _attributes(path, self._directories[path])
        finally:
            os.close(root)

    def _member(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = self._parts(member.name)
        if not parts:
            if member.isdir():
                self._directories[self._root] = member
            return
        if not (member.isdir() or member.isreg() or member.issym() or member.islnk() or member.isfifo()):
            return  # devices: a service has its own /dev, and no other place where one works
        parent = self._inside(parts[:-1], make=True)
        path = f"{parent}/{parts[-1]}"
        if self._layer and parts[-1].startswith(_WHITEOUT):
            self._whiteout(parent, parts[-1])
            return
        hidden = self._layer and os.path.lexists(path) and is_whiteout(os.lstat(path))
        self._clear(path, keep_directory=member.isdir())
        if member.isdir():
            if not os.path.isdir(path):
                os.mkdir(path, 0o700)
            if hidden:
                os.setxattr(path, OPAQUE, b"y")
            self._directories[path] = member
            return
        if member.islnk():
            self._hard_link(member, path)
            return
        if member.issym():
            os.symlink(member.linkname, path)
        elif member.isfifo():
            os.mkfifo(path)
        else:
            self._regular(archive, member, path)
        _attributes(path, member)

    def _whiteout(self, parent: str, name: str) -> None:
        """It hides what lower layers have, never what this one has, whatever comes first."""
        if name == _OPAQUE:
            os.setxattr(parent, OPAQUE, b"y")
        elif not name.startswith(_WHITEOUT * 2) and name != _WHITEOUT:  # the first are aufs' own notes
            hides = name.removeprefix(_WHITEOUT)
            if hides in (".", ".."):
                raise self._error(f"{name} hides {hides}, which is no name of a file")
            hidden = f"{parent}/{hides}"
            if not os.path.lexists(hidden):
                os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0))
            elif stat.S_ISDIR(os.lstat(hidden).st_mode):
                os.setxattr(hidden, OPAQUE, b"y")

    def _hard_link(self, member: tarfile.TarInfo, path: str) -> None:
        parts = self._parts(member.linkname)
        source = f"{self._inside(parts[:-1], make=False)}/{parts[-1]}" if parts else self._root
        if not os.path.lexists(source) or os.path.isdir(source):
            raise self._error(f"hard link {member.name} to {member.linkname}, which is no file of it")
        os.link(source, path, follow_symlinks=False)

    def _regular(self, archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        content = archive.extractfile(member)
        if content is None:
            raise self._error(f"{member.name} has no content")
        self._room(member.size)
        with open(path, "xb") as out:
            left = member.size
            while left and (data := content.read(min(left, _CHUNK_BYTES))):
                out.write(data)
                left -= len(data)
            if (
                self._contents is not None
                and len(self._contents) < _MAX_CONTENTS
                and member.size
                and member.sparse is None
            ):
                inner = path.removeprefix(f"{self._root}/")
                self._contents.append(Content(member.offset_data, member.size, inner))
        if left:
            raise self._error(f"{member.name} is cut off")

    def _room(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._bounds.max_bytes:
            raise self._error(f"it becomes more than {self._bounds.max_bytes} bytes")
        disk = os.statvfs(self._root)
        if size + self._bounds.reserve_bytes > disk.f_bavail * disk.f_frsize:
            raise self._error("no space left on the disk of the state directory")

    def _parts(self, name: str) -> list[str]:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise self._error(f"{name} leaves the root; no member may have '..' in its name")
        return parts

    def _inside(self, parts: list[str], *, make: bool) -> str:
        """The directory that `parts` name; links are followed as if the root were /, never out of it."""
        todo, done, links = list(reversed(parts)), list[str](), 0
        while todo:
            part = todo.pop()
            if part == "..":
                done = done[:-1]
                continue
            path = "/".join([self._root, *done, part])
            try:
                mode = os.lstat(path).st_mode
            except FileNotFoundError:
                if not make:
                    raise self._error(f"{'/'.join(parts)} does not exist") from None
                os.mkdir(path, 0o755)
                mode = stat.S_IFDIR
            if stat.S_ISLNK(mode):
                links += 1
                if links > _MAX_LINKS:
                    raise self._error(f"{'/'.join(parts)} has too many symbolic links")
                text = os.readlink(path)
                done = [] if text.startswith("/") else done
                todo += [step for step in reversed(text.split("/")) if step not in ("", ".")]
            elif stat.S_ISDIR(mode):
                done.append(part)
                if len(done) >= _MAX_DEPTH:
                    raise self._error(f"more than {_MAX_DEPTH} directories in each other")
            else:
                raise self._error(f"{'/'.join(parts)} is not a directory")
        return "/".join([self._root, *done])

    def _clear(self, path: str, *, keep_directory: bool) -> None:
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISDIR(mode) and keep_directory:
            return
        if self._contents and not stat.S_ISLNK(mode):
            # The archive has what this file was, and the directory will not: rare, so none counts then.
            self._contents.clear()
            self._contents = None
        if stat.S_ISDIR(mode):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def _error(self, why: str) -> ArchiveError:
        return ArchiveError(f"cannot unpack {self._file}: {why}")


def _is_still_there(root: int, inner: str) -> bool:
    """Whether a directory is one yet, reached through no link: a later member may have replaced one above it.

    Through a link that took its parent's place its attributes would be given to a directory of the host.
    """
    try:
        os.close(sc.openat2(root, inner or ".", os.O_PATH | os.O_DIRECTORY, sc.RESOLVE_NO_SYMLINKS))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise
    return True


def _attributes(path: str, member: tarfile.TarInfo) -> None:
    os.lchown(path, member.uid, member.gid)
    seconds = max(0, int(member.mtime))
    if member.issym():
        os.utime(path, (seconds, seconds), follow_symlinks=False)
        return
    for key, value in member.pax_headers.items():
        name = key.removeprefix("SCHILY.xattr.")
        if name != key and is_kept(name):
            os.setxattr(path, name, value.encode("utf-8", "surrogateescape"))
    Path(path).chmod(stat.S_IMODE(member.mode))
    os.utime(path, (seconds, seconds))
