"""Checks of lines as they stand: casing, names of stages, forms, comments, names of secrets. Pure."""

from __future__ import annotations

import re

from supervisor.image.dockerfile import lintrules as rules
from supervisor.image.dockerfile.lines import Line, Source, first_word
from supervisor.image.dockerfile.lint import Notes, comments_above
from supervisor.image.dockerfile.statements import INSTRUCTIONS
from supervisor.image.dockerfile.words import Quoting, split_flags, split_words

_SECRET = re.compile(
    r"(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)", re.IGNORECASE
)
_NO_SECRET = re.compile(r"(?:_|^)(?:public|file|version)(?:_|$)", re.IGNORECASE)
_RESERVED = ("context", "scratch")


def check_lines(text: str, source: Source, notes: Notes) -> None:
    """Note what can be told without knowing any values."""
    known = [line for line in source.lines if line.keyword in INSTRUCTIONS]
    _casing(known, notes)
    _continuations(text, source, notes)
    comments = comments_above(text, source)
    names: set[str] = set()
    for line in known:
        match line.keyword:
            case "FROM":
                _from(line, names, notes)
            case "MAINTAINER":
                notes.note(
                    rules.MAINTAINER_DEPRECATED,
                    line.mark.line,
                    "Maintainer instruction is deprecated in favor of using label",
                )
            case "ENV" | "LABEL":
                _pairs(line, Quoting(source.escape), notes)
            case "ARG":
                keys = [word.partition("=")[0] for word in split_words(line.rest, Quoting(source.escape))]
                _secrets("ARG", keys, line, notes)
                _described("ARG", keys, comments[line.mark.line].texts, line, notes)
            case "EXPOSE":
                _expose(line, notes)
            case _:
                pass
        if line.keyword == "FROM":
            name = _stage_name(line)
            if name:
                _described("FROM", [name.lower()], comments[line.mark.line].texts, line, notes)


def _casing(lines: list[Line], notes: Notes) -> None:
    # Global ARGs, before the first FROM, are not counted by BuildKit.
    begun = [line for line in lines if line.keyword != "ARG"]
    first = lines.index(begun[0]) if begun else len(lines)
    counted = lines[first:]
    lower = sum(line.word == line.word.lower() for line in counted)
    upper = sum(line.word == line.word.upper() for line in counted)
    wanted = "lowercase" if lower > upper else "uppercase"
    for line in counted:
        if line.word != (line.word.lower() if lower > upper else line.word.upper()):
            notes.note(
                rules.CONSISTENT_CASING,
                line.mark.line,
                f"Command '{line.word}' should match the case of the command majority ({wanted})",
            )


def _continuations(text: str, source: Source, notes: Notes) -> None:
    rows = text.split("\n")
    for line in source.lines:
        inside = rows[line.mark.line : line.own_end_line - 1]
        if any(not row.strip() for row in inside):
            # BuildKit names the last line of the instruction.
            notes.note(rules.NO_EMPTY_CONTINUATION, line.own_end_line, "Empty continuation line")


def _stage_name(line: Line) -> str:
    _, rest = split_flags(line.rest)
    words = rest.split()
    return words[2] if len(words) == 3 else ""


def _from(line: Line, names: set[str], notes: Notes) -> None:
    _, rest = split_flags(line.rest)
    words = rest.split()
    if len(words) != 3:
        return
    _, keyword, name = words
    place = line.mark.line
    if name != name.lower():
        notes.note(rules.STAGE_NAME_CASING, place, f"Stage name '{name}' should be lowercase")
    lower, upper = line.word == line.word.lower(), line.word == line.word.upper()
    if (lower and keyword != keyword.lower()) or (upper and not lower and keyword != keyword.upper()):
        notes.note(
            rules.FROM_AS_CASING, place, f"'{keyword}' and '{line.word}' keywords' casing do not match"
        )
    name = name.lower()
    if name in _RESERVED:
        notes.note(
            rules.RESERVED_STAGE_NAME,
            place,
            f'Stage name should not use the same name as reserved stage "{name}"',
        )
    if name in names:
        notes.note(
            rules.DUPLICATE_STAGE_NAME, place, f'Duplicate stage name "{name}", stage names should be unique'
        )
    names.add(name)


def _pairs(line: Line, quoting: Quoting, notes: Notes) -> None:
    words = split_words(line.rest, quoting)
    if not words:
        return
    if "=" not in words[0]:
        notes.note(
            rules.LEGACY_KEY_VALUE,
            line.mark.line,
            f'"{line.keyword} key=value" should be used instead of legacy "{line.keyword} key value" format',
        )
        words = words[:1]
    if line.keyword == "ENV":
        _secrets("ENV", [word.partition("=")[0] for word in words], line, notes)


def _secrets(instruction: str, keys: list[str], line: Line, notes: Notes) -> None:
    for key in keys:
        if _SECRET.search(key) and not _NO_SECRET.search(key):
            notes.note(
                rules.SECRETS_IN_ARG_OR_ENV,
                line.mark.line,
                f'Do not use ARG or ENV instructions for sensitive data ({instruction} "{key}")',
            )


def _described(
    instruction: str, keys: list[str], comments: tuple[str, ...], line: Line, notes: Notes
) -> None:
    if not comments or not keys or first_word(comments[-1])[0] in keys:
        return
    if comments[-1].lower().replace(" ", "").startswith("check="):
        return
    example = keys[0] if len(keys) == 1 else "<arg_key>"
    notes.note(
        rules.INVALID_DESCRIPTION,
        line.mark.line,
        f"Comment for {instruction} should follow the format: `# {example} <description>`",
    )


def _expose(line: Line, notes: Notes) -> None:
    for port in line.rest.split():
        mapping, _, protocol = port.partition("/")
        if protocol != protocol.lower():
            notes.note(
                rules.EXPOSE_PROTO_CASING,
                line.mark.line,
                f"Defined protocol '{port}' in EXPOSE instruction should be lowercase",
            )
        # A variable may well hold a port alone; `${PORT:-80}` has a colon of its own.
        if ":" in re.sub(r"\$\{[^}]*\}", "", mapping):
            notes.note(
                rules.EXPOSE_INVALID_FORMAT,
                line.mark.line,
                f"EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'",
            )
