"""Which part of a root is the same for most services, so that a spare can make it before it is asked. Pure.

That is the bounding set of capabilities, and /proc, /dev and /sys with all that belongs to them: they need
nothing but the namespaces that the spare is in already. Each is moved into the new root as a whole. What a
service mounts into one of them itself comes later and by its own step; where it covers one of them, that one
is not made ahead.
"""

from __future__ import annotations

from typing import NamedTuple

from supervisor.launcher import plan

_TOPS = ("/proc", "/dev", "/sys")
_FILE_SYSTEMS = frozenset(("proc", "sysfs", "tmpfs", "devpts", "mqueue"))

Common = plan.Mount | plan.Bind | plan.Symlink


class Ahead(NamedTuple):
    """Steps, in order; what of their result is made read-only or is hidden; the capabilities that are left.

    caps: None where nothing is made.
    """

    steps: tuple[Common, ...] = ()
    read_only: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    caps: tuple[int, ...] | None = None

    def tops(self) -> list[plan.Mount]:
        """The steps that are moved, with everything below them."""
        return [step for step in self.steps if isinstance(step, plan.Mount) and step.target in _TOPS]


NOTHING = Ahead()


class Made(NamedTuple):
    """What of a root was there before its program ran: see `assemble`."""

    kept: bool = False
    ahead: Ahead = NOTHING


def ahead_of(launch: plan.LaunchPlan) -> Ahead:
    """What of a launch can be made before it is known which service it is for."""
    tops: list[str] = []
    steps: list[Common] = []
    own: list[str] = []  # places of the service's own, in the order of the steps
    read_only: list[str] = []
    masked: list[str] = []
    written: list[str] = []  # files that a step writes: what they are in is made read-only afterwards
    for step in launch.steps:
        match step:
            case plan.Mount() if step.target in _TOPS and _is_common(step, launch.net):
                tops.append(step.target)
                steps.append(step)
            case plan.Mount() | plan.Bind() | plan.Symlink():
                inside = _below(step.target, tops) and not _below(step.target, own)
                if inside and _is_common(step, launch.net):
                    steps.append(step)
                else:
                    own.append(step.target)
            case plan.Overlay():
                own.append(step.target)
            case plan.Sysctl():
                written.append(f"/proc/sys/{step.name.replace('.', '/')}")
            case plan.ReadOnly():
                read_only += [path for path in step.paths if _below(path, tops)]
            case plan.Mask():
                masked += [path for path in step.paths if _below(path, tops)]
            case _:
                pass
    covered = {top for top in tops for place in own if place != "/" and _below(top, [place])}
    kept = [top for top in tops if top not in covered]
    return Ahead(
        tuple(step for step in steps if _below(step.target, kept)),
        tuple(
            path
            for path in read_only
            if _below(path, kept)
            and not _below(path, own)
            and not any(_below(file, [path]) for file in written)
        ),
        tuple(path for path in masked if _below(path, kept) and not _below(path, own)),
        tuple(sorted(launch.process.caps)),
    )


def _is_common(step: Common, net: str) -> bool:
    match step:
        case plan.Mount():
            # A sysfs shows the network namespace that it was mounted in.
            return step.fstype in _FILE_SYSTEMS and (step.fstype != "sysfs" or net == "host")
        case plan.Bind():
            return step.source == step.target and not step.recursive and step.propagation is None
        case plan.Symlink():
            return True


def _below(path: str, places: list[str]) -> bool:
    """It is one of the places, or inside one; nothing is inside "/" here."""
    return any(path == place or path.startswith(f"{place}/") for place in places)
