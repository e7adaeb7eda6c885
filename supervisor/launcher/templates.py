"""Programs that were assembled for one instance, used again for others whose plans say the same.

The plans of a project's instances mostly differ in nothing but the instance's id, as a part of paths. The ids
are of one length, so the addresses in a program are the same, too, and one program becomes another's by
putting another id into its data. What it is made from is a plan with a place holder for the id.
"""

from __future__ import annotations

import marshal
from typing import Any, NamedTuple

from supervisor.launcher import plan
from supervisor.launcher.ahead import NOTHING, Ahead, Made, ahead_of
from supervisor.launcher.assemble import assemble
from supervisor.launcher.program import Program

_SHORTEST = 8
"""An id that is shorter may well be a part of something else."""
_TEMPLATES = 64
_SEEN = 4096
_FORMAT = 2  # of marshal: the last in which equal objects have equal bytes


class Assembly(NamedTuple):
    """What is known of a launch before its program is wanted."""

    launch: plan.LaunchPlan
    ahead: Ahead
    template: _Template | None


class _Template:
    """Of plans that say the same. programs: by (kept, made ahead); None is one that cannot be shared."""

    __slots__ = ("ahead", "launch", "programs")

    def __init__(self, launch: plan.LaunchPlan, ahead: Ahead) -> None:
        self.launch = launch
        self.ahead = ahead
        self.programs: dict[tuple[bool, bool], Program | None] = {}


class Templates:
    """Knows the plans of late. base: of the arena that the programs are for."""

    def __init__(self, base: int) -> None:
        self._base = base
        self._known: dict[bytes, _Template] = {}
        self._seen: set[int] = set()

    def look(self, launch: plan.LaunchPlan) -> Assembly:
        """What can be made ahead of a launch, and what `program` wants."""
        key = _key(launch)
        template = None if key is None else self._known.get(key) or self._learn(key, launch)
        if template is None:
            return Assembly(launch, ahead_of(launch), None)
        return Assembly(launch, template.ahead, template)

    def program(self, assembly: Assembly, made: Made) -> Program:
        """As `assemble` makes it, but for the notes, which may be missing. Raises StepError."""
        launch, _, template = assembly
        if template is None:
            return assemble(launch, self._base, made)
        which = made.kept, made.ahead is not NOTHING
        if which not in template.programs:
            return self._first(template, which, launch, made)
        found = template.programs[which]
        if found is None:
            return assemble(launch, self._base, made)
        return found._replace(data=found.data.replace(_holder(launch), launch.instance.encode()))

    def _learn(self, key: bytes, launch: plan.LaunchPlan) -> _Template | None:
        """At its second sight: plans that nobody shares must not be assembled twice."""
        number = hash(key)
        if number not in self._seen:
            if len(self._seen) >= _SEEN:
                self._seen.clear()
            self._seen.add(number)
            return None
        steps, root, cwd, _, _ = marshal.loads(key)  # noqa: S302 - made here
        process = launch.process._replace(cwd=cwd)
        rebuilt: list[plan.Step] = [getattr(plan, name)(*fields) for name, *fields in steps]
        general = launch._replace(steps=rebuilt, root=root, process=process)
        ahead = ahead_of(general)
        said: list[Any] = [*map(tuple, ahead.steps), ahead.read_only, ahead.masked]
        if _holder(launch) in marshal.dumps(said, _FORMAT):
            return None
        if len(self._known) >= _TEMPLATES:
            self._known.clear()
        made = self._known[key] = _Template(general, ahead)
        return made

    def _first(
        self, template: _Template, which: tuple[bool, bool], launch: plan.LaunchPlan, made: Made
    ) -> Program:
        """Shared only if it is, byte for byte, what it has to be."""
        program = assemble(launch, self._base, made)
        general = assemble(template.launch, self._base, made)
        data = general.data.replace(_holder(launch), launch.instance.encode())
        alike = (general.rows, data, general.results) == (program.rows, program.data, program.results)
        template.programs[which] = general._replace(notes=[]) if alike else None
        return program


def _key(launch: plan.LaunchPlan) -> bytes | None:
    """All that `assemble` and `ahead_of` look at, with the place holder for the id; None if it cannot be."""
    steps: list[Any] = [[type(step).__name__, *step] for step in launch.steps]
    process = launch.process
    said = marshal.dumps([steps, launch.root, process.cwd, launch.net, process.caps], _FORMAT)
    holder = _holder(launch)
    if len(holder) < _SHORTEST or holder in said:
        return None
    return said.replace(launch.instance.encode(), holder)


def _holder(launch: plan.LaunchPlan) -> bytes:
    return b"\x1a" * len(launch.instance.encode())
