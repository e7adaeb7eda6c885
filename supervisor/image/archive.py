"""Root file systems from archives: FILE.tar, plain or compressed with gzip, zstd, xz or bzip2.

On the disk, `<state>/rootfs/<sha256 of the file>` is one unpacked archive: complete when it has that name,
read-only for everyone after, shared by all instances. `.new-*` beside it is work that was cut off.

An archive is hostile until unpacked: no member leaves the root, whatever its name, link or order says;
nothing in it can be a device or speak to overlayfs; and it cannot fill the disk or the memory.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import tempfile
import zlib
from pathlib import Path
from typing import IO, cast

import zstandard

from supervisor.image.unpacking import ArchiveError, Bounds, unpack_tar

DECOMPRESSION_ERRORS = (EOFError, lzma.LZMAError, zstandard.ZstdError, gzip.BadGzipFile, zlib.error)


def unpack_cached(file: str, cache: str, bounds: Bounds | None = None) -> tuple[str, str]:
    """Unpack `file` below `cache` unless it is there. Returns (sha256 of the file, directory). Blocks.

    Raises ArchiveError; nothing of a failed attempt stays behind.
    """
    try:
        digest = _digest(file)
        place = f"{cache}/{digest}"
        if os.path.isdir(place):
            return digest, place
        making = tempfile.mkdtemp(prefix=".new-", dir=cache)
        try:
            Path(making).chmod(0o755)
            unpack(file, making, bounds or Bounds())
            if _digest(file) != digest:
                raise ArchiveError(
                    f"cannot unpack {file}: it changed meanwhile; try again when it is complete"
                )
            os.sync()  # a power cut must not leave a complete-looking root of empty files
            try:
                os.rename(making, place)
            except OSError:
                if not os.path.isdir(place):
                    raise
        finally:
            shutil.rmtree(making, ignore_errors=True)
    except OSError as error:
        raise ArchiveError(f"cannot unpack {file}: {error.strerror}: {error.filename or file}") from error
    return digest, place


def unpack(file: str, root: str, bounds: Bounds) -> None:
    """Unpack into the empty directory `root`, that nobody else may write. Raises ArchiveError or OSError."""
    try:
        with open(file, "rb") as raw, decompressed(raw) as plain:
            unpack_tar(plain, file, root, bounds)
    except DECOMPRESSION_ERRORS as error:
        raise ArchiveError(f"cannot unpack {file}: {error}; is it a tar archive, and whole?") from error


def decompressed(raw: IO[bytes]) -> IO[bytes]:
    """A stream of the plain archive. Reading may raise DECOMPRESSION_ERRORS.

    The kind is told by the first bytes, as the name may lie. raw: can seek.
    """
    magic = raw.read(6)
    raw.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb"))
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        reader = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(
            raw, read_across_frames=True
        )
        return cast("IO[bytes]", reader)
    if magic.startswith(b"\xfd7zXZ\x00"):
        return cast("IO[bytes]", lzma.LZMAFile(raw))
    if magic.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.BZ2File(raw))
    return raw


def _digest(file: str) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
