"""Where the files of a build come from, told by a text: a directory, stdin, git, an URL. Pure.

Source of the rules: docs.docker.com "Build context", BuildKit util/gitutil (git_ref.go, git_url.go) and
buildx build/opt.go.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit, urlunsplit

import msgspec

from supervisor.image.builder.progress import BuildError

_SCP = re.compile(r"(?:[\w.+-]+@)[\w.-]+:(?!//)[^\s]+")
_HOSTS = ("github.com/", "gitlab.com/", "bitbucket.org/")
_QUERY = ("ref", "branch", "tag", "commit", "checksum", "subdir")


class SourceError(BuildError):
    """A source that cannot be used: it is the command line that is wrong. The text is for the user."""


class Directory(msgspec.Struct, frozen=True):
    """A directory of this host."""

    path: str


class Stdin(msgspec.Struct, frozen=True):
    """What comes on standard input: a Dockerfile, or an archive of a context."""


class Git(msgspec.Struct, frozen=True):
    """A repository. ref: branch, tag or commit, "" for its HEAD. subdir: the context within, "" for all.

    commit: what the ref has to be, "" for whatever it is.
    """

    url: str
    ref: str = ""
    subdir: str = ""
    commit: str = ""


class Remote(msgspec.Struct, frozen=True):
    """An URL: a Dockerfile, or an archive of a context."""

    url: str


Source = Directory | Stdin | Git | Remote


def parse_source(text: str) -> Source:
    """What a CONTEXT argument means. Raises SourceError."""
    if text == "-":
        return Stdin()
    if text.startswith(_HOSTS):
        text = f"https://{text}"
    if _SCP.fullmatch(text):
        url, _, fragment = text.partition("#")
        return _checked(Git(url, *_fragment(fragment)))
    parts = urlsplit(text)
    match parts.scheme:
        case "git" | "ssh":
            return _git(text)
        case "http" | "https" | "file" if parts.path.removesuffix("/").endswith(".git"):
            return _git(text)
        case "http" | "https":
            if parts.hostname in ("github.com", "gitlab.com", "bitbucket.org") and parts.fragment:
                return _git(text)
            return Remote(text)
        case "file":
            raise SourceError(f"cannot use {text} as the context: write a path, or file:///PATH.git for git")
        case _:
            return Directory(text)


def _git(text: str) -> Git:
    parts = urlsplit(text)
    ref, subdir = _fragment(parts.fragment)
    commit = ""
    query = parse_qs(parts.query, keep_blank_values=True)
    unknown = sorted(set(query) - set(_QUERY))
    if unknown:
        raise SourceError(f"cannot use {text}: unknown query {unknown[0]!r}; known are {', '.join(_QUERY)}")
    if query and parts.fragment:
        raise SourceError(f"cannot use {text}: it has a fragment and a query; write one of the two")
    for name, values in query.items():
        match name:
            case "subdir":
                subdir = values[-1]
            case "commit" | "checksum":
                commit = values[-1]
            case "branch":
                ref = f"refs/heads/{values[-1]}"
            case "tag":
                ref = f"refs/tags/{values[-1]}"
            case _:
                ref = values[-1]
    url = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    return _checked(Git(url, ref or commit, subdir, commit))


def _fragment(text: str) -> tuple[str, str]:
    """`ref:subdir`."""
    ref, _, subdir = text.partition(":")
    return ref, subdir


def _checked(git: Git) -> Git:
    if git.ref.startswith("-") or git.url.startswith("-"):
        raise SourceError(f"cannot use {git.url}#{git.ref}: a ref does not begin with -")
    if ".." in git.subdir.split("/"):
        raise SourceError(f"cannot use {git.url}: the directory {git.subdir!r} leaves the repository")
    return git


def is_archive(head: bytes) -> bool:
    """Whether the first 512 bytes are those of a tar archive, plain or compressed, and no Dockerfile."""
    if head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\x00", b"BZh")):
        return True
    return len(head) >= 512 and head[257:262] == b"ustar"
