"""Files of an instance as tar archives: Docker's archive endpoints, and export.

Disk and tar are the work of a thread; it and the connection are joined by a pair of sockets, so that neither
runs ahead of the other. An error before the first byte is an answer; after it, the connection is cut.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import posixpath
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import IO, cast

from aiohttp import web

from supervisor.api.lookup import find_here, flag
from supervisor.api.roots import in_root, in_root_alone
from supervisor.daemon.app import Daemon
from supervisor.image.unpacking import ArchiveError
from supervisor.runtime.rootfiles import Found, find, read_tar, remove, write_tar
from supervisor.runtime.rootowners import owner_in

_CHUNK_BYTES = 256 * 1024
_TAR = "application/x-tar"
_Tell = Callable[[dict[str, str]], object]
_Work = Callable[[IO[bytes], _Tell], Awaitable[None]]

# Go's FileMode, as Docker's clients have it (io/fs): https://pkg.go.dev/io/fs#FileMode
_GO_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
}
_GO_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


def routes(daemon: Daemon) -> list[web.RouteDef]:
    """/containers/{name}/archive and export."""
    handlers = _Handlers(daemon)
    return [
        web.get("/containers/{name}/archive", handlers.get),  # and HEAD
        web.put("/containers/{name}/archive", handlers.put),
        web.delete("/containers/{name}/archive", handlers.delete),
        web.get("/containers/{name}/export", handlers.export),
    ]


class _Handlers:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    async def get(self, request: web.Request) -> web.StreamResponse:
        """What is at ?path, as an archive; for HEAD only what it is, in a header, as Docker has it."""
        entry, path = find_here(self._daemon.engine, request), _path(request)
        if request.method == "HEAD":
            with _errors(f"look at {path} in {entry.stored.name}"):
                found = await in_root(self._daemon, entry, lambda view: find(view.root, path))
            return web.Response(headers=_headers(found))

        async def work(out: IO[bytes], tell: _Tell) -> None:
            def write(root: int, hidden: frozenset[int]) -> None:
                with out:
                    tell(_headers(find(root, path)))
                    write_tar(root, path, out, hidden)

            await in_root(self._daemon, entry, lambda view: write(view.root, view.hidden))

        with _errors(f"copy {path} from {entry.stored.name}"):
            return await _sent(request, work)

    async def put(self, request: web.Request) -> web.Response:
        """Unpack the body into the directory ?path; ?noOverwriteDirNonDir, ?copyUIDGID as Docker's."""
        entry, path = find_here(self._daemon.engine, request), _path(request)
        keep_kinds = flag(request, "noOverwriteDirNonDir")
        user = (entry.stored.spec.user or "") if flag(request, "copyUIDGID") else ""

        def work(root: int, stream: IO[bytes]) -> None:
            with stream:
                owner = owner_in(root, user) if user else None
                read_tar(root, path, stream, keep_kinds=keep_kinds, owner=owner)

        with _errors(f"copy into {path} of {entry.stored.name}"):
            async with _received(request) as stream:
                await in_root(self._daemon, entry, lambda view: work(view.root, stream), writable=True)
        return web.Response()

    async def delete(self, request: web.Request) -> web.Response:
        """Remove what is at each ?path, given any number of times; what is not there is no error. Ours."""
        entry = find_here(self._daemon.engine, request)
        paths = [_clean(path) for path in request.query.getall("path", [])]

        def work(root: int) -> None:
            for path in paths:
                remove(root, path)

        with _errors(f"remove files of {entry.stored.name}"):
            await in_root(self._daemon, entry, lambda view: work(view.root), writable=True)
        return web.Response(status=204)

    async def export(self, request: web.Request) -> web.StreamResponse:
        """All of the root, without what is mounted in it."""
        entry = find_here(self._daemon.engine, request)

        async def work(out: IO[bytes], tell: _Tell) -> None:
            def write(root: int) -> None:
                with out:
                    tell({})
                    write_tar(root, "/", out)

            await in_root_alone(self._daemon, entry, write)

        with _errors(f"export {entry.stored.name}"):
            return await _sent(request, work)


