"""Which services are part of a project: profiles, services named by the user, dependencies. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from supervisor.compose.problems import Findings, Mark, nearest
from supervisor.compose.service import Draft


def select(
    drafts: Mapping[str, Draft], profiles: Collection[str], named: Collection[str], findings: Findings
) -> list[str]:
    """The names of the services of the project, sorted.

    Without `named`: all that are enabled, that is, have no profiles or an active one ("*" is all). With
    `named`: those and what they depend on; naming a service activates its profiles. Unknown names, and
    dependencies that are unknown, not enabled or circular, are noted.
    """
    active = set(profiles)
    for name in named:
        draft = drafts.get(name)
        if draft is None:
            near = nearest(name, drafts)
            findings.error(
                Mark(""),
                "",
                f'no such service: "{name}"',
                f"did you mean {near}?" if near else f"the file has: {', '.join(sorted(drafts)) or 'none'}",
            )
        elif not _enabled(draft, active):
            active |= set(draft.spec.profiles)
    enabled = {name for name, draft in drafts.items() if _enabled(draft, active)}
    for name in sorted(drafts):
        _check_dependencies(drafts, name, enabled, findings)
    _check_cycles(drafts, findings)
    if not named:
        return sorted(enabled)
    wanted: set[str] = set()
    waiting = [name for name in named if name in enabled]
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += [needed for needed in _needs(drafts[name]) if needed in enabled]
    return sorted(wanted)


def _enabled(draft: Draft, active: Collection[str]) -> bool:
    return not draft.spec.profiles or "*" in active or not set(draft.spec.profiles).isdisjoint(active)


def _needs(draft: Draft) -> Iterator[str]:
    return (dependency.service for dependency in draft.spec.depends_on)


def _place(draft: Draft, needed: str) -> tuple[Mark, str]:
    assert isinstance(draft.node.value, dict)
    written = draft.node.value.get("depends_on")
    if written is not None and isinstance(written.value, dict) and needed in written.value:
        return written.key_mark(needed), f"services.{draft.spec.name}.depends_on.{needed}"
    return draft.implied[needed]


def _check_dependencies(
    drafts: Mapping[str, Draft], name: str, enabled: Collection[str], findings: Findings
) -> None:
    draft = drafts[name]
    for dependency in draft.spec.depends_on:
        needed = dependency.service
        if needed not in drafts:
            near = nearest(needed, drafts.keys() - {name})
            findings.error(
                *_place(draft, needed),
                f'service "{name}" depends on undefined service "{needed}"',
                f"did you mean {near}?" if near else "define it, or remove the dependency",
            )
        elif name in enabled and needed not in enabled and dependency.required:
            shown = ", ".join(drafts[needed].spec.profiles)
            findings.error(
                *_place(draft, needed),
                f'service "{name}" depends on "{needed}", which is not enabled (its profiles: {shown})',
                f"activate it with --profile {drafts[needed].spec.profiles[0]}, or write `required: false`",
            )


def _check_cycles(drafts: Mapping[str, Draft], findings: Findings) -> None:
    """Note each circle once. Without recursion: a chain may be longer than Python's stack."""
    done: set[str] = set()
    for start in sorted(drafts):
        trail: list[str] = []
        waiting: list[Iterator[str]] = []
        if start in done:
            continue
        trail.append(start)
        waiting.append(_needs(drafts[start]))
        while waiting:
            needed = next(waiting[-1], None)
            if needed is None:
                waiting.pop()
                done.add(trail.pop())
            elif needed in trail:
                circle = [*trail[trail.index(needed) :], needed]
                if len(circle) > 12:
                    circle = [*circle[:6], "...", *circle[-4:]]
                findings.error(
                    *_place(drafts[trail[-1]], needed),
                    f"dependency cycle: {' -> '.join(circle)}",
                    "remove one of these dependencies",
                )
            elif needed in drafts and needed not in done:
                trail.append(needed)
                waiting.append(_needs(drafts[needed]))
