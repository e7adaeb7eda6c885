"""Files into and out of a root that its service may be changing: what `cp` and `export` are made of.

Every path is resolved by openat2(RESOLVE_IN_ROOT), and every file is worked on by its directory's descriptor
and its last name, never followed: no link of the service leads out of it, whenever it is made. Rules of the
archive endpoints: moby, daemon/archive_unix.go and pkg/archive (names in the archive, what replaces what).
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import shutil
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO

from supervisor.image.attributes import is_kept
from supervisor.image.unpacking import ArchiveError, BoundedHeader
from supervisor.kernel import mounts

_CHUNK_BYTES = 1024 * 1024
_MAX_LINKS = 40
_NO_FILES = frozenset({"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "devtmpfs"})
_FOLLOW_NOTHING = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Found:
    """What is at a path. name: its last part, as the archive has it; target: of a link, resolved, else ""."""

    name: str
    mode: int
    size: int
    mtime_ns: int
    target: str = ""


def find(root: int, path: str) -> Found:
    """Look at a path; its last part is followed only with a `/` or `/.` behind it. Raises OSError."""
    name = posixpath.basename(path.rstrip("/")) or "/"
    with _parent(root, path) as (parent, last):
        status = os.stat(last, dir_fd=parent, follow_symlinks=False)
    target = resolved(root, path) if stat.S_ISLNK(status.st_mode) else ""
    return Found(name, status.st_mode, status.st_size, status.st_mtime_ns, target)


def resolved(root: int, path: str) -> str:
    """The path with every link followed inside the root; parts that are not there stay. Raises OSError."""
    todo, done, links = list(reversed(path.split("/"))), list[str](), 0
    while todo:
        part = todo.pop()
        if part in ("", "."):
            continue
        if part == "..":
            done = done[:-1]
            continue
        text = _link(root, "/" + "/".join([*done, part]))
        if text is None:
            done.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        done = [] if text.startswith("/") else done
        todo += reversed(text.split("/"))
    return "/" + "/".join(done)


def hidden_devices(mountinfo: str) -> frozenset[int]:
    """The st_dev of what a process has mounted that holds no files of its own: /proc, /sys, /dev.

    mountinfo: proc_pid_mountinfo(5).
    """
    found = set()
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields = left.split()
        if right.split()[0] in _NO_FILES or f"{fields[4]}/".startswith("/dev/"):
            major, _, minor = fields[2].partition(":")
            found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Rename:
    """Of names in an archive: the first `drop` parts give way to `first`."""

    drop: int
    first: str


def write_tar(
    root: int,
    path: str,
    out: IO[bytes],
    hidden: frozenset[int] = frozenset(),
    *,
    name: str | None = None,
) -> None:
    """Write what is at a path, and below it, as a tar archive. Names begin with the path's last part.

    name: instead of that. "/" is written as what it holds, names without a first part, but for `name`.
    hidden: file systems whose directories are written empty. What changes meanwhile is written as it was
    found; what goes is left out. Raises OSError.
    """
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8") as archive:
        writing = _Writing(archive, hidden)
        with _parent(root, path) as (parent, last):
            if name is None and path.strip("/") in ("", "."):
                fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
                try:
                    for inner in sorted(os.listdir(fd)):
                        writing.add(fd, inner, inner)
                finally:
                    os.close(fd)
            else:
                writing.add(parent, last, name or posixpath.basename(path.rstrip("/")), needed=True)


def read_tar(
    root: int,
    path: str,
    plain: IO[bytes],
    *,
    keep_kinds: bool,
    owner: tuple[int, int] | None = None,
    rename: Rename | None = None,
) -> None:
    """Unpack an archive, plain or compressed, into the directory `path`.

    keep_kinds: no directory is replaced by something else, or the other way round (moby's
    noOverwriteDirNonDir). owner: of all that comes, instead of the archive's. Sockets and devices are left
    out. Raises NotADirectoryError, ArchiveError, OSError; what came before stays.
    """
    os.close(mounts.resolve(root, path, os.O_PATH | os.O_DIRECTORY))
    try:
        with tarfile.open(
            fileobj=plain, mode="r|*", tarinfo=BoundedHeader, encoding="utf-8", bufsize=_CHUNK_BYTES
        ) as archive:
            _Reading(root, path, archive, keep_kinds, owner, rename).run()
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise ArchiveError(f"cannot unpack the archive: {error}; is it a tar archive, and whole?") from error


def remove(root: int, path: str) -> bool:
    """Remove what is at a path, a directory with all in it; whether there was something.

    A mount in it stays, and is an error. Raises OSError.
    """
    try:
        with _parent(root, path.rstrip("/")) as (parent, last):
            status = os.stat(last, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                shutil.rmtree(last, dir_fd=parent)
            else:
                os.unlink(last, dir_fd=parent)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


# --- out ---------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Writing:
    archive: tarfile.TarFile
    hidden: frozenset[int]
    links: dict[tuple[int, int], str] = field(default_factory=dict)

    def add(self, parent: int, last: str, name: str, *, needed: bool = False) -> None:
        """One file by its name in the directory `parent`, and what is below it."""
        try:
            status = os.stat(last, dir_fd=parent, follow_symlinks=False)
            info = _member(name, status)
            if info is None:
                return
            if info.issym():
                info.linkname = os.readlink(last, dir_fd=parent)
            if not (info.isdir() or info.isreg()):
                self.archive.addfile(info)
                return
            kind = os.O_DIRECTORY if info.isdir() else 0
            fd = os.open(last, os.O_RDONLY | kind | _FOLLOW_NOTHING, dir_fd=parent)
        except FileNotFoundError:
            if needed:
                raise
            return  # it went meanwhile
        try:
            self._opened(fd, info)
        finally:
            os.close(fd)

    def _opened(self, fd: int, info: tarfile.TarInfo) -> None:
        status = os.fstat(fd)  # of what was opened, should it be another one than before
        key = (status.st_dev, status.st_ino)
        info.pax_headers = _xattrs(fd)
        if stat.S_ISDIR(status.st_mode):
            self.archive.addfile(info)
            if status.st_dev not in self.hidden:
                for inner in sorted(os.listdir(fd)):
                    self.add(fd, inner, f"{info.name}/{inner}")
        elif stat.S_ISREG(status.st_mode):
            if status.st_nlink > 1 and key in self.links:
                info.type, info.linkname, info.size = tarfile.LNKTYPE, self.links[key], 0
                info.pax_headers = {}
                self.archive.addfile(info)
                return
            self.links[key] = info.name
            info.size = status.st_size
            with open(fd, "rb", closefd=False) as content:
                self.archive.addfile(info, _Padded(content))  # type: ignore[arg-type]  # it reads


class _Padded:
    """A file that is as long as it was, whatever is done to it meanwhile."""

    def __init__(self, content: IO[bytes]) -> None:
        self._content = content

    def read(self, size: int) -> bytes:
        return self._content.read(size).ljust(size, b"\0")


def _member(name: str, status: os.stat_result) -> tarfile.TarInfo | None:
    info = tarfile.TarInfo(name)
    info.mode, info.uid, info.gid = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
    info.mtime = int(status.st_mtime)
    match stat.S_IFMT(status.st_mode):
        case stat.S_IFDIR:
            info.type = tarfile.DIRTYPE
        case stat.S_IFREG:
            info.type = tarfile.REGTYPE
        case stat.S_IFLNK:
            info.type = tarfile.SYMTYPE
        case stat.S_IFIFO:
            info.type = tarfile.FIFOTYPE
        case stat.S_IFCHR | stat.S_IFBLK as kind:
            info.type = tarfile.CHRTYPE if kind == stat.S_IFCHR else tarfile.BLKTYPE
            info.devmajor, info.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
        case _:
            return None  # a socket means nothing without its program
    return info


def _xattrs(fd: int) -> dict[str, str]:
    """Capabilities, and the user's own."""
    try:
        names = os.listxattr(fd)
    except OSError:
        return {}  # a file system that has none
    return {
        f"SCHILY.xattr.{name}": os.getxattr(fd, name).decode("utf-8", "surrogateescape")
        for name in sorted(names)
        if is_kept(name)
    }


