"""What a layer's archive is beside the content of its files, so that another tool's can be written again.

Headers, order and padding as they came, compressed, and the path of a file in place of each content: the
unpacked files are the only copy. Records of (bytes to come, size of the content after them, bytes of its
path), the last one without a path.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable
from typing import IO, NamedTuple

import zstandard

from supervisor.image.layertar import TarError

_RECORD = struct.Struct(">IQH")
_CHUNK_BYTES = 1024 * 1024
_MAX_BYTES = 64 * 1024 * 1024
"""Of what is not content: a header has 512."""


class Content(NamedTuple):
    """Where a file's content is in the plain archive, and the file that it became: path below the root."""

    offset: int
    size: int
    path: str


def write_skeleton(plain: IO[bytes], contents: Iterable[Content], target: str) -> bool:
    """Make the new file `target` from an archive, that is read to its end.

    contents: of files that have it still, in the archive's order; what is not named is kept as it came.
    False, and no file, where that is too much. Raises OSError, and what reading `plain` raises.
    """
    whole = False
    try:
        with open(target, "xb") as file, zstandard.ZstdCompressor(level=3).stream_writer(file) as out:
            whole = _write(plain, contents, out.write)
    finally:
        if not whole:
            os.unlink(target)
    return whole


def _write(plain: IO[bytes], contents: Iterable[Content], write: Callable[[bytes], object]) -> bool:
    at, left = 0, _MAX_BYTES
    for content in contents:
        path = os.fsencode(content.path)
        between = content.offset - at
        left -= between
        if left < 0 or len(path) > 0xFFFF:
            return False
        write(_RECORD.pack(between, content.size, len(path)) + plain.read(between) + path)
        _skip(plain, content.size)
        at = content.offset + content.size
    rest = plain.read(left + 1)
    write(_RECORD.pack(len(rest), 0, 0) + rest)
    return len(rest) <= left


def _skip(plain: IO[bytes], size: int) -> None:
    if plain.seekable():
        plain.seek(size, os.SEEK_CUR)
        return
    while size and (data := plain.read(min(size, _CHUNK_BYTES))):
        size -= len(data)


def write_again(skeleton: str, root: str, write: Callable[[bytes], object]) -> None:
    """The archive that it was made from, from the files in `root`. Raises OSError, TarError."""
    with open(skeleton, "rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as records:
        while True:
            between, size, length = _RECORD.unpack(_exactly(records, _RECORD.size))
            write(_exactly(records, between))
            if not length:
                return
            _copy(os.fsencode(root) + b"/" + _exactly(records, length), size, write)


def _exactly(records: IO[bytes], size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = records.read(size - len(data))
        if not more:
            raise TarError("its skeleton is cut off")
        data += more
    return data


def _copy(path: bytes, size: int, write: Callable[[bytes], object]) -> None:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", 0) as file:
        while size:
            data = file.read(min(size, _CHUNK_BYTES))
            if not data:
                raise TarError(f"{os.fsdecode(path)} became smaller")
            write(data)
            size -= len(data)
