"""What is remembered of networks and endpoints across a reboot: a file for each, replaced as a whole.

`<state>/networks/<name>.json` and `<state>/instances/<id>/network.json`; the second goes with its instance.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import TypeVar

import msgspec

from supervisor.core.endpoints import Endpoint, NetworkRecord
from supervisor.core.paths import Paths
from supervisor.kernel.files import sync_directory

T = TypeVar("T")


class NetworkFiles:
    """Of one state directory. All methods block; all that write raise OSError."""

    def __init__(self, paths: Paths, report: Callable[[str], None]) -> None:
        self._paths = paths
        self._report = report

    def networks(self) -> dict[str, NetworkRecord]:
        """By name. One that cannot be read is reported and left where it is."""
        found = {}
        for name in _names(self._paths.networks):
            if name.endswith(".json"):
                record = self._load(f"{self._paths.networks}/{name}", NetworkRecord)
                if record is not None:
                    found[record.name] = record
        return found

    def endpoints(self) -> dict[str, Endpoint]:
        """By instance."""
        found = {}
        for name in _names(self._paths.instances):
            endpoint = self._load(self._paths.instance(name).network, Endpoint)
            if endpoint is not None:
                found[endpoint.instance] = endpoint
        return found

    def _load(self, path: str, kind: type[T]) -> T | None:
        try:
            with open(path, "rb") as file:
                return msgspec.json.decode(file.read(), type=kind)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            self._report(f"cannot read {path}: {error}; it is left alone")
            return None

    def save_network(self, record: NetworkRecord) -> None:
        """On the disk when this returns."""
        os.makedirs(self._paths.networks, 0o700, exist_ok=True)
        _replace(f"{self._paths.networks}/{record.name}.json", msgspec.json.encode(record))

    def save_endpoint(self, endpoint: Endpoint) -> None:
        """On the disk when this returns."""
        files = self._paths.instance(endpoint.instance)
        os.makedirs(files.base, 0o711, exist_ok=True)
        _replace(files.network, msgspec.json.encode(endpoint))

    def remove_network(self, name: str) -> None:
        """Idempotent."""
        _remove(f"{self._paths.networks}/{name}.json")

    def remove_endpoint(self, instance: str) -> None:
        """Idempotent."""
        _remove(self._paths.instance(instance).network)


def _replace(path: str, data: bytes) -> None:
    new = f"{path}.new"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(new, path)
    sync_directory(os.path.dirname(path))


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
