"""Brings the files of a build here: clones, downloads, unpacks; all below a directory of the caller's.

Child processes have a process group of their own and end with the task that waits for them, so that Ctrl-C
leaves none.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from supervisor.image.archive import unpack
from supervisor.image.sources import Directory, Git, Remote, Source, SourceError, Stdin, is_archive
from supervisor.image.unpacking import ArchiveError, Bounds

_ABBREVIATED = re.compile(r"[0-9a-f]{4,64}")
_CHUNK_BYTES = 1 << 20
_TEXT_BYTES = 4 * 1024 * 1024
_CONNECT_S, _SILENCE_S = 30.0, 120.0

Tell = Callable[[str, int | None, int | None], None]
"""(what is under way, bytes done, bytes in all)."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A context that is here. directory: "" where there is none. dockerfile: where the source is only that.

    local: it is the user's own directory, where `-f` means a path of the host.
    """

    directory: str = ""
    dockerfile: bytes | None = None
    local: bool = False


async def fetch(source: Source, place: str, stdin: int, tell: Tell) -> Fetched:
    """Bring a source below the empty directory `place`. stdin: a descriptor. Raises SourceError."""
    try:
        match source:
            case Directory(path=path):
                if not os.path.isdir(path):
                    what = "it is no directory" if os.path.lexists(path) else "there is no such directory"
                    raise SourceError(f"cannot use the context {path!r}: {what}")
                return Fetched(os.path.abspath(path), local=True)
            case Stdin():
                file = f"{place}/stdin"
                with open(file, "wb") as out:
                    await read_all(stdin, out)
                return await _opened(file, place, "the context on stdin")
            case Git():
                return Fetched(await _clone(source, place, tell))
            case Remote(url=url):
                file = f"{place}/download"
                await _download(url, file, tell)
                return await _opened(file, place, url)
    except ArchiveError as error:
        raise SourceError(str(error)) from error
    except OSError as error:
        raise SourceError(f"cannot fetch the context: {error.strerror or error}: {error.filename}") from error


async def _opened(file: str, place: str, name: str) -> Fetched:
    """A file that is a Dockerfile, or an archive."""
    with open(file, "rb") as content:
        head = content.read(512)
        if not is_archive(head):
            text = head + content.read(_TEXT_BYTES)
            if not text.strip():
                raise SourceError(f"cannot use {name}: it is empty")
            return Fetched(dockerfile=text)
    directory = f"{place}/context"
    os.mkdir(directory, 0o755)
    await asyncio.to_thread(unpack, file, directory, Bounds())
    os.unlink(file)
    return Fetched(directory)


async def read_all(fd: int, out: IO[bytes]) -> None:
    """Copy what a descriptor gives. The thread that reads dies with the process: a terminal never ends."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def end(error: OSError | None) -> None:
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)

    def copy() -> None:
        failed = None
        try:
            while data := os.read(fd, _CHUNK_BYTES):
                if done.cancelled():
                    return
                out.write(data)
        except OSError as error:
            failed = error
        except ValueError:
            return  # whoever waited is gone, and has closed the file
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(end, failed)

    threading.Thread(target=copy, name="stdin", daemon=True).start()
    await done


# --- git ---------------------------------------------------------------------------------------------
async def _clone(git: Git, place: str, tell: Tell) -> str:
    """The files of one commit, without its history; the directory that is the context."""
    tell(f"git clone {git.url}{f'#{git.ref}' if git.ref else ''}", None, None)
    root = f"{place}/repository"
    os.mkdir(root, 0o755)
    await _git(root, "init", "-q", "-b", "context")
    await _git(root, "remote", "add", "origin", git.url)
    wanted = git.ref or "HEAD"
    found = "FETCH_HEAD"
    try:
        await _git(root, "fetch", "-q", "--depth=1", "--no-tags", "origin", wanted, url=git.url)
    except SourceError as error:
        # A server of plain files has no shallow clones, and some servers give only what has a name: then
        # everything is fetched, and a commit looked for in it.
        if "shallow" not in str(error) and not _ABBREVIATED.fullmatch(wanted):
            raise
        everything = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
        try:
            if _ABBREVIATED.fullmatch(wanted):
                await _git(root, "fetch", "-q", "origin", *everything, url=git.url)
                found = wanted
            else:
                await _git(root, "fetch", "-q", "--no-tags", "origin", wanted, url=git.url)
        except SourceError:
            raise error from None
    commit = (await _git(root, "rev-parse", "--verify", f"{found}^{{commit}}")).strip()
    if git.commit and not commit.startswith(git.commit):
        raise SourceError(f"cannot use {git.url}: {git.ref} is commit {commit}, not {git.commit}")
    await _git(root, "-c", "advice.detachedHead=false", "checkout", "-q", commit)
    if os.path.lexists(f"{root}/.gitmodules"):
        await _git(root, "submodule", "update", "-q", "--init", "--recursive", "--depth=1", url=git.url)
    tell(f"commit {commit}", None, None)
    await asyncio.to_thread(_remove_git, root)
    directory = os.path.realpath(f"{root}/{git.subdir}")
    if os.path.commonpath([directory, os.path.realpath(root)]) != os.path.realpath(root):
        raise SourceError(f"cannot use {git.url}: the directory {git.subdir!r} leaves the repository")
    if not os.path.isdir(directory):
        raise SourceError(
            f"cannot use {git.url}: there is no directory {git.subdir!r} at {git.ref or 'HEAD'}"
        )
    return directory


def _remove_git(root: str) -> None:
    shutil.rmtree(f"{root}/.git")


async def _git(root: str, *arguments: str, url: str = "") -> str:
    """Run git there; its output. Never asks anybody. Raises SourceError with what git says."""
    protocols = "http:https:git:ssh" + (":file" if url.startswith("file:") else "")
    environment = {
        **os.environ,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": protocols,  # a repository names its submodules itself
        "GIT_SSH_COMMAND": os.environ.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"),
        "LC_ALL": "C.UTF-8",
    }
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        environment.pop(name, None)
    try:
        child = await asyncio.create_subprocess_exec(
            "git",
            "-C",
            root,
            *arguments,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            process_group=0,
        )
    except FileNotFoundError:
        raise SourceError("cannot clone a repository: there is no git on this host; install it") from None
    try:
        output, complaints = await child.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()
        raise
    if child.returncode != 0:
        said = [line.strip() for line in complaints.decode("utf-8", "replace").splitlines() if line.strip()]
        told = next(
            (line for line in said if line.startswith(("fatal:", "error:"))), said[-1] if said else ""
        )
        raise SourceError(f"cannot clone {url or root}: {told or f'git ended with {child.returncode}'}")
    return output.decode("utf-8", "replace")


# --- downloads ---------------------------------------------------------------------------------------
async def _download(url: str, file: str, tell: Tell) -> None:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True, auto_decompress=False) as session,
            session.get(url, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            if answer.status >= 400:
                raise SourceError(f"cannot fetch {url}: the server answers {answer.status} {answer.reason}")
            done = 0
            with open(file, "wb") as out:
                async for data in answer.content.iter_chunked(_CHUNK_BYTES):
                    out.write(data)
                    done += len(data)
                    tell(f"fetching {url}", done, answer.content_length)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise SourceError(f"cannot fetch {url}: {error or 'no answer in time'}") from error
