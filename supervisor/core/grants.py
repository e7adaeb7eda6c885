"""Configs and secrets: where their content comes from, and where a service sees it.

Frozen and plain as `core.model` is. Where a value holds what:

- In the command, after the Compose files were read: `FileSource.value` is a path (`file`), a variable's name
  (`environment`) or the content itself (`content`). No digest yet.
- On the way to the daemon (`cli.grants.collect`): a source of `content` has lost its value. What is not in a
  file goes beside the project in the same request, by `content_key`, and is part of no model.
- In the daemon (`runtime.grants.GrantStore`): every grant of a service that is made says where its
  content comes from: `origin`, `path` for a file, `digest`. The content of the others lies below the
  state directory in a file named by the digest, for root alone.

So no content is in the state database, in `inspect` or in a log. Nor is a plain hash of one, from which a
short secret could be guessed: the daemon's digests are made with a key of the state directory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class FileSource:
    """A top-level config or secret.

    name: its full name on this host. origin: `file` (value: absolute path), `environment` (value: the
    variable's name) or `content` (inline; configs only). digest: sha256 of the content when the model was
    resolved, for who prints the model; the daemon makes its own.
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

    Defaults are Docker's: owned by root, readable by all. uid, gid: numbers.
    origin, path, digest: empty until the daemon has found the content (see the module); `path` of a file.
    """

    kind: Literal["config", "secret"]
    source: str
    target: str
    uid: str = "0"
    gid: str = "0"
    mode: int = 0o444
    origin: Literal["", "file", "environment", "content"] = ""
    path: str = ""
    digest: str = ""


def content_key(kind: str, key: str) -> str:
    """What the content of a source is called beside a project in a request."""
    return f"{kind}:{key}"


def changed_contents(before: Iterable[FileGrant], after: Iterable[FileGrant]) -> list[str]:
    """Of what both grant: whose content is another one, in words, in the order of `after`."""
    known = {(grant.kind, grant.source): grant.digest for grant in before}
    changed = [
        f"{grant.kind} {grant.source} changed"
        for grant in after
        if known.get((grant.kind, grant.source), grant.digest) != grant.digest
    ]
    return list(dict.fromkeys(changed))
