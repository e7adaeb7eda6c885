"""What a run leaves for the next one of its instance, and that one's process, made before it is asked for.

A death is mostly followed by a launch by the same plan. So the writable layers of the dead stay mounted for a
moment, and while the daemon decides, the spare already becomes the next life, up to its exec: there it waits
(it is *parked*). Whether there is a next life is not decided here: one that nobody asks for ends again, and
has run nothing of the service.
"""

from __future__ import annotations

import os
import time
from collections import deque
from typing import NamedTuple

from supervisor.launcher import codec
from supervisor.launcher.context import Context
from supervisor.launcher.order import Packed
from supervisor.launcher.remains import Remains
from supervisor.launcher.runs import Child, Run
from supervisor.launcher.spawn import Spawned, Spawner
from supervisor.launcher.steps import StepError

_QUIET_S = 0.05
"""So long after the last launch the spare is replaced and the next lives are prepared."""
_KEPT_S = 1.0


class Legacy(NamedTuple):
    """Of a run. roots: descriptors of its writable overlays. packed: the order for its next life, or None."""

    number: int
    plan: bytes
    roots: list[int]
    packed: Packed | None


class Parked(NamedTuple):
    """The next life after a run, waiting. `plan` as in `unnumbered`."""

    number: int
    plan: bytes
    spawned: Spawned


class Heirs:
    """See the module."""

    def __init__(self, context: Context, spawner: Spawner, remains: Remains) -> None:
        self._context = context
        self._spawner = spawner
        self._remains = remains
        self._legacies: dict[str, Legacy] = {}
        self._parked: dict[str, Parked] = {}
        self._unprepared: deque[Run] = deque()
        self._last_launch = 0.0
        self._waiting = False

    # --- in quiet moments -----------------------------------------------------------------------
    def launched(self, run: Run) -> None:
        """A launch is on its way: prepare for the next one as soon as there are no more."""
        self._unprepared.append(run)
        self._last_launch = time.monotonic()
        if not self._waiting:
            self._waiting = True
            self._context.loop.after(_QUIET_S, self._prepare, None)

    def _prepare(self, _: None) -> None:
        """One thing a turn, so that nothing waits for it for long."""
        left = self._last_launch + _QUIET_S - time.monotonic()
        if left > 0.01:
            self._context.loop.after(left, self._prepare, None)
            return
        self._spawner.keep_spare()
        while self._unprepared:
            run = self._unprepared.popleft()
            if self._context.runs.get(run.instance) is run and not run.starting and run.packed is None:
                run.packed = self._spawner.pack(codec.decode(run.plan))
                break
        if self._unprepared:
            self._context.loop.after(0.0, self._prepare, None)
        else:
            self._waiting = False

    # --- at a death -----------------------------------------------------------------------------
    def died(self, run: Run) -> None:
        """Nothing of it lives: the launch of the next may be asked for at any moment. Twice is no error."""
        roots, run.kept = run.kept, []
        if not roots:
            return
        if run.error is not None:
            self.let_go(roots)
            return
        legacy = Legacy(run.number, run.plan, roots, run.packed)
        if not self._park(run, legacy):
            self._legacies[run.instance] = legacy
        self._context.loop.after(_KEPT_S, self._too_late, (run.instance, run.number))

    def _park(self, run: Run, legacy: Legacy) -> bool:
        """The child stays in our own cgroup until it is asked for: what is in a run's cgroup is that run."""
        if legacy.packed is None or not self._context.daemon.connected:
            return False
        if not self._spawner.can_park(legacy.packed):
            return False
        try:
            spawned = self._spawner.park(legacy.packed, legacy.roots)
        except StepError:
            return False
        _close(legacy.roots)
        self._context.loop.pids.add(spawned.pid)  # watched once it is asked for, and no stranger until then
        self._parked[run.instance] = Parked(run.number, legacy.plan, spawned)
        return True

    def _too_late(self, what: tuple[str, int]) -> None:
        """What was left by that run, if it is still there."""
        instance, number = what
        parked = self._parked.get(instance)
        if parked is not None and parked.number == number:
            del self._parked[instance]
            self.discard(parked)
        legacy = self._legacies.get(instance)
        if legacy is not None and legacy.number == number:
            del self._legacies[instance]
            self.let_go(legacy.roots)

    # --- at a launch ----------------------------------------------------------------------------
    def take(self, instance: str, known: bytes) -> Parked | Legacy | None:
        """What there is for a launch by the plan `known` (see `unnumbered`). The caller's from now on."""
        parked = self._parked.pop(instance, None)
        if parked is not None and parked.plan != known:
            self.discard(parked)
            parked = None
        legacy = self._legacies.pop(instance, None)
        if legacy is not None and legacy.plan != known:
            self.let_go(legacy.roots)
            legacy = None
        return parked or legacy

    # --- letting go -----------------------------------------------------------------------------
    def discard(self, parked: Parked) -> None:
        """It ends, having run nothing of the service."""
        # The channel first: it holds the overlay, too, and the child has to be the last that does.
        spawned = parked.spawned
        spawned.channel.close()
        _close([fd for fd in (spawned.stdin, spawned.stdout, spawned.stderr) if fd >= 0])
        self._remains.reap(Child(spawned.pid, spawned.pidfd, None))

    def let_go(self, roots: list[int]) -> None:
        """Of what a run has left; not here, because it may have to be written to a disk first."""
        if roots:
            self._remains.reap(Child(*self._spawner.let_go(roots), None))

    def close(self) -> None:
        """All of it goes."""
        for parked in self._parked.values():
            self.discard(parked)
        self._parked.clear()
        for legacy in self._legacies.values():
            _close(legacy.roots)
        self._legacies.clear()
        self._spawner.close()


def _close(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
