"""What every part of the launcher works on: the loop, the live runs, the records, the daemon."""

from __future__ import annotations

import time
from collections import deque

from supervisor.kernel.hierarchies import CgroupSetup
from supervisor.launcher import protocol
from supervisor.launcher.daemonlink import DaemonLink
from supervisor.launcher.loop import Loop
from supervisor.launcher.runs import Run
from supervisor.launcher.sayings import SPAN_S, Sayings


class Context:
    """Shared by all parts; nothing of it decides anything."""

    def __init__(self, run_dir: str, setup: CgroupSetup) -> None:
        """Raises OSError."""
        self.setup = setup
        self.loop = Loop(self.problem)
        self.runs: dict[str, Run] = {}
        self.ended: dict[tuple[str, int], protocol.Exited | protocol.LaunchFailed] = {}
        self.daemon = DaemonLink(f"{run_dir}/launcher.sock", self.loop.epoll)
        self.problems: deque[str] = deque(maxlen=100)
        """What a daemon that is away has yet to hear."""
        self._sayings = Sayings()
        self._waiting = False

    def problem(self, text: str) -> None:
        """Tell the operator, now or as soon as there is a daemon; of very many only how many."""
        for saying in self._sayings.say(text, time.monotonic()):
            self._tell(saying)
        if self._sayings.holds_back and not self._waiting:
            self._waiting = True
            self.loop.after(SPAN_S, self._tell_due, None)

    def _tell_due(self, _: None) -> None:
        self._waiting = False
        for saying in self._sayings.due(time.monotonic()):
            self._tell(saying)

    def _tell(self, text: str) -> None:
        if self.daemon.connected:
            self.daemon.send(protocol.Problem(text))
        else:
            self.problems.append(text)

    def find(self, instance: str, number: int) -> Run | None:
        """That run, if it lives."""
        run = self.runs.get(instance)
        return run if run is not None and run.number == number else None

    def end(self, record: protocol.Exited | protocol.LaunchFailed) -> None:
        """A run is over: keep its record until it is acknowledged, and tell it."""
        self.ended[record.instance, record.run] = record
        self.daemon.send(record)
