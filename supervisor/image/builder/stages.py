"""Which stages a build needs, and which of them need which others. Pure; the plan prints itself.

A stage is needed if the target is it, stands on it, or copies or mounts from it. Names are looked up as
BuildKit does: additional contexts first, then earlier stages by name or number, else it is an image.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from supervisor.core.problems import Mark
from supervisor.core.reference import InvalidReferenceError, Reference, parse_reference
from supervisor.image.builder.progress import BuildError
from supervisor.image.builder.scope import Globals, at, expand
from supervisor.image.dockerfile import instructions as ins
from supervisor.image.dockerfile.runmounts import parse_mount

_IMAGE = "docker-image://"


class FromStage(msgspec.Struct, frozen=True):
    """Another stage, by number."""

    index: int

    def __str__(self) -> str:
        return f"stage {self.index}"


class FromImage(msgspec.Struct, frozen=True):
    """An image, by name."""

    reference: Reference
    platform: str = ""

    def __str__(self) -> str:
        return f"image {self.reference.familiar}" + (f" for {self.platform}" if self.platform else "")


class FromDirectory(msgspec.Struct, frozen=True):
    """A directory of the host: an additional context, or the main one ("")."""

    path: str

    def __str__(self) -> str:
        return f"directory {self.path}" if self.path else "the context"


class Nothing(msgspec.Struct, frozen=True):
    """`scratch`."""

    def __str__(self) -> str:
        return "nothing"


Origin = FromStage | FromImage | FromDirectory | Nothing


class StagePlan(msgspec.Struct, frozen=True):
    """One stage that is needed. needs: stages that it stands on or takes from, sorted."""

    index: int
    name: str
    base: Origin
    needs: tuple[int, ...]
    stage: ins.Stage


class BuildPlan(msgspec.Struct, frozen=True):
    """What is built. skipped: names or numbers of stages that nobody needs."""

    target: int
    stages: tuple[StagePlan, ...]
    skipped: tuple[str, ...]

    def __str__(self) -> str:
        rows = [
            f"[{plan.index}] {plan.name or '-'} from {plan.base}"
            + (f", needs {', '.join(map(str, plan.needs))}" if plan.needs else "")
            + (" (target)" if plan.index == self.target else "")
            for plan in self.stages
        ]
        return "\n".join([*rows, *(f"skipped: {name}" for name in self.skipped)])


class Names(msgspec.Struct, frozen=True):
    """Looks up what `--from` and FROM name. contexts: additional ones, by lower-case name."""

    dockerfile: ins.Dockerfile
    contexts: Mapping[str, str]

    def origin(self, name: str, before: int, mark: Mark, platform: str = "") -> Origin:
        """For a stage of that number: only earlier ones can be named. Raises BuildError."""
        lowered = name.lower()
        context = self.contexts.get(lowered)
        if context is not None:
            if context.startswith(_IMAGE):
                return FromImage(_reference(context.removeprefix(_IMAGE), mark), platform)
            return FromDirectory(context)
        # An earlier stage of that name, the last one where a name is used twice.
        for index in reversed(range(before)):
            if self.dockerfile.stages[index].base.name == lowered:
                return FromStage(index)
        return FromImage(_reference(name, mark), platform)

    def source(self, name: str, before: int, mark: Mark) -> Origin:
        """What `--from=` names: also a stage by its number."""
        if name.isdigit() and name not in self.contexts:
            if int(name) >= before:
                raise BuildError(
                    f"{at(mark)}: invalid stage index {name}: stages before this one are 0 to {before - 1}"
                )
            return FromStage(int(name))
        if name.lower() == "scratch":
            return Nothing()
        found = self.origin(name, before, mark)
        later = {stage.base.name for stage in self.dockerfile.stages[before:]}
        if isinstance(found, FromImage) and name.lower() in later and name.lower() not in self.contexts:
            raise BuildError(f"{at(mark)}: cannot take from stage {name}: it comes later, or is this one")
        return found


def target_index(dockerfile: ins.Dockerfile, target: str) -> int:
    """The stage to build: by name or number, "" for the last. Raises BuildError."""
    if not target:
        return len(dockerfile.stages) - 1
    for index, stage in reversed(list(enumerate(dockerfile.stages))):
        if stage.base.name == target.lower():
            return index  # the last one where a name is used twice, as in BuildKit
    if target.isdigit() and int(target) < len(dockerfile.stages):
        return int(target)
    names = ", ".join(stage.base.name for stage in dockerfile.stages if stage.base.name)
    hint = f"stages are {names}" if names else "no stage has a name"
    raise BuildError(f"cannot build target {target}: {dockerfile.file} has no such stage; {hint}")


def plan_build(
    dockerfile: ins.Dockerfile, target: str, world: Globals, contexts: Mapping[str, str]
) -> BuildPlan:
    """The stages that the target needs. Raises BuildError."""
    names = Names(dockerfile, contexts)
    wanted = target_index(dockerfile, target)
    found: dict[int, StagePlan] = {}
    todo = [wanted]
    while todo:
        index = todo.pop()
        if index in found:
            continue
        found[index] = _stage(dockerfile.stages[index], index, names, world)
        todo += found[index].needs
    skipped = tuple(
        stage.base.name or str(index) for index, stage in enumerate(dockerfile.stages) if index not in found
    )
    return BuildPlan(wanted, tuple(found[index] for index in sorted(found)), skipped)


def taken_from(step: ins.Step) -> list[str]:
    """Names that an instruction copies or mounts from."""
    match step:
        case ins.Copy(origin=origin) if origin:
            return [origin]
        case ins.Run(mounts=mounts):
            return [mount.origin for mount in map(parse_mount, mounts) if mount.origin]
        case _:
            return []


def _stage(stage: ins.Stage, index: int, names: Names, world: Globals) -> StagePlan:
    mark = stage.base.mark
    base = expand(world.expander(), stage.base.base, mark)
    if not base:
        raise BuildError(
            f"{at(mark)}: base name ({stage.base.base}) should not be blank; give it by --build-arg"
        )
    platform = expand(world.expander(), stage.base.platform, mark)
    found: Origin = Nothing() if base == "scratch" else names.origin(base, index, mark, platform)
    if isinstance(found, FromDirectory):
        raise BuildError(
            f"{at(mark)}: cannot build on the directory {found.path}; a base is an image or a stage"
        )
    origins = [names.source(name, index, step.mark) for step in stage.steps for name in taken_from(step)]
    needs = {origin.index for origin in (found, *origins) if isinstance(origin, FromStage)}
    return StagePlan(index, stage.base.name, found, tuple(sorted(needs)), stage)


def _reference(text: str, mark: Mark) -> Reference:
    try:
        return parse_reference(text)
    except InvalidReferenceError as error:
        raise BuildError(f"{at(mark)}: cannot use image {text!r}: {error}") from error
