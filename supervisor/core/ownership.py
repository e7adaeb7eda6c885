"""Whose project a name is: two directories that have the same one must not mix their services. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.core.model import Project


def other_places(project: Project, there: Iterable[str]) -> tuple[str, ...]:
    """Directories of which services of that project name are, other than its own.

    there: the directories that the services there were brought up from. Empty where the name was said on
    purpose: then it is that project, wherever its files are now. Docker Compose mixes the two.
    """
    return () if project.named else tuple(sorted(set(there) - {project.working_dir}))


def place_clash(project: Project, other: str) -> str:
    """What is told to whoever brings up a project whose name another directory has."""
    return (
        f"cannot bring up {project.name} from {project.working_dir}: the services of that name are of"
        f" {other}; give this one another name (-p NAME, or `name: NAME` in its file), or take the other down"
        f" (shipkeeper -p {project.name} down); if it is the same project, whose files are here now, say so:"
        f" -p {project.name}"
    )
