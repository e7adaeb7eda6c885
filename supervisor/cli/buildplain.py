"""A build as plain lines, and as JSON: what one event adds to what was printed before. Pure."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field, replace
from typing import Any

from supervisor.cli.buildframe import note_text, one_line
from supervisor.cli.buildstate import State, Step
from supervisor.image.builder.progress import Ended, Event, Note, Output, Planned, Started


@dataclass(frozen=True, slots=True)
class Plain:
    """What was printed. current: the step whose lines come now, 0 for none. begun: those that have a head."""

    current: int = 0
    begun: frozenset[int] = frozenset()


def plain(printed: Plain, state: State, event: Event) -> tuple[Plain, list[str]]:
    """(what is printed then, the lines to print) for an event; state: the one after it."""
    match event:
        case Planned():
            return printed, []
        case Started(vertex=vertex):
            # A step is named when it has something to say: steps that run side by side do not interrupt.
            return (printed, []) if printed.current else _head(printed, state, vertex)
        case Note(vertex=0):
            return printed, [f"#0 {note_text(event)}"]
        case Note(vertex=vertex):
            if event.done is not None and (event.total is None or event.done < event.total):
                return printed, []  # plain lines are kept: only the end of a transfer is worth one
            printed, lines = _head(printed, state, vertex)
            return printed, [*lines, f"#{vertex} {note_text(event)}"]
        case Output(vertex=vertex):
            step = state.step(vertex)
            return (printed, []) if step is None or not step.fresh else _told(printed, state, step)
        case Ended(vertex=vertex):
            step = state.step(vertex)
            if step is None:
                return printed, []
            printed, lines = _told(printed, state, step)
            return replace(printed, current=0), [*lines, f"#{vertex} {_end(step)}", ""]


def _told(printed: Plain, state: State, step: Step) -> tuple[Plain, list[str]]:
    printed, lines = _head(printed, state, step.vertex)
    return printed, [*lines, *(f"#{step.vertex} {line.at_s:.3f} {line.text}" for line in step.fresh)]


def _head(printed: Plain, state: State, vertex: int) -> tuple[Plain, list[str]]:
    """The name of the step whose lines follow, where another one's came before."""
    step = state.step(vertex)
    if printed.current == vertex or step is None:
        return printed, []
    lines = [f"#{printed.current} ...", ""] if printed.current else []
    return Plain(vertex, printed.begun | {vertex}), [*lines, f"#{vertex} {one_line(step.name)}"]


def _end(step: Step) -> str:
    if step.cancelled:
        return "CANCELED"
    if step.error:
        return f"ERROR: {step.error.splitlines()[0]}"
    return "CACHED" if step.cached else f"DONE {step.duration_s or 0.0:.1f}s"


@dataclass(slots=True)
class Documents:
    """Events as documents: one object each, of plain values. Output is text, cut between characters."""

    _decoders: dict[tuple[int, bool], codecs.IncrementalDecoder] = field(default_factory=dict)

    def of(self, event: Event, at_s: float) -> dict[str, Any]:
        """The document of an event. at_s: since the build began."""
        found: dict[str, Any] = {"event": type(event).__name__.lower(), "at": round(at_s, 3)}
        match event:
            case Planned(total=total):
                return found | {"total": total}
            case Started(vertex=vertex, name=name):
                return found | {"vertex": vertex, "name": name}
            case Note():
                length = {"done": event.done, "total": event.total} if event.done is not None else {}
                return found | {"vertex": event.vertex, "text": event.text} | length
            case Output(vertex=vertex, data=data, stderr=stderr):
                make = codecs.getincrementaldecoder("utf-8")
                decoder = self._decoders.setdefault((vertex, stderr), make("replace"))
                stream = "stderr" if stderr else "stdout"
                return found | {"vertex": vertex, "stream": stream, "data": decoder.decode(data)}
            case Ended():
                return found | {
                    "vertex": event.vertex,
                    "duration": round(event.duration_s, 3),
                    "cached": event.cached,
                    "error": event.error,
                    "cancelled": event.cancelled,
                }
