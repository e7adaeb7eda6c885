"""Hooks of services: `post_start` after every start of a run, `pre_stop` before its stop signal.

`pre_start` is `daemon.prestart`'s. These two run inside the service. Compose runs them only in `up` and
`down`; a restart by policy or at boot is a start as well, so here they run then, too. A failed hook ends
nothing: it is told to whoever waits, and stays to be read in `inspect`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from supervisor.core.health import in_words
from supervisor.core.healthcheck import Hook
from supervisor.core.state import Running
from supervisor.daemon.engine import Engine, Entry, Published
from supervisor.daemon.inside import AwayError, Inside
from supervisor.daemon.plans import ExecRequest, LaunchPlans
from supervisor.daemon.prestart import PreStart


class Hooks:
    """See the module. Belongs to the event loop."""

    def __init__(
        self,
        engine: Engine,
        inside: Inside,
        plans: LaunchPlans,
        pre_start: PreStart,
        report: Callable[[str], None],
    ) -> None:
        self._engine = engine
        self._inside = inside
        self._plans = plans
        self._report = report
        self.before_start = pre_start.before_start
        self.end = pre_start.end
        self.removed = pre_start.remove
        self._after_start: dict[str, tuple[int, asyncio.Task[str]]] = {}
        engine.subscribers.add(self._on_event)

    def _on_event(self, event: Published) -> None:
        entry = self._engine.entries.get(event.instance)
        if event.action == "start" and entry is not None and entry.stored.spec.hooks.post_start:
            work = self._all(entry, event.run, "post_start", entry.stored.spec.hooks.post_start, None)
            task = asyncio.get_running_loop().create_task(work)
            self._after_start[event.instance] = event.run, task
        elif event.action in ("die", "destroy"):
            run, pending = self._after_start.get(event.instance, (0, None))
            if pending is not None and run == event.run:
                del self._after_start[event.instance]
                pending.cancel()

    async def after_start(self, entry: Entry) -> str:
        """Wait for the post_start hooks of the newest run; empty, or what failed."""
        run, task = self._after_start.get(entry.instance.id, (0, None))
        if task is None or run != entry.instance.run:
            return ""
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                return ""  # the run has ended
            raise

    async def before_stop(self, entry: Entry, grace_s: float) -> float:
        """Run the pre_stop hooks of what runs; how much of the grace period is left."""
        hooks = entry.stored.spec.hooks.pre_stop
        phase = entry.instance.phase
        if not hooks or grace_s <= 0 or not isinstance(phase, Running) or phase.paused:
            return grace_s
        began = time.monotonic()
        await self._all(entry, entry.instance.run, "pre_stop", hooks, grace_s)
        # The program itself gets a moment in any case.
        return max(grace_s - (time.monotonic() - began), min(grace_s, 1.0))

    async def _all(
        self, entry: Entry, run: int, when: str, hooks: tuple[Hook, ...], time_s: float | None
    ) -> str:
        """One after the other, to the first that fails; what that was, or empty."""
        name = entry.stored.name
        try:
            async with asyncio.timeout(time_s):
                for hook in hooks:
                    failure = await self._one(entry, run, hook)
                    if failure:
                        text = f"{when} hook {' '.join(hook.command)!r} of {name} failed: {failure}"
                        self._report(text)
                        return text
        except TimeoutError:
            text = f"{when} hooks of {name} were ended: they took more than {time_s:g} s"
            self._report(text)
            return text
        except AwayError:
            return ""  # the run ended, or the launcher did: that tells its own story
        return ""

    async def _one(self, entry: Entry, run: int, hook: Hook) -> str:
        request = ExecRequest(
            hook.command, hook.environment, hook.user, hook.working_dir, privileged=hook.privileged
        )
        try:
            process = await asyncio.to_thread(self._plans.exec_process, entry.stored, request)
        except Exception as error:  # noqa: BLE001 - whatever it is, this hook cannot run
            return str(error)
        outcome = await self._inside.run(entry.instance.id, entry.stored.name, run, process, None)
        if outcome.code == 0:
            return ""
        return in_words(outcome.code, outcome.output)
