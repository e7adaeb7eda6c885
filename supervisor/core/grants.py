"""Configs and secrets: where their content comes from, and where a service sees it.

Frozen and plain as `core.model` is. The content itself is in none of these: it is neither stored with a
service nor shown nor logged. A digest of it says whether it has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class FileSource:
    """A top-level config or secret.

    name: its full name on this host. origin: `file` (value: absolute path), `environment` (value: the
    variable's name) or `content` (inline; configs only). digest: sha256 of the content when the model was
    resolved, so that a change of it is one of the service.
    """

    kind: Literal["config", "secret"]
    key: str
    name: str
    origin: Literal["file", "environment", "content", "external"]
    value: str = ""
    digest: str = ""
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class FileGrant:
    """One config or secret in a service. source: the key of the top-level entry. target: an absolute path.

    Defaults are Docker's: owned by root, readable by all.
    """

    kind: Literal["config", "secret"]
    source: str
    target: str
    uid: str = "0"
    gid: str = "0"
    mode: int = 0o444
