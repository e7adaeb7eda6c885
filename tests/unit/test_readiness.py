"""What a run's own words come to: ready, alive, too late."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.healthcheck import Ready
from supervisor.core.readiness import Begun, Changed, Due, Event, Readiness, Said, step

READY = Said("READY=1")
PING = Said("WATCHDOG=1")


def played(wanted: Ready, *events: tuple[float, Event]) -> tuple[Readiness, list[tuple[float, str]]]:
    """What is known in the end, and each change with its time."""
    known, changes = Readiness(1, 0.0), []
    for at_s, event in events:
        known, _, changed = step(wanted, known, event, at_s)
        changes += [(at_s, each.status) for each in changed]
    return known, changes


def test_it_is_starting_until_it_says_that_it_is_ready() -> None:
    """Twice is once; without times nothing is ever due."""
    known, due_s, changed = step(Ready(), Readiness(1, 0.0), Begun(), 0.0)
    assert (known.status, due_s, changed) == ("starting", None, ())
    known, due_s, changed = step(Ready(), known, Said("READY=1\nSTATUS=open for all"), 3.0)
    assert (known.status, known.said, due_s) == ("healthy", "open for all", None)
    assert changed == (Changed("healthy", "it said that it is ready"),)
    assert step(Ready(), known, READY, 4.0)[2] == ()


def test_not_ready_in_time_is_a_failed_start() -> None:
    wanted = Ready(timeout_s=5.0)
    known, due_s, _ = step(wanted, Readiness(1, 10.0), Begun(), 10.0)
    assert due_s == 15.0
    assert step(wanted, known, Due(), 14.9)[2] == (), "a timer that fires early"
    known, due_s, changed = step(wanted, known, Due(), 15.0)
    assert (due_s, changed) == (None, (Changed("unhealthy", "not ready within 5 s", failed=True),))
    assert step(wanted, known, READY, 15.1)[2] == (), "it is being ended"
    assert played(wanted, (0.0, Begun()), (4.0, READY), (5.0, Due()))[1] == [(4.0, "healthy")]


def test_a_watchdog_counts_from_the_moment_of_being_ready() -> None:
    wanted = Ready(watchdog_s=2.0)
    events = [(0.0, Begun()), (1.0, PING), (50.0, Due()), (60.0, READY), (61.9, PING), (62.5, Due())]
    assert played(wanted, *events)[1] == [(60.0, "healthy")]
    known, changes = played(wanted, *events, (63.9, Due()))
    assert changes[1:] == [(63.9, "unhealthy")]
    assert known.why == "nothing was heard of its watchdog for 2 s"
    assert played(wanted, *events, (63.9, Due()), (70.0, PING))[1][2:] == [(70.0, "healthy")]


@pytest.mark.parametrize(
    ("text", "status", "due_s"),
    [
        ("WATCHDOG=trigger", "unhealthy", None),
        ("STOPPING=1", "healthy", None),
        ("WATCHDOG_USEC=7000000", "healthy", 8.0),
        ("WATCHDOG_USEC=never", "healthy", 3.0),
        ("", "healthy", 3.0),
        ("STATUS=x\nnonsense\n=1\nFDSTORE=1", "healthy", 3.0),
    ],
)
def test_what_else_it_may_say(text: str, status: str, due_s: float | None) -> None:
    wanted = Ready(watchdog_s=2.0)
    known, _ = played(wanted, (0.0, Begun()), (1.0, READY))
    known, found_s, _ = step(wanted, known, Said(text), 1.5)
    assert (known.status, found_s) == (status, due_s)


def test_a_watchdog_that_nobody_asked_for_is_not_looked_after() -> None:
    known, _ = played(Ready(), (0.0, Begun()), (1.0, READY))
    assert step(Ready(), known, Said("WATCHDOG_USEC=1000"), 1.5)[1] is None


def test_a_new_daemon_gives_it_a_whole_interval() -> None:
    """As after a pause: nobody listened, and that is not the run's fault."""
    wanted = Ready(watchdog_s=2.0)
    _, due_s, changed = step(wanted, Readiness(1, 0.0, "healthy", ready=True), Begun(), 100.0)
    assert (due_s, changed) == (102.0, ())


WORDS = ["READY=1", "WATCHDOG=1", "WATCHDOG=trigger", "STOPPING=1", "STATUS=é", "WATCHDOG_USEC=9"]
EVENTS = st.lists(
    st.tuples(
        st.floats(0.0, 5.0),
        st.one_of(
            st.just(Begun()),
            st.just(Due()),
            st.builds(
                Said,
                st.lists(
                    st.sampled_from(
                        (
                            "READY=1",
                            "WATCHDOG=1",
                            "WATCHDOG=trigger",
                            "STOPPING=1",
                            "STATUS=é",
                            "WATCHDOG_USEC=9",
                        )
                    )
                    | st.text(max_size=9)
                ).map("\n".join),
            ),
        ),
    )
)


@given(
    EVENTS,
    st.builds(Ready, timeout_s=st.none() | st.just(3.0), watchdog_s=st.none() | st.just(1.0)),
)
def test_changes_are_told_once_and_nothing_is_due_in_the_past(
    events: list[tuple[float, Event]], wanted: Ready
) -> None:
    known, now_s, status = Readiness(1, 0.0), 0.0, "starting"
    for wait_s, event in events:
        now_s += wait_s
        known, due_s, changed = step(wanted, known, event, now_s)
        for each in changed:
            assert each.status != status
            status = each.status
        assert known.status == status
        assert known.status != "healthy" or known.ready
        if isinstance(event, Due) and due_s is not None:
            assert due_s > now_s, "it would fire again at once, for ever"
