"""What the readers of a service need to know besides its tree."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from supervisor.compose import paths
from supervisor.compose.reader import Reader
from supervisor.compose.tree import Node, plain
from supervisor.core.grants import FileSource
from supervisor.core.model import Volume
from supervisor.core.network import Network


class Context(NamedTuple):
    """project_dir: relative paths start here (the directory of the first file). env: shell and `.env`.

    volumes, networks, configs, secrets: the declared ones by key. project: its name. keep_paths: relative
    ones stay as written, for `config` alone.
    """

    reader: Reader
    project_dir: str
    env: Mapping[str, str]
    volumes: Mapping[str, Volume] = MappingProxyType({})
    project: str = ""
    secrets: Mapping[str, FileSource] = MappingProxyType({})
    configs: Mapping[str, FileSource] = MappingProxyType({})
    networks: Mapping[str, Network] = MappingProxyType({})
    keep_paths: bool = False

    def absolute(self, path: str) -> str:
        """A path as Compose resolves it: `~` is the home of the caller, an absolute path stays as written."""
        if self.keep_paths:
            return path
        return paths.absolute(path, self.project_dir, self.env.get("HOME", "~")) or self.project_dir

    def extensions(self, node: Node) -> dict[str, Any]:
        """The x- keys of a mapping, which have no meaning here, as plain values."""
        if not isinstance(node.value, dict):
            return {}
        return {
            key: plain(value)
            for key, value in node.value.items()
            if key.startswith("x-") and key != "x-shipkeeper"
        }
