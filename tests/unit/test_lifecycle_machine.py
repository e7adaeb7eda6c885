"""Hypothesis drives the state machine with everything in any order; what must hold is in the invariants."""

from __future__ import annotations

from typing import Literal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from supervisor.core import events as ev
from supervisor.core.boot import Anew, keep, recover, starts_at_boot
from supervisor.core.exits import Exit, SpawnFailure
from supervisor.core.lifecycle import step
from supervisor.core.model import Policy, RestartRules
from supervisor.core.state import Created, Instance, Resting, Running, Starting, Stopping, Waiting
from supervisor.daemon.record import load_instance, save_instance

ENDINGS = st.sampled_from(
    [Exit(0), Exit(1), Exit(137, signal=9), Exit(143, signal=15), Exit(137, 9, oom=True)]
)
SIGNALS = st.sampled_from([1, 9, 10, 15])


class Lifecycle(RuleBasedStateMachine):
    """The pure core, a set of armed timers, and a launcher that may have at most one live run."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.instance = Instance("i", rules=RestartRules(Policy.ALWAYS))
        self.timers: dict[int, float] = {}
        self.asked: int | None = None
        self.alive: int | None = None
        self.stale: list[ev.Event] = []

    def apply(self, event: ev.Event) -> None:
        self.instance, effects = step(self.instance, event, self.now_s)
        self.carry_out(effects)

    def carry_out(self, effects: tuple[ev.Effect, ...]) -> None:
        saved = False
        for effect in effects:
            match effect:
                case ev.Launch(run=run):
                    assert not saved, "a launch waited for the disk"
                    assert self.alive is None, "two live processes of one instance"
                    assert self.asked is None, "two launches at once"
                    assert self.instance.wanted, "a start that nobody wants"
                    self.asked = run
                case ev.Arm(timer=timer, at_s=at_s):
                    self.timers[timer] = at_s
                case ev.Save():
                    saved = True
                case _:
                    pass

    # --- people
    @rule()
    def start(self) -> None:
        self.apply(ev.StartRequested())

    @rule(manual=st.booleans(), hold_s=st.sampled_from([None, 60.0]))
    def stop(self, manual: bool, hold_s: float | None) -> None:
        self.apply(ev.StopRequested(manual=manual, hold_s=hold_s))

    @rule()
    def restart(self) -> None:
        self.apply(ev.RestartRequested())

    @rule(signum=SIGNALS)
    def kill(self, signum: int) -> None:
        self.apply(ev.KillRequested(signum))

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.apply(ev.PauseRequested(paused))

    @rule(paused=st.booleans())
    def paused(self, paused: bool) -> None:
        self.apply(ev.Paused(self.instance.run, paused))

    @rule(policy=st.sampled_from(list(Policy)), attempts=st.sampled_from([None, 0, 2]))
    def update(self, policy: Policy, attempts: int | None) -> None:
        self.apply(ev.RulesChanged(RestartRules(policy, max_attempts=attempts)))

    # --- probes and dependencies
    @rule(
        status=st.sampled_from(["starting", "healthy", "unhealthy"]),
        restart=st.booleans(),
        old=st.booleans(),
        part=st.sampled_from(["probes", "notify"]),
        failed=st.booleans(),
    )
    def health_changes(
        self,
        status: Literal["starting", "healthy", "unhealthy"],
        restart: bool,
        old: bool,
        part: Literal["probes", "notify"],
        failed: bool,
    ) -> None:
        before = self.instance
        run = self.instance.run - old
        self.apply(ev.HealthChanged(run, status, "3 probes failed", restart, part, failed))
        if old:
            assert self.instance == before, "the health of an earlier run changed something"

    @rule(refused=st.booleans())
    def a_start_is_held(self, refused: bool) -> None:
        self.apply(ev.Held("depends on db", refused))

    # --- the launcher
    @precondition(lambda self: self.asked is not None)
    @rule()
    def started(self) -> None:
        self.alive, self.asked = self.asked, None
        self.stale.append(ev.Started(self.alive, 42))
        self.apply(ev.Started(self.alive, 42))

    @precondition(lambda self: self.asked is not None)
    @rule()
    def launch_failed(self) -> None:
        run, self.asked = self.asked, None
        event = ev.LaunchFailed(run, SpawnFailure("exec", 2, "no such file", 127))
        self.stale.append(event)
        self.apply(event)

    @precondition(lambda self: self.alive is not None)
    @rule(ending=ENDINGS)
    def exited(self, ending: Exit) -> None:
        run, self.alive = self.alive, None
        self.stale.append(ev.Exited(run, ending))
        self.apply(ev.Exited(run, ending))

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def an_old_answer_changes_nothing(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(self.stale))
        if getattr(event, "run", None) == self.instance.run:
            return  # not an old one
        before = self.instance
        self.apply(event)
        assert self.instance == before

    # --- time
    @rule(seconds=st.sampled_from([0.01, 1.0, 11.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @precondition(lambda self: self.timers)
    @rule(data=st.data())
    def any_timer_fires(self, data: st.DataObject) -> None:
        timer = data.draw(st.sampled_from(sorted(self.timers)))
        self.now_s = max(self.now_s, self.timers.pop(timer))
        own = getattr(self.instance.phase, "timer", None)
        before = self.instance
        self.apply(ev.TimerFired(timer))
        if timer != own:
            assert self.instance == before, "a stale timer changed something"

    # --- restarts of the world
    @rule()
    def supervisor_restarts(self) -> None:
        """Killed and back: the state is loaded, armed timers are gone, what is alive is adopted."""
        assert load_instance(save_instance(self.instance)) == self.instance
        self.timers.clear()
        self._anew(Anew.SUPERVISOR)

    @rule()
    def launcher_is_replaced(self) -> None:
        """What rests, rests on; what it did not start is asked for again."""
        resting = self.instance if isinstance(self.instance.phase, Created | Resting) else None
        self._anew(Anew.LAUNCHER)
        assert resting is None or self.instance == resting

    @rule()
    def the_run_is_lost_with_the_launcher(self) -> None:
        self.alive = None
        if not isinstance(self.instance.phase, Starting):
            self.asked = None
        self._anew(Anew.LAUNCHER)

    @rule(shift_s=st.sampled_from([-500.0, 0.0, 500.0]))
    def host_boots(self, shift_s: float) -> None:
        self.alive = self.asked = None
        self.timers.clear()
        self.now_s = 5.0
        self.stale.clear()
        self._anew(Anew.HOST, shift_s)
        assert isinstance(self.instance.phase, Created | Resting | Starting)

    def _anew(self, anew: Anew, shift_s: float = 0.0) -> None:
        if self.alive is not None or (self.asked is not None and isinstance(self.instance.phase, Stopping)):
            self.carry_out(keep(self.instance, self.now_s))
            return
        self.asked = None
        self.instance, effects = recover(self.instance, self.now_s, anew, shift_s=shift_s)
        self.carry_out(effects)
        if anew is not Anew.LAUNCHER and starts_at_boot(self.instance, self.now_s):
            self.apply(ev.StartRequested(anew.value))
            assert isinstance(self.instance.phase, Starting)

    # --- what must hold
    @invariant()
    def a_waiting_phase_owns_a_timer(self) -> None:
        match self.instance.phase:
            case Stopping(timer=timer) | Waiting(timer=timer):
                assert timer in self.timers
            case Resting(timer=timer) if timer is not None:
                assert timer in self.timers
            case _:
                pass

    @invariant()
    def phases_agree_with_the_launcher(self) -> None:
        match self.instance.phase:
            case Running():
                assert self.alive == self.instance.run
            case Starting():
                assert self.asked == self.instance.run
            case Stopping():
                assert self.instance.run in (self.alive, self.asked)
            case _:
                assert self.alive is None
                assert self.asked is None

    def teardown(self) -> None:
        """A stop reaches a rest if timers keep firing and the kernel ends what is killed."""
        self.apply(ev.StopRequested())
        for _ in range(3):
            if self.asked is not None:
                self.started()
            if self.alive is not None:
                run, self.alive = self.alive, None
                self.apply(ev.Exited(run, Exit(137, signal=9)))
        assert isinstance(self.instance.phase, Created | Resting)


Lifecycle.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestLifecycle = Lifecycle.TestCase
