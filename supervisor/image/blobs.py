"""Blobs of an OCI image layout: files named by the sha256 of their bytes, whole or not there at all.

`<root>/blobs/sha256/<hex>`; work under way is `<root>/ingest/<random>`, and what a kill leaves there the next
prune takes. Several processes may write at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from typing import IO

from supervisor.image.config import digest_of
from supervisor.kernel.files import sync_directory

_DIGEST = re.compile(r"sha256:([a-f0-9]{64})")


class BlobError(Exception):
    """A blob that is not there, or not what it says it is."""


class BlobWriter:
    """A blob that is being written; `Blobs.write` makes it. Counts and digests what passes."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        """Some more bytes of it."""
        self._hash.update(data)
        self.size += len(data)
        return self._file.write(data)

    @property
    def digest(self) -> str:
        """Of what was written until now."""
        return f"sha256:{self._hash.hexdigest()}"


class Blobs:
    """The blobs of one layout. All raise OSError."""

    def __init__(self, root: str) -> None:
        """`root` exists; the directories below it are made."""
        self._blobs = f"{root}/blobs/sha256"
        self.ingest = f"{root}/ingest"
        for directory in (self._blobs, self.ingest):
            os.makedirs(directory, 0o700, exist_ok=True)

    def path(self, digest: str) -> str:
        """Where a blob is, or would be. Raises BlobError for what is no digest."""
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise BlobError(f"cannot use digest {digest!r}: only sha256 is supported")
        return f"{self._blobs}/{match[1]}"

    def has(self, digest: str) -> bool:
        """Whether it is there."""
        return os.path.exists(self.path(digest))

    def read(self, digest: str, limit_bytes: int = 64 * 1024 * 1024) -> bytes:
        """A small one as a whole, checked. Raises BlobError."""
        try:
            with open(self.path(digest), "rb") as file:
                data = file.read(limit_bytes + 1)
        except FileNotFoundError:
            raise BlobError(
                f"cannot read blob {digest}: it is not in the store; pull or load it again"
            ) from None
        if len(data) > limit_bytes:
            raise BlobError(f"cannot read blob {digest}: it has more than {limit_bytes} bytes")
        if digest_of(data) != digest:
            raise BlobError(
                f"cannot use blob {digest}: its content has another digest; the disk may be failing"
            )
        return data

    @contextlib.contextmanager
    def write(self, expected: str | None = None) -> Iterator[BlobWriter]:
        """Write one; it is in the store when the context ends well, safe against a loss of power.

        expected: its digest, as somebody promised it. Raises BlobError if it is another.
        """
        place = f"{self.ingest}/{secrets.token_hex(8)}"
        try:
            with open(place, "xb") as file:
                writer = BlobWriter(file)
                yield writer
                if expected is not None and writer.digest != expected:
                    raise BlobError(f"cannot use a blob: its digest is {writer.digest}, and not {expected}")
                file.flush()
                os.fsync(file.fileno())
            os.rename(place, self.path(writer.digest))
            sync_directory(self._blobs)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place)
            raise

    def put(self, data: bytes) -> str:
        """Store a small one; its digest."""
        digest = digest_of(data)
        if not self.has(digest):
            with self.write(digest) as writer:
                writer.write(data)
        return digest

    def digests(self) -> list[str]:
        """All that are there."""
        return [f"sha256:{name}" for name in sorted(os.listdir(self._blobs))]

    def sweep(self) -> None:
        """Remove what was cut off. Nobody else may be working in the store."""
        for name in os.listdir(self.ingest):
            path = f"{self.ingest}/{name}"
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path, ignore_errors=True)  # an archive that was being loaded
            else:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)

    def remove(self, digest: str) -> int:
        """Bytes that are free now; 0 if it was not there."""
        path = self.path(digest)
        try:
            size = os.stat(path).st_size
            os.unlink(path)
        except FileNotFoundError:
            return 0
        return size
