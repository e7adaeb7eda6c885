"""A directory of overlayfs as the tar archive of a layer: the same bytes for the same files, always.

Entries sorted by name, whole seconds, no names of users, the first name of a hard link is the file. Written
here and not by tarfile, whose headers change between versions of Python. Format: POSIX.1-2001 pax
(pax(1)); whiteouts: OCI image specification, layer.md.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator

import msgspec

from supervisor.image.attributes import attributes
from supervisor.image.layerstack import is_opaque, is_whiteout

_BLOCK = 512
_CHUNK_BYTES = 1024 * 1024
_MAX_OCTAL_7, _MAX_OCTAL_11 = 8**7 - 1, 8**11 - 1


class _Entry(msgspec.Struct, frozen=True):
    name: bytes
    kind: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    link: bytes = b""
    device: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()


class TarError(OSError):
    """A file that cannot be stored, or that changed while it was read."""


def write_layer(root: str, write: Callable[[bytes], object], *, newest_s: int | None = None) -> None:
    """Write the archive of `root`, an overlayfs upper or an unpacked layer. Nobody may change it meanwhile.

    newest_s: later times of files become this one (SOURCE_DATE_EPOCH). Raises TarError, OSError.
    """
    links: dict[tuple[int, int], bytes] = {}
    for path, entry in _entries(os.fsencode(root), b"", links, newest_s):
        write(_headers(entry))
        if entry.kind == b"0" and entry.size:
            _content(path, entry.size, write)
    write(b"\0" * (2 * _BLOCK))


def write_member(name: str, size: int, write: Callable[[bytes], object]) -> None:
    """The header of a plain file of root's; its content, filled up to a whole block, is the caller's part."""
    write(_headers(_Entry(name.encode(), b"0", size=size)))


def _entries(
    root: bytes, inside: bytes, links: dict[tuple[int, int], bytes], newest_s: int | None
) -> Iterator[tuple[bytes, _Entry]]:
    directory = root + b"/" + inside if inside else root
    if inside and is_opaque(directory):
        yield b"", _Entry(inside + b"/.wh..wh..opq", b"0", 0o600, mtime=0)
    prefix = inside + b"/" if inside else b""
    found = [(name, os.lstat(directory + b"/" + name)) for name in sorted(os.listdir(directory))]
    gone = [name for name, status in found if is_whiteout(status)]
    for name in gone:  # before their siblings, as the specification wants it
        yield b"", _Entry(prefix + b".wh." + name, b"0", 0o600)
    for name, status in found:
        if name in gone:
            continue
        path, shown = directory + b"/" + name, prefix + name
        entry = _entry(path, shown, status, links, newest_s)
        if entry is None:
            continue
        yield path, entry
        if entry.kind == b"5":
            yield from _entries(root, shown, links, newest_s)


def _entry(
    path: bytes,
    shown: bytes,
    status: os.stat_result,
    links: dict[tuple[int, int], bytes],
    newest_s: int | None,
) -> _Entry | None:
    mode = status.st_mode
    mtime = max(0, int(status.st_mtime_ns // 1_000_000_000))
    if newest_s is not None:
        mtime = min(mtime, newest_s)
    kind, size, link, device = b"0", 0, b"", 0
    if stat.S_ISREG(mode):
        size = status.st_size
        if status.st_nlink > 1:
            first = links.setdefault((status.st_dev, status.st_ino), shown)
            if first != shown:
                kind, size, link = b"1", 0, first
    elif stat.S_ISDIR(mode):
        kind = b"5"
    elif stat.S_ISLNK(mode):
        kind, link = b"2", os.readlink(path)
    elif stat.S_ISFIFO(mode):
        kind = b"6"
    elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        kind, device = (b"3" if stat.S_ISCHR(mode) else b"4"), status.st_rdev
    else:
        return None  # a socket means nothing without its program
    xattrs = () if kind in (b"1", b"2") else tuple(attributes(path))
    bits = 0o777 if kind == b"2" else stat.S_IMODE(mode)
    return _Entry(shown, kind, bits, status.st_uid, status.st_gid, size, mtime, link, device, xattrs)


def _headers(entry: _Entry) -> bytes:
    name = entry.name + b"/" if entry.kind == b"5" else entry.name
    records: list[tuple[str, bytes]] = []
    if len(name) > 100 or not name.isascii():
        records.append(("path", name))
    if len(entry.link) > 100 or not entry.link.isascii():
        records.append(("linkpath", entry.link))
    for key, value, most in (
        ("uid", entry.uid, _MAX_OCTAL_7),
        ("gid", entry.gid, _MAX_OCTAL_7),
        ("size", entry.size, _MAX_OCTAL_11),
    ):
        if value > most:
            records.append((key, str(value).encode()))
    records += [(f"SCHILY.xattr.{key}", value) for key, value in entry.xattrs]
    header = _header(
        name,
        entry.kind,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size,
        mtime=entry.mtime,
        link=entry.link,
        device=entry.device,
    )
    if not records:
        return header
    body = b"".join(_record(key, value) for key, value in records)
    # Its own name tells nobody anything; what matters is that it is always the same.
    extended = _header(b"././@PaxHeader", b"x", mode=0o644, size=len(body))
    return extended + body + b"\0" * (-len(body) % _BLOCK) + header


def _header(
    name: bytes,
    kind: bytes,
    *,
    mode: int,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime: int = 0,
    link: bytes = b"",
    device: int = 0,
) -> bytes:
    fields = [
        _ascii(name).ljust(100, b"\0"),
        _octal(mode, 8),
        _octal(uid if uid <= _MAX_OCTAL_7 else 0, 8),
        _octal(gid if gid <= _MAX_OCTAL_7 else 0, 8),
        _octal(size if size <= _MAX_OCTAL_11 else 0, 12),
        _octal(mtime, 12),
        b" " * 8,
        kind,
        _ascii(link).ljust(100, b"\0"),
        b"ustar\x0000",
        b"\0" * 64,
        _octal(os.major(device), 8),
        _octal(os.minor(device), 8),
        b"\0" * 167,
    ]
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _ascii(text: bytes) -> bytes:
    """What an old reader sees; a pax record has the whole."""
    return bytes(byte if byte < 128 else 0x5F for byte in text[:100])


def _octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def _record(key: str, value: bytes) -> bytes:
    """`LENGTH key=value\\n`, where the length counts itself."""
    rest = b" " + key.encode() + b"=" + value + b"\n"
    length = len(rest)
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def _content(path: bytes, size: int, write: Callable[[bytes], object]) -> None:
    left = size
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        while left:
            data = os.read(fd, min(left, _CHUNK_BYTES))
            if not data:
                raise TarError(f"cannot store {os.fsdecode(path)}: it became shorter meanwhile")
            write(data)
            left -= len(data)
    finally:
        os.close(fd)
    write(b"\0" * (-size % _BLOCK))
