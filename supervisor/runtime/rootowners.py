"""Users by name, by the files of a root itself."""

from __future__ import annotations

import os

from supervisor.image.unpacking import ArchiveError
from supervisor.kernel import mounts

_FILE_BYTES = 16 * 1024 * 1024


def owner_in(root: int, user: str) -> tuple[int, int]:
    """(uid, gid) of `USER[:GROUP]` in the root that is `root`. Raises ArchiveError, OSError."""

    from supervisor.image.builder.writing import owner_of  # much of the builder; a daemon seldom wants it

    def read(path: str) -> str:
        try:
            fd = mounts.resolve(root, path, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            return ""
        with open(fd, encoding="utf-8", errors="surrogateescape") as file:
            return file.read(_FILE_BYTES)

    try:
        return owner_of(user, read)
    except ValueError as error:
        raise ArchiveError(f"cannot use owner {user!r}: {error}") from error