# --- in ----------------------------------------------------------------------------------------------
@dataclass(slots=True)
class _Reading:
    root: int
    path: str
    archive: tarfile.TarFile
    keep_kinds: bool
    owner: tuple[int, int] | None
    rename: Rename | None
    times: list[tuple[str, tarfile.TarInfo]] = field(default_factory=list)

    def run(self) -> None:
        for member in self.archive:
            parts = self._parts(member.name)
            if not (member.isdir() or member.isreg() or member.issym() or member.islnk() or member.isfifo()):
                continue
            if not parts:
                continue  # the directory itself is not the archive's
            with self._directory(parts[:-1]) as parent:
                self._member(member, parent, parts)
        for path, member in reversed(self.times):
            with contextlib.suppress(OSError):
                fd = mounts.resolve(self.root, path, os.O_RDONLY | os.O_DIRECTORY)
                os.utime(fd, (member.mtime, member.mtime))
                os.close(fd)

    def _parts(self, name: str) -> list[str]:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise ArchiveError(f"cannot unpack {name}: no member may have '..' in its name")
        return parts if self.rename is None else [self.rename.first, *parts[self.rename.drop :]]

    @contextlib.contextmanager
    def _directory(self, parts: list[str]) -> Iterator[int]:
        fd = mounts.make_directory(self.root, "/".join([self.path, *parts]))
        try:
            yield fd
        finally:
            os.close(fd)

    def _member(self, member: tarfile.TarInfo, parent: int, parts: list[str]) -> None:
        name = parts[-1]
        self._clear(member, parent, name)
        if member.isdir():
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=parent)
            self._settle(member, parent, name, os.O_DIRECTORY)
            self.times.append(("/".join([self.path, *parts]), member))
        elif member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
            self._own(member, parent, name)
            times = (member.mtime, member.mtime)
            os.utime(name, times, dir_fd=parent, follow_symlinks=False)
        elif member.islnk():
            source = self._parts(member.linkname)
            if not source:
                raise ArchiveError(f"cannot unpack {member.name}: a hard link to nothing")
            with self._directory(source[:-1]) as above:
                os.link(source[-1], name, src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)
        elif member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=parent)
            self._settle(member, parent, name, 0)
        else:
            self._content(member, parent, name)
            self._settle(member, parent, name, 0)

    def _content(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        content = self.archive.extractfile(member)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FOLLOW_NOTHING
        with open(os.open(name, flags, 0o600, dir_fd=parent), "wb") as out:
            left = member.size
            while content is not None and left and (data := content.read(min(left, _CHUNK_BYTES))):
                out.write(data)
                left -= len(data)
        if left:
            raise ArchiveError(f"cannot unpack {member.name}: it is cut off")

    def _clear(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        """As moby: directories are merged, everything else is replaced, or, with `keep_kinds`, refused."""
        try:
            is_dir = stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
        except FileNotFoundError:
            return
        if is_dir and member.isdir():
            return
        if self.keep_kinds and is_dir != member.isdir():
            what = "directory" if is_dir else "non-directory"
            other = "non-directory" if is_dir else "directory"
            raise ArchiveError(
                f"cannot overwrite {what} with {other}: {member.name}; remove it first, or name another place"
            )
        if is_dir:
            shutil.rmtree(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)

    def _own(self, member: tarfile.TarInfo, parent: int, name: str) -> None:
        uid, gid = self.owner or (member.uid, member.gid)
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)

    def _settle(self, member: tarfile.TarInfo, parent: int, name: str, kind: int) -> None:
        """Owner, then mode and capabilities, which a change of owner takes away; the times last."""
        self._own(member, parent, name)
        is_root = os.geteuid() == 0
        fd = os.open(name, os.O_RDONLY | kind | _FOLLOW_NOTHING, dir_fd=parent)
        try:
            os.fchmod(fd, stat.S_IMODE(member.mode))
            for key, value in member.pax_headers.items():
                xattr = key.removeprefix("SCHILY.xattr.")
                if xattr != key and is_kept(xattr) and (is_root or xattr.startswith("user.")):
                    os.setxattr(fd, xattr, value.encode("utf-8", "surrogateescape"))
            os.utime(fd, (member.mtime, member.mtime))
        finally:
            os.close(fd)


# --- paths -------------------------------------------------------------------------------------------
@contextlib.contextmanager
def _parent(root: int, path: str) -> Iterator[tuple[int, str]]:
    """(descriptor of a directory, name in it) of a path inside the root."""
    clean = path.rstrip("/")
    above, _, last = clean.rpartition("/")
    if path.endswith("/") or last in ("", ".", ".."):
        above, last = path or "/", "."
    fd = mounts.resolve(root, above or "/", os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd, last
    finally:
        os.close(fd)


def _link(root: int, path: str) -> str | None:
    """The text of a symbolic link; None for anything else, and for nothing."""
    try:
        fd = mounts.resolve(root, path, os.O_PATH | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return os.readlink("", dir_fd=fd) if stat.S_ISLNK(os.fstat(fd).st_mode) else None
    finally:
        os.close(fd)
