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
    if problems := missing(project, variables):
        raise ContentsError("\n".join(problems.values()))
    contents: dict[str, bytes] = {}
    for source in _granted(project):
        match source.origin:
            case "content":
                contents[content_key(source.kind, source.key)] = source.value.encode()
            case "environment":
                text = variables[source.value]
                contents[content_key(source.kind, source.key)] = text.encode("utf-8", "surrogateescape")
            case "external" | "file":
                pass  # a file is read by the daemon
    return replace(project, files=tuple(_stripped(source) for source in project.files)), contents


def missing(project: Project, variables: Mapping[str, str]) -> dict[str, str]:
    """What services are granted and cannot be given: by its place in the files, why."""
    problems: dict[str, str] = {}
    for source in _granted(project):
        what, place = f"{source.kind} {source.key}", f"{source.kind}s.{source.key}"
        match source.origin:
            case "environment" if source.value not in variables:
                problems[place] = (
                    f"cannot give {what}: environment variable {source.value!r} is not set; set it, or use"
                    " file:"
                )
            case "external":
                problems[place] = (
                    f"cannot give {what}: external ones are of Swarm, and there are none here; write file:"
                )
            case "file" if why := _unreadable(source.value):
                problems[place] = f"cannot give {what}: {source.value}: {why}; create it, or mend file:"
            case _:
                pass
    return problems


def _granted(project: Project) -> list[FileSource]:
    granted = {(grant.kind, grant.source) for spec in project.services for grant in spec.grants}
    return [source for source in project.files if (source.kind, source.key) in granted]


def request_body(project: Project, contents: Mapping[str, bytes], options: Options = DEFAULTS) -> bytes:
    """The body of a request about a collected project."""
    return msgspec.json.encode(
        {**msgspec.to_builtins(project), "contents": contents, "options": msgspec.to_builtins(options)}
    )


def _stripped(source: FileSource) -> FileSource:
    return replace(source, value="") if source.origin == "content" else source


def _unreadable(path: str) -> str:
    """Said here, where all problems are said together; whether it may be read is the daemon's matter."""
    file = Path(path)
    if file.is_file():
        return ""
    return "it is no regular file" if file.exists() else "no such file or directory"
