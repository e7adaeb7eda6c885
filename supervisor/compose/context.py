"""What the readers of a service need to know besides its tree."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from supervisor.compose.reader import Reader
from supervisor.core.model import Volume


class Secret(NamedTuple):
    """A secret of the file, for builds: the path of one, or the name of a variable."""

    path: str = ""
    env: str = ""


class Context(NamedTuple):
    """project_dir: relative paths start here (the directory of the first file). env: shell and `.env`.

    volumes: the declared ones by key. project: its name. secrets: the declared ones by name.
    """

    reader: Reader
    project_dir: str
    env: Mapping[str, str]
    volumes: Mapping[str, Volume] = MappingProxyType({})
    project: str = ""
    secrets: Mapping[str, Secret] = MappingProxyType({})

    def absolute(self, path: str) -> str:
        """A path as Compose resolves it: `~` is the home of the caller, an absolute path stays as written."""
        if path == "~" or path.startswith("~/"):
            path = self.env.get("HOME", "~") + path[1:]
        if path.startswith("/"):
            return path
        return posixpath.normpath(posixpath.join(self.project_dir, path))
