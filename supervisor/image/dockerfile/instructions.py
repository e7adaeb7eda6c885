"""What a Dockerfile says, as data: one frozen class an instruction, stages, the whole file.

Values are as they stand, variables not replaced: what they are is known only when a stage is built. Which
fields are expanded, and with what, is the builder's part (`expand`). They are msgspec's classes: each start
of a build makes them anew, which took 10 ms as dataclasses, and takes 2.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from supervisor.core.problems import Mark
from supervisor.image.dockerfile.lines import Heredoc


class Command(msgspec.Struct, frozen=True):
    """A command in its shell form (one string) or exec form (words)."""

    words: tuple[str, ...]
    form: Literal["shell", "exec"]

    @property
    def text(self) -> str:
        """The shell form's string."""
        return self.words[0] if self.words else ""


class Mount(msgspec.Struct, frozen=True):
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


class From(msgspec.Struct, frozen=True):
    """`FROM [--platform=P] BASE [AS NAME]`."""

    mark: Mark
    base: str
    name: str = ""
    platform: str = ""


class Arg(msgspec.Struct, frozen=True):
    """`ARG NAME[=DEFAULT]...`."""

    mark: Mark
    args: tuple[tuple[str, str | None], ...]


class Env(msgspec.Struct, frozen=True):
    """`ENV NAME=VALUE...`, or the old form `ENV NAME VALUE`."""

    mark: Mark
    pairs: tuple[tuple[str, str], ...]


class Label(msgspec.Struct, frozen=True):
    """`LABEL NAME=VALUE...`."""

    mark: Mark
    pairs: tuple[tuple[str, str], ...]


class Run(msgspec.Struct, frozen=True):
    """`RUN`. heredocs: scripts for the shell, or files for it."""

    mark: Mark
    command: Command
    heredocs: tuple[Heredoc, ...] = ()
    mounts: tuple[str, ...] = ()
    network: str = ""
    security: str = ""


class Copy(msgspec.Struct, frozen=True):
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


class Cmd(msgspec.Struct, frozen=True):
    """`CMD`."""

    mark: Mark
    command: Command


class Entrypoint(msgspec.Struct, frozen=True):
    """`ENTRYPOINT`."""

    mark: Mark
    command: Command


class Shell(msgspec.Struct, frozen=True):
    """`SHELL [...]`."""

    mark: Mark
    words: tuple[str, ...]


class Expose(msgspec.Struct, frozen=True):
    """`EXPOSE PORT[/PROTOCOL]...`."""

    mark: Mark
    ports: tuple[str, ...]


class User(msgspec.Struct, frozen=True):
    """`USER`."""

    mark: Mark
    user: str


class Workdir(msgspec.Struct, frozen=True):
    """`WORKDIR`."""

    mark: Mark
    path: str


class Volume(msgspec.Struct, frozen=True):
    """`VOLUME`."""

    mark: Mark
    paths: tuple[str, ...]


class Stopsignal(msgspec.Struct, frozen=True):
    """`STOPSIGNAL`."""

    mark: Mark
    signal: str


class Healthcheck(msgspec.Struct, frozen=True):
    """`HEALTHCHECK`. command: None for NONE. Times in nanoseconds, None where not given."""

    mark: Mark
    command: Command | None
    interval_ns: int | None = None
    timeout_ns: int | None = None
    start_period_ns: int | None = None
    start_interval_ns: int | None = None
    retries: int | None = None


class Maintainer(msgspec.Struct, frozen=True):
    """`MAINTAINER`, which Docker has deprecated."""

    mark: Mark
    author: str


class Onbuild(msgspec.Struct, frozen=True):
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


class Stage(msgspec.Struct, frozen=True):
    """From one FROM to the next. texts: each step as it stands, for people and for the history."""

    base: From
    steps: tuple[Step, ...]
    texts: tuple[str, ...]


class Dockerfile(msgspec.Struct, frozen=True):
    """The whole file. args: ARG before the first FROM; they count in FROM only."""

    file: str
    escape: str
    syntax: str
    args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
