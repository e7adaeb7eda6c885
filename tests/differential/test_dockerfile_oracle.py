"""Our reading of Dockerfiles beside BuildKit's own parser, of which the package `dockerfile` is a build."""

from __future__ import annotations

import dockerfile
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from supervisor.core.problems import Findings
from supervisor.image.dockerfile.lines import Line, first_word, read_lines
from supervisor.image.dockerfile.statements import INSTRUCTIONS, StatementError, json_list
from supervisor.image.dockerfile.words import Quoting, split_flags, split_words

Row = tuple[object, ...]
WITH_LISTS = ("ADD", "COPY", "CMD", "ENTRYPOINT", "RUN", "SHELL", "VOLUME")

FILES = [
    "FROM a\nRUN echo a \\\n  b \\\n# comment\n  c\n",
    "FROM a\nRUN echo \\\\\nRUN x\n",
    "FROM a\nRUN echo a \\  \t\n b\n",
    "# escape=`\nFROM a\nRUN dir c:\\ `\n x\nCOPY a c:\\\n",
    "#escape = `\r\nFROM a\r\nRUN x `\r\n y\r\n",
    "# syntax=docker/dockerfile:1\n# escape=\\\nFROM a\n",
    "# a comment\n# escape=`\nFROM a\nRUN a \\\n b\n",
    "\n\nFROM a\n\n\nRUN b\n",
    "FROM a\nRUN <<EOF\none\n  two\nEOF\nRUN x\n",
    "FROM a\nRUN <<-EOF\n\tone\n\t\ttwo\n\tEOF\nRUN x\n",
    "FROM a\nRUN <<'EOF' cat\n$x\nEOF\n",
    "FROM a\nRUN 3<<X cat <<Y\nx\nX\ny\nY\n",
    'FROM a\nCOPY <<A <<"B" /t/\nax\nA\nbx\nB\n',
    "FROM a\nCMD <<EOF\nRUN x\n",
    'FROM a\nRUN ["a", "<<EOF"]\n',
    "FROM a\nONBUILD RUN <<EOF\nx\nEOF\n",
    "FROM a\nRUN <<EOF\nx\n",
    "FROM a\nENV a=1 b='x y' c=\"x y\" d=x\\ y\n",
    "FROM a\nENV a x y  z\nENV b\n",
    "FROM a\nENV a=1 b\n",
    'FROM a\nLABEL a.b=c "d e"=f\n',
    'FROM a\nARG a\nARG b=1 c d="x y"\n',
    "FROM --platform=x a AS b\nCOPY --from=b --chown=1:2 a b c/\n",
    'FROM a\nRUN --mount=type=bind,source="a b",target=/x -- --y\n',
    'FROM a\nRUN --network=none --mount=type=tmpfs,target=/x ["a", "b c"]\n',
    'FROM a\nCMD ["a",\n"b"]\n',
    'FROM a\nCMD ["a", 1]\n',
    "FROM a\nCMD ['a', 'b']\nCMD [a]\nCMD []\n",
    'FROM a\nADD ["a b", "c"]\nVOLUME ["/a", "/b"]\nVOLUME /a /b\nEXPOSE 80 81/udp\n',
    'FROM a\nHEALTHCHECK NONE\nHEALTHCHECK --interval=1s --retries=3 CMD ["a"]\nHEALTHCHECK CMD a b\n',
    'FROM a\nSHELL ["/bin/bash", "-c"]\nUSER a b\nWORKDIR /a b\nSTOPSIGNAL 9\nMAINTAINER me and you\n',
    "from a\nrun echo\nOnBuild run x\n",
    "FROM a\nRUN a \\\n\n\n b\n",
    "\ufeffFROM a\nRUN b",
    "FROM a\nRUN echo 'a\\\nb'\n",
    "FROM a\nRUN\n",
    "FROM a\n   RUN   echo   a   \n",
    "FROM a\nRUN echo a\t\\\n\t\tb\n",
]


def ours(text: str) -> list[Row] | None:
    """What we read, in the oracle's shape; None for an error."""
    findings = Findings()
    source = read_lines(text, "Dockerfile", findings)
    if findings.errors or not source.lines:
        return None
    try:
        return [_row(line, Quoting(source.escape)) for line in source.lines]
    except StatementError:
        return None


