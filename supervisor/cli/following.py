"""What an attached `up` shows, and when it is over. Pure: it is told what happens, and says
what that means.

Rules: docker/compose, pkg/compose/up.go. The first container that ends for good decides about the abort and
the exit code; with --exit-code-from it is that service's, whenever it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from supervisor.core.model import Project, ServiceSpec
from supervisor.core.reconcile import container_name

CAUSED = ("recreate", "remove")
"""Operations of an `up` whose cause is told with what came of them."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line says of an attached `up`.

    abort: what ends all of it. code_from: the service whose exit code counts. attach: only these are shown,
    none is all that were named. grace_s: of the stop at the end. watch: what carries changes of the sources,
    called in a thread of its own with what it may say.
    """

    abort: Literal["never", "exit", "failure"] = "never"
    code_from: str = ""
    attach: tuple[str, ...] = ()
    no_attach: tuple[str, ...] = ()
    dependencies: bool = False
    named: tuple[str, ...] = ()
    prefix: bool = True
    colour: bool = True
    stamps: bool = False
    grace_s: float | None = None
    watch: Callable[[Callable[[str], None]], None] | None = None

    def counts(self, service: str) -> bool:
        """Whether the end of a service counts: that of one that was not named and is only needed does not."""
        return not self.named or self.dependencies or service in (*self.named, self.code_from)

    def shows(self, spec: ServiceSpec) -> bool:
        """Whether the output of a service is shown."""
        if spec.name in self.no_attach:
            return False
        if self.attach:
            return spec.name in self.attach
        if self.named and not self.dependencies:
            return spec.name in self.named and spec.attach
        return spec.attach


def is_shown(wish: Wish, project: Project, name: str) -> bool:
    """Whether the output of an instance is shown."""
    number = name.rpartition("-")[2]
    place = int(number) if number.isascii() and number.isdecimal() else 1
    return not any(
        container_name(project.name, spec, place) == name for spec in project.services if not wish.shows(spec)
    )


@dataclass(slots=True)
class Ending:
    """When it is over, and the exit code of the command."""

    wish: Wish
    code: int = 0
    aborted: bool = False
    _known: bool = False

    def ended(self, service: str, code: int) -> bool:
        """A container has ended for good; whether all are to be stopped now."""
        wish = self.wish
        if service == wish.code_from and not self._known:
            self.code, self._known = code, True
        if self.aborted or wish.abort == "never" or (wish.abort == "failure" and code == 0):
            return False
        self.aborted = True
        if not wish.code_from:
            self.code = code
        return True


@dataclass(slots=True)
class Shown:
    """Whether the last lines of runs that have ended were shown. Marks of ends come after them."""

    wanted: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)

    def line(self, line: Mapping[str, Any]) -> None:
        """A line of the API was shown."""
        words = line["text"].split()
        if line.get("marker") and words[2:3] == ["ended:"]:
            self.seen[line["name"]] = int(words[1])

    def died(self, name: str, run: int) -> None:
        """A run of an instance that is shown has ended."""
        self.wanted[name] = run

    @property
    def complete(self) -> bool:
        """All of them."""
        return all(self.seen.get(name, 0) >= run for name, run in self.wanted.items())


def are_over(views: Collection[Mapping[str, Any]]) -> bool:
    """Whether nothing of these instances, as the API shows them, runs or will by itself."""
    return all(view["State"]["Status"] == "exited" and not view["NextRestartAt"] for view in views)


def listening(views: Collection[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Where instances can be reached from outside: (name, places) of those that publish a port."""
    from supervisor.cli.tables import ports_words

    found = []
    for view in views:
        published = [port for port in view.get("Ports") or () if "PublicPort" in port]
        if published:
            found.append((view["Name"], ports_words({"Ports": published})))
    return found
