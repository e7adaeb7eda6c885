"""What steps made before: from the key of a step to the layer that it became.

On the disk, `<store>/build/steps/<key>` names a layer, or is empty where a step changed nothing. A key is the
digest of all that the result depends on, with the layers below by what they are, not by how they came about.
A file is whole or not there; one whose layer is gone counts for nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Sequence

from supervisor.image.config import digest_of
from supervisor.image.layers import Layers
from supervisor.image.store import ImageStore
from supervisor.kernel.locks import try_lock

_FORMAT = 1


def chain_id(diff_ids: Sequence[str]) -> str:
    """What layers over one another are (OCI, config.md, "Layer ChainID"); "scratch" for none."""
    found = ""
    for diff_id in diff_ids:
        found = digest_of(f"{found} {diff_id}".encode()) if found else diff_id
    return found or "scratch"


def step_key(
    diff_ids: Sequence[str], operation: str, contents: Sequence[str], platform: str, epoch_s: int
) -> str:
    """The key of a step on those layers. contents: digests of what it copies or mounts."""
    text = json.dumps([_FORMAT, chain_id(diff_ids), operation, list(contents), platform, epoch_s])
    return hashlib.sha256(text.encode()).hexdigest()


class StepCache:
    """See the module. Safe for several builds at once. All raise OSError."""

    def __init__(self, store_root: str, layers: Layers) -> None:
        """`store_root` exists."""
        self._place = f"{store_root}/build/steps"
        self._layers = layers

    def find(self, key: str) -> str | None:
        """The layer (diff id) of a step, "" where it changed nothing; None if it is not known."""
        path = f"{self._place}/{key}"
        try:
            with open(path, encoding="ascii") as file:
                diff_id = file.read()
        except FileNotFoundError:
            return None
        if diff_id and not (diff_id.startswith("sha256:") and self._layers.find(diff_id) is not None):
            return None
        return diff_id

    def keep(self, key: str, diff_id: str) -> None:
        """Note the layer of a step. After a loss of power the note may be missing, never wrong."""
        os.makedirs(self._place, 0o700, exist_ok=True)
        new = f"{self._place}/.{secrets.token_hex(8)}"
        with open(new, "x", encoding="ascii") as file:
            file.write(diff_id)
        os.rename(new, f"{self._place}/{key}")

    def kept_layers(self) -> frozenset[str]:
        """The layers that the cache stands on: `prune` of the store leaves them."""
        found = set()
        for name in self._names():
            with (
                contextlib.suppress(FileNotFoundError),
                open(f"{self._place}/{name}", encoding="ascii") as file,
            ):
                found.add(file.read())
        return frozenset(found - {""})

    def forget(self) -> int:
        """Drop all entries; how many there were. Their layers go with `prune`."""
        gone = 0
        for name in self._names():
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._place}/{name}")
                gone += 1
        return gone

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._place))
        except FileNotFoundError:
            return []


def forget_builds(store: ImageStore) -> int:
    """Drop all that builds keep for the next one, but for what one under way uses; bytes that are free now.

    Of steps only the notes: their layers go with `prune` of the store. Raises OSError.
    """
    StepCache(store.root, store.layers).forget()
    parent = f"{store.root}/build/mounts"
    freed = 0
    for name in sorted(os.listdir(parent)) if os.path.isdir(parent) else ():
        if not name.endswith(".lock"):
            continue
        lock = try_lock(f"{parent}/{name}", make=False)
        if lock is None:
            continue  # a step has it mounted
        try:
            place = f"{parent}/{name.removesuffix('.lock')}"
            freed += bytes_of(place)
            shutil.rmtree(place, ignore_errors=True)  # the lock file stays: somebody may be waiting for it
        finally:
            os.close(lock)
    return freed


def bytes_of(root: str) -> int:
    """What the disk has allotted to a directory and all in it; 0 where there is none."""
    found = 0
    for directory, _, files in os.walk(root):
        for name in files:
            with contextlib.suppress(OSError):
                found += os.lstat(f"{directory}/{name}").st_blocks * 512
    return found
