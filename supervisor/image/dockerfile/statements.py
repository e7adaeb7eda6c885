"""One instruction: from its line to its class, a function for each keyword.

Source of the rules: BuildKit, frontend/dockerfile/instructions/parse.go and parser/line_parsers.go.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from supervisor.core.problems import nearest
from supervisor.image.dockerfile import instructions as ins
from supervisor.image.dockerfile.lines import Line, first_word, parse_heredoc
from supervisor.image.dockerfile.words import Quoting, decode_list, split_flags, split_words

_STAGE_NAME = re.compile(r"[a-z][a-z0-9\-_.]*")
_DURATION = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h)")
_UNITS_NS = {
    "ns": 1,
    "us": 1000,
    "µs": 1000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}


class StatementError(Exception):
    """An instruction that cannot be used. `hint`: what to write instead."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(slots=True)
class Statement:
    """A line with its flags taken off. Flags are taken by name; `done` refuses those that nobody took."""

    line: Line
    quoting: Quoting
    flags: list[str]
    rest: str

    @property
    def name(self) -> str:
        """The keyword."""
        return self.line.keyword

    def values(self, name: str) -> list[str]:
        """All values of a flag that may be repeated."""
        prefix = f"--{name}="
        found = [flag.removeprefix(prefix) for flag in self.flags if flag.startswith(prefix)]
        self.flags = [flag for flag in self.flags if not flag.startswith(prefix)]
        if f"--{name}" in self.flags:
            raise StatementError(f"missing a value on flag: {name}", f"write --{name}=VALUE")
        return found

    def value(self, name: str) -> str:
        """The value of a flag, "" where it is not given."""
        found = self.values(name)
        if len(found) > 1:
            raise StatementError(f"duplicate flag specified: {name}", "write it once")
        return found[0] if found else ""

    def switch(self, name: str) -> bool | None:
        """`--name`, `--name=true` or `--name=false`; None where it is not given."""
        if f"--{name}" in self.flags:
            self.flags.remove(f"--{name}")
            return True
        match self.value(name).lower():
            case "":
                return None
            case "true":
                return True
            case "false":
                return False
            case other:
                raise StatementError(
                    f"expecting boolean value for flag {name}, not: {other}", "true or false"
                )

    def done(self, known: tuple[str, ...]) -> None:
        """Refuse flags that the instruction does not have."""
        for flag in self.flags:
            name = flag.removeprefix("--").partition("=")[0]
            near = nearest(name, known)
            hint = (
                f"did you mean --{near}?" if near else ("it takes --" + ", --".join(known) if known else "")
            )
            raise StatementError(f"unknown flag: --{name}", hint)

    def words(self) -> list[str]:
        """Arguments: of a JSON list, or at white space."""
        listed = json_list(self.rest)
        return self.rest.split() if listed is None else listed

    def command(self) -> ins.Command:
        """A command in either form."""
        listed = json_list(self.rest)
        if listed is not None:
            return ins.Command(tuple(listed), form="exec")
        return ins.Command((self.rest,) if self.rest else (), form="shell")


def json_list(text: str) -> list[str] | None:
    """The exec form; None where a text is none. Raises StatementError for a list of other things."""
    found = decode_list(text)
    if found is None:
        return None
    words = [word for word in found if isinstance(word, str)]
    if len(words) != len(found):
        raise StatementError(
            "when using JSON array syntax, arrays must be comprised of strings only", "quote every element"
        )
    return words


def parse_statement(line: Line, quoting: Quoting) -> ins.Instruction:
    """The instruction of a line. Raises StatementError."""
    parser = _PARSERS.get(line.keyword)
    if parser is None:
        near = nearest(line.keyword, _PARSERS)
        hint = f"did you mean {near}?" if near else "instructions are " + ", ".join(sorted(_PARSERS))
        raise StatementError(f"unknown instruction: {line.word}", hint)
    flags, rest = split_flags(line.rest)
    statement = Statement(line, quoting, flags, rest.strip())
    if not statement.rest and line.keyword not in ("CMD", "ENTRYPOINT"):
        raise StatementError(f"{line.keyword} requires at least one argument")
    return parser(statement)


