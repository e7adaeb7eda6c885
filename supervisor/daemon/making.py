"""Instances that nobody knows yet: from a service's definition to what is stored."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from functools import partial
from typing import Any

import msgspec

from supervisor.core.anonymous import name_anonymous
from supervisor.core.model import Project, ServiceSpec
from supervisor.core.reconcile import container_name
from supervisor.core.signals import signal_number
from supervisor.core.state import Instance
from supervisor.daemon.state import Stored
from supervisor.runtime.translate import PlanError


def config_hash(spec: ServiceSpec) -> str:
    """A digest of the definition of a service, as far as it is about one instance."""
    document = msgspec.to_builtins(spec)
    for name in ("auto_remove", "stdin_once", "one_off", "hook_of"):
        del document[name]  # what was stored before there was such a field is what it was
    _drop_unset(document, "ready")
    _drop_unset(document["limits"], "blkio_devices")
    for mount in document["mounts"]:
        _drop_unset(mount, "image")
    for hook in (hook for hooks in document["hooks"].values() for hook in hooks):
        _drop_unset(hook, "image_id", "layers")
    del document["update"]
    document["replicas"] = 1
    return hashlib.sha256(msgspec.json.encode(document)).hexdigest()


def _drop_unset(document: dict[str, Any], *names: str) -> None:
    """Likewise, of what was stored before there were these fields."""
    for name in names:
        if not document[name]:
            del document[name]


def stop_signal(spec: ServiceSpec) -> int:
    """Number of the stop signal; SIGTERM where none is named. Raises PlanError."""
    if spec.stop_signal is None:
        return 15
    number = signal_number(spec.stop_signal)
    if number is None:
        raise PlanError(f"cannot create service {spec.name}: no signal {spec.stop_signal!r} (stop_signal)")
    return number


def new_instance(
    project: Project, spec: ServiceSpec, name: str, before: ServiceSpec | None = None, number: int = 1
) -> Stored:
    """An instance that nobody knows yet. before: of which it has the anonymous volumes. Raises PlanError."""
    instance = Instance(
        secrets.token_hex(32), spec.restart, stop_signal=stop_signal(spec), stop_grace_s=spec.stop_grace_s
    )
    return Stored(
        instance,
        name_anonymous(spec, before, partial(secrets.token_hex, 32)),
        project.name,
        number,
        name,
        time.time(),
        config_hash(spec),
        project.working_dir,
        project.volumes,
    )


def stand_in_name(replaced: str, name: str) -> str:
    """What an instance is called until it takes the place of another (Compose names it so, too).

    replaced: id of that one. name: what it is to be called.
    """
    return f"{replaced[:12]}_{name}"


def own_name(stored: Stored) -> str:
    """What an instance of a project is called when it is no stand-in."""
    return container_name(stored.project, stored.spec, stored.number)


def is_stand_in(stored: Stored) -> bool:
    """Whether it was made to take the place of another one, and has not got there."""
    head, _, name = stored.name.partition("_")
    return (
        bool(stored.project) and re.fullmatch("[0-9a-f]{12}", head) is not None and name == own_name(stored)
    )
