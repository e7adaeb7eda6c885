"""`RUN --mount=type=ssh`: an agent, the user's or one with given keys, behind a socket of the step's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

from supervisor.image.builder.progress import BuildError


class AgentProxy:
    """A socket with an owner and mode of its own that leads to an agent. The user's stays as it is."""

    def __init__(self, far: str, path: str) -> None:
        """far: the agent's socket. path: where ours will be."""
        self._far = far
        self.path = path
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serving(self, uid: int, gid: int, mode: int) -> AsyncIterator[None]:
        """While the context lasts."""
        server = await asyncio.start_unix_server(self._connected, self.path)
        try:
            os.chown(self.path, uid, gid)
            Path(self.path).chmod(mode)
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(self._far)
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, far_writer))
                both.create_task(_pump(far_reader, writer))
        except* (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def agent_socket(paths: tuple[str, ...], place: str, where: str) -> AsyncIterator[str]:
    """The socket of an agent: a given one, the environment's, or that of one which has the given keys.

    Raises BuildError.
    """
    found = paths or ((os.environ["SSH_AUTH_SOCK"],) if os.environ.get("SSH_AUTH_SOCK") else ())
    if not found:
        raise BuildError(
            f"{where}: cannot use the SSH agent: SSH_AUTH_SOCK is not set; add --ssh default=KEY"
        )
    if len(found) == 1 and _is_socket(found[0]):
        yield found[0]
        return
    quiet = {"stdout": asyncio.subprocess.DEVNULL, "stderr": asyncio.subprocess.PIPE}
    try:
        agent = await asyncio.create_subprocess_exec("ssh-agent", "-D", "-a", place, **quiet)  # type: ignore[arg-type]  # as typeshed has it
    except FileNotFoundError:
        raise BuildError(
            f"{where}: cannot use SSH keys: there is no ssh-agent; install openssh-client"
        ) from None
    try:
        while not os.path.exists(place) and agent.returncode is None:
            await asyncio.sleep(0.01)
        environment = {**os.environ, "SSH_AUTH_SOCK": place, "SSH_ASKPASS_REQUIRE": "never"}
        adding = await asyncio.create_subprocess_exec(
            "ssh-add",
            *found,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            **quiet,  # type: ignore[arg-type]
        )
        _, problem = await adding.communicate()
        if adding.returncode:
            raise BuildError(f"{where}: cannot use SSH keys: {problem.decode(errors='replace').strip()}")
        yield place
    finally:
        if agent.returncode is None:
            agent.terminate()
            await agent.wait()


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
