"""Files that are replaced as a whole, and are still there after a loss of power."""

from __future__ import annotations

import contextlib
import os
import secrets


def replace_file(path: str, data: bytes, mode: int = 0o666) -> None:
    """Write a file as a whole or not at all, safe against a loss of power. mode: before the umask.

    What a kill leaves is beside it, as `<path>.<random>`. Raises OSError.
    """
    place = f"{path}.{secrets.token_hex(8)}"
    try:
        fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(place, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(place)
        raise
    sync_directory(os.path.dirname(path))


def remove_cut_off(path: str) -> None:
    """Remove what a kill left of replacing a file; nobody may be replacing it now."""
    directory, name = os.path.split(path)
    with contextlib.suppress(FileNotFoundError):
        for found in os.listdir(directory):
            if found.startswith(f"{name}."):
                os.unlink(f"{directory}/{found}")


def sync_directory(path: str) -> None:
    """Make names in a directory safe against a loss of power. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