def _from(s: Statement) -> ins.From:
    platform = s.value("platform")
    s.done(("platform",))
    match s.rest.split():
        case [base]:
            return ins.From(s.line.mark, base, "", platform)
        case [base, word, name] if word.upper() == "AS":
            if not _STAGE_NAME.fullmatch(name.lower()):
                raise StatementError(
                    f"invalid name for build stage: {name!r}",
                    "it begins with a letter, and has letters, digits, - _ and .",
                )
            return ins.From(s.line.mark, base, name.lower(), platform)
        case _:
            raise StatementError("FROM requires either one or three arguments", "write FROM image [AS name]")


def _arg(s: Statement) -> ins.Arg:
    s.done(())
    found: list[tuple[str, str | None]] = []
    for word in split_words(s.rest, s.quoting):
        name, equals, value = word.partition("=")
        if not name:
            raise StatementError("ARG names can not be blank", "write ARG NAME=default")
        found.append((name, value if equals else None))
    return ins.Arg(s.line.mark, tuple(found))


def _pairs(s: Statement) -> tuple[tuple[str, str], ...]:
    s.done(())
    words = split_words(s.rest, s.quoting)
    if "=" not in words[0]:
        name, *rest = s.rest.split(None, 1)
        if not rest:
            raise StatementError(f"{s.name} must have two arguments", f"write {s.name} {name}=value")
        return ((name, rest[0]),)
    found = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise StatementError(
                f"can't find = in {word!r}", "write name=value, and quote a value with white space in it"
            )
        if not name:
            raise StatementError(f"{s.name} names can not be blank")
        found.append((name, value))
    return tuple(found)


def _env(s: Statement) -> ins.Env:
    return ins.Env(s.line.mark, _pairs(s))


def _label(s: Statement) -> ins.Label:
    return ins.Label(s.line.mark, _pairs(s))


def _run(s: Statement) -> ins.Run:
    mounts, network, security = s.values("mount"), s.value("network"), s.value("security")
    s.done(("mount", "network", "security"))
    if network not in ("", "default", "none", "host"):
        raise StatementError(f"network mode {network!r} is not known", "write default, none or host")
    if security not in ("", "sandbox", "insecure"):
        raise StatementError(f"security mode {security!r} is not known", "write sandbox or insecure")
    command = s.command()
    if not any(command.words):
        raise StatementError("RUN needs a command")
    return ins.Run(s.line.mark, command, s.line.heredocs, tuple(mounts), network, security)


def _copy(s: Statement) -> ins.Copy:
    add = s.name == "ADD"
    common = ("chown", "chmod", "link", "exclude", *(("checksum", "keep-git-dir", "unpack") if add else ()))
    known = common if add else (*common, "from", "parents")
    chown, chmod = s.value("chown"), s.value("chmod")
    link, excludes = bool(s.switch("link")), s.values("exclude")
    origin = "" if add else s.value("from")
    parents = False if add else bool(s.switch("parents"))
    checksum = s.value("checksum") if add else ""
    keep_git_dir = bool(s.switch("keep-git-dir")) if add else False
    unpack = s.switch("unpack") if add else None
    s.done(known)
    *sources, target = s.words() or [""]
    if not sources:
        raise StatementError(f"{s.name} requires at least two arguments, but only one was provided")
    names = {heredoc.name for heredoc in s.line.heredocs}
    plain = []
    for source in sources:
        heredoc = parse_heredoc(source, s.quoting)
        if heredoc is None or heredoc.name not in names:
            plain.append(source)
    if s.line.heredocs and parse_heredoc(target, s.quoting) is not None:
        raise StatementError(f"{s.name} cannot have a heredoc as its destination", "write a path last")
    return ins.Copy(
        s.line.mark,
        add,
        tuple(plain),
        target,
        s.line.heredocs,
        origin,
        chown,
        chmod,
        link,
        parents,
        tuple(excludes),
        checksum,
        keep_git_dir,
        unpack,
    )


def _cmd(s: Statement) -> ins.Cmd:
    s.done(())
    return ins.Cmd(s.line.mark, s.command())


