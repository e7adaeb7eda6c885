"""A build on a terminal, as people know it from BuildKit: a state becomes lines. Pure.

[+] Building 3.2s (7/9)
 => CACHED [2/4] WORKDIR /app                                        0.0s
 => [3/4] RUN make                                                   2.1s
 => => # the last lines of a running step
"""

from __future__ import annotations

import unicodedata

import msgspec

from supervisor.cli.buildstate import State, Step, clean
from supervisor.image.builder.progress import Note

LIVE_LINES = 6
"""How many lines of a running step are shown, and of what is said about it."""
KEPT_NOTES = 3
"""How much of what was said about a step stays when it has ended."""
_BLUE, _RED, _YELLOW, _RESET = "\x1b[34m", "\x1b[31m", "\x1b[33m", "\x1b[0m"


class _Block(msgspec.Struct, frozen=True):
    """A step: its line, what stands below it, and how much it is needed where there is no room."""

    step: Step
    title: str
    notes: tuple[str, ...]
    live: tuple[str, ...]


def frame(
    state: State, width: int, height: int | None, now_s: float, *, colour: bool, finished: bool = False
) -> list[str]:
    """The lines that show a build; none is wider than `width`. height: at most so many lines (None: all)."""
    elapsed_s = max(now_s - state.started_s, 0.0)
    head = f"[+] Building {elapsed_s:.1f}s ({state.done}/{state.total}){' FINISHED' if finished else ''}"
    lines = [_cut(head, width)]
    lines += [_cut(f" => {note_text(note)}", width) for note in state.notes]
    blocks = [_block(step, width, now_s, colour=colour) for step in state.steps]
    if height is not None:
        blocks = _fitting(blocks, max(height - len(lines), 1))
    for block in blocks:
        lines += [block.title, *block.notes, *block.live]
    return lines if height is None else lines[: max(height, 1)]


def cells(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_cell(character) for character in text)


def _cell(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _cut(text: str, width: int) -> str:
    """A text in at most so many columns."""
    if cells(text) <= width:
        return text
    kept, used = [], 0
    for character in text:
        used += _cell(character)
        if used > width - 3:
            break
        kept.append(character)
    return ("".join(kept) + "...")[: max(width, 0)]


def _line(text: str, seconds: float, width: int) -> str:
    """A text, and a time at the right edge."""
    right = f"{seconds:.1f}s"
    room = width - len(right) - 1
    if room < 8:
        return _cut(text, width)  # so narrow that the name counts more
    shown = _cut(text, room)
    return shown + " " * (room - cells(shown) + 1) + right


def _block(step: Step, width: int, now_s: float, *, colour: bool) -> _Block:
    elapsed_s = step.duration_s if step.duration_s is not None else max(now_s - step.started_s, 0.0)
    word, ink = _mark(step)
    title = _line(f" => {word}{one_line(step.name)}", elapsed_s, width)
    if colour and ink:
        title = f"{ink}{title}{_RESET}"
    told = step.notes[-(LIVE_LINES if step.running else KEPT_NOTES) :]
    notes = tuple(_cut(f" => => {note_text(note)}", width) for note in told)
    live: tuple[str, ...] = ()
    if step.running:
        texts = [line.text for line in step.lines[-LIVE_LINES:]]
        texts += [clean(row.decode("utf-8", "replace")) for row in step.partial if row]
        live = tuple(_cut(f" => => # {text}", width) for text in texts[-LIVE_LINES:])
    if colour and ink and step.duration_s is not None:
        notes = tuple(f"{ink}{note}{_RESET}" for note in notes)
    return _Block(step, title, notes, live)


def _mark(step: Step) -> tuple[str, str]:
    """(the word before a step's name, its colour)."""
    if step.cancelled:
        return "CANCELED ", _YELLOW
    if step.error:
        return "ERROR ", _RED
    if step.cached:
        return "CACHED ", _BLUE
    return ("", "") if step.running else ("", _BLUE)


def one_line(name: str) -> str:
    """A step's name without its further lines: a heredoc has many."""
    return clean(name.partition("\n")[0])


def note_text(note: Note) -> str:
    """A note as one line, with how far it is."""
    text = clean(note.text)
    if note.done is None:
        return text
    done = _megabytes(note.done)
    return f"{text} {done} / {_megabytes(note.total)}" if note.total else f"{text} {done}"


def _megabytes(count: int) -> str:
    """Bytes as BuildKit writes them: 512B, 3.07kB, 12.58MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f}B" if unit == "B" else f"{value:.2f}{unit}"
        value /= 1000
    return f"{value:.2f}TB"


def _fitting(blocks: list[_Block], room: int) -> list[_Block]:
    """Blocks that take at most `room` lines: what has ended goes first, then what runs says less."""
    if _size(blocks) <= room:
        return blocks
    blocks = [
        block if block.step.running else _Block(block.step, block.title, (), block.live) for block in blocks
    ]
    for place in [place for place, block in enumerate(blocks) if not block.step.running]:
        if _size(blocks) <= room:
            break
        blocks[place] = _Block(blocks[place].step, "", (), ())
    blocks = [block for block in blocks if block.title]
    running = sum(block.step.running for block in blocks)
    for most in range(LIVE_LINES - 1, -1, -1):
        if _size(blocks) <= room:
            break
        blocks = [
            _Block(block.step, block.title, block.notes[-most:] if most else (), block.live[-most:])
            if most
            else _Block(block.step, block.title, (), ())
            for block in blocks
        ]
    return blocks if running <= room else blocks[:room]


def _size(blocks: list[_Block]) -> int:
    return sum((1 if block.title else 0) + len(block.notes) + len(block.live) for block in blocks)
