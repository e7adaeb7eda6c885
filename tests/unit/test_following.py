"""An attached `up`: what is shown, when it is over, and the exit code."""

from __future__ import annotations

import pytest

from supervisor.cli.following import Ending, Shown, Wish, are_over, is_shown, listening
from supervisor.cli.upview import Row, UpView, frame
from supervisor.core.model import Project, ServiceSpec

PROJECT = Project(
    "p",
    "/",
    services=(
        ServiceSpec("db", attach=False),
        ServiceSpec("job", container_name="worker-2"),
        ServiceSpec("web"),
    ),
)


@pytest.mark.parametrize(
    ("wish", "shown"),
    [
        (Wish(), {"worker-2", "p-web-1", "p-web-2"}),
        (Wish(named=("web",)), {"p-web-1", "p-web-2"}),
        (Wish(named=("web",), dependencies=True), {"worker-2", "p-web-1", "p-web-2"}),
        (Wish(attach=("db",)), {"p-db-1"}),
        (Wish(no_attach=("web",)), {"worker-2"}),
    ],
)
def test_whose_output_is_shown(wish: Wish, shown: set[str]) -> None:
    names = ("p-db-1", "worker-2", "p-web-1", "p-web-2")
    assert {name for name in names if is_shown(wish, PROJECT, name)} == shown


def ends(wish: Wish, *ended: tuple[str, int]) -> tuple[list[bool], int]:
    ending = Ending(wish)
    return [ending.ended(*each) for each in ended], ending.code


def test_the_first_end_decides() -> None:
    """Compose's rules: abort once; the exit code is that of the first, or of the service that was named."""
    assert ends(Wish(), ("a", 3), ("b", 4)) == ([False, False], 0)
    assert ends(Wish(abort="exit"), ("a", 3), ("b", 4)) == ([True, False], 3)
    assert ends(Wish(abort="exit"), ("a", 0), ("b", 4)) == ([True, False], 0)
    assert ends(Wish(abort="failure"), ("a", 0), ("b", 4), ("c", 5)) == ([False, True, False], 4)
    from_b = Wish(abort="exit", code_from="b")
    assert ends(from_b, ("a", 3), ("b", 137)) == ([True, False], 137)
    assert ends(from_b, ("b", 5), ("a", 3), ("b", 6)) == ([True, False, False], 5)


def test_the_last_lines_are_there_when_the_mark_of_the_end_is() -> None:
    shown = Shown()
    assert shown.complete
    shown.died("a", 2)
    shown.line({"name": "a", "text": "run 1 ended: exit code 0", "marker": True})
    shown.line({"name": "a", "text": "run 2 ended: as the service writes it"})
    assert not shown.complete
    shown.line({"name": "a", "text": "run 2 ended: exit code 0", "marker": True})
    assert shown.complete


def test_what_waits_for_a_restart_is_not_over() -> None:
    over = {"State": {"Status": "exited"}, "NextRestartAt": None}
    assert are_over([over, over])
    assert not are_over([over, {**over, "NextRestartAt": "2026-01-01T00:00:00Z"}])
    assert not are_over([over, {"State": {"Status": "restarting"}, "NextRestartAt": None}])


def test_where_it_listens_is_told_of_published_ports_only() -> None:
    published = {"IP": "0.0.0.0", "PublicPort": 80, "PrivatePort": 8080, "Type": "tcp"}
    views = [
        {"Name": "a", "Ports": [published, {**published, "IP": "::"}, {"PrivatePort": 9, "Type": "tcp"}]},
        {"Name": "b", "Ports": [{"PrivatePort": 9, "Type": "tcp"}]},
        {"Name": "c", "Ports": None},
    ]
    assert listening(views) == [("a", "*:80->8080/tcp")]


def test_a_frame_fits_and_counts_what_has_come_to_something() -> None:
    rows = [
        Row("p-a-1", "running", 0.0, 1.5),
        Row("p-b-1", "exited: exit code 1", 0.0, 2.0, good=False),
        Row("p-c-1", "waits for a to be healthy", 0.0),
    ]
    lines = frame(rows, 60, None, 3.0, colour=False)
    assert lines[0] == "[+] up 2/3"
    assert [line.split()[0] for line in lines[1:]] == ["✔", "✘", "⠋"]
    assert all(len(line) <= 60 for line in lines)
    assert lines[1].endswith(" 1.5s")
    long = [*rows, Row("p-d-1", "exited: " + "a reason " * 9, 0.0, 1.0)]
    assert ["…" in line for line in frame(long, 60, None, 3.0, colour=False)] == [False] * 4 + [True]
    short = frame(rows, 60, 3, 3.0, colour=False)
    assert [line.split()[2] for line in short[1:]] == ["p-b-1", "p-c-1"], "what has ended well goes first"
    assert all(len(line) <= 20 for line in frame(rows, 20, None, 3.0, colour=False))


def test_a_view_tells_the_cause_of_what_is_made_anew() -> None:
    import io

    view = UpView(io.StringIO(), [{"name": "p-a-1", "verb": "recreate"}, {"name": "old", "verb": "orphan"}])
    view.tell({"name": "p-a-1", "verb": "recreate", "outcome": "running", "cause": "its image"}, good=True)
    (row,) = view._rows.values()
    assert (row.text, row.ended_s is not None) == ("running (its image)", True)
