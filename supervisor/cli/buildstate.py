"""What is known of a build while it goes on: events folded into a state. Pure.

Times are seconds of a clock that only the caller knows: events carry none, so each is folded with its moment.
"""

from __future__ import annotations

import re

import msgspec
from msgspec.structs import replace

from supervisor.image.builder.progress import Ended, Event, Note, Output, Planned, Started

KEPT_LINES = 200
"""Lines of a step that are kept to be shown where it fails."""
_KEPT_NOTES = 100
_LONGEST = 16 * 1024
"""Characters of a line; a longer one is cut into several."""
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # control sequences: colours, movements
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # strings: titles, links
    r"|\x1b[ -/]*[0-~]"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Line(msgspec.Struct, frozen=True):
    """One line that a step wrote. at_s: since the step began."""

    at_s: float
    text: str


class Step(msgspec.Struct, frozen=True):
    """A vertex as far as it has come.

    lines: the last ones. fresh: those that the last event ended. partial: what has no end yet, by stream.
    notes: by text, where one with a length replaces the one before it. duration_s: None while it runs.
    """

    vertex: int
    name: str
    started_s: float
    duration_s: float | None = None
    cached: bool = False
    error: str = ""
    cancelled: bool = False
    notes: tuple[Note, ...] = ()
    lines: tuple[Line, ...] = ()
    fresh: tuple[Line, ...] = ()
    partial: tuple[bytes, bytes] = (b"", b"")

    @property
    def running(self) -> bool:
        """It has begun, and not ended."""
        return self.duration_s is None


class State(msgspec.Struct, frozen=True):
    """A whole build. steps: in the order in which they began. notes: of the build itself."""

    started_s: float
    planned: int = 0
    steps: tuple[Step, ...] = ()
    notes: tuple[Note, ...] = ()
    places: dict[int, int] = msgspec.field(default_factory=dict)

    @property
    def total(self) -> int:
        """How many steps there are, as far as it is known."""
        return max(self.planned, len(self.steps))

    @property
    def done(self) -> int:
        """How many have ended."""
        return sum(not step.running for step in self.steps)

    @property
    def failed(self) -> Step | None:
        """The step that made the build fail."""
        return next((step for step in self.steps if step.error and not step.cancelled), None)

    def step(self, vertex: int) -> Step | None:
        """The step of a number."""
        place = self.places.get(vertex)
        return None if place is None else self.steps[place]

    def with_step(self, step: Step) -> State:
        """The state with a step new or changed."""
        place = self.places.get(step.vertex)
        if place is None:
            places = {**self.places, step.vertex: len(self.steps)}
            return replace(self, steps=(*self.steps, step), places=places)
        return replace(self, steps=(*self.steps[:place], step, *self.steps[place + 1 :]))


def fold(state: State, event: Event, now_s: float) -> State:
    """The state after an event. One about a step that never began changes nothing."""
    match event:
        case Planned(total=total):
            return replace(state, planned=total)
        case Started(vertex=vertex, name=name):
            return state.with_step(Step(vertex, name, now_s))
        case Note(vertex=0):
            return replace(state, notes=_noted(state.notes, event))
        case Note(vertex=vertex):
            step = state.step(vertex)
            return state if step is None else state.with_step(replace(step, notes=_noted(step.notes, event)))
        case Output(vertex=vertex):
            step = state.step(vertex)
            return state if step is None else state.with_step(_written(step, event, now_s))
        case Ended(vertex=vertex):
            step = state.step(vertex)
            return state if step is None else state.with_step(_ended(step, event, now_s))


def clean(text: str) -> str:
    """A text that moves no cursor and changes no title, whatever wrote it."""
    return _CONTROLS.sub("", _ESCAPES.sub("", text)).expandtabs()


def _noted(notes: tuple[Note, ...], note: Note) -> tuple[Note, ...]:
    for place, old in enumerate(notes):
        if old.text == note.text:
            return (*notes[:place], note, *notes[place + 1 :])
    return (*notes, note)[-_KEPT_NOTES:]


def _written(step: Step, event: Output, now_s: float) -> Step:
    stream = int(event.stderr)
    *whole, rest = (step.partial[stream] + event.data).split(b"\n")
    at_s = max(now_s - step.started_s, 0.0)
    fresh = [Line(at_s, text) for row in whole for text in _texts(row)]
    head, mark, last = rest.rstrip(b"\r").rpartition(b"\r")
    if mark:
        rest = last + rest[len(head) + 1 + len(last) :]  # a progress line that writes over itself
    if len(rest) > _LONGEST:
        fresh += [Line(at_s, text) for text in _texts(rest)]
        rest = b""
    partial = (rest, step.partial[1]) if stream == 0 else (step.partial[0], rest)
    return replace(step, lines=(*step.lines, *fresh)[-KEPT_LINES:], fresh=tuple(fresh), partial=partial)


def _ended(step: Step, event: Ended, now_s: float) -> Step:
    at_s = max(now_s - step.started_s, 0.0)
    fresh = tuple(Line(at_s, text) for row in step.partial if row for text in _texts(row))
    return replace(
        step,
        duration_s=event.duration_s,
        cached=event.cached,
        error=event.error,
        cancelled=event.cancelled,
        lines=(*step.lines, *fresh)[-KEPT_LINES:],
        fresh=fresh,
        partial=(b"", b""),
    )


def _texts(row: bytes) -> list[str]:
    """What a line shows at last: what follows its last carriage return; cut where it is too long."""
    shown = row.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace")
    text = clean(shown)
    return [text[at : at + _LONGEST] for at in range(0, len(text), _LONGEST)] or [""]
