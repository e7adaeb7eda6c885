"""`build --check`: what is doubtful in a Dockerfile, by BuildKit's rules. Pure.

Rules are switched by the directive `# check=skip=RULE,...;error=true;experimental=RULE,...` at the top, by
the build argument BUILDKIT_DOCKERFILE_CHECK instead of it, and for one instruction by `# check=skip=...` in
the comments right above it. `error=true` makes every finding fail the build.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import msgspec

from supervisor.core.problems import Findings
from supervisor.image.dockerfile.lines import Line, Source, read_lines
from supervisor.image.dockerfile.lintrules import Rule
from supervisor.image.dockerfile.parse import DockerfileError, parse_dockerfile

_CHECK = re.compile(r"#\s*check\s*=\s*(\S+)", re.IGNORECASE)
OPTIONS_ARG = "BUILDKIT_DOCKERFILE_CHECK"


class LintOptionError(Exception):
    """A `check` directive that cannot be used."""


class Options(msgspec.Struct, frozen=True):
    """Which rules hold. as_error: a finding fails the build."""

    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    experimental: frozenset[str] = frozenset()
    experimental_all: bool = False
    as_error: bool = False

    def holds(self, rule: Rule) -> bool:
        """Whether a rule counts. Experimental ones are asked for, and `skip` says nothing of them."""
        if rule.experimental:
            return self.experimental_all or rule.name in self.experimental
        return not self.skip_all and rule.name not in self.skip

    def also(self, other: Options) -> Options:
        """With those of one instruction."""
        return Options(
            self.skip | other.skip,
            self.skip_all or other.skip_all,
            self.experimental | other.experimental,
            self.experimental_all or other.experimental_all,
            self.as_error,
        )


class Finding(msgspec.Struct, frozen=True):
    """One doubt. detail: the sentence for people. Lines count from 1."""

    rule: Rule
    detail: str
    line: int
    end_line: int

    def __str__(self) -> str:
        """As it stands at the end of a build."""
        return f"{self.rule.name}: {self.detail} (line {self.line})"


class Report(msgspec.Struct, frozen=True):
    """findings: by line. fails: they fail the build. error: why the file cannot be built at all.

    unused: build arguments that were given, and that the file does not declare.
    """

    findings: tuple[Finding, ...]
    fails: bool = False
    error: DockerfileError | None = None
    unused: tuple[str, ...] = ()


class Inputs(msgspec.Struct, frozen=True):
    """What rules look at besides the file.

    ignored: whether a path of the context is left out; None where there is no ignore file, or one that takes
    paths back with `!` (then nothing can be said of a path). roots_ignored: it leaves out everything.
    base_env: the environment of an image; None where it is not known.
    """

    args: Mapping[str, str] = MappingProxyType({})
    platform: str = "linux/amd64"
    ignored: Callable[[str], bool] | None = None
    roots_ignored: bool = False
    base_env: Callable[[str], Mapping[str, str] | None] = lambda _: None


class Comment(msgspec.Struct, frozen=True):
    """The comments right above an instruction, without their `#`."""

    texts: tuple[str, ...] = ()


class Notes:
    """Takes findings, leaves out those whose rule does not hold where they are."""

    def __init__(self, options: Options, lines: Iterable[Line], comments: Mapping[int, Comment]) -> None:
        self._options = options
        self._lines = {line.mark.line: line for line in lines}
        self._comments = comments
        self.found: dict[Finding, None] = {}

    def note(self, rule: Rule, line: int, detail: str) -> None:
        """A doubt about the instruction that begins at a line."""
        options = self._options
        comment = self._comments.get(line)
        for text in comment.texts if comment is not None else ():
            match = _CHECK.match(f"#{text}")
            if match is not None:
                try:
                    options = options.also(parse_options(match[1]))
                except LintOptionError:
                    continue
                break
        if options.holds(rule):
            whole = self._lines.get(line)
            end = line if whole is None else whole.end_line
            self.found.setdefault(Finding(rule, detail, line, end))


def parse_options(text: str) -> Options:
    """`skip=A,B;error=true;experimental=all`. Raises LintOptionError."""
    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    as_error = False
    for part in text.strip().split(";") if text.strip() else ():
        name, equals, value = part.partition("=")
        names = frozenset(word.strip() for word in value.split(","))
        match name.strip():
            case "skip" if equals:
                skip = names
            case "experimental" if equals:
                experimental = names
            case "error" if equals:
                if value.strip().lower() not in ("true", "false", "1", "0", "t", "f"):
                    raise LintOptionError(f"cannot use the check option {part!r}: write error=true or =false")
                as_error = value.strip().lower() in ("true", "1", "t")
            case _:
                raise LintOptionError(
                    f"cannot use the check option {part!r}: write skip=RULE, error=true or experimental=RULE"
                )
    return Options(skip, skip == {"all"}, experimental, experimental == {"all"}, as_error)


def lint(text: bytes, file: str, inputs: Inputs) -> Report:
    """Everything that is doubtful. Raises LintOptionError."""
    from supervisor.image.dockerfile.lintlines import check_lines
    from supervisor.image.dockerfile.lintvars import check_stages, unused_args

    decoded = text.decode("utf-8", "replace")
    source = read_lines(decoded, file, Findings())
    options = parse_options(inputs.args.get(OPTIONS_ARG) or source.directives.get("check", ""))
    notes = Notes(options, source.lines, comments_above(decoded, source))
    check_lines(decoded, source, notes)
    error: DockerfileError | None = None
    unused: tuple[str, ...] = ()
    try:
        dockerfile, _ = parse_dockerfile(text, file)
    except DockerfileError as problem:
        error = problem
    else:
        check_stages(dockerfile, source, inputs, notes)
        unused = unused_args(dockerfile, inputs.args)
    findings = tuple(sorted(notes.found, key=lambda found: (found.line, found.end_line)))
    return Report(findings, bool(findings) and options.as_error, error, unused)


def comments_above(text: str, source: Source) -> dict[int, Comment]:
    """By the first line of each instruction: the comments above it that nothing separates from it."""
    rows = text.removeprefix("\ufeff").split("\n")
    directives = len(source.directives)
    taken = {number for line in source.lines for number in range(line.mark.line, line.end_line + 1)}
    found: dict[int, Comment] = {}
    for line in source.lines:
        texts: list[str] = []
        at = line.mark.line - 1
        while at > directives and at not in taken:
            row = rows[at - 1].strip()
            if not row.startswith("#") or not row[1:].strip():
                break
            texts.insert(0, row[1:].strip())
            at -= 1
        found[line.mark.line] = Comment(tuple(texts))
    return found
