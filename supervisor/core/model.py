"""What a user asked for: the resolved model of a project, after loading, merging and defaults.

Everything here is frozen and made of plain values, so that it can be compared, hashed into a
configuration hash, written to the state database and sent over the API without a second form.
Names and meanings follow the Compose specification; units stand in the names. Unset is `None`
(or an empty tuple), so that "left to the default" and "set to the default" stay two things
where Docker treats them as two.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal

from supervisor.core.grants import FileGrant, FileSource
from supervisor.core.healthcheck import Healthcheck, Hooks, Ready
from supervisor.core.network import Attachment, Network, Port, Resolver


class Policy(Enum):
    """Docker's restart policies (HostConfig.RestartPolicy.Name)."""

    NO = "no"
    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    UNLESS_STOPPED = "unless-stopped"


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before an automatic restart.

    The delay of the n-th restart in a row is `initial * factor**(n-1)`, at most `max`; a run of
    at least `reset_after` forgives everything, and the restart after it is immediate. `jitter`
    is the share of the delay (0..1) that is added at random.
    """

    initial_s: float = 0.1
    factor: float = 2.0
    max_s: float = 60.0
    reset_after_s: float = 10.0
    jitter: float = 0.0


@dataclass(frozen=True, slots=True)
class RestartRules:
    """The policy of a service with its tuning: `restart`, `deploy.restart_policy` and `x-shipkeeper`.

    max_attempts: automatic restarts allowed (None: without limit). Without a window they are counted
        since the last start by a person (Docker's RestartCount); with `window_s` only the restarts of the
        last window count.
    restart_on / no_restart_on: exit codes (0..255; a death by signal n is also 128+n) that force or
        forbid a restart, whatever the policy says. `no_restart_on` wins.
    """

    policy: Policy = Policy.NO
    max_attempts: int | None = None
    window_s: float | None = None
    backoff: Backoff = field(default_factory=Backoff)
    restart_on: tuple[int, ...] = ()
    no_restart_on: tuple[int, ...] = ()
    on_exhausted: Literal["ignore", "stop-project"] = "ignore"
    resume_after_s: float | None = None


BlockLimit = Literal["weight", "read_bps", "write_bps", "read_iops", "write_iops"]


@dataclass(frozen=True, slots=True)
class DeviceLimit:
    """A limit of `blkio_config` on a block device: bytes or operations a second, or a weight (10-1000)."""

    kind: BlockLimit
    path: str
    value: int


@dataclass(frozen=True, slots=True)
class Limits:
    """cgroup limits; None is unlimited.

    `memory_swap_bytes` is memory and swap together, as in Docker (-1: no limit). `cpu_quota_us` of every
    `cpu_period_us` is the other way to say `cpus`. cpuset: a list of CPUs, as in 0-2,4. blkio_weight: 10 to
    1000.
    """

    memory_bytes: int | None = None
    memory_swap_bytes: int | None = None
    memory_reservation_bytes: int | None = None
    cpus: float | None = None
    cpu_shares: int | None = None
    pids: int | None = None
    cpu_quota_us: int | None = None
    cpu_period_us: int | None = None
    cpuset: str | None = None
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    blkio_weight: int | None = None
    blkio_devices: tuple[DeviceLimit, ...] = ()


@dataclass(frozen=True, slots=True)
class Ulimit:
    """One resource limit by its Compose name (`nofile`, `nproc` ...); -1 is unlimited."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Rootfs:
    """Where the lower layers of a service, or what a mount of an image shows, come from.

    `host`: a copy-on-write view of the host's own root, secrets masked. `directory` and `archive`: a
    root file system named by `x-shipkeeper.rootfs` (`path` is absolute). `image`: `path` is its name, and
    once it is resolved, `image_id` and `layers` (diff ids, the lowest first) say which one that was.
    """

    kind: Literal["host", "directory", "archive", "image"] = "host"
    path: str | None = None
    image_id: str = ""
    layers: tuple[str, ...] = ()


PROPAGATIONS = ("rprivate", "private", "rshared", "shared", "rslave", "slave")
"""Of a bind mount, as mount(8) has them."""
CONSISTENCIES = ("cached", "delegated", "consistent", "default")
"""Words of other hosts, which mean nothing on Linux (Docker)."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A bind mount, a named or anonymous volume, a tmpfs or an image inside a service.

    source: absolute host path for `bind`; the volume's full name (project_key, or its `name:`) for
        `volume`, of the image for `image`; None for a tmpfs, and for an anonymous volume without a name yet.
    anonymous: the supervisor named the volume, and it goes with `rm -v`, `down -v` and `run --rm`.
    recursive: Compose's bind.recursive. `enabled`: what is mounted below the source comes along, read-only as
        far as the mount is; `disabled`: it does not; `writable`: it stays as it is; `readonly`: as `enabled`.
    image: of a mount of type `image`, which one `source` names, once it is resolved.
    """

    type: Literal["bind", "volume", "tmpfs", "image"]
    target: str
    source: str | None = None
    read_only: bool = False
    create_host_path: bool = True
    propagation: str | None = None
    nocopy: bool = False
    subpath: str | None = None
    tmpfs_size_bytes: int | None = None
    tmpfs_mode: int | None = None
    tmpfs_options: tuple[str, ...] = ()
    anonymous: bool = False
    recursive: Literal["enabled", "disabled", "writable", "readonly"] = "enabled"
    image: Rootfs | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """A host device that is let in: path on the host, path inside, and `rwm` permissions."""

    source: str
    target: str
    permissions: str = "rwm"


@dataclass(frozen=True, slots=True)
class Logging:
    """Bounds of the stored output of a service. The default keeps at most 3 files of 10 MiB each."""

    max_size_bytes: int = 10 * 1024 * 1024
    max_files: int = 3


@dataclass(frozen=True, slots=True)
class Dependency:
    """One entry of depends_on. restart: it is restarted after that one was, by a person or by `up`."""

    service: str
    condition: Literal["service_started", "service_healthy", "service_completed_successfully"] = (
        "service_started"
    )
    required: bool = True
    restart: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """How the instances of a service that have changed are replaced.

    parallelism: so many at a time, each when those before it are up; 0 is all at once. delay_s: from one to
    the next. on_failure: what becomes of the others when one does not come up.
    """

    order: Literal["stop-first", "start-first"] = "stop-first"
    parallelism: int = 0
    delay_s: float = 0.0
    on_failure: Literal["pause", "continue"] = "pause"


@dataclass(frozen=True, slots=True)
class SecurityOptions:
    """`security_opt`, parsed. `seccomp` is "default", "unconfined", or the absolute path of a profile."""

    no_new_privileges: bool = True
    seccomp: str = "default"


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """One service, resolved. `environment` is sorted by name; `command` and `entrypoint` are vectors.

    network_mode: `host`, `none`, `bridge` (in `networks`), `service:NAME` or `container:NAME`.
    healthcheck: None where the file says nothing: then the image's counts. ready: it says itself when it is.
    shm_size_bytes: of /dev/shm; None is 64 MiB. attach: `up` shows its output.
    auto_remove: forget it with all that it wrote when it has ended (`run --rm`). stdin_once: its stdin
        ends with the first client that was attached to it. one_off: made by `compose run`, beside what the
        service has; nobody depends on it, and `up` leaves it alone. hook_of: the instance whose pre_start
        hook it is. None of them is a key of Compose.
    """

    name: str
    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    environment: tuple[tuple[str, str], ...] = ()
    working_dir: str | None = None
    user: str | None = None
    group_add: tuple[str, ...] = ()
    hostname: str | None = None
    container_name: str | None = None
    init: bool = False
    tty: bool = False
    stdin_open: bool = False
    read_only: bool = False
    privileged: bool = False
    rootfs: Rootfs = field(default_factory=Rootfs)
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    restart: RestartRules = field(default_factory=RestartRules)
    limits: Limits = field(default_factory=Limits)
    ulimits: tuple[Ulimit, ...] = ()
    oom_score_adj: int | None = None
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security: SecurityOptions = field(default_factory=SecurityOptions)
    sysctls: tuple[tuple[str, str], ...] = ()
    stop_signal: str | None = None
    stop_grace_s: float = 10.0
    labels: tuple[tuple[str, str], ...] = ()
    depends_on: tuple[Dependency, ...] = ()
    network_mode: str = "host"
    networks: tuple[Attachment, ...] = ()
    ports: tuple[Port, ...] = ()
    expose: tuple[str, ...] = ()
    resolver: Resolver = field(default_factory=Resolver)
    healthcheck: Healthcheck | None = None
    ready: Ready | None = None
    hooks: Hooks = field(default_factory=Hooks)
    grants: tuple[FileGrant, ...] = ()
    replicas: int = 1
    update: Update = field(default_factory=Update)
    profiles: tuple[str, ...] = ()
    logging: Logging = field(default_factory=Logging)
    shm_size_bytes: int | None = None
    attach: bool = True
    annotations: tuple[tuple[str, str], ...] = ()
    auto_remove: bool = False
    stdin_once: bool = False
    one_off: bool = False
    hook_of: str = ""

    def argv(self) -> tuple[str, ...]:
        """The argument vector of the main process: entrypoint, then command."""
        return (self.entrypoint or ()) + (self.command or ())


@dataclass(frozen=True, slots=True)
class Volume:
    """A named volume. `name` is the full name on this host; an external one is never created or removed.

    driver_opts: of the driver `local`: `type`, `o` and `device`, as mount(8) has them.
    """

    key: str
    name: str
    external: bool = False
    labels: tuple[tuple[str, str], ...] = ()
    driver_opts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Project:
    """A whole Compose project. `services` holds the enabled ones only, sorted by name.

    named: its name was said by who brings it up (-p, COMPOSE_PROJECT_NAME), not by its files or directory.
    """

    name: str
    working_dir: str
    config_files: tuple[str, ...] = ()
    services: tuple[ServiceSpec, ...] = ()
    volumes: tuple[Volume, ...] = ()
    networks: tuple[Network, ...] = ()
    files: tuple[FileSource, ...] = ()
    named: bool = False

    def service(self, name: str) -> ServiceSpec:
        """The service of that name. Raises KeyError."""
        for spec in self.services:
            if spec.name == name:
                return spec
        raise KeyError(name)
