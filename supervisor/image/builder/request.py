"""What a build is asked for, as data: everything that a command line or a Compose file can say. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from supervisor.core.reference import Reference
from supervisor.image.builder.ignore import Ignore

NOTHING_IGNORED = Ignore()


class Secret(msgspec.Struct, frozen=True):
    """A secret of `RUN --mount=type=secret`: the content is read when a step needs it, and is in no layer.

    path: a file of the host, or "" where `env` names a variable of the builder's own environment.
    """

    id: str
    path: str = ""
    env: str = ""


class SshAgent(msgspec.Struct, frozen=True):
    """A socket or key of `RUN --mount=type=ssh`. paths: a socket, or keys; () is SSH_AUTH_SOCK's agent."""

    id: str = "default"
    paths: tuple[str, ...] = ()


class BuildRequest(msgspec.Struct, frozen=True):
    """One build.

    context: an existing directory that COPY reads; "" where there is none.
    dockerfile, dockerfile_name: its text, and what problems call it.
    target: name or number of the stage to build, "" for the last.
    names: what the image is called afterwards; none leaves it with its id only.
    args, labels: by name, in the order given. contexts: name to a directory or `docker-image://NAME`.
    network: of RUN steps that name none: "default" (the host's), "host" or "none".
    allows_insecure: whether `RUN --security=insecure` may be carried out: it is as good as root of the host.
    no_cache_stages: stages that are built anew though `no_cache` is not said for all.
    epoch_s: SOURCE_DATE_EPOCH, or None: the time of the newest input is taken.
    """

    dockerfile: bytes
    dockerfile_name: str = "Dockerfile"
    context: str = ""
    ignore: Ignore = NOTHING_IGNORED
    target: str = ""
    names: tuple[Reference, ...] = ()
    args: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    contexts: tuple[tuple[str, str], ...] = ()
    secrets: tuple[Secret, ...] = ()
    ssh: tuple[SshAgent, ...] = ()
    network: Literal["default", "host", "none"] = "default"
    allows_insecure: bool = False
    no_cache: bool = False
    no_cache_stages: tuple[str, ...] = ()
    pull: bool = False
    epoch_s: int | None = None
