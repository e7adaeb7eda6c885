"""Listening to runs that say of themselves how they are, and telling the daemon."""

from __future__ import annotations

import select

from supervisor.launcher import protocol
from supervisor.launcher.context import Context
from supervisor.launcher.ear import Ear
from supervisor.launcher.runs import Run


class Notices:
    """See the module."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def begin(self, run: Run, ear: Ear) -> None:
        """From now on; the ear is the run's."""
        run.ear = ear
        self._context.loop.watch(ear.fileno(), select.EPOLLIN, self._on_readable, run)

    def resume(self, run: Run, path: str) -> None:
        """Of a run that an earlier launcher began."""
        try:
            self.begin(run, Ear(path, fresh=False))
        except OSError as error:
            self._context.problem(f"cannot hear what {run.instance} says of itself: {error.strerror}")

    def end(self, run: Run) -> None:
        """Nothing of it lives: what it said last is told."""
        if run.ear is not None:
            self._on_readable(run)
            self._context.loop.unwatch(run.ear.fileno())
            run.ear.close()

    def _on_readable(self, run: Run) -> None:
        assert run.ear is not None
        text = run.ear.hear(run.cgroup.path)
        if text and not run.starting:  # else it comes with Started
            self._context.daemon.send(protocol.Notified(run.instance, run.number, text))
