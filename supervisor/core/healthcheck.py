"""What a user asked of health and of readiness: `healthcheck`, `x-shipkeeper.probe` and `.ready`, hooks.

Frozen and plain as `core.model` is, which has these as fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Probe:
    """What is asked, from inside the service's namespaces.

    command: an argv is run, success is exit code 0. http: a GET of `path`, success is a status of 200 to 399.
    tcp: a connection. The latter two start no process.
    """

    kind: Literal["command", "http", "tcp"]
    argv: tuple[str, ...] = ()
    port: int = 0
    path: str = "/"
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """`healthcheck` of Compose, or HEALTHCHECK of the image; None is the image's, or Docker's default.

    disabled: `disable: true` or `test: [NONE]`, which also turns the image's off.
    probe: None is the image's, with the other values of this one (as in Docker).
    """

    probe: Probe | None = None
    disabled: bool = False
    interval_s: float | None = None
    timeout_s: float | None = None
    retries: int | None = None
    start_period_s: float | None = None
    start_interval_s: float | None = None
    on_unhealthy: Literal["ignore", "restart"] = "ignore"


@dataclass(frozen=True, slots=True)
class Ready:
    """`x-shipkeeper.ready`: the service says itself when it is ready.

    fd: by a newline on that descriptor, as for s6; 0: by sd_notify. timeout_s: not to be ready by then is a
    failed start. watchdog_s: how long it may be silent afterwards, of sd_notify.
    """

    fd: int = 0
    timeout_s: float | None = None
    watchdog_s: float | None = None


@dataclass(frozen=True, slots=True)
class Hook:
    """A command of `post_start` or `pre_stop` runs inside the service, one of `pre_start` in an own instance.

    image: of a pre_start hook; None is the service's. image_id and layers say which one that was, once it is
    resolved; then `command`, `user`, `working_dir` and `environment` are whole, too. per_replica: a pre_start
    hook runs before each instance of the service, not once before the first.
    """

    command: tuple[str, ...]
    user: str | None = None
    privileged: bool = False
    working_dir: str | None = None
    environment: tuple[tuple[str, str], ...] = ()
    image: str | None = None
    per_replica: bool = False
    image_id: str = ""
    layers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hooks:
    """`pre_start`, `post_start` and `pre_stop`, each in its order."""

    pre_start: tuple[Hook, ...] = ()
    post_start: tuple[Hook, ...] = ()
    pre_stop: tuple[Hook, ...] = ()
