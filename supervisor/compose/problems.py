"""The errors of Compose files: all that is wrong with a project, each at its place."""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.core import problems
from supervisor.core.problems import Mark, Problem, in_order, nearest

__all__ = ["ComposeError", "ComposeErrors", "Findings", "Mark", "Problem", "in_order", "nearest"]


class ComposeError(Exception):
    """A Compose file cannot be found or used. The text is one line that ends with a next step."""


class ComposeErrors(ComposeError):  # noqa: N818 - several problems, as the name says
    """Everything that is wrong with the files of a project, in the order of files and lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class Findings(problems.Findings):
    """Those of a project."""

    def raise_errors(self, files: Iterable[str] = ()) -> None:
        """Raise ComposeErrors if there are errors, sorted by file (in the order given), line and column."""
        if self.errors:
            raise ComposeErrors(in_order(self.errors, files))
