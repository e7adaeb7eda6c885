"""Checks that follow values through the file: variables, base images, what a stage sets and copies. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from supervisor.core.environment import DEFAULT_PATH, PROXIES
from supervisor.core.reference import InvalidReferenceError, parse_reference
from supervisor.image.dockerfile import instructions as ins
from supervisor.image.dockerfile import lintrules as rules
from supervisor.image.dockerfile.lines import Source
from supervisor.image.dockerfile.lint import Inputs, Notes
from supervisor.image.dockerfile.words import Expander, Quoting, WordError

_PLATFORM_ARGS = tuple(
    f"{side}{what}"
    for side in ("BUILD", "TARGET")
    for what in ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")
)
_PREDEFINED = frozenset((*PROXIES, "SOURCE_DATE_EPOCH"))


@dataclass(slots=True)
class _Scope:
    """What a stage knows at one point. known: its base is, so that a name without a value has none."""

    env: dict[str, str] = field(default_factory=dict)
    declared: set[str] = field(default_factory=set)
    known: bool = True
    shell: bool = False
    workdir: bool = False

    def copy(self) -> _Scope:
        """For a stage that builds on it; declarations of ARG are not handed on, values are."""
        return _Scope(dict(self.env), set(), self.known, self.shell, self.workdir)


def check_stages(dockerfile: ins.Dockerfile, source: Source, inputs: Inputs, notes: Notes) -> None:
    """Note what follows from values."""
    quoting = Quoting(source.escape)
    _defaults(dockerfile, inputs, quoting, notes)
    globals_ = _globals(dockerfile, inputs, quoting, inputs.args)
    declared = {name for arg in dockerfile.args for name, _ in arg.args}
    scopes: dict[str, _Scope] = {}
    for number, stage in enumerate(dockerfile.stages):
        _base(stage, globals_, declared, quoting, notes)
        try:
            base = Expander(globals_, quoting).word(stage.base.base)
        except WordError:
            base = ""
        below = scopes.get(base.lower())
        scope = below.copy() if below is not None else _fresh(base, inputs)
        _Stage(scope, globals_, quoting, inputs, notes).check(stage)
        scopes[str(number)] = scope
        if stage.base.name:
            scopes[stage.base.name] = scope


def unused_args(dockerfile: ins.Dockerfile, given: Iterable[str]) -> tuple[str, ...]:
    """Build arguments that nothing declares, nor knows without a declaration."""
    declared = {name for arg in dockerfile.args for name, _ in arg.args}
    for stage in dockerfile.stages:
        for step in stage.steps:
            inner = step.inner if isinstance(step, ins.Onbuild) else step
            if isinstance(inner, ins.Arg):
                declared |= {name for name, _ in inner.args}
    known = declared | _PREDEFINED | set(_PLATFORM_ARGS)
    return tuple(sorted(name for name in given if name not in known and not name.startswith("BUILDKIT_")))


def _fresh(base: str, inputs: Inputs) -> _Scope:
    if base == "scratch":
        return _Scope({"PATH": DEFAULT_PATH})
    env = inputs.base_env(base) if base else None
    return _Scope({"PATH": DEFAULT_PATH, **(env or {})}, known=env is not None)


def _platforms(inputs: Inputs) -> dict[str, str]:
    system, architecture, *variant = inputs.platform.split("/")
    values = (inputs.platform, system, "", architecture, "".join(variant))
    found = dict(zip(_PLATFORM_ARGS, values * 2, strict=True))
    return found | {"TARGETSTAGE": "default"}


def _globals(
    dockerfile: ins.Dockerfile, inputs: Inputs, quoting: Quoting, args: Mapping[str, str]
) -> dict[str, str]:
    """The values that FROM sees."""
    found = {name: args.get(name, value) for name, value in _platforms(inputs).items()}
    for arg in dockerfile.args:
        for name, default in arg.args:
            if name in args:
                found[name] = args[name]
            elif default is not None:
                try:
                    found[name] = Expander(found, quoting).word(default)
                except WordError:
                    continue
    return found


def _defaults(dockerfile: ins.Dockerfile, inputs: Inputs, quoting: Quoting, notes: Notes) -> None:
    """Whether base images have names when no build arguments are given."""
    values = _globals(dockerfile, inputs, quoting, {})
    for stage in dockerfile.stages:
        try:
            base = Expander(values, quoting).word(stage.base.base)
        except WordError:
            return
        try:
            parse_reference(base)
            sound = not base.endswith(":")
        except InvalidReferenceError:
            sound = False
        if not sound:
            notes.note(
                rules.INVALID_DEFAULT_ARG,
                stage.base.mark.line,
                f"Default value for ARG {stage.base.base} results in empty or invalid base image name",
            )


def _base(
    stage: ins.Stage, globals_: Mapping[str, str], declared: set[str], quoting: Quoting, notes: Notes
) -> None:
    """FROM: undeclared arguments, and its platform."""
    line = stage.base.mark.line
    for text in (stage.base.base, stage.base.platform):
        expander = Expander(globals_, quoting)
        try:
            result = expander.word(text)
        except WordError:
            continue
        for name in sorted(expander.unset - declared):
            near = closest(name, {*globals_, *declared})
            hint = f" (did you mean {near}?)" if near else ""
            notes.note(rules.UNDEFINED_ARG_IN_FROM, line, f"FROM argument '{name}' is not declared{hint}")
        if text and text == stage.base.platform:
            _platform(stage, result, expander, globals_, notes)


def _platform(
    stage: ins.Stage, result: str, expander: Expander, globals_: Mapping[str, str], notes: Notes
) -> None:
    line, text = stage.base.mark.line, stage.base.platform
    if expander.used == {"TARGETPLATFORM"} and result == globals_["TARGETPLATFORM"]:
        notes.note(
            rules.REDUNDANT_TARGET_PLATFORM,
            line,
            f"Setting platform to predefined {text} in FROM is redundant as this is the default behavior",
        )
    elif not expander.used:
        system, _, rest = result.partition("/")
        architecture = rest.partition("/")[0]
        words = [word for word in (system, architecture) if word]
        if words and not any(word in stage.base.name for word in words):
            notes.note(
                rules.PLATFORM_CONST, line, f'FROM --platform flag should not use constant value "{result}"'
            )


class _Stage:
    """Walks through the steps of one stage."""

    def __init__(
        self, scope: _Scope, globals_: Mapping[str, str], quoting: Quoting, inputs: Inputs, notes: Notes
    ) -> None:
        self._scope = scope
        self._globals = globals_
        self._quoting = quoting
        self._inputs = inputs
        self._notes = notes
        self._set: dict[str, int] = {}

    def check(self, stage: ins.Stage) -> None:
        """All steps, in order."""
        for step in stage.steps:
            self._step(step)

    def _step(self, step: ins.Step) -> None:
        line = step.mark.line
        match step:
            case ins.Arg(args=args):
                self._arg(args, line)
            case ins.Env(pairs=pairs):
                values = {self._word(name, line): self._word(value, line) for name, value in pairs}
                self._scope.env |= values
            case ins.Label(pairs=pairs):
                for pair in pairs:
                    self._words(pair, line)
            case ins.Copy():
                self._copy(step, line)
            case ins.Workdir(path=path):
                self._workdir(self._word(path, line), line)
            case ins.User(user=text) | ins.Stopsignal(signal=text):
                self._word(text, line)
            case ins.Volume(paths=paths):
                self._words(paths, line)
            case ins.Cmd(command=command):
                self._once("CMD", line)
                self._form("CMD", command, line)
            case ins.Entrypoint(command=command):
                self._once("ENTRYPOINT", line)
                self._form("ENTRYPOINT", command, line)
            case ins.Healthcheck():
                self._once("HEALTHCHECK", line)
            case ins.Shell():
                self._scope.shell = True
            case _:
                pass

    def _arg(self, args: tuple[tuple[str, str | None], ...], line: int) -> None:
        for name, default in args:
            value: str | None
            if name in self._inputs.args:
                value = self._inputs.args[name]
            elif default is not None:
                value = self._word(default, line)
            else:
                value = self._globals.get(name)
            if value is not None:
                self._scope.env.setdefault(name, value)
            self._scope.declared.add(name)

    def _copy(self, step: ins.Copy, line: int) -> None:
        self._words((step.chown, step.chmod, step.checksum, step.target), line)
        for heredoc in step.heredocs:
            if heredoc.expand:
                self._word(heredoc.content.replace("'", "").replace('"', ""), line)
        sources = self._words(step.sources, line)
        if step.origin or self._inputs.ignored is None:
            return
        for source in sources:
            if "://" in source or source.startswith("git@"):
                continue
            path = posixpath.normpath(source or ".")
            root = path in (".", "/")
            ignored = self._inputs.roots_ignored if root else self._inputs.ignored(path.lstrip("/"))
            if ignored:
                word = "Add" if step.add else "Copy"
                self._notes.note(
                    rules.COPY_IGNORED_FILE,
                    line,
                    f'Attempting to {word} file "{path}" that is excluded by .dockerignore',
                )

    def _workdir(self, path: str, line: int) -> None:
        if not self._scope.workdir and not path.startswith("/"):
            self._notes.note(
                rules.WORKDIR_RELATIVE_PATH,
                line,
                f'Relative workdir "{path}" can have unexpected results if the base image changes',
            )
        self._scope.workdir = True

    def _once(self, name: str, line: int) -> None:
        before = self._set.get(name)
        if before is not None:
            self._notes.note(
                rules.MULTIPLE_INSTRUCTIONS,
                before,  # the one that has no effect
                f"Multiple {name} instructions should not be used in the same stage because only the last one"
                " will be used",
            )
        self._set[name] = line

    def _form(self, name: str, command: ins.Command, line: int) -> None:
        if command.form == "shell" and not self._scope.shell:
            self._notes.note(
                rules.JSON_ARGS_RECOMMENDED,
                line,
                f"JSON arguments recommended for {name} to prevent unintended behavior related to OS signals",
            )

    def _words(self, texts: Iterable[str], line: int) -> list[str]:
        return [self._word(text, line) for text in texts]

    def _word(self, text: str, line: int) -> str:
        expander = Expander(self._scope.env, self._quoting)
        try:
            result = expander.word(text)
        except WordError:
            return ""  # the parser says it, or it is a question of values
        for name in sorted(expander.unset - self._scope.declared):
            if not self._scope.known:
                continue  # the base image may well have it
            near = closest(name, self._scope.env)
            hint = f" (did you mean ${near}?)" if near else ""
            self._notes.note(rules.UNDEFINED_VAR, line, f"Usage of undefined variable '${name}'{hint}")
        return result


def closest(word: str, known: Iterable[str]) -> str:
    """The name that differs by at most two letters; of several the nearest, then the first by name."""
    ranked = sorted((_distance(word, name), name) for name in known if name != word)
    return ranked[0][1] if ranked and ranked[0][0] < 3 else ""


def _distance(one: str, other: str) -> int:
    """Levenshtein's."""
    row = list(range(len(other) + 1))
    for number, character in enumerate(one, 1):
        before, row[0] = row[0], number
        for place, against in enumerate(other, 1):
            before, row[place] = (
                row[place],
                min(row[place] + 1, row[place - 1] + 1, before + (character != against)),
            )
    return row[-1]
