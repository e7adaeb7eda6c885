"""A whole Dockerfile: its instructions in stages, and every problem of it at once."""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.core.problems import Findings, Mark, Problem, in_order
from supervisor.image.dockerfile import instructions as ins
from supervisor.image.dockerfile.lines import Line, read_lines
from supervisor.image.dockerfile.runmounts import parse_mount
from supervisor.image.dockerfile.statements import StatementError, parse_statement
from supervisor.image.dockerfile.words import Expander, Quoting, WordError

_MAX_BYTES = 4 * 1024 * 1024
_SYNTAXES = ("docker/dockerfile", "docker.io/docker/dockerfile", "docker/dockerfile-upstream")


class DockerfileError(Exception):
    """Everything that is wrong with a Dockerfile, in the order of its lines; `str()` is a line for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


def parse_dockerfile(text: bytes, file: str = "Dockerfile") -> tuple[ins.Dockerfile, tuple[Problem, ...]]:
    """The file and its warnings. file: its name, for problems. Raises DockerfileError."""
    findings = Findings()
    whole = Mark(file)
    if len(text) > _MAX_BYTES:
        raise DockerfileError([Problem(file, 0, 0, "", f"it has more than {_MAX_BYTES // 1024 // 1024} MiB")])
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        raise DockerfileError([Problem(file, line, 1, "", "it is not UTF-8", "save it as UTF-8")]) from None
    if "\0" in decoded:
        line = decoded[: decoded.index("\0")].count("\n") + 1
        raise DockerfileError([Problem(file, line, 1, "", "it has a NUL byte; is it a text?")])
    source = read_lines(decoded, file, findings)
    syntax = source.directives.get("syntax", "")
    if syntax and not syntax.partition(":")[0].startswith(_SYNTAXES):
        findings.warn(
            Mark(file, 1, 1), "", f"syntax {syntax} is not used", "Shipkeeper has one frontend, its own"
        )
    if not source.lines and not findings.errors:
        findings.error(whole, "", "file with no instructions", "begin with FROM image")
    parsed = _Parsing(Quoting(source.escape), findings)
    for row in source.lines:
        parsed.add(row)
    if source.lines and not parsed.stages and not findings.errors:
        findings.error(whole, "", "no build stage in current context", "write FROM image before the others")
    if findings.errors:
        raise DockerfileError(in_order(findings.errors, [file]))
    stages = tuple(ins.Stage(base, tuple(steps), tuple(texts)) for base, steps, texts in parsed.stages)
    found = ins.Dockerfile(file, source.escape, syntax, tuple(parsed.args), stages)
    return found, in_order(findings.warnings, [file])


class _Parsing:
    def __init__(self, quoting: Quoting, findings: Findings) -> None:
        self._quoting = quoting
        self._findings = findings
        self._lost = False  # a FROM could not be read: what follows it belongs to no stage
        self.args: list[ins.Arg] = []
        self.stages: list[tuple[ins.From, list[ins.Step], list[str]]] = []

    def add(self, line: Line) -> None:
        """One more instruction."""
        try:
            found = parse_statement(line, self._quoting)
            self._check(found)
        except StatementError as error:
            self._findings.error(line.mark, "", str(error), error.hint)
            self._lost = self._lost or line.keyword == "FROM"
            return
        except WordError as error:
            self._findings.error(line.mark, "", f"failed to process {line.rest!r}: {error}")
            return
        if isinstance(found, ins.From):
            self.stages.append((found, [], []))
        elif self.stages:
            self.stages[-1][1].append(found)
            self.stages[-1][2].append(f"{line.keyword} {line.rest}".rstrip())
        elif isinstance(found, ins.Arg):
            self.args.append(found)
        elif not self._lost:
            self._findings.error(
                line.mark, "", "no build stage in current context", "only ARG may stand before the first FROM"
            )

    def _check(self, found: ins.Instruction) -> None:
        """What can be known before anything is built. Raises StatementError, WordError."""
        expander = Expander({}, self._quoting)
        match found:
            case ins.Run(mounts=mounts):
                for text in mounts:
                    parse_mount(text)
            case ins.Copy(sources=sources, target=target):
                for text in (*sources, target):
                    expander.word(text)
            case ins.Env(pairs=pairs) | ins.Label(pairs=pairs):
                for name, value in pairs:
                    _readable(expander, name)
                    _readable(expander, value)
            case ins.User(user=text) | ins.Workdir(path=text) | ins.Stopsignal(signal=text):
                _readable(expander, text)
            case ins.Onbuild(inner=inner):
                self._check(inner)
            case _:
                pass


def _readable(expander: Expander, text: str) -> None:
    """Raise WordError for a word that no values of variables could make right."""
    try:
        expander.word(text)
    except WordError as error:
        if "not allowed" in str(error) or ":" in str(error).partition(" ")[0]:
            return  # ${NAME:?...}: it may well have a value in the build
        raise
