"""Which variables a Dockerfile's instructions see: ARG before FROM, ARG and ENV of a stage, predefined ones.

Pure. Source of the rules: Dockerfile reference, "Using ARG variables", "Scope", "Predefined ARGs", "Automatic
platform ARGs in the global scope".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from supervisor.core.environment import DEFAULT_PATH, PROXIES
from supervisor.core.problems import Mark
from supervisor.image.builder.progress import BuildError
from supervisor.image.dockerfile import instructions as ins
from supervisor.image.dockerfile.words import Expander, Quoting, WordError


class Platform(msgspec.Struct, frozen=True):
    """What an image is for."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


def platform_args(platform: Platform, stage: str) -> dict[str, str]:
    """TARGET... and BUILD...: the same ones, since nothing is built for other machines."""
    values = {
        "PLATFORM": str(platform),
        "OS": platform.os,
        "ARCH": platform.architecture,
        "VARIANT": platform.variant,
    }
    found = {f"{side}{name}": value for side in ("BUILD", "TARGET") for name, value in values.items()}
    return {**found, "TARGETSTAGE": stage or "default"}


def expand(expander: Expander, text: str, mark: Mark) -> str:
    """One word. Raises BuildError at its place."""
    try:
        return expander.word(text)
    except WordError as error:
        raise BuildError(f"{at(mark)}: cannot expand {text!r}: {error}") from error


def at(mark: Mark) -> str:
    """FILE:LINE."""
    return f"{mark.file}:{mark.line}" if mark.line else mark.file


class Globals(msgspec.Struct, frozen=True):
    """ARG before the first FROM, with what the caller gave. values: what FROM sees."""

    quoting: Quoting
    given: Mapping[str, str]
    platform: Mapping[str, str]
    values: Mapping[str, str]
    declared: frozenset[str]

    def expander(self) -> Expander:
        """For FROM."""
        return Expander(self.values, self.quoting)


def global_scope(
    dockerfile: ins.Dockerfile, given: Iterable[tuple[str, str]], platform: Mapping[str, str]
) -> Globals:
    """Raises BuildError for a default that cannot be expanded."""
    quoting = Quoting(dockerfile.escape)
    wanted = dict(given)
    automatic = {**platform, **{name: value for name, value in wanted.items() if name in platform}}
    values = dict(automatic)
    declared = set()
    for arg in dockerfile.args:
        for name, default in arg.args:
            declared.add(name)
            if name in wanted:
                values[name] = wanted[name]
            elif default is not None:
                values[name] = expand(Expander(values, quoting), default, arg.mark)
    return Globals(quoting, wanted, automatic, values, frozenset(declared))


@dataclass(slots=True)
class Scope:
    """Of one stage, as it grows. args: declared in this stage and of a value, in their order."""

    world: Globals
    env: dict[str, str]
    args: dict[str, str] = field(default_factory=dict)

    def expander(self) -> Expander:
        """ENV wins over an ARG of the same name. Where the base has no PATH, it is what programs get."""
        return Expander({"PATH": DEFAULT_PATH, **self.args, **self.env}, self.world.quoting)

    def declare(self, arg: ins.Arg) -> None:
        """ARG in a stage: what the caller gave, else its default, else the global one of that name."""
        for name, default in arg.args:
            if name in self.world.given:
                self.args[name] = self.world.given[name]
            elif default is not None:
                self.args[name] = expand(self.expander(), default, arg.mark)
            elif name in self.world.platform or (name in self.world.declared and name in self.world.values):
                self.args[name] = self.world.values.get(name, self.world.platform.get(name, ""))

    def run_env(self) -> dict[str, str]:
        """What a RUN step's process gets of both, and its result depends on."""
        return {**self.args, **self.env}

    def proxies(self) -> dict[str, str]:
        """Predefined arguments that the caller gave and no ARG declared: not part of the result."""
        known = self.run_env()
        return {
            name: self.world.given[name] for name in PROXIES if name in self.world.given and name not in known
        }
