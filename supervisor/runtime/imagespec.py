"""What an image says, put below what a service says: the service as it will run. Pure.

Rules: moby, daemon/commit.go merge(); Compose's `entrypoint:` drops the image's CMD, as Docker's flag does.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import replace
from typing import get_args

from supervisor.core.healthcheck import Healthcheck, Probe
from supervisor.core.model import Mount, Rootfs, ServiceSpec
from supervisor.core.network import Port, Protocol
from supervisor.image.config import ImageConfig, Process

_PROTOCOLS: dict[str, Protocol] = {name: name for name in get_args(Protocol)}


def apply_image(spec: ServiceSpec, image_id: str, config: ImageConfig) -> ServiceSpec:
    """The service with the image's values where it has none of its own, standing on exactly that image."""
    process = config.config
    entrypoint, command = spec.entrypoint, spec.command
    if entrypoint is None:
        entrypoint = tuple(process.entrypoint or ()) or None
        if command is None:
            command = tuple(process.cmd or ()) or None
    return replace(
        spec,
        entrypoint=entrypoint,
        command=command,
        environment=_environment(process.env or (), spec.environment),
        working_dir=spec.working_dir or process.working_dir or None,
        user=spec.user or process.user or None,
        stop_signal=spec.stop_signal or process.stop_signal or None,
        labels=tuple(sorted({**(process.labels or {}), **dict(spec.labels)}.items())),
        mounts=(*spec.mounts, *_volumes(process, spec.mounts)),
        healthcheck=_healthcheck(spec.healthcheck, process),
        rootfs=Rootfs("image", spec.rootfs.path, image_id, tuple(config.rootfs.diff_ids)),
    )


def _healthcheck(service: Healthcheck | None, process: Process) -> Healthcheck | None:
    """The image's value for each that the service leaves open; its probe, where that says none."""
    image = process.healthcheck
    if service is not None and service.disabled:
        return service
    if image is None or not image.test:
        return service
    if image.test[0] == "NONE":
        own = Healthcheck(disabled=True)
    else:
        own = Healthcheck(
            Probe("command", _probe_argv(image.test, process.shell)),
            interval_s=image.interval / 1e9 or None,
            timeout_s=image.timeout / 1e9 or None,
            retries=image.retries or None,
            start_period_s=image.start_period / 1e9 or None,
            start_interval_s=image.start_interval / 1e9 or None,
        )
    if service is None:
        return own
    return replace(
        own,
        disabled=own.disabled and service.probe is None,
        probe=service.probe or own.probe,
        interval_s=service.interval_s or own.interval_s,
        timeout_s=service.timeout_s or own.timeout_s,
        retries=service.retries or own.retries,
        start_period_s=service.start_period_s or own.start_period_s,
        start_interval_s=service.start_interval_s or own.start_interval_s,
        on_unhealthy=service.on_unhealthy,
    )


def _probe_argv(test: list[str], shell: list[str] | None) -> tuple[str, ...]:
    if test[0] == "CMD-SHELL":
        return (*(shell or ("/bin/sh", "-c")), *test[1:])
    return tuple(test[1:])


def exposed_ports(exposed: Iterable[str], ports: Iterable[Port]) -> list[Port]:
    """A published port, any of the host, for each `80/tcp` that an image exposes and `ports` has not."""
    taken = {(port.target, port.protocol) for port in ports}
    found = []
    for text in exposed:
        number, _, said = text.partition("/")
        protocol = _PROTOCOLS.get(said or "tcp")
        if protocol is not None and number.isdigit() and (int(number), protocol) not in taken:
            found.append(Port(int(number), protocol))
    return found


def _environment(image: Iterable[str], service: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    pairs = (pair.partition("=") for pair in image)
    merged = {name: value for name, _, value in pairs}
    return tuple(sorted({**merged, **dict(service)}.items()))


def _volumes(process: Process, mounts: tuple[Mount, ...]) -> list[Mount]:
    """An anonymous volume for each VOLUME at which the service mounts nothing itself."""
    taken = {posixpath.normpath(mount.target) for mount in mounts}
    wanted = sorted({posixpath.normpath(path) for path in process.volumes or {}})
    return [Mount("volume", path, None) for path in wanted if path not in taken and path.startswith("/")]
