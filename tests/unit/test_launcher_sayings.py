"""What the launcher tells of problems that do not end."""

from __future__ import annotations

from supervisor.launcher.sayings import MOST, SPAN_S, Sayings


def test_a_storm_is_told_as_its_beginning_and_its_number() -> None:
    """Every problem is either told or counted, and the next span begins anew."""
    sayings = Sayings()
    told = [line for number in range(1000) for line in sayings.say(f"p{number}", number * SPAN_S / 2000)]
    assert told == [f"p{number}" for number in range(MOST)]
    assert sayings.holds_back
    assert sayings.due(SPAN_S / 2) == []
    (line,) = sayings.due(SPAN_S)
    assert line.startswith(f"{1000 - MOST} more problems")
    assert line.endswith("the last of them: p999")
    assert not sayings.holds_back
    assert sayings.due(SPAN_S * 2) == []


def test_few_problems_are_all_told() -> None:
    """One now and then is never held back, and a storm's number comes before what follows it."""
    sayings = Sayings()
    assert [sayings.say("x", SPAN_S * number) for number in range(50)] == [["x"]] * 50
    start = SPAN_S * 100
    for _ in range(MOST + 3):
        sayings.say("y", start)
    after = sayings.say("z", start + SPAN_S)
    assert (len(after), after[0].split()[0], after[1]) == (2, "3", "z")
