"""ADD of what is elsewhere: files by URL, repositories by git. Fetched anew in each build, and then compared.

Source of the rules: Dockerfile reference, "ADD" ("Adding files from a URL", "... from a Git repository").
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import posixpath
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from supervisor.image.builder.progress import BuildError
from supervisor.image.builder.session import Session
from supervisor.image.builder.trees import DirectoryTree

_GIT = re.compile(
    r"(?:git://|ssh://|git@)\S+|https?://[^\s#?]+\.git(?:#\S*)?|file://\S+\.git(?:#\S*)?", re.ASCII
)
_URL = re.compile(r"https?://\S+", re.ASCII)
_CHECKSUM = re.compile(r"sha256:[a-f0-9]{64}")
_CHUNK_BYTES = 1024 * 1024
_CONNECT_S, _SILENCE_S = 30.0, 60.0


@dataclass(frozen=True, slots=True)
class Remote:
    """What was fetched: a path in a tree."""

    tree: DirectoryTree
    path: str


def is_remote(text: str) -> bool:
    """Whether a source of ADD is not in the context."""
    return bool(_GIT.fullmatch(text) or _URL.fullmatch(text))


async def fetch_remote(
    text: str,
    session: Session,
    note: Callable[[str], None],
    where: str,
    *,
    checksum: str = "",
    keep_git_dir: bool = False,
) -> Remote:
    """Fetch a source. checksum: of the file, or the commit. Raises BuildError."""
    place = session.directory()
    if _GIT.fullmatch(text):
        note(f"git clone {text}")
        await _clone(text, place, where, commit=checksum, keep_git_dir=keep_git_dir)
        return Remote(DirectoryTree(place), ".")
    if checksum and not _CHECKSUM.fullmatch(checksum):
        raise BuildError(f"{where}: cannot use --checksum={checksum}: write sha256: and 64 hex digits")
    name = unquote(posixpath.basename(urlsplit(text).path))
    if not name or "/" in name or name in (".", ".."):
        raise BuildError(f"{where}: cannot add {text}: its path names no file; end the URL with one")
    note(f"downloading {text}")
    found = await _download(text, f"{place}/{name}", where)
    if checksum and found != checksum:
        raise BuildError(f"{where}: cannot add {text}: its digest is {found}, and not {checksum}")
    Path(f"{place}/{name}").chmod(0o600)
    return Remote(DirectoryTree(place), name)


async def _download(url: str, file: str, where: str) -> str:
    import aiohttp  # a tenth of a second that other builds need not wait for

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_SILENCE_S)
    digest = hashlib.sha256()
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True, auto_decompress=False) as session,
            session.get(url, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            if answer.status != 200:
                raise BuildError(
                    f"{where}: cannot add {url}: the server says {answer.status} {answer.reason}"
                )
            with open(file, "xb") as out:
                async for data in answer.content.iter_chunked(_CHUNK_BYTES):
                    digest.update(data)
                    out.write(data)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise BuildError(f"{where}: cannot add {url}: {error or 'no answer in time'}") from error
    return f"sha256:{digest.hexdigest()}"


async def _clone(text: str, place: str, where: str, *, commit: str, keep_git_dir: bool) -> None:
    url, _, fragment = text.partition("#")
    ref, _, subdirectory = fragment.partition(":")
    if url.startswith("file:"):
        raise BuildError(
            f"{where}: cannot add {text}: a Dockerfile reads no repository of the host; copy it into the"
            " context, or name it with --build-context"
        )
    if ref.startswith("-"):  # --upload-pack=PROGRAM would be run here
        raise BuildError(f"{where}: cannot add {text}: a ref does not begin with -")
    repository = f"{place}/.clone"
    os.mkdir(repository)
    run = _Git(repository, text, where, os.path.dirname(place))
    await run("init", "-q")
    await run("remote", "add", "origin", "--", url)
    await run("fetch", "-q", "--depth", "1", "--", "origin", ref or "HEAD")
    await run("checkout", "-q", "FETCH_HEAD")
    found = (await run("rev-parse", "HEAD")).strip()
    if commit and not found.startswith(commit):
        raise BuildError(f"{where}: cannot add {text}: its commit is {found}, and not {commit}")
    await run("submodule", "update", "-q", "--init", "--recursive", "--depth", "1")
    if not keep_git_dir:
        shutil.rmtree(f"{repository}/.git")
    wanted = os.path.realpath(f"{repository}/{subdirectory}")
    if not f"{wanted}/".startswith(f"{os.path.realpath(repository)}/") or not os.path.isdir(wanted):
        raise BuildError(f"{where}: cannot add {text}: it has no directory {subdirectory}")
    for name in os.listdir(wanted):
        os.rename(f"{wanted}/{name}", f"{place}/{name}")
    shutil.rmtree(repository)
    for directory, names, files in os.walk(place):  # as git says them, whatever the umask is
        for name in (*names, *files):
            path = f"{directory}/{name}"
            if not os.path.islink(path):
                executable = name in names or os.stat(path).st_mode & 0o100
                Path(path).chmod(0o755 if executable else 0o644)


@dataclass(frozen=True, slots=True)
class _Git:
    directory: str
    text: str
    where: str
    home: str

    async def __call__(self, *arguments: str) -> str:
        environment = {
            **os.environ,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "http:https:git:ssh",
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        try:
            process = await asyncio.create_subprocess_exec(
                "git",
                "-c",
                "advice.detachedHead=false",
                *arguments,
                cwd=self.directory,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise BuildError(f"{self.where}: cannot add {self.text}: there is no git; install it") from None
        try:
            out, problem = await process.communicate()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)
                await process.wait()
        if process.returncode:
            lines = problem.decode(errors="replace").strip().splitlines() or ["git failed"]
            raise BuildError(f"{self.where}: cannot add {self.text}: {lines[-1]}")
        return out.decode(errors="replace")
