"""The bytes of a file that a project names, in bounds."""

from __future__ import annotations

from pathlib import Path

from supervisor.compose.yamltext import MAX_BYTES


def read_bytes(path: str) -> bytes:
    """The bytes of a file, at most one more than MAX_BYTES of it. Raises OSError (also for a directory)."""
    with Path(path).open("rb") as file:
        return file.read(MAX_BYTES + 1)


def why(error: OSError) -> str:
    """The reason of an OSError in lower case, without number and name."""
    return (error.strerror or str(error)).lower()
