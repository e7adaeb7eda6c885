"""Which Compose files a project was last brought up from: `<state>/projects/<name>.json`, for `compose ls`.

Nothing is decided by it, and what cannot be read counts as unknown.
"""

from __future__ import annotations

import contextlib
import os

import msgspec

from supervisor.core.paths import Paths
from supervisor.kernel.files import replace_file


class ProjectFiles:
    """Of one state directory. All methods block."""

    def __init__(self, paths: Paths) -> None:
        self._base = paths.projects

    def save(self, project: str, config_files: tuple[str, ...]) -> None:
        """Remember the files of a project; nothing is written where it is known. Raises OSError."""
        if self.known(project) == config_files:
            return
        os.makedirs(self._base, 0o700, exist_ok=True)
        replace_file(self._path(project), msgspec.json.encode(config_files))

    def known(self, project: str) -> tuple[str, ...]:
        """Empty where nothing is known."""
        try:
            with open(self._path(project), "rb") as file:
                return msgspec.json.decode(file.read(), type=tuple[str, ...])
        except (OSError, msgspec.MsgspecError):
            return ()

    def forget(self, project: str) -> None:
        """The project is gone. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(project))

    def _path(self, project: str) -> str:
        return f"{self._base}/{project}.json"
