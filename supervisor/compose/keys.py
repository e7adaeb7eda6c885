"""Every key of the Compose specification (compose-spec.json, 2020-12 schema): what is read, what is refused.

A key that cannot be kept is an error that says why, never silence: a service that comes up without its
ports, its health check or its secrets is worse than one that does not come up. There are two kinds: those
that one host without a container engine never has (`refused` of each mapping), and those of `NOT_YET`, which
are read, but whose executing part is missing.
"""

from __future__ import annotations

from collections.abc import Mapping

from supervisor.compose.names import words
from supervisor.compose.reader import Keys

NOT_YET: Mapping[tuple[str, str], str] = {}
"""(mapping, key or value) -> what to do until its executing part is there. Remove a line to build it in."""

_WINDOWS = "it has a meaning on Windows only; remove the key"
_ENGINE = "it needs a container engine; remove the key"
_REALTIME = "the kernels of distributions schedule no groups in real time; use `cpus` or `cpu_shares`"

SERVICE = Keys(
    "a service",
    words(
        "annotations attach blkio_config build cap_add cap_drop cgroup command configs container_name"
        " cpu_period cpu_quota cpu_shares cpus cpuset depends_on deploy develop devices dns dns_opt"
        " dns_search domainname entrypoint env_file environment expose extends external_links extra_hosts"
        " group_add healthcheck hostname image init ipc isolation label_file labels links logging"
        " mac_address mem_limit mem_reservation mem_swappiness memswap_limit network_mode networks"
        " oom_kill_disable oom_score_adj pid pids_limit platform ports post_start pre_start pre_stop"
        " privileged profiles pull_policy pull_refresh_after read_only restart runtime scale secrets"
        " security_opt shm_size stdin_open stop_grace_period stop_signal sysctls tmpfs tty ulimits user"
        " userns_mode uts volumes volumes_from working_dir x-shipkeeper"
    ),
    {
        "cgroup_parent": "every service has a cgroup of its own below the supervisor's; remove the key",
        "cpu_count": _WINDOWS,
        "cpu_percent": _WINDOWS,
        "cpu_rt_period": _REALTIME,
        "cpu_rt_runtime": _REALTIME,
        "credential_spec": _WINDOWS,
        "device_cgroup_rules": "a device is let in by its node; name the devices in `devices`",
        "gpus": "there is no vendor's hook that prepares them; name the devices in `devices`",
        "models": _ENGINE,
        "provider": _ENGINE,
        "storage_opt": "the upper layer is a directory of the host; set a quota there, and remove the key",
        "use_api_socket": "bind the supervisor's socket with `volumes`",
    },
)

TOP = Keys(
    "a Compose file",
    frozenset(("configs", "include", "name", "networks", "services", "secrets", "volumes", "version")),
    {"models": _ENGINE},
)

_DRIVER = "there are no drivers of secrets and configs; write {file: ./token} or {environment: TOKEN}"
SECRET = Keys(
    "a secret",
    frozenset(("file", "environment", "external", "name", "labels")),
    {"driver": _DRIVER, "driver_opts": _DRIVER, "template_driver": _DRIVER},
)
CONFIG = Keys(
    "a config",
    frozenset(("file", "environment", "content", "external", "name", "labels")),
    {"template_driver": _DRIVER},
)
GRANT = Keys("a config or secret of a service", frozenset(("source", "target", "uid", "gid", "mode")))
BUILD = Keys(
    "a build",
    words(
        "context dockerfile dockerfile_inline args target labels secrets ssh additional_contexts network"
        " no_cache no_cache_filter pull tags platforms cache_from cache_to provenance sbom entitlements"
        " isolation privileged"
    ),
    {
        "extra_hosts": "write the name into the host's /etc/hosts",
        "shm_size": "write RUN --mount=type=tmpfs,target=/dev/shm,size=256m in the Dockerfile",
        "ulimits": "RUN steps have the limits of the host; remove the key",
    },
)
BUILD_SECRET = Keys("a secret of a build", frozenset(("source", "target", "uid", "gid", "mode")))

