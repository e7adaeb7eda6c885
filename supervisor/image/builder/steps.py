"""A stage as steps: each instruction with its variables replaced, and the configuration behind it. Pure.

Only RUN, COPY, ADD and WORKDIR change files; they carry an operation. What an operation's result depends on
is in its `key`, besides the layers below it and the contents that it copies.
"""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

import msgspec

from supervisor.core.problems import Mark
from supervisor.image.builder import changes
from supervisor.image.builder.progress import BuildError
from supervisor.image.builder.scope import Globals, Scope, at, expand
from supervisor.image.config import Process
from supervisor.image.dockerfile import instructions as ins
from supervisor.image.dockerfile.lines import Heredoc
from supervisor.image.dockerfile.runmounts import parse_mount
from supervisor.image.dockerfile.statements import StatementError
from supervisor.image.dockerfile.words import WordError


class RunOp(msgspec.Struct, frozen=True):
    """A process. scripts: files of /dev/pipes that it reads. proxies: environment that is not in the key."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    proxies: tuple[tuple[str, str], ...]
    cwd: str
    user: str
    network: str
    insecure: bool
    mounts: tuple[ins.Mount, ...]
    scripts: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """Of secrets, SSH and caches only where they are mounted, as BuildKit has it."""
        mounts = [
            [m.kind, m.target, m.origin, m.source, m.read_only, m.size_bytes, m.env, m.mode, m.uid, m.gid]
            for m in self.mounts
        ]
        rest = [self.cwd, self.user, self.network, self.insecure, self.scripts]
        return json.dumps(["run", self.argv, sorted(self.env), mounts, rest])


class CopyOp(msgspec.Struct, frozen=True):
    """COPY or ADD. target: absolute; with a `/` at its end it is a directory. files: heredocs by name."""

    add: bool
    sources: tuple[str, ...]
    target: str
    files: tuple[tuple[str, str], ...]
    origin: str
    chown: str
    chmod: str
    link: bool
    parents: bool
    excludes: tuple[str, ...]
    checksum: str
    keep_git_dir: bool
    unpack: bool | None

    @property
    def key(self) -> str:
        """How it copies; what it copies is digested from the files."""
        rest = [
            self.chown,
            self.chmod,
            self.link,
            self.parents,
            self.excludes,
            self.keep_git_dir,
            self.unpack,
        ]
        return json.dumps(["add" if self.add else "copy", self.sources, self.target, self.files, rest])


class WorkdirOp(msgspec.Struct, frozen=True):
    """A directory that has to be there, made in the name of `user`."""

    path: str
    user: str

    @property
    def key(self) -> str:
        """All of it."""
        return json.dumps(["workdir", self.path, self.user])


Operation = RunOp | CopyOp | WorkdirOp


class Step(msgspec.Struct, frozen=True):
    """One instruction. name: for people. created_by: for the history. config: behind it."""

    mark: Mark
    name: str
    created_by: str
    operation: Operation | None
    config: Process
    author: str = ""


@dataclass(slots=True)
class Compiler:
    """The steps of one stage, in order. config: of its base, and then behind each step."""

    scope: Scope
    config: Process
    network: str
    author: str = ""
    _own_command: bool = False

    @classmethod
    def of_base(
        cls, world: Globals, config: Process, network: str, args: Iterable[tuple[str, str]] = ()
    ) -> Compiler:
        """For a stage on this base. ONBUILD of the base is done, and is not the new image's.

        args: declared by the stage that it stands on.
        """
        scope = Scope(world, changes.environment(config), dict(args))
        return cls(scope, changes.changed(config, on_build=None), network)

    def step(self, instruction: ins.Step, text: str) -> Step:
        """The next instruction; text: as it stands. Raises BuildError."""
        created_by = " ".join(text.split())
        operation: Operation | None = None
        mark = instruction.mark
        expander = self.scope.expander()
        match instruction:
            case ins.Arg():
                self.scope.declare(instruction)
            case ins.Env(pairs=pairs):
                values = [(expand(expander, n, mark), expand(expander, v, mark)) for n, v in pairs]
                self.config = changes.with_environment(self.config, values)
                self.scope.env.update(values)
                created_by = "ENV " + " ".join(f"{name}={value}" for name, value in values)
            case ins.Label(pairs=pairs):
                labels = {expand(expander, n, mark): expand(expander, v, mark) for n, v in pairs}
                self.config = changes.with_labels(self.config, labels)
                created_by = "LABEL " + " ".join(f"{name}={value}" for name, value in labels.items())
            case ins.Run():
                operation = running = self._run(instruction)
                used = [f"{name}={value}" for name, value in self.scope.args.items()]
                prefix = f"|{len(used)} {' '.join(used)} " if used else ""
                created_by = f"RUN {prefix}{' '.join(running.argv)}"
            case ins.Copy():
                operation = self._copy(instruction)
            case ins.Cmd(command=command):
                self.config = changes.with_command(self.config, command)
                self._own_command = True
            case ins.Entrypoint(command=command):
                self.config = changes.with_entrypoint(self.config, command, own_command=self._own_command)
            case ins.Shell(words=words):
                self.config = changes.changed(self.config, shell=list(words))
            case ins.Expose(ports=ports):
                found = [word for port in ports for word in self._words(port, mark)]
                self.config = changes.with_ports(self.config, found, mark)
            case ins.User(user=user):
                self.config = changes.changed(self.config, user=expand(expander, user, mark))
                created_by = f"USER {self.config.user}"
            case ins.Workdir(path=path):
                place = changes.working_directory(self.config, expand(expander, path, mark))
                self.config = changes.changed(self.config, working_dir=place)
                operation = WorkdirOp(place, self.config.user)
                created_by = f"WORKDIR {place}"
            case ins.Volume(paths=paths):
                found = [expand(expander, path, mark) for path in paths]
                self.config = changes.with_volumes(self.config, found, mark)
            case ins.Stopsignal(signal=signal):
                self.config = changes.changed(self.config, stop_signal=expand(expander, signal, mark))
            case ins.Healthcheck():
                self.config = changes.with_health(self.config, instruction)
            case ins.Maintainer(author=author):
                self.author = author
            case ins.Onbuild(text=trigger):
                triggers = [*(self.config.on_build or ()), trigger]
                self.config = changes.changed(self.config, on_build=triggers)
            case _:
                assert_never(instruction)
        return Step(mark, " ".join(text.split()), created_by, operation, self.config, self.author)

    def _words(self, text: str, mark: Mark) -> list[str]:
        try:
            return self.scope.expander().words(text)
        except WordError as error:
            raise BuildError(f"{at(mark)}: cannot expand {text!r}: {error}") from error

    def _run(self, run: ins.Run) -> RunOp:
        argv, scripts = _command(run, self.config)
        network = run.network if run.network not in ("", "default") else self.network
        return RunOp(
            argv=tuple(argv),
            env=tuple(self.scope.run_env().items()),
            proxies=tuple(self.scope.proxies().items()),
            cwd=self.config.working_dir or "/",
            user=self.config.user,
            network="none" if network == "none" else "host",
            insecure=run.security == "insecure",
            mounts=tuple(self._mount(text, run.mark) for text in run.mounts),
            scripts=scripts,
        )

    def _mount(self, text: str, mark: Mark) -> ins.Mount:
        fields = []
        for field in next(csv.reader([text], strict=True), []):
            name, equals, value = field.partition("=")
            if name.lower() == "from" and "$" in value:
                raise BuildError(
                    f"{at(mark)}: from= of a mount takes no variable; name a stage FROM {value} AS NAME"
                )
            fields.append(f"{name}{equals}{expand(self.scope.expander(), value, mark)}" if equals else field)
        row = io.StringIO()
        csv.writer(row, lineterminator="").writerow(fields)
        try:
            mount = parse_mount(row.getvalue())
        except StatementError as error:
            hint = f"; {error.hint}" if error.hint else ""
            raise BuildError(f"{at(mark)}: {error}{hint}") from error
        if not mount.target:
            return mount
        return msgspec.structs.replace(mount, target=changes.working_directory(self.config, mount.target))

    def _copy(self, copy: ins.Copy) -> CopyOp:
        expander = self.scope.expander()
        one = [expand(expander, text, copy.mark) for text in (*copy.sources, *copy.excludes)]
        sources, excludes = one[: len(copy.sources)], one[len(copy.sources) :]
        target = expand(expander, copy.target, copy.mark)
        files = tuple((here.name, _heredoc(here, self.scope, copy.mark)) for here in copy.heredocs)
        place = changes.working_directory(self.config, target)
        into = target.endswith("/") or posixpath.basename(target) in (".", "..") or place == "/"
        if len(sources) + len(files) > 1 and not into:
            name = "ADD" if copy.add else "COPY"
            raise BuildError(
                f"{at(copy.mark)}: when using {name} with more than one source file, the destination must be"
                f" a directory and end with a /; write {target}/"
            )
        return CopyOp(
            add=copy.add,
            sources=tuple(sources),
            target=place.rstrip("/") + "/" if into else place,
            files=files,
            origin=copy.origin,
            chown=expand(expander, copy.chown, copy.mark),
            chmod=expand(expander, copy.chmod, copy.mark),
            link=copy.link,
            parents=copy.parents,
            excludes=tuple(excludes),
            checksum=expand(expander, copy.checksum, copy.mark),
            keep_git_dir=copy.keep_git_dir,
            unpack=copy.unpack,
        )


def _heredoc(here: Heredoc, scope: Scope, mark: Mark) -> str:
    """Its content; variables are replaced unless its name was quoted, quotes stay as they are."""
    if not here.expand:
        return here.content
    expander = scope.expander()
    escape = expander.quoting.escape
    parts = re.split(f"({re.escape(escape)}.)", here.content, flags=re.DOTALL)
    for number in range(0, len(parts), 2):  # between them are escapes, which stay as they are
        quoted = parts[number].replace('"', f'{escape}"')
        parts[number] = expand(expander, f'"{quoted}"', mark)
    return "".join(parts)


def _command(run: ins.Run, config: Process) -> tuple[list[str], tuple[tuple[str, str], ...]]:
    """(argv, scripts). A single heredoc is the script itself; several are put behind the command again."""
    if not run.heredocs or run.command.form == "exec":
        return changes.argv_of(run.command, config), ()
    first = run.heredocs[0]
    if len(run.heredocs) == 1 and run.command.text == _announced(first, run.command.text):
        if first.content.startswith("#!"):
            return [*changes.shell_of(config), f"/dev/pipes/{first.name}"], ((first.name, first.content),)
        return [*changes.shell_of(config), first.content], ()
    text = run.command.text
    for here in run.heredocs:
        text += f"\n{here.content}{here.name}"
    return [*changes.shell_of(config), text], ()


def _announced(here: Heredoc, text: str) -> str:
    """The command where it is nothing but the heredoc, in one of its spellings; else something else."""
    stripped = text.strip()
    marker = stripped.removeprefix("<<").removeprefix("-").strip("'\"")
    return text if stripped.startswith("<<") and marker == here.name else ""
