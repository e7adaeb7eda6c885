"""Names of images: `debian`, `ghcr.io/org/app:1.2`, `app@sha256:...`, as Docker reads and shows them. Pure.

Source of the rules: distribution/reference (grammar in reference.go, normalize.go).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_TAG = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[a-f0-9]{64}")
_ID = re.compile(r"(?:sha256:)?([a-f0-9]{4,64})")
_NAME_MAX = 255


class InvalidReferenceError(ValueError):
    """A text that names no image. The text of the error says why."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A whole name. tag: "" with a digest alone. digest: "" or sha256:..."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """Without tag and digest: docker.io/library/debian."""
        return f"{self.domain}/{self.path}"

    def __str__(self) -> str:
        """In full: docker.io/library/debian:latest."""
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    @property
    def familiar(self) -> str:
        """As people write it: debian:latest."""
        return f"{self.familiar_name}{f':{self.tag}' if self.tag else ''}" + (
            f"@{self.digest}" if self.digest else ""
        )

    @property
    def familiar_name(self) -> str:
        """The short name, without tag: debian."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        return self.path.removeprefix("library/") if self.path.count("/") == 1 else self.path

    def tagged(self) -> Reference:
        """With the tag `latest`, where it has neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)


def parse_reference(text: str) -> Reference:
    """The image that a text names, with `latest` where nothing else is said. Raises InvalidReferenceError."""
    rest, _, digest = text.partition("@")
    if "@" in text and not _DIGEST.fullmatch(digest):
        raise InvalidReferenceError(
            f"invalid reference format: {digest!r} is no digest (sha256: and 64 hex digits)"
        )
    first, slash, others = rest.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        domain, path = first, others
    else:
        domain, path = DEFAULT_DOMAIN, rest
    path, colon, tag = path.partition(":")
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        if re.fullmatch(r"[a-f0-9]{64}", path):
            raise InvalidReferenceError(
                f"invalid repository name {path}: 64 hex digits are an id, and no name"
            )
        path = f"library/{path}"
    shown = path.removeprefix("library/")
    if not _DOMAIN.fullmatch(domain):
        raise InvalidReferenceError(f"invalid reference format: {domain!r} is no registry")
    if not _PATH.fullmatch(path):
        if path.lower() != path:
            raise InvalidReferenceError(
                f"invalid reference format: repository name ({shown}) must be lowercase"
            )
        raise InvalidReferenceError(f"invalid reference format: {shown!r} is no repository name")
    if colon and not _TAG.fullmatch(tag):
        raise InvalidReferenceError(f"invalid reference format: {tag!r} is no tag")
    if len(domain) + 1 + len(path) > _NAME_MAX:
        raise InvalidReferenceError(f"invalid reference format: a name has at most {_NAME_MAX} characters")
    return Reference(domain, path, tag, digest).tagged()


def as_id(text: str) -> str | None:
    """The hex digits of an image id or the beginning of one; None if a text cannot be one."""
    match = _ID.fullmatch(text)
    return None if match is None else match[1]
