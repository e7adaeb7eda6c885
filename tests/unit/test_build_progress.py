"""What a build tells becomes lines: live, plain, JSON, and the block of a failure."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli.builderror import excerpt, failed_step, place_of
from supervisor.cli.buildframe import cells, frame
from supervisor.cli.buildplain import Documents, Plain, plain
from supervisor.cli.buildstate import State, clean, fold
from supervisor.image.builder.progress import Ended, Event, Note, Output, Planned, Started

STORY: list[tuple[float, Event]] = [
    (0.0, Planned(4)),
    (0.0, Started(1, "[internal] load build definition from Dockerfile")),
    (0.1, Ended(1, 0.1)),
    (0.1, Started(2, "[1/3] FROM docker.io/library/busybox:latest")),
    (0.2, Note(2, "sha256:0123", 5_000_000, 10_000_000)),
    (0.3, Note(2, "sha256:0123", 10_000_000, 10_000_000)),
    (0.3, Ended(2, 0.2)),
    (0.3, Started(3, "[2/3] WORKDIR /app")),
    (0.3, Ended(3, 0.0, cached=True)),
    (0.3, Started(4, "[3/3] RUN make\n  all")),
    (1.0, Output(4, b"one\ntw")),
    (1.5, Output(4, b"o\nthree")),
]


def told(story: list[tuple[float, Event]]) -> State:
    state = State(0.0)
    for now_s, event in story:
        state = fold(state, event, now_s)
    return state


def test_a_frame_is_what_people_know() -> None:
    assert frame(told(STORY), 60, 24, 2.0, colour=False) == [
        "[+] Building 2.0s (3/4)",
        " => [internal] load build definition from Dockerfile    0.1s",
        " => [1/3] FROM docker.io/library/busybox:latest         0.2s",
        " => => sha256:0123 10.00MB / 10.00MB",
        " => CACHED [2/3] WORKDIR /app                           0.0s",
        " => [3/3] RUN make                                      1.7s",
        " => => # one",
        " => => # two",
        " => => # three",
    ]


def test_a_frame_of_a_build_that_is_done_shows_no_output() -> None:
    lines = frame(told([*STORY, (2.5, Ended(4, 2.2))]), 60, None, 2.5, colour=False, finished=True)
    assert lines[0] == "[+] Building 2.5s (4/4) FINISHED"
    assert lines[-1] == " => [3/3] RUN make                                      2.2s"


def test_of_many_notes_the_last_stay() -> None:
    story: list[tuple[float, Event]] = [(0.0, Started(1, "x"))]
    story += [(0.1, Note(1, f"line {number}")) for number in range(500)]
    running = frame(told(story), 40, 50, 1.0, colour=False)
    assert running[2:] == [f" => => line {number}" for number in range(494, 500)]
    ended = frame(told([*story, (2.0, Ended(1, 2.0))]), 40, None, 2.0, colour=False)
    assert ended[2:] == [f" => => line {number}" for number in range(497, 500)]


def test_colours_tell_what_became_of_a_step() -> None:
    story = [
        *STORY,
        (2.0, Started(5, "[other] RUN x")),
        (2.0, Ended(4, 1.0, error="no")),
        (2.0, Ended(5, 0.0, cancelled=True)),
    ]
    lines = frame(told(story), 60, 24, 2.0, colour=True)
    assert lines[1].startswith("\x1b[34m => [internal]")
    assert any(line.startswith("\x1b[31m => ERROR [3/3]") for line in lines)
    assert any(line.startswith("\x1b[33m => CANCELED [other]") for line in lines)


def test_where_there_is_no_room_what_runs_stays() -> None:
    lines = frame(told(STORY), 60, 5, 2.0, colour=False)
    assert len(lines) <= 5
    assert any("RUN make" in line for line in lines)
    assert lines[-1] == " => => # three"
    assert "internal" not in "".join(lines)


@given(
    st.integers(1, 120),
    st.integers(1, 40),
    st.lists(st.binary(max_size=80), max_size=12),
    st.text(max_size=90),
)
def test_no_line_is_wider_and_no_frame_higher_than_the_terminal(
    width: int, height: int, outputs: list[bytes], name: str
) -> None:
    story: list[tuple[float, Event]] = [
        (0.0, Started(1, "done")),
        (0.0, Ended(1, 0.0)),
        (0.0, Started(2, name)),
    ]
    story += [(0.1 * number, Output(2, data)) for number, data in enumerate(outputs)]
    lines = frame(told(story), width, height, 3.0, colour=False)
    assert len(lines) <= height
    assert all(cells(line) <= width for line in lines)
    assert not any("\x1b" in line or "\n" in line for line in lines)


def test_plain_lines_name_a_step_when_it_speaks() -> None:
    printed, state, lines = Plain(), State(0.0), []
    story = [*STORY, (2.5, Output(4, b"err\n", stderr=True)), (3.0, Ended(4, 2.7))]
    for now_s, event in story:
        state = fold(state, event, now_s)
        printed, more = plain(printed, state, event)
        lines += more
    assert lines == [
        "#1 [internal] load build definition from Dockerfile",
        "#1 DONE 0.1s",
        "",
        "#2 [1/3] FROM docker.io/library/busybox:latest",
        "#2 sha256:0123 10.00MB / 10.00MB",
        "#2 DONE 0.2s",
        "",
        "#3 [2/3] WORKDIR /app",
        "#3 CACHED",
        "",
        "#4 [3/3] RUN make",
        "#4 0.700 one",
        "#4 1.200 two",
        "#4 2.200 err",
        "#4 2.700 three",
        "#4 DONE 2.7s",
        "",
    ]


def test_plain_lines_of_steps_side_by_side_are_kept_apart() -> None:
    printed, state, lines = Plain(), State(0.0), []
    for now_s, event in [
        (0.0, Started(1, "[a] RUN a")),
        (0.0, Started(2, "[b] RUN b")),
        (0.1, Output(1, b"of a\n")),
        (0.2, Output(2, b"of b\n")),
        (0.3, Ended(2, 0.3)),
        (0.4, Ended(1, 0.4, error="exit code: 1\nmore")),
    ]:
        state = fold(state, event, now_s)
        printed, more = plain(printed, state, event)
        lines += more
    assert lines == [
        "#1 [a] RUN a",
        "#1 0.100 of a",
        "#1 ...",
        "",
        "#2 [b] RUN b",
        "#2 0.200 of b",
        "#2 DONE 0.3s",
        "",
        "#1 [a] RUN a",
        "#1 ERROR: exit code: 1",
        "",
    ]


def test_json_is_an_object_an_event() -> None:
    documents = Documents()
    found = [json.loads(json.dumps(documents.of(event, now_s))) for now_s, event in STORY]
    assert [each["event"] for each in found[:3]] == ["planned", "started", "ended"]
    assert found[-2] == {"event": "output", "at": 1.0, "vertex": 4, "stream": "stdout", "data": "one\ntw"}
    halves = [documents.of(Output(9, part), 0.0)["data"] for part in (b"\xc3", b"\xa4!")]
    assert halves == ["", "ä!"], "a character that was cut in two is whole"


def test_a_line_that_writes_over_itself_is_shown_as_it_ends() -> None:
    state = told([(0.0, Started(1, "x")), (0.1, Output(1, b"10%\r20%\r")), (0.2, Output(1, b"30%"))])
    assert frame(state, 40, 9, 0.3, colour=False)[-1] == " => => # 30%"
    state = fold(state, Output(1, b"\rdone\r\n"), 0.4)
    step = state.step(1)
    assert step is not None
    assert [line.text for line in step.lines] == ["done"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]0;never ends", ""),
        ("a\tb", "a       b"),
        ("be\x08l\x07l", "bell"),
        ("\x9b2J", "2J"),
    ],
)
def test_output_moves_no_cursor(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_what_never_ends_is_bounded() -> None:
    state = told([(0.0, Started(1, "x"))])
    for _ in range(300):
        state = fold(state, Output(1, b"x" * 10_000), 0.1)
    step = state.step(1)
    assert step is not None
    assert sum(len(line.text) for line in step.lines) + sum(map(len, step.partial)) < 4_000_000
    assert len(step.lines) <= 200


def test_a_failure_shows_the_step_its_output_and_the_place() -> None:
    state = told([*STORY, (2.0, Ended(4, 1.7, error="process did not complete: exit code: 2"))])
    assert failed_step(state) == [
        "------",
        " > [3/3] RUN make:",
        "0.700 one",
        "1.200 two",
        "1.700 three",
        "------",
    ]
    assert place_of("Dockerfile:3:1: cannot run make: exit code 2") == ("Dockerfile", 3)
    assert place_of("no place") is None
    assert excerpt("Dockerfile", "FROM a\nRUN b\nRUN c \\\n  d\nCMD e\n", 3, 4) == [
        "Dockerfile:3",
        "--------------------",
        "   1 |     FROM a",
        "   2 |     RUN b",
        "   3 | >>> RUN c \\",
        "   4 | >>>   d",
        "   5 |     CMD e",
        "--------------------",
    ]