VOLUME = Keys("a volume", frozenset(("name", "external", "labels", "driver", "driver_opts")))
NETWORK = Keys(
    "a network",
    words("name driver driver_opts ipam external internal enable_ipv4 enable_ipv6 attachable labels"),
)
IPAM = Keys("ipam", frozenset(("driver", "config", "options")))
POOL = Keys("an address pool", frozenset(("subnet", "ip_range", "gateway", "aux_addresses")))
ATTACHMENT = Keys(
    "a service's place in a network",
    words(
        "aliases interface_name ipv4_address ipv6_address link_local_ips mac_address driver_opts priority"
        " gw_priority"
    ),
)
PORT = Keys("a port", words("name mode host_ip target published protocol app_protocol"))

DEPLOY = Keys(
    "deploy",
    words(
        "endpoint_mode labels mode placement replicas resources restart_policy rollback_config update_config"
    ),
)
PLACEMENT = Keys("deploy.placement", frozenset(("constraints", "preferences", "max_replicas_per_node")))
PREFERENCE = Keys("a placement preference", frozenset(("spread",)))
UPDATE = Keys(
    "deploy.update_config", words("parallelism delay failure_action monitor max_failure_ratio order")
)
RESOURCES = Keys("deploy.resources", frozenset(("limits", "reservations")))
LIMITS = Keys("deploy.resources.limits", frozenset(("cpus", "memory", "pids")))
RESERVATIONS = Keys(
    "deploy.resources.reservations",
    frozenset(("cpus", "memory")),
    {
        "devices": "there is no vendor's hook that prepares them; name the devices in `devices`",
        "generic_resources": "only a swarm counts them; remove the key",
    },
)
RESTART_POLICY = Keys("deploy.restart_policy", frozenset(("condition", "delay", "max_attempts", "window")))
MOUNT = Keys(
    "a mount",
    frozenset(("type", "source", "target", "read_only", "consistency", "bind", "volume", "tmpfs", "image")),
)
MOUNT_BIND = Keys("a bind mount", frozenset(("propagation", "create_host_path", "recursive", "selinux")))
MOUNT_VOLUME = Keys("a volume mount", frozenset(("nocopy", "subpath", "labels")))
MOUNT_TMPFS = Keys("a tmpfs mount", frozenset(("size", "mode")))
MOUNT_IMAGE = Keys("an image mount", frozenset(("subpath",)))
DEVICE = Keys("a device", frozenset(("source", "target", "permissions")))
ULIMIT = Keys("a ulimit", frozenset(("soft", "hard")))
BLKIO = Keys(
    "blkio_config",
    words("weight weight_device device_read_bps device_read_iops device_write_bps device_write_iops"),
)
BLKIO_WEIGHT = Keys("a weight of a device", frozenset(("path", "weight")))
BLKIO_RATE = Keys("a rate of a device", frozenset(("path", "rate")))
ENV_FILE = Keys("env_file", frozenset(("path", "required", "format")))
DEPENDENCY = Keys("depends_on", frozenset(("condition", "required", "restart")))
LOGGING = Keys("logging", frozenset(("driver", "options")))
LOG_OPTIONS = Keys("logging.options", frozenset(("max-size", "max-file")))
HEALTHCHECK = Keys("healthcheck", words("disable interval retries test timeout start_period start_interval"))
PROBE = Keys("x-shipkeeper.probe", frozenset(("http", "tcp", "command")))
READY = Keys("x-shipkeeper.ready", words("notify fd timeout watchdog"))
HOOK = Keys("a hook", frozenset(("command", "user", "privileged", "working_dir", "environment")))
PRE_START = Keys("a hook", HOOK.known | {"image", "per_replica"})
DEVELOP = Keys("develop", frozenset(("watch",)))
WATCH = Keys("develop.watch", words("path action target ignore include exec initial_sync"))
EXTENSION = Keys(
    "x-shipkeeper",
    words(
        "rootfs backoff max_attempts window restart_on no_restart_on on_exhausted resume_after probe"
        " on_unhealthy ready update"
    ),
)
BACKOFF = Keys("x-shipkeeper.backoff", frozenset(("initial", "factor", "max", "reset_after", "jitter")))
INCLUDE = Keys("include", frozenset(("path", "project_directory", "env_file")))
EXTENDS = Keys("extends", frozenset(("service", "file")))
