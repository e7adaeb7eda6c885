"""What instructions that touch no file make of an image's configuration. Pure.

Source of the rules: BuildKit, frontend/dockerfile/dockerfile2llb/convert.go (dispatchEntrypoint, dispatchCmd,
dispatchHealthcheck and so on), as the Dockerfile reference tells them.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping

import msgspec

from supervisor.core.problems import Mark
from supervisor.image.builder.progress import BuildError
from supervisor.image.builder.scope import at
from supervisor.image.config import Health, Process
from supervisor.image.dockerfile import instructions as ins

DEFAULT_SHELL = ("/bin/sh", "-c")

_PORTS = re.compile(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?")


def changed(process: Process, **fields: object) -> Process:
    """The configuration with other values."""
    return msgspec.structs.replace(process, **fields)


def shell_of(process: Process) -> tuple[str, ...]:
    """What runs commands in shell form."""
    return tuple(process.shell or DEFAULT_SHELL)


def argv_of(command: ins.Command, process: Process) -> list[str]:
    """The vector of a command in either form."""
    if command.form == "exec":
        return list(command.words)
    return [*shell_of(process), command.text] if command.words else []


def environment(process: Process) -> dict[str, str]:
    """Its variables by name."""
    return {name: value for name, _, value in (pair.partition("=") for pair in process.env or ())}


def with_environment(process: Process, pairs: Iterable[tuple[str, str]]) -> Process:
    """More variables; one that is there keeps its place."""
    merged = {**environment(process), **dict(pairs)}
    return changed(process, env=[f"{name}={value}" for name, value in merged.items()])


def with_labels(process: Process, labels: Mapping[str, str]) -> Process:
    """More labels."""
    return changed(process, labels={**(process.labels or {}), **labels}) if labels else process


def with_command(process: Process, command: ins.Command) -> Process:
    """CMD. An empty one takes an inherited one away."""
    return changed(process, cmd=argv_of(command, process) or None)


def with_entrypoint(process: Process, command: ins.Command, *, own_command: bool) -> Process:
    """ENTRYPOINT resets a CMD of the base, not one of this stage (own_command)."""
    reset = process if own_command else changed(process, cmd=None)
    return changed(reset, entrypoint=argv_of(command, process) or None)


def with_ports(process: Process, texts: Iterable[str], mark: Mark) -> Process:
    """EXPOSE. Raises BuildError."""
    ports = dict(process.exposed_ports or {})
    for text in texts:
        match = _PORTS.fullmatch(text.lower())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if match is None or not 0 < first <= last <= 65535:
            raise BuildError(f"{at(mark)}: invalid port {text!r} in EXPOSE; write 80, 80/udp or 8000-8010")
        ports.update({f"{port}/{match[3] or 'tcp'}": {} for port in range(first, last + 1)})
    return changed(process, exposed_ports=dict(sorted(ports.items())))


def with_volumes(process: Process, paths: Iterable[str], mark: Mark) -> Process:
    """VOLUME. Raises BuildError."""
    volumes = dict(process.volumes or {})
    for path in paths:
        if not path.strip():
            raise BuildError(f"{at(mark)}: VOLUME specified can not be an empty string")
        volumes[path] = {}
    return changed(process, volumes=dict(sorted(volumes.items())))


def working_directory(process: Process, path: str) -> str:
    """WORKDIR: relative to the one before."""
    return "/" + posixpath.normpath(posixpath.join(process.working_dir or "/", path)).strip("/")


def with_health(process: Process, check: ins.Healthcheck) -> Process:
    """HEALTHCHECK."""
    if check.command is None:
        return changed(process, healthcheck=Health(["NONE"]))
    kind = "CMD" if check.command.form == "exec" else "CMD-SHELL"
    return changed(
        process,
        healthcheck=Health(
            [kind, *check.command.words],
            interval=check.interval_ns or 0,
            timeout=check.timeout_ns or 0,
            start_period=check.start_period_ns or 0,
            start_interval=check.start_interval_ns or 0,
            retries=check.retries or 0,
        ),
    )