def _row(line: Line, quoting: Quoting) -> Row:
    keyword, sub, rest = line.keyword, None, line.rest
    flags, rest = split_flags(rest)
    if keyword == "ONBUILD":
        word, inner = first_word(rest)
        sub = word.upper() or None
        _, rest = split_flags(inner)  # which the package does not tell either
    rest = rest.strip()
    name = sub or keyword
    listed = json_list(rest) if name in WITH_LISTS else None
    # The package does not tell the heredocs of ONBUILD.
    heredocs = () if sub else tuple((h.name, h.content) for h in line.heredocs)
    start = line.mark.line
    return (
        keyword,
        sub,
        listed is not None,
        start,
        line.end_line,
        tuple(flags),
        _value(name, rest, listed, quoting),
        heredocs,
    )


def _value(name: str, rest: str, listed: list[str] | None, quoting: Quoting) -> tuple[str, ...]:
    if listed is not None:
        return tuple(listed)
    match name:
        case _ if name not in INSTRUCTIONS:
            return ()
        case "ENV" | "LABEL":
            words = split_words(rest, quoting)
            if words and "=" not in words[0]:
                name, *value = rest.split(None, 1)
                if not value:
                    raise StatementError("two arguments")
                return name, value[0]
            if not all("=" in word for word in words):
                raise StatementError("no =")
            return tuple(part for word in words for part in word.partition("=")[::2])
        case "ARG":
            return tuple(split_words(rest, quoting))
        case "FROM" | "EXPOSE" | "COPY" | "ADD" | "VOLUME":
            return tuple(rest.split())
        case "HEALTHCHECK":
            kind, command = first_word(rest)
            words = json_list(command)
            return (kind.upper(), *([command.strip()] if words is None and command.strip() else words or []))
        case _:
            return (rest,) if rest else ()


def theirs(text: str) -> list[Row] | None:
    """What BuildKit reads; None for an error."""
    try:
        found = dockerfile.parse_string(text)
    except dockerfile.GoParseError:
        return None
    rows: list[Row] = []
    for c in found:
        if c.cmd is None:
            continue  # a continuation of nothing
        heredocs = tuple((h.name, _chomped(c.original, h)) for h in c.heredocs)
        is_json = c.json and c.cmd.upper() != "HEALTHCHECK"
        sub = c.sub_cmd.upper() if c.sub_cmd else None
        pairs = (sub or c.cmd.upper()) in ("ENV", "LABEL")
        value = c.value if pairs else tuple(part for part in c.value if part != "")
        rows.append((c.cmd.upper(), sub, is_json, c.start_line, c.end_line, c.flags, value, heredocs))
    return rows


def _chomped(original: str, heredoc: object) -> str:
    content = str(heredoc.content)  # type: ignore[attr-defined]
    name = str(heredoc.name)  # type: ignore[attr-defined]
    if any(f"<<-{quote}{name}" in original for quote in ("", "'", '"')):
        return "".join(row.lstrip("\t") for row in content.splitlines(keepends=True))
    return content


@pytest.mark.parametrize("text", FILES, ids=range(len(FILES)))
def test_known_files_are_read_as_buildkit_reads_them(text: str) -> None:
    assert ours(text) == theirs(text)


_TEXTS = """RUN |COPY |ENV |ARG |CMD |LABEL |a|b=1|'|"|\\|\\\n|\n| |\t|#|# x\n|$a|${b:-c}|<<EOF|EOF\n\
|--from=x |--|[|"a"|,|]|=|x y|ONBUILD |/tmp/"""
_PIECES = st.sampled_from(_TEXTS.split("|"))


@settings(max_examples=500, deadline=None)
@given(st.lists(_PIECES, max_size=25))
def test_any_text_is_read_as_buildkit_reads_it(pieces: list[str]) -> None:
    text = "FROM a\n" + "".join(pieces)
    assume(text.count("ONBUILD") < 2)  # refused later by both, read deeper by one
    assert ours(text) == theirs(text)
