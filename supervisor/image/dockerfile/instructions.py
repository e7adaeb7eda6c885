"""What a Dockerfile says, as data: one frozen class an instruction, stages, the whole file.

Values are as they stand, variables not replaced: what they are is known only when a stage is built. Which
fields are expanded, and with what, is the builder's part (`expand`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from supervisor.core.problems import Mark
from supervisor.image.dockerfile.lines import Heredoc


@dataclass(frozen=True, slots=True)
class Command:
    """A command in its shell form (one string) or exec form (words)."""

    words: tuple[str, ...]
    form: Literal["shell", "exec"]

    @property
    def text(self) -> str:
        """The shell form's string."""
        return self.words[0] if self.words else ""


@dataclass(frozen=True, slots=True)
class Mount:
    """One `RUN --mount`. Fields that the type does not have are as their defaults.

    source: within `origin` (a stage, an image, or "" for the context). mode, uid, gid: None where not given.
    """

    kind: Literal["bind", "cache", "tmpfs", "secret", "ssh"]
    target: str = ""
    origin: str = ""
    source: str = ""
    read_only: bool = True
    id: str = ""
    sharing: Literal["shared", "private", "locked"] = "shared"
    size_bytes: int | None = None
    required: bool = False
    env: str = ""
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class From:
    """`FROM [--platform=P] BASE [AS NAME]`."""

    mark: Mark
    base: str
    name: str = ""
    platform: str = ""


@dataclass(frozen=True, slots=True)
class Arg:
    """`ARG NAME[=DEFAULT]...`."""

    mark: Mark
    args: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Env:
    """`ENV NAME=VALUE...`, or the old form `ENV NAME VALUE`."""

    mark: Mark
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Label:
    """`LABEL NAME=VALUE...`."""

    mark: Mark
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Run:
    """`RUN`. heredocs: scripts for the shell, or files for it."""

    mark: Mark
    command: Command
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[str, ...] = ()
    network: str = ""
    security: str = ""


@dataclass(frozen=True, slots=True)
class Copy:
    """`COPY` and `ADD`. heredocs: sources whose content stands in the Dockerfile.

    origin: `--from`. checksum, keep_git_dir, unpack: of ADD. chmod, chown: as written.
    """

    mark: Mark
    add: bool
    sources: tuple[str, ...]
    target: str
    heredocs: tuple[Heredoc, ...] = ()
    origin: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool = False
    unpack: bool | None = None


@dataclass(frozen=True, slots=True)
class Cmd:
    """`CMD`."""

    mark: Mark
    command: Command


@dataclass(frozen=True, slots=True)
class Entrypoint:
    """`ENTRYPOINT`."""

    mark: Mark
    command: Command


@dataclass(frozen=True, slots=True)
class Shell:
    """`SHELL [...]`."""

    mark: Mark
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expose:
    """`EXPOSE PORT[/PROTOCOL]...`."""

    mark: Mark
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class User:
    """`USER`."""

    mark: Mark
    user: str


@dataclass(frozen=True, slots=True)
class Workdir:
    """`WORKDIR`."""

    mark: Mark
    path: str


@dataclass(frozen=True, slots=True)
class Volume:
    """`VOLUME`."""

    mark: Mark
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stopsignal:
    """`STOPSIGNAL`."""

    mark: Mark
    signal: str


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """`HEALTHCHECK`. command: None for NONE. Times in nanoseconds, None where not given."""

    mark: Mark
    command: Command | None
    interval_ns: int | None = None
    timeout_ns: int | None = None
    start_period_ns: int | None = None
    start_interval_ns: int | None = None
    retries: int | None = None


@dataclass(frozen=True, slots=True)
class Maintainer:
    """`MAINTAINER`, which Docker has deprecated."""

    mark: Mark
    author: str


@dataclass(frozen=True, slots=True)
class Onbuild:
    """`ONBUILD`: the instruction as text, run by the stages that build on this one."""

    mark: Mark
    text: str
    inner: Step


Step = (
    Arg
    | Env
    | Label
    | Run
    | Copy
    | Cmd
    | Entrypoint
    | Shell
    | Expose
    | User
    | Workdir
    | Volume
    | Stopsignal
    | Healthcheck
    | Maintainer
    | Onbuild
)
Instruction = From | Step


@dataclass(frozen=True, slots=True)
class Stage:
    """From one FROM to the next. texts: each step as it stands, for people and for the history."""

    base: From
    steps: tuple[Step, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """The whole file. args: ARG before the first FROM; they count in FROM only."""

    file: str
    escape: str
    syntax: str
    args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
