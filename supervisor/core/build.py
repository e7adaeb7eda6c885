"""How the image of a service comes to be: what `build`, `image` and `pull_policy` of a Compose file say.

Apart from the service itself: a change here makes no other service, only the image that comes of it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PullPolicy = Literal["", "always", "missing", "never", "build", "every"]


@dataclass(frozen=True, slots=True)
class BuildSecret:
    """A secret for RUN. path: a file of the host, or "" where `env` names a variable of whoever builds."""

    id: str
    path: str = ""
    env: str = ""


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """One `build`. context: an absolute path or an URL. dockerfile: as written, relative to the context.

    inline: the Dockerfile itself, or "". contexts: absolute paths, URLs, or `service:NAME`.
    platforms: those that are asked for; () is the host's.
    """

    context: str
    dockerfile: str = "Dockerfile"
    inline: str = ""
    args: tuple[tuple[str, str], ...] = ()
    target: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    secrets: tuple[BuildSecret, ...] = ()
    ssh: tuple[tuple[str, str], ...] = ()
    contexts: tuple[tuple[str, str], ...] = ()
    network: Literal["default", "host", "none"] = "default"
    no_cache: bool = False
    no_cache_stages: tuple[str, ...] = ()
    pull: bool = False
    tags: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageSource:
    """The image of a service. image: its name in full. policy: "" where the file does not say.

    every_s: of the policy `every`, how old the last pull may be.
    """

    service: str
    image: str
    policy: PullPolicy = ""
    build: BuildSpec | None = None
    every_s: int = 0
