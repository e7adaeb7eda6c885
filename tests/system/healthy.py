"""Projects given to a supervisor as values, and what it says of them."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from supervising import Supervisor, until

from supervisor.cli.client import Client
from supervisor.core.healthcheck import Healthcheck, Probe
from supervisor.core.model import Project, ServiceSpec

WAITS = 'trap "exit 0" TERM; while :; do sleep 1000 & wait; done'


def shell(script: str, **more: Any) -> Healthcheck:
    """A healthcheck that is quick about it."""
    return Healthcheck(
        Probe("command", ("sh", "-c", script)), **{"interval_s": 0.3, "retries": 2, "timeout_s": 20.0, **more}
    )


def service(name: str, script: str = WAITS, **more: Any) -> ServiceSpec:
    """A service on the host's own root."""
    return ServiceSpec(name, command=("sh", "-c", script), **more)


def api(supervisor: Supervisor) -> Client:
    return Client(str(supervisor.base / "run" / "shipkeeper.sock"))


def up(supervisor: Supervisor, *services: ServiceSpec, timeout_s: float | None = None) -> list[Any]:
    """The lines of an `up` of the project `p`."""
    project = Project("p", str(supervisor.base), services=tuple(sorted(services, key=lambda s: s.name)))
    body = msgspec.json.encode(project)
    return list(api(supervisor).stream("POST", "/projects/p/up", {"timeout": timeout_s}, body))


def last(lines: list[Any], name: str) -> str:
    """What came of a service in the end."""
    return str([line["outcome"] for line in lines if line.get("service") == name][-1])


def inspect(supervisor: Supervisor, name: str) -> dict[str, Any]:
    return dict(json.loads(supervisor.ok("inspect", name))[0])


def health(supervisor: Supervisor, name: str) -> str:
    return str(inspect(supervisor, name)["State"].get("Health", {}).get("Status", "none"))


def becomes(supervisor: Supervisor, name: str, wanted: str) -> None:
    until(lambda: health(supervisor, name) == wanted, f"{name} is {wanted}")
