"""The name of a project: as somebody gave it, as the files say it, or of their directory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from supervisor.compose.problems import Findings, Mark
from supervisor.compose.template import TemplateError, substitute
from supervisor.compose.tree import Node


def normalize_project_name(text: str) -> str:
    """The project name that a directory's name gives: lower case, of letters, digits, `-` and `_`."""
    return re.sub(r"[^a-z0-9_-]", "", text.lower()).lstrip("_-")


def project_name(
    documents: Sequence[Node],
    given: str | None,
    directory: str,
    variables: Mapping[str, str],
    findings: Findings,
) -> str:
    """The name of the project; a wrong one is noted."""
    chosen = given or variables.get("COMPOSE_PROJECT_NAME")
    if chosen:
        if normalize_project_name(chosen) != chosen:
            source = "-p" if given else "COMPOSE_PROJECT_NAME"
            near = normalize_project_name(chosen) or "my-project"
            findings.error(
                Mark(""),
                "",
                f'invalid project name "{chosen}": must consist only of lowercase alphanumeric characters,'
                " hyphens, and underscores as well as start with a letter or number",
                f"write {source} {near}" if given else f"set {source}={near}",
            )
        return chosen
    written = ""
    for document in documents:
        node = document.value.get("name") if isinstance(document.value, dict) else None
        if node is not None and isinstance(node.value, str) and node.value:
            try:
                written = normalize_project_name(substitute(node.value, variables.get))
            except TemplateError:
                continue  # it is noted when the whole file is interpolated
    name = written or normalize_project_name(directory.rpartition("/")[2])
    if not name:
        findings.error(
            Mark(documents[0].mark.file if documents else ""),
            "name",
            "project name must not be empty",
            "add `name: my-project`, or use -p my-project",
        )
    return name
