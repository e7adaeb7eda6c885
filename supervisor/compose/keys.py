"""Every key of the Compose specification (compose-spec.json, 2020-12 schema): what is built, what is not yet.

A key that is not built is an error that says what to do, never silence: a service that comes up without
its ports, its health check or its secrets is worse than one that does not come up.
"""

from __future__ import annotations

from supervisor.compose.names import words
from supervisor.compose.reader import Keys

_REMOVE = "remove the key"
_NETWORKS = "project networks come in a later version; use `network_mode: host` or `none` until then"
_IMAGES = "the image has to be in the store: `shipkeeper load` or `import` puts it there; remove the key"
_HOOKS = "put it into the command of the service"
_FILES = "bind the file with `volumes: [./file:/run/secrets/file:ro]`"
_NAMESPACE = "every service has a namespace of its own; remove the key"
_CPU = "use `cpus` or `cpu_shares`"
_WINDOWS = "it has a meaning on Windows only; remove the key"
_ENGINE = "it needs a container engine; remove the key"

SERVICE = Keys(
    "a service",
    words(
        "build cap_add cap_drop command container_name cpu_shares cpus depends_on deploy devices"
        " entrypoint env_file environment group_add hostname image init labels logging mem_limit"
        " mem_reservation memswap_limit network_mode oom_score_adj pids_limit privileged profiles"
        " pull_policy read_only restart security_opt stdin_open stop_grace_period stop_signal sysctls"
        " tmpfs tty ulimits user volumes working_dir x-shipkeeper"
    ),
    {
        "annotations": "use `labels`",
        "attach": _REMOVE,
        "blkio_config": _REMOVE,
        "cgroup": _NAMESPACE,
        "cgroup_parent": "every service has a cgroup of its own; remove the key",
        "configs": _FILES,
        "cpu_count": _WINDOWS,
        "cpu_percent": _WINDOWS,
        "cpu_period": _CPU,
        "cpu_quota": _CPU,
        "cpu_rt_period": _CPU,
        "cpu_rt_runtime": _CPU,
        "cpuset": _CPU,
        "credential_spec": _WINDOWS,
        "develop": _REMOVE,
        "device_cgroup_rules": "name the devices in `devices`",
        "dns": "the host's resolv.conf is used; remove the key",
        "dns_opt": "the host's resolv.conf is used; remove the key",
        "dns_search": "the host's resolv.conf is used; remove the key",
        "domainname": "use `hostname`",
        "expose": _NETWORKS,
        "external_links": _NETWORKS,
        "extra_hosts": "write the name into the host's /etc/hosts",
        "gpus": "name the devices in `devices`",
        "healthcheck": "remove it; the restart policy acts on the exit of the service",
        "ipc": _NAMESPACE,
        "isolation": _WINDOWS,
        "label_file": "use `labels`",
        "links": _NETWORKS,
        "mac_address": _NETWORKS,
        "mem_swappiness": "use `memswap_limit`",
        "models": _ENGINE,
        "networks": _NETWORKS,
        "oom_kill_disable": "use `oom_score_adj`",
        "pid": _NAMESPACE,
        "platform": _IMAGES,
        "ports": "with `network_mode: host` a service listens on the host's ports itself; remove the key",
        "post_start": _HOOKS,
        "pre_start": _HOOKS,
        "pre_stop": _HOOKS,
        "provider": _ENGINE,
        "pull_refresh_after": _IMAGES,
        "runtime": _ENGINE,
        "scale": "write a service for each instance",
        "secrets": _FILES,
        "shm_size": "write `tmpfs: [/dev/shm:size=256m]`",
        "storage_opt": _ENGINE,
        "use_api_socket": _ENGINE,
        "userns_mode": _NAMESPACE,
        "uts": _NAMESPACE,
        "volumes_from": "name the volumes in `volumes`",
    },
)

TOP = Keys(
    "a Compose file",
    frozenset(("name", "services", "secrets", "volumes", "version")),
    {
        "configs": _FILES,
        "models": _ENGINE,
        "networks": _NETWORKS,
    },
)

SECRET = Keys(
    "a secret",
    frozenset(("file", "environment", "name", "labels")),
    {
        "external": "write {file: ./token} or {environment: TOKEN}",
        "driver": _ENGINE,
        "driver_opts": _ENGINE,
        "template_driver": _ENGINE,
    },
)
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

VOLUME = Keys(
    "a volume",
    frozenset(("name", "external", "labels", "driver")),
    {"driver_opts": "mount the device on the host and bind it into the service"},
)

DEPLOY = Keys(
    "deploy",
    frozenset(("resources", "restart_policy", "placement")),
    {
        "endpoint_mode": _NETWORKS,
        "labels": "use the `labels` of the service",
        "mode": _REMOVE,
        "replicas": "write a service for each instance",
        "rollback_config": _REMOVE,
        "update_config": _REMOVE,
    },
)
RESOURCES = Keys("deploy.resources", frozenset(("limits", "reservations")))
LIMITS = Keys("deploy.resources.limits", frozenset(("cpus", "memory", "pids")))
RESERVATIONS = Keys(
    "deploy.resources.reservations",
    frozenset(("memory",)),
    {
        "cpus": "use `cpu_shares`",
        "devices": "name the devices in `devices`",
        "generic_resources": _REMOVE,
    },
)
RESTART_POLICY = Keys("deploy.restart_policy", frozenset(("condition", "delay", "max_attempts", "window")))
MOUNT = Keys(
    "a mount",
    frozenset(("type", "source", "target", "read_only", "consistency", "bind", "volume", "tmpfs")),
    {"image": _IMAGES},
)
MOUNT_BIND = Keys("a bind mount", frozenset(("propagation", "create_host_path", "recursive", "selinux")))
MOUNT_VOLUME = Keys(
    "a volume mount",
    frozenset(("nocopy",)),
    {"subpath": "mount the whole volume", "labels": "give the labels to the volume at the top level"},
)
MOUNT_TMPFS = Keys("a tmpfs mount", frozenset(("size", "mode")))
DEVICE = Keys("a device", frozenset(("source", "target", "permissions")))
ULIMIT = Keys("a ulimit", frozenset(("soft", "hard")))
ENV_FILE = Keys("env_file", frozenset(("path", "required", "format")))
DEPENDENCY = Keys("depends_on", frozenset(("condition", "required", "restart")))
LOGGING = Keys("logging", frozenset(("driver", "options")))
LOG_OPTIONS = Keys("logging.options", frozenset(("max-size", "max-file")))
EXTENSION = Keys(
    "x-shipkeeper",
    words("rootfs backoff max_attempts window restart_on no_restart_on on_exhausted resume_after"),
)
BACKOFF = Keys("x-shipkeeper.backoff", frozenset(("initial", "factor", "max", "reset_after", "jitter")))

INCLUDE = Keys("include", frozenset(("path", "project_directory", "env_file")))
EXTENDS = Keys("extends", frozenset(("service", "file")))
