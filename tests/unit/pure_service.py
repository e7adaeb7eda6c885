"""One service of the restart tables in the pure core: acts become events, effects are looked at, not done."""

from __future__ import annotations

from typing import assert_never

from restart_tables import (
    NO_MOUNT,
    NOT_FOUND,
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

from supervisor.core import events as ev
from supervisor.core.boot import Anew, keep, recover, starts_at_boot
from supervisor.core.exits import Exit
from supervisor.core.lifecycle import step
from supervisor.core.model import Policy, RestartRules
from supervisor.core.signals import signal_number
from supervisor.core.state import Created, Instance, Resting, Running, Starting, Stopping, Waiting


class PureService:
    """See the module. Its clock stands still but where an act says otherwise."""

    def __init__(self, service: Service, policy: Policy) -> None:
        self.now_s = 100.0
        self.instance = Instance(
            "i",
            RestartRules(policy, max_attempts=service.max_attempts),
            stop_signal=_number(service.stop_signal or "TERM"),
            stop_grace_s=service.grace_s,
        )

    def apply(self, event: ev.Event) -> tuple[ev.Effect, ...]:
        self.instance, effects = step(self.instance, event, self.now_s)
        return effects

    def start(self) -> None:
        """It is started by a person, and runs."""
        self.apply(ev.StartRequested())
        self.begins()

    def begins(self) -> None:
        assert isinstance(self.instance.phase, Starting)
        self.apply(ev.Started(self.instance.run, 42))
        assert isinstance(self.instance.phase, Running)

    def ends(self, how: Exit) -> None:
        assert isinstance(self.instance.phase, Running | Stopping), "only what runs can end"
        self.apply(ev.Exited(self.instance.run, how))

    def acts(self, acts: tuple[Act, ...]) -> None:
        for act in acts:
            self.act(act)

    def act(self, act: Act) -> None:
        match act:
            case Ends():
                self.now_s += 400.0 if self.signalled() else 1.0
                self.ends(act.how)
            case Stop():
                self.apply(ev.StopRequested())
                self.ends(act.how)
            case Kill():
                self.apply(ev.KillRequested(_number(act.name)))
                self.now_s += act.after_s
                if act.how is not None:
                    self.ends(act.how)
            case Restart():
                down = isinstance(self.instance.phase, Resting)
                self.apply(ev.RestartRequested())
                if not down:
                    self.ends(act.how)
                assert self.instance.history.restart_count == 0
            case Pause():
                assert self.apply(ev.PauseRequested(act.paused)) == (
                    ev.Freeze(self.instance.run, act.paused),
                )
                self.apply(ev.Paused(self.instance.run, act.paused))
                assert isinstance(self.instance.phase, Running)
            case CrashLoops():
                self._crash_loop(act.how)
            case StopWaiting():
                effects = self.apply(ev.StopRequested())
                assert not any(isinstance(effect, ev.Signal | ev.KillAll) for effect in effects)
            case KillWaiting():
                self.apply(ev.KillRequested(_number(act.name)))
            case FailsToStart():
                self.apply(ev.StartRequested())
                self.apply(ev.LaunchFailed(self.instance.run, NOT_FOUND))
            case FailsAgain():
                self.ends(Exit(137, signal=9))
                if isinstance(self.instance.phase, Waiting):
                    self.apply(ev.TimerFired(self.instance.phase.timer))
                    self.apply(ev.LaunchFailed(self.instance.run, NO_MOUNT))
            case _:
                assert_never(act)

    def signalled(self) -> bool:
        return isinstance(self.instance.phase, Running) and self.instance.phase.signalled is not None

    def _crash_loop(self, how: Exit) -> None:
        for _ in range(5):
            self.ends(how)
            if not isinstance(self.instance.phase, Waiting):
                return
            until_s = self.instance.phase.until_s
            self.now_s = until_s
            self.apply(ev.TimerFired(self.instance.phase.timer))
            self.begins()
        self.ends(how)

    # --- the world --------------------------------------------------------------------------------
    def shut_down(self, how: Exit) -> None:
        """Stopped with the supervisor."""
        self.apply(ev.StopRequested(manual=False, why="the supervisor was shut down"))
        if isinstance(self.instance.phase, Stopping):
            self.ends(how)

    def come_back(self, anew: Anew, *, alive: bool = False) -> None:
        """Something has begun anew, and no exit record is left."""
        if alive:
            assert keep(self.instance, self.now_s) == ()
            return
        self.instance, _ = recover(self.instance, self.now_s, anew)
        if anew is not Anew.LAUNCHER and starts_at_boot(self.instance, self.now_s):
            self.apply(ev.StartRequested(anew.value))

    def verdict(self) -> Verdict:
        match self.instance.phase:
            case Waiting() | Starting():
                return "R"
            case Resting() | Created():
                return "X"
            case Running():
                return "K"
            case other:
                raise AssertionError(f"neither down nor coming back: {other}")


def _number(name: str) -> int:
    number = signal_number(name)
    assert number is not None
    return number
