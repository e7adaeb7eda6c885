"""The restart tables on a real engine: what each act is, and how a verdict is read off.

An engine is Shipkeeper or dockerd (`ours`, `dockers` of the tests); this module knows neither.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, assert_never

from restart_tables import (
    Act,
    CrashLoops,
    Ends,
    FailsAgain,
    FailsToStart,
    Kill,
    KillWaiting,
    Pause,
    Restart,
    Service,
    Stop,
    StopWaiting,
    Verdict,
)

from supervisor.core.model import Policy

T = TypeVar("T")
PATIENCE_S = 60.0
_LOOK_EVERY_S = 0.01


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at a service. state: Docker's word. pid 0: no process."""

    state: str
    pid: int
    code: int
    restarts: int


class Engine(Protocol):
    """What is asked of an engine. Every call raises if the engine refuses."""

    def create(self, name: str, service: Service, policy: Policy, ctl: Path, *, start: bool) -> None:
        """Make it, with `ctl` bound at /ctl, and start it; a start that fails is no error."""

    def look(self, name: str) -> Seen: ...
    def stop(self, name: str, grace_s: int | None) -> None: ...
    def kill(self, name: str, signame: str) -> None: ...
    def restart(self, name: str) -> None: ...
    def pause(self, name: str, paused: bool) -> None: ...
    def remove(self, name: str) -> None: ...


def until(look: Callable[[], T], reached: Callable[[T], bool], what: str) -> T:
    """Look again and again until it is so; what was seen then."""
    deadline = time.monotonic() + PATIENCE_S
    while not reached(seen := look()):
        assert time.monotonic() < deadline, f"never came true: {what}; last seen: {seen}"
        time.sleep(_LOOK_EVERY_S)  # between two looks; nothing is taken to have happened by then
    return seen


class Player:
    """One service of a row on an engine."""

    def __init__(self, engine: Engine, name: str, service: Service, policy: Policy, directory: Path) -> None:
        self._engine = engine
        self.name = name
        self._service = service
        self._policy = policy
        self._ctl = directory / name
        self._away = directory / f"{name}-away"
        self._lives = 0
        self._pid = 0
        # How many restarts were decided if a start that failed is to be tried again; None: it can start.
        self._unstartable = 1 if service.missing else None

    def create(self, *, start: bool = True) -> None:
        self._ctl.mkdir()
        self._engine.create(self.name, self._service, self._policy, self._ctl, start=start)

    def ready(self) -> None:
        """Until it runs and has its traps."""
        if self._unstartable is None:
            until(self._count, lambda lives: lives > 0, f"{self.name} is up")
            self._mark()

    def _count(self) -> int:
        return self._lines("up")

    def _lines(self, name: str) -> int:
        try:
            return (self._ctl / name).read_text().count("\n")
        except FileNotFoundError:
            return 0

    def _mark(self) -> None:
        """What is seen from here on is the answer to what comes now."""
        self._lives = self._count()
        self._pid = self._engine.look(self.name).pid

    def look(self) -> Seen:
        return self._engine.look(self.name)

    def _signal(self, name: str) -> None:
        pid = self.look().pid
        assert pid, f"the precondition: {self.name} runs"
        os.kill(pid, signal.Signals[f"SIG{name}"])

    def _await_end(self, code: int) -> None:
        """Until it has ended so; a next life may have begun."""
        until(
            lambda: (self.look(), self._count()),
            lambda now: now[1] > self._lives or now[0].pid != self._pid,
            f"{self.name} ends with {code}",
        )

    def acts(self, acts: tuple[Act, ...]) -> None:
        for act in acts:
            self._act(act)

    def _act(self, act: Act) -> None:
        match act:
            case Ends():
                self._mark()
                self._signal(act.by)
                self._await_end(act.how.code)
            case Stop():
                self._engine.stop(self.name, act.grace_s)
                seen = self.look()
                assert (seen.state, seen.code) == ("exited", act.how.code)
            case Kill():
                self._mark()
                before = self._lines("seen")
                self._engine.kill(self.name, act.name)
                if act.how is None:
                    until(lambda: self._lines("seen"), lambda now: now > before, f"{act.name} is seen")
                else:
                    self._await_end(act.how.code)
            case Restart():
                self._mark()
                self._engine.restart(self.name)
                until(self._count, lambda lives: lives > self._lives, f"{self.name} runs again")
                assert self.look().restarts == 0
            case Pause():
                self._engine.pause(self.name, act.paused)
                seen = self.look()
                assert (seen.state, seen.pid) == ("paused" if act.paused else "running", self._pid)
            case CrashLoops():
                until(
                    self.look,
                    lambda seen: (
                        (seen.state == "restarting" and seen.restarts >= 5) or seen.state == "exited"
                    ),
                    f"{self.name} waits for a restart",
                )
                self._mark()
            case StopWaiting():
                self._engine.stop(self.name, None)
            case KillWaiting():
                self._engine.kill(self.name, act.name)
            case FailsToStart():
                pass  # at its creation
            case FailsAgain():
                self._mark()
                self._ctl.rename(self._away)
                self._unstartable = self.look().restarts + 2
                self._lives = 0
                self._signal("KILL")
                until(self.look, lambda seen: seen.pid != self._pid, f"{self.name} is gone")
            case _:
                assert_never(act)

    def mend(self) -> None:
        """What it mounts is there again."""
        if self._away.exists():
            self._away.rename(self._ctl)
            self._unstartable = None

    def mark(self) -> None:
        """See `_mark`: before the world changes."""
        self._mark()

    def meanwhile(self, act: Ends) -> None:
        """It ends while no engine is there to be asked."""
        pidfd = os.pidfd_open(self._pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.Signals[f"SIG{act.by}"])
            until(lambda: os.path.exists(f"/proc/{self._pid}/ns/pid"), lambda alive: not alive, "its end")
        finally:
            os.close(pidfd)

    def _is_tried_again(self, seen: Seen) -> bool:
        needed = self._unstartable
        return needed is not None and seen.state == "restarting" and seen.restarts >= needed

    def comes_back(self) -> None:
        """Until it is started again, where a start of the engine is under way and its state says nothing."""
        until(
            lambda: (self._count(), self.look()),
            lambda now: now[0] > self._lives or self._is_tried_again(now[1]),
            f"{self.name} is started again",
        )

    def verdict(self, *, kept: bool = False) -> Verdict:
        """What has become of it, as soon as that is certain. kept: the same process is an answer, too."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            lives, seen = self._count(), self.look()
            if lives > self._lives:
                return "R"
            match seen.state:
                case "exited" | "created" | "dead":
                    if self._count() == self._lives:
                        return "X"
                case "restarting" if self._is_tried_again(seen):
                    return "R"
                case "running" if kept and seen.pid == self._pid:
                    return "K"
            assert time.monotonic() < deadline, f"{self.name} is neither down nor back: {seen}"
            time.sleep(_LOOK_EVERY_S)