def _entrypoint(s: Statement) -> ins.Entrypoint:
    s.done(())
    return ins.Entrypoint(s.line.mark, s.command())


def _shell(s: Statement) -> ins.Shell:
    s.done(())
    words = json_list(s.rest)
    if not words:
        raise StatementError(
            "SHELL requires the arguments to be in JSON form", 'write SHELL ["/bin/sh", "-c"]'
        )
    return ins.Shell(s.line.mark, tuple(words))


def _expose(s: Statement) -> ins.Expose:
    s.done(())
    return ins.Expose(s.line.mark, tuple(s.rest.split()))


def _one(s: Statement) -> str:
    s.done(())
    return s.rest


def _user(s: Statement) -> ins.User:
    return ins.User(s.line.mark, _one(s))


def _workdir(s: Statement) -> ins.Workdir:
    return ins.Workdir(s.line.mark, _one(s))


def _stopsignal(s: Statement) -> ins.Stopsignal:
    return ins.Stopsignal(s.line.mark, _one(s))


def _maintainer(s: Statement) -> ins.Maintainer:
    return ins.Maintainer(s.line.mark, _one(s))


def _volume(s: Statement) -> ins.Volume:
    s.done(())
    paths = s.words()
    if not paths or not all(path.strip() for path in paths):
        raise StatementError("VOLUME specified can not be an empty string")
    return ins.Volume(s.line.mark, tuple(paths))


def _healthcheck(s: Statement) -> ins.Healthcheck:
    names = ("interval", "timeout", "start-period", "start-interval")
    interval, timeout, start_period, start_interval = (_duration(s, name) for name in names)
    retries_text = s.value("retries")
    s.done((*names, "retries"))
    kind, rest = first_word(s.rest)
    match kind.upper():
        case "NONE":
            if rest.strip():
                raise StatementError("HEALTHCHECK NONE takes no arguments")
            return ins.Healthcheck(s.line.mark, None)
        case "CMD":
            command = Statement(s.line, s.quoting, [], rest.strip()).command()
            if not any(command.words):
                raise StatementError("missing command after HEALTHCHECK CMD")
        case _:
            raise StatementError(f"unknown type {kind!r} in HEALTHCHECK", "write HEALTHCHECK CMD ... or NONE")
    retries = None
    if retries_text:
        if not retries_text.isdigit() or int(retries_text) < 1:
            raise StatementError(f"--retries must be at least 1 (not {retries_text})")
        retries = int(retries_text)
    return ins.Healthcheck(s.line.mark, command, interval, timeout, start_period, start_interval, retries)


def _duration(s: Statement, name: str) -> int | None:
    """Go's form: 1h30m, 500ms. Nanoseconds."""
    text = s.value(name)
    if not text:
        return None
    parts = _DURATION.findall(text)
    if not parts or "".join(parts) != text:
        raise StatementError(f"invalid duration {text!r} for --{name}", "write 30s, 1m30s or 500ms")
    total = 0.0
    for part in parts:
        match = re.fullmatch(r"([\d.]+)(\D+)", part)
        assert match is not None
        total += float(match[1]) * _UNITS_NS[match[2]]
    if 0 < total < 1_000_000:
        raise StatementError(f"interval {text!r} cannot be less than 1ms")
    return int(total)


def _onbuild(s: Statement) -> ins.Onbuild:
    s.done(())
    word, rest = first_word(s.rest)
    keyword = word.upper()
    if keyword == "ONBUILD":
        raise StatementError("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
    if keyword in ("FROM", "MAINTAINER"):
        raise StatementError(f"{keyword} isn't allowed as an ONBUILD trigger")
    inner = Line(s.line.mark, word, rest, s.line.end_line, s.line.heredocs)
    step = parse_statement(inner, s.quoting)
    assert not isinstance(step, ins.From)
    return ins.Onbuild(s.line.mark, s.rest, step)


_PARSERS: dict[str, Callable[[Statement], ins.Instruction]] = {
    "ADD": _copy,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": _label,
    "MAINTAINER": _maintainer,
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _stopsignal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}

INSTRUCTIONS = frozenset(_PARSERS)
"""Their names."""
