"""The end of everything that runs, when the host goes down: in order, each in its own time, with a bound.

No stop by a person, so the policies decide at the next start what comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from supervisor.core import events as ev
from supervisor.core.lifecycle import KILL_AGAIN_S
from supervisor.core.state import Waiting
from supervisor.daemon.engine import Engine, Entry
from supervisor.daemon.outcomes import is_down
from supervisor.daemon.projects import Projects
from supervisor.daemon.stopping import in_waves

# Beyond a wave's longest grace period: for what SIGKILL, sent again and again, needs to come to an end.
_KILL_S = 3 * KILL_AGAIN_S


class Shutdown:
    """One end of all services. `run` once; `status` may be asked meanwhile."""

    def __init__(self, engine: Engine, projects: Projects, why: str) -> None:
        """why: the reason that each service gets."""
        self._engine = engine
        self._projects = projects
        self._why = why
        self._total = len(self._up())

    def _up(self) -> list[Entry]:
        return [entry for entry in self._engine.entries.values() if not is_down(entry.instance)]

    def status(self) -> str:
        """One line for people."""
        left = sorted(entry.stored.name for entry in self._up())
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        return f"stopped {self._total - len(left)} of {self._total} services" + (
            f"; waiting for {', '.join(left[:5])}{more}" if left else ""
        )

    async def run(self, report: Callable[[str], None]) -> None:
        """Stop dependents before what they depend on, projects beside each other.

        Returns when all are down, or when what is left had the time of its project's longest chain.
        """
        for entry in self._up():
            if isinstance(entry.instance.phase, Waiting):
                # First of all, or its timer would start it in the middle of this.
                self._engine.post(entry.instance.id, ev.StopRequested(manual=False, why=self._why))
        groups: dict[str, list[Entry]] = {}
        for entry in self._up():
            groups.setdefault(entry.stored.project, []).append(entry)
        await asyncio.gather(*(self._stop(entries, report) for entries in groups.values()))

    async def _stop(self, entries: list[Entry], report: Callable[[str], None]) -> None:
        bound_s = longest_chain_s(entries)
        try:
            await asyncio.wait_for(self._projects.stop(entries, manual=False, why=self._why), bound_s)
        except TimeoutError:
            left = sorted(entry.stored.name for entry in entries if not is_down(entry.instance))
            report(f"cannot stop {', '.join(left)} within {bound_s:g} s: left to what stopped the supervisor")


def longest_chain_s(entries: list[Entry]) -> float:
    """How long the stop of a project may take: the longest grace period of each wave, and its kills."""
    return sum(max(e.instance.stop_grace_s for e in group) + _KILL_S for group in in_waves(entries))