def _path(request: web.Request) -> str:
    """?path: absolute, a `/` or `/.` at its end kept, for it means something (moby, pkg/archive/copy.go)."""
    return _clean(request.query.get("path", ""))


def _clean(given: str) -> str:
    if not given or "\0" in given:
        raise web.HTTPBadRequest(text="cannot copy: give the path in the service as ?path=")
    clean = "/" + posixpath.normpath("/" + given).strip("/")
    if clean != "/":
        clean += "/." if given.endswith("/.") else "/" if given.endswith("/") else ""
    return clean


def _headers(found: Found) -> dict[str, str]:
    mode = stat.S_IMODE(found.mode) & 0o777 | _GO_KINDS.get(stat.S_IFMT(found.mode), 0)
    mode |= sum(go for bit, go in _GO_BITS.items() if found.mode & bit)
    moment = datetime.fromtimestamp(found.mtime_ns // 1_000_000_000, UTC)
    document = {
        "name": found.name,
        "size": found.size,
        "mode": mode,
        "mtime": moment.isoformat().replace("+00:00", "Z"),
        "linkTarget": found.target,
    }
    return {"X-Docker-Container-Path-Stat": base64.b64encode(json.dumps(document).encode()).decode()}


class _errors:  # noqa: N801 - used as a function
    """What the thread raised, as an answer. A class, as it is around `await`."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ArchiveError):
            raise web.HTTPBadRequest(text=f"cannot {self._what}: {error}") from error
        if isinstance(error, ConnectionError) or not isinstance(error, OSError | RecursionError):
            return
        text = f"cannot {self._what}: {getattr(error, 'strerror', None) or error}"
        match error:
            case FileNotFoundError():
                raise web.HTTPNotFound(text=text) from error
            case NotADirectoryError() | IsADirectoryError():
                raise web.HTTPBadRequest(text=text) from error
            case OSError(errno=errno.EROFS):
                raise web.HTTPForbidden(text=f"{text}; copy into a volume instead") from error
            case _:
                raise web.HTTPInternalServerError(text=text) from error


async def _sent(request: web.Request, work: _Work) -> web.StreamResponse:
    """The answer that `work` writes from its thread, once it has told the headers."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    begun: asyncio.Future[dict[str, str]] = loop.create_future()

    def begin(headers: dict[str, str]) -> None:
        if not begun.done():
            begun.set_result(headers)

    async def all_of_it() -> None:
        with theirs:
            # The thread closes it, and so waits for the reader; here that would be a deadlock.
            out = cast("IO[bytes]", theirs.makefile("wb", buffering=_CHUNK_BYTES))
            await work(out, lambda headers: loop.call_soon_threadsafe(begin, headers))

    task = asyncio.ensure_future(all_of_it())
    task.add_done_callback(lambda _: begun.cancel())  # without an effect, if the head was told
    try:
        await asyncio.wait({begun})
        if begun.cancelled():
            await task  # it failed before the head
        response = web.StreamResponse(headers={"Content-Type": _TAR, **begun.result()})
        await response.prepare(request)
        while data := await loop.sock_recv(ours, _CHUNK_BYTES):
            await response.write(data)
        await asyncio.wait({task})
        if task.exception() is not None and request.transport is not None:
            request.transport.abort()  # half an archive must not look like a whole one
            raise ConnectionResetError
        await response.write_eof()
        return response
    finally:
        ours.close()  # a thread that still writes ends by that
        begun.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def _received(request: web.Request) -> AsyncIterator[IO[bytes]]:
    """The body of a request, for a thread to read."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    async def feed() -> None:
        with ours:
            async for chunk in request.content.iter_chunked(_CHUNK_BYTES):
                await loop.sock_sendall(ours, chunk)

    task = asyncio.ensure_future(feed())
    try:
        with theirs:
            yield cast("IO[bytes]", theirs.makefile("rb", buffering=_CHUNK_BYTES))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
