"""Configs and secrets in the daemon: where their content is kept, and how it gets to an instance.

On the disk, `<state>/secrets/<digest>` (0600, its directory 0700) holds the content of a source that is in no
file of the user's, and `key` is what digests are made with. A file is written whole or not at all, and is
removed when no instance is granted it any more. An instance gets a tmpfs of its own with one file for each
grant, which is complete and read-only before it is anywhere to be seen. All functions block.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from supervisor.core.grants import FileGrant, FileSource, content_key
from supervisor.core.model import Project
from supervisor.core.paths import Paths
from supervisor.kernel import mounts
from supervisor.kernel import syscalls as sc
from supervisor.kernel.files import replace_file
from supervisor.runtime.translate import PlanError

CONTENT_BYTES = 16 * 1024 * 1024
"""The most that one of them may have: it lies in memory."""

_SOURCE = "shipkeeper-files"
_FLAGS = sc.MS_NOSUID | sc.MS_NODEV | sc.MS_NOEXEC
_PAGE = 4096


class GrantError(Exception):
    """Content that cannot be had now. The text is for the user."""


class GrantStore:
    """The contents of one state directory."""

    def __init__(self, paths: Paths) -> None:
        self._base = paths.contents

    # --- when a project is brought up -----------------------------------------------------------
    def resolve(self, project: Project, contents: Mapping[str, bytes]) -> Project:
        """A project whose grants say where their content comes from, and which one it is.

        contents: what came beside the project, by `content_key`. Raises PlanError, all problems in one.
        """
        if not any(spec.grants for spec in project.services):
            return project
        sources = {(source.kind, source.key): source for source in project.files}
        found: dict[tuple[str, str], FileGrant] = {}
        problems: list[str] = []
        for spec in project.services:
            for grant in spec.grants:
                key = (grant.kind, grant.source)
                if key in found:
                    continue
                try:
                    found[key] = self._found(sources.get(key), grant, contents)
                except GrantError as error:
                    found[key] = grant
                    problems.append(
                        f"cannot give {grant.kind} {grant.source} to service {spec.name}: {error}"
                    )
        if problems:
            raise PlanError("; ".join(problems))
        services = []
        for spec in project.services:
            grants = []
            for grant in spec.grants:
                known = found[grant.kind, grant.source]
                grants.append(replace(grant, origin=known.origin, path=known.path, digest=known.digest))
            services.append(replace(spec, grants=tuple(grants)))
        return replace(project, services=tuple(services))

    def _found(self, source: FileSource | None, grant: FileGrant, contents: Mapping[str, bytes]) -> FileGrant:
        if source is None:
            raise GrantError(f"it is not declared; add it to {grant.kind}s: at the top level")
        match source.origin:
            case "external":
                raise GrantError("external ones are of Swarm, and there are none here; write file:")
            case "file":
                content = _read(source.value)
                return replace(grant, origin="file", path=source.value, digest=self._digest(content))
            case "environment" | "content":
                given = contents.get(content_key(source.kind, source.key))
                if given is None:
                    raise GrantError("its content did not come with the project; bring it up with `up`")
                _check_size(len(given))
                return replace(grant, origin=source.origin, digest=self._digest(given))

    def keep(self, project: Project, contents: Mapping[str, bytes]) -> None:
        """Store the contents that a resolved project is granted, safe from a power cut. Raises PlanError."""
        for grant in _stored(grant for spec in project.services for grant in spec.grants):
            path = f"{self._base}/{grant.digest}"
            if os.path.exists(path):
                continue
            try:
                _write_whole(path, contents[content_key(grant.kind, grant.source)])
            except OSError as error:
                raise PlanError(
                    f"cannot keep {grant.kind} {grant.source} below {self._base}: {error.strerror}"
                ) from error

    def sweep(self, granted: Iterable[FileGrant]) -> None:
        """Remove every content but these; grants of whatever is there or is about to be."""
        kept = {"key", *(grant.digest for grant in _stored(granted))}
        with contextlib.suppress(FileNotFoundError):
            for name in os.listdir(self._base):
                if name not in kept:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(f"{self._base}/{name}")

    # --- when an instance is started ------------------------------------------------------------
    def content(self, grant: FileGrant) -> bytes:
        """Of a resolved grant, as it is now. Raises GrantError."""
        try:
            if grant.origin == "file":
                return _read(grant.path)
            return Path(f"{self._base}/{grant.digest}").read_bytes()
        except GrantError as error:
            raise GrantError(f"cannot give {grant.kind} {grant.source} at {grant.target}: {error}") from None
        except OSError as error:
            raise GrantError(
                f"cannot give {grant.kind} {grant.source} at {grant.target}: its content is not kept here any"
                f" more ({error.strerror}); bring the project up again"
            ) from error

    def deliver(self, grants: Sequence[FileGrant], place: str) -> None:
        """Mount a tmpfs at a place that has the content of each grant in a file of its number, from 0 on.

        Raises GrantError, OSError.
        """
        contents = [self.content(grant) for grant in grants]
        pages = sum(-(-len(content) // _PAGE) + 1 for content in contents) + 1
        made = _file_system(f"mode=0700,size={pages * _PAGE},nr_inodes={len(grants) + 2}")
        try:
            for number, (grant, content) in enumerate(zip(grants, contents, strict=True)):
                _write_file(made, str(number), grant, content)
            mounts.attach_read_only(made, place)
        finally:
            os.close(made)

    # --- digests --------------------------------------------------------------------------------
    def _digest(self, content: bytes) -> str:
        """With a key, because a plain hash of a short secret tells it to who tries."""
        return hmac.new(self._key(), content, hashlib.sha256).hexdigest()

    def _key(self) -> bytes:
        path = f"{self._base}/key"
        try:
            with contextlib.suppress(FileNotFoundError):
                return Path(path).read_bytes()
            _write_whole(path, secrets.token_bytes(32))
            return Path(path).read_bytes()
        except OSError as error:
            raise GrantError(f"cannot use {path}: {error.strerror}") from error


def _stored(grants: Iterable[FileGrant]) -> list[FileGrant]:
    return [grant for grant in grants if grant.digest and grant.origin != "file"]


def _read(path: str) -> bytes:
    """A file of the user's. Raises GrantError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise GrantError(f"{path} is no regular file")
            content = file.read(CONTENT_BYTES + 1)
    except OSError as error:
        raise GrantError(f"{path}: {error.strerror}; create it, or mend file:") from error
    _check_size(len(content))
    return content


def _check_size(length: int) -> None:
    if length > CONTENT_BYTES:
        raise GrantError(f"it is larger than {CONTENT_BYTES >> 20} MiB; mount it with volumes:")


def _write_whole(path: str, content: bytes) -> None:
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    replace_file(path, content, 0o600)


def _file_system(data: str) -> int:
    try:
        return mounts.file_system("tmpfs", _FLAGS, f"{data},noswap", source=_SOURCE)
    except OSError:  # before Linux 6.4
        return mounts.file_system("tmpfs", _FLAGS, data, source=_SOURCE)


def _write_file(directory: int, name: str, grant: FileGrant, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.fchown(fd, _number(grant, grant.uid), _number(grant, grant.gid))
        os.fchmod(fd, grant.mode)
    finally:
        os.close(fd)


def _number(grant: FileGrant, text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) < 0xFFFF_FFFF:
        return int(text)
    raise GrantError(
        f"cannot give {grant.kind} {grant.source} to {text!r}: uid and gid are numbers; write the number"
    )
