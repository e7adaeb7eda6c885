"""The core's dataclasses as JSON for the state database, and back.

msgspec does the fields; what it cannot know, which class of a closed union a value is, stands beside them
as `kind`. An unknown kind or field, from another version, is a RecordError, never a guess.
"""

from __future__ import annotations

from typing import Any

import msgspec

from supervisor.core.exits import Ending, Exit, SpawnFailure
from supervisor.core.model import RestartRules, ServiceSpec, Volume
from supervisor.core.restart import History
from supervisor.core.state import (
    Created,
    Health,
    Instance,
    Phase,
    Resting,
    Running,
    Starting,
    Stopping,
    Waiting,
)

_PHASES = {kind.__name__: kind for kind in (Created, Starting, Running, Stopping, Waiting, Resting)}
_ENDINGS = {kind.__name__: kind for kind in (Exit, SpawnFailure)}


class _Rest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of an Instance that are plain values."""

    id: str
    stop_signal: int
    stop_grace_s: float
    wanted: bool
    run: int
    timer: int
    started_before: bool
    manually_stopped: bool
    reason: str
    health: Health = ""
    probed: Health = ""
    ready: Health = ""


class RecordError(Exception):
    """A stored record that this version cannot read."""


def save_instance(instance: Instance) -> bytes:
    """The instance as JSON; `load_instance` gives an equal one."""
    document: dict[str, Any] = msgspec.to_builtins(instance)
    document["phase"] = _tagged(instance.phase)
    document["last"] = None if instance.last is None else _tagged(instance.last)
    return msgspec.json.encode(document)


def load_instance(text: bytes) -> Instance:
    """Raises RecordError."""
    try:
        document: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
        last = document.pop("last")
        unions: dict[str, Any] = {
            "phase": _untagged(document.pop("phase"), _PHASES),
            "last": None if last is None else _untagged(last, _ENDINGS),
            "rules": msgspec.convert(document.pop("rules"), RestartRules),
            "history": msgspec.convert(document.pop("history"), History),
        }
        rest = msgspec.convert(document, _Rest)
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"cannot read a stored instance: {error}") from error
    return Instance(**unions, **msgspec.structs.asdict(rest))


def save_ending(ending: Ending) -> bytes:
    """An ending as JSON."""
    return msgspec.json.encode(_tagged(ending))


def load_ending(text: bytes) -> Ending:
    """Raises RecordError."""
    try:
        ending = _untagged(msgspec.json.decode(text, type=dict[str, Any]), _ENDINGS)
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise RecordError(f"cannot read a stored ending: {error}") from error
    assert isinstance(ending, Exit | SpawnFailure)
    return ending


def save_spec(spec: ServiceSpec) -> bytes:
    """A service definition as JSON."""
    return msgspec.json.encode(spec)


def load_spec(text: bytes) -> ServiceSpec:
    """Raises RecordError."""
    try:
        return msgspec.json.decode(text, type=ServiceSpec)
    except msgspec.MsgspecError as error:
        raise RecordError(f"cannot read a stored service definition: {error}") from error


def save_volumes(volumes: tuple[Volume, ...]) -> bytes:
    """The volumes that an instance's project declares, as JSON."""
    return msgspec.json.encode(volumes)


def load_volumes(text: bytes) -> tuple[Volume, ...]:
    """Raises RecordError."""
    try:
        return msgspec.json.decode(text, type=tuple[Volume, ...])
    except msgspec.MsgspecError as error:
        raise RecordError(f"cannot read stored volumes: {error}") from error


def _tagged(value: Phase | Ending) -> dict[str, Any]:
    return {"kind": type(value).__name__, **msgspec.to_builtins(value)}


def _untagged(document: dict[str, Any], kinds: dict[str, Any]) -> Any:
    return msgspec.convert(document, kinds[document.pop("kind")])
