"""`RUN --mount`: what lies ready on the disk before a step runs, and is gone, or kept as a cache, after it.

Caches are `<store>/build/mounts/<digest of the id>`, held by flock where they are not shared.
Source of the rules: Dockerfile reference, "RUN --mount".
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from supervisor.image.builder.progress import BuildError
from supervisor.image.builder.request import Secret
from supervisor.image.builder.runner import BindMount, OverlayMount, RunMount, TmpfsMount
from supervisor.image.builder.session import Session
from supervisor.image.builder.ssh import AgentProxy, agent_socket
from supervisor.image.dockerfile.instructions import Mount
from supervisor.kernel.locks import try_lock

_LOOK_AGAIN_S = 0.05
_MOST_BYTES = 500 * 1024  # of a secret, as in BuildKit


@dataclass(slots=True)
class Mounting:
    """The mounts of one step, as they are made. Close it when the step has ended."""

    session: Session
    store_root: str
    where: str
    mounts: list[RunMount] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def close(self) -> None:
        """Let go of caches and agents."""
        await self._stack.aclose()

    def tmpfs(self, mount: Mount) -> None:
        """`type=tmpfs`."""
        self.mounts.append(TmpfsMount(mount.target, mount.size_bytes))

    def layers(self, mount: Mount, directories: tuple[str, ...], file: str = "") -> None:
        """`type=bind` of a directory, as the directories that are merged there; or of a file."""
        if file:
            self.mounts.append(BindMount(mount.target, file))
        elif mount.read_only:
            empty = self.session.directory()
            self.mounts.append(OverlayMount(mount.target, (*directories, empty)))
        else:
            upper, work = self.session.directory(), self.session.directory()
            self.mounts.append(OverlayMount(mount.target, directories, upper, work))

    def script(self, name: str, text: str) -> None:
        """A heredoc that is a program of its own."""
        path = f"{self.session.directory()}/script"
        Path(path).write_text(text, encoding="utf-8")
        Path(path).chmod(0o755)
        self.mounts.append(BindMount(f"/dev/pipes/{name}", path))

    # --- secrets and agents ---------------------------------------------------------------------
    def secret(self, mount: Mount, secrets: Mapping[str, Secret]) -> None:
        """`type=secret`. Raises BuildError, where it is required and not there."""
        secret = secrets.get(mount.id)
        if secret is None:
            if mount.required:
                raise BuildError(
                    f"{self.where}: secret {mount.id} is required, and was not given; add"
                    f" --secret id={mount.id},src=FILE"
                )
            return
        data = self._read(secret)
        if mount.env:
            self.env[mount.env] = data.decode("utf-8", "surrogateescape")
        if mount.target:
            path = self.session.in_memory()
            with open(path, "xb") as file:
                file.write(data)
            os.chown(path, mount.uid or 0, mount.gid or 0)
            Path(path).chmod(0o400 if mount.mode is None else mount.mode)
            self.mounts.append(BindMount(mount.target, path))

    def _read(self, secret: Secret) -> bytes:
        if secret.env:
            value = os.environb.get(os.fsencode(secret.env))
            if value is None:
                raise BuildError(
                    f"{self.where}: cannot read secret {secret.id}: the variable {secret.env} is not set"
                )
            return value
        try:
            with open(secret.path, "rb") as file:
                data = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise BuildError(
                f"{self.where}: cannot read secret {secret.id} from {secret.path}: {error.strerror}"
            ) from error
        if len(data) > _MOST_BYTES:
            raise BuildError(
                f"{self.where}: cannot use secret {secret.id}: it has more than {_MOST_BYTES} bytes"
            )
        return data

    async def ssh(self, mount: Mount, agents: Mapping[str, tuple[str, ...]], number: int) -> None:
        """`type=ssh`. agents: paths by id; () is the agent of the environment. Raises BuildError."""
        paths = agents.get(mount.id)
        if paths is None:
            if mount.required:
                raise BuildError(
                    f"{self.where}: SSH agent {mount.id} is required, and was not given; add --ssh {mount.id}"
                )
            return
        target = mount.target or f"/run/buildkit/ssh_agent.{number}"
        far = await self._stack.enter_async_context(agent_socket(paths, self.session.in_memory(), self.where))
        proxy = AgentProxy(far, self.session.in_memory())
        await self._stack.enter_async_context(
            proxy.serving(mount.uid or 0, mount.gid or 0, 0o600 if mount.mode is None else mount.mode)
        )
        self.mounts.append(BindMount(target, proxy.path, read_only=False))
        self.env.setdefault("SSH_AUTH_SOCK", target)

    # --- caches ---------------------------------------------------------------------------------
    async def cache(self, mount: Mount) -> str | None:
        """`type=cache`; the directory if it is new, and is to be filled by the caller."""
        parent = f"{self.store_root}/build/mounts"
        os.makedirs(parent, 0o700, exist_ok=True)
        name = hashlib.sha256(mount.id.encode()).hexdigest()
        place = f"{parent}/{name}"
        if mount.sharing == "private":
            for number in range(1_000_000):
                place = f"{parent}/{name}{f'-{number}' if number else ''}"
                if self._hold(place, fcntl.LOCK_EX):
                    break
        else:
            how = fcntl.LOCK_EX if mount.sharing == "locked" else fcntl.LOCK_SH
            while not self._hold(place, how):
                await asyncio.sleep(_LOOK_AGAIN_S)
        new = not os.path.isdir(place)
        if new:
            os.makedirs(place, exist_ok=True)
            os.chown(place, mount.uid or 0, mount.gid or 0)
            Path(place).chmod(0o755 if mount.mode is None else mount.mode)
        self.mounts.append(BindMount(mount.target, place, read_only=mount.read_only))
        return place if new else None

    def _hold(self, place: str, how: int) -> bool:
        fd = try_lock(f"{place}.lock", how)
        if fd is None:
            return False
        self._stack.callback(os.close, fd)
        return True
