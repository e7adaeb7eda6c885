"""The contents of a project's configs and secrets, which go beside it to the daemon, once.

See `core.grants` for what is where. What is in a file is read by the daemon itself, at each start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from supervisor.core.grants import FileSource, content_key
from supervisor.core.model import Project
from supervisor.core.reconcile import DEFAULTS, Options


class ContentsError(Exception):
    """Contents that cannot be had, all of them at once. The text is for the user."""


def collect(project: Project, variables: Mapping[str, str]) -> tuple[Project, dict[str, bytes]]:
    """A project without any content in it, and the contents that its services are granted, by `content_key`.

    variables: those that the Compose files were read with. Raises ContentsError.
    """
    granted = {(grant.kind, grant.source) for spec in project.services for grant in spec.grants}
    contents: dict[str, bytes] = {}
    problems: list[str] = []
    for source in project.files:
        if (source.kind, source.key) not in granted:
            continue
        what = f"{source.kind} {source.key}"
        match source.origin:
            case "content":
                contents[content_key(source.kind, source.key)] = source.value.encode()
            case "environment" if source.value in variables:
                text = variables[source.value]
                contents[content_key(source.kind, source.key)] = text.encode("utf-8", "surrogateescape")
            case "environment":
                problems.append(
                    f"cannot give {what}: environment variable {source.value!r} is not set; set it, or use"
                    " file:"
                )
            case "external":
                problems.append(
                    f"cannot give {what}: external ones are of Swarm, and there are none here; write file:"
                )
            case "file":
                problems += _unreadable(what, source.value)
    if problems:
        raise ContentsError("\n".join(problems))
    return replace(project, files=tuple(_stripped(source) for source in project.files)), contents


def request_body(project: Project, contents: Mapping[str, bytes], options: Options = DEFAULTS) -> bytes:
    """The body of a request about a collected project."""
    return msgspec.json.encode(
        {**msgspec.to_builtins(project), "contents": contents, "options": msgspec.to_builtins(options)}
    )


def _stripped(source: FileSource) -> FileSource:
    return replace(source, value="") if source.origin == "content" else source


def _unreadable(what: str, path: str) -> list[str]:
    """Said here, where all problems are said together; whether it may be read is the daemon's matter."""
    file = Path(path)
    if file.is_file():
        return []
    why = "it is no regular file" if file.exists() else "no such file or directory"
    return [f"cannot give {what}: {path}: {why}; create it, or mend file:"]
