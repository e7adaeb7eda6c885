"""RUN: what the step mounts, the process, and what it wrote as a layer."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING

from supervisor.image.builder.layering import Layering, Place, Source
from supervisor.image.builder.progress import BuildError
from supervisor.image.builder.runner import RunRequest
from supervisor.image.builder.selecting import Taken, digest, select
from supervisor.image.builder.steps import CopyOp, RunOp
from supervisor.image.builder.writing import LayerWriter
from supervisor.image.dockerfile.instructions import Mount
from supervisor.image.layerstack import LayerStack

if TYPE_CHECKING:
    from supervisor.image.builder.mounting import Mounting

_LAST_BYTES = 4096
_TAKES = ("bind", "cache")


async def run(layering: Layering, place: Place, operation: RunOp) -> str:
    """The layer of a RUN. Raises BuildError."""
    if operation.insecure and not layering.request.allows_insecure:
        # Before the cache is asked: what a Dockerfile may do must not depend on what was built before.
        raise BuildError(
            f"{place.where}: cannot run with --security=insecure: the Dockerfile would get all of the host;"
            " if you trust it, add --allow security.insecure"
        )
    sources = [
        (mount, await place.find(mount.origin))
        for mount in operation.mounts
        if mount.kind == "bind" or (mount.kind == "cache" and mount.origin)
    ]
    contents = [await _identity(layering, place, mount, source) for mount, source in sources]
    key = layering.key(place.diff_ids, operation.key, contents)
    if (found := layering.known(place, key)) is not None:
        return found
    async with layering.making(place, key) as found:
        if found is not None:
            return found
        return layering.keep([key], await layering.adopt(await _made(layering, place, operation, sources)))


async def _made(
    layering: Layering, place: Place, operation: RunOp, sources: Sequence[tuple[Mount, Source]]
) -> str:
    """The directory of what the process wrote."""
    from supervisor.image.builder.mounting import Mounting  # a cached build has no use for it

    session = layering.session
    mounting = Mounting(session, layering.store.root, place.where)
    try:
        for mount in operation.mounts:
            source = next((one for wanted, one in sources if wanted is mount), None)
            await _mount(layering, place, mounting, mount, source)
        for name, text in operation.scripts:
            mounting.script(name, text)
        upper = session.directory()
        await _process(layering, place, operation, mounting, upper)
    finally:
        await mounting.close()
    return upper


async def _process(
    layering: Layering, place: Place, operation: RunOp, mounting: Mounting, upper: str
) -> None:
    environment = {
        "SOURCE_DATE_EPOCH": str(layering.epoch_s),
        **dict(operation.proxies),
        **mounting.env,
        **dict(operation.env),
    }
    request = RunRequest(
        argv=operation.argv,
        env=tuple(environment.items()),
        cwd=operation.cwd,
        user=operation.user,
        network="none" if operation.network == "none" else "host",
        lowers=layering.lowers(place.diff_ids) or (layering.session.directory(),),
        upper=upper,
        work=layering.session.directory(),
        mounts=tuple(mounting.mounts),
        insecure=operation.insecure,
    )
    last = bytearray()

    def output(data: bytes, stderr: bool) -> None:
        last.extend(data)
        del last[:-_LAST_BYTES]
        place.vertex.output(data, stderr)

    result = await layering.runner.run(request, output)
    if result.reason:
        raise BuildError(
            f"{place.where}: cannot run {_shown(operation.argv)}: {result.reason}", exit_code=result.code
        )
    if result.code:
        why = "it was killed for want of memory" if result.oom else f"exit code: {result.code}"
        raise BuildError(
            f"{place.where}: {place.step.name} did not complete successfully: {why}",
            exit_code=result.code,
            output=last.decode("utf-8", "replace"),
        )


def _shown(argv: Sequence[str]) -> str:
    return argv[0] if argv else "nothing"


async def _identity(layering: Layering, place: Place, mount: Mount, source: Source) -> str:
    """What a mount's content is: the layers that it is of, or the files' digest."""
    if source.identity:
        return source.identity

    def read() -> str:
        return digest(source.tree, select(source.tree, [mount.source or "."], place.where), layering.digests)

    return await layering.session.thread(read)


async def _mount(
    layering: Layering, place: Place, mounting: Mounting, mount: Mount, source: Source | None
) -> None:
    match mount.kind:
        case "tmpfs":
            mounting.tmpfs(mount)
        case "secret":
            mounting.secret(mount, {secret.id: secret for secret in layering.request.secrets})
        case "ssh":
            agents = {agent.id: agent.paths for agent in layering.request.ssh}
            await mounting.ssh(mount, agents, len(mounting.mounts))
        case "cache":
            new = await mounting.cache(mount)
            if new is not None and source is not None:
                await _copy_into(layering, place, mount, source, new)
        case "bind":
            assert source is not None, "found before"
            await _bind(layering, place, mounting, mount, source)


async def _bind(layering: Layering, place: Place, mounting: Mounting, mount: Mount, source: Source) -> None:
    """Layers are mounted as they are. Of a context a copy is, without what is ignored, and of no owner."""
    if not source.identity:
        directory = layering.session.directory()
        await _copy_into(layering, place, mount, source, directory)
        path = source.tree.resolve(f"/{mount.source}")
        entry = source.tree.entry(path)
        assert entry is not None, "selected before"
        name = path.rpartition("/")[2]
        mounting.layers(mount, (directory,), "" if entry.is_dir else f"{directory}/{name}")
        return
    stack = LayerStack(source.lowers)
    path = stack.resolve(mount.source or "/") if source.lowers else "/"
    entry = stack.entry(path) if source.lowers else None
    if entry is None:
        raise BuildError(f"{place.where}: cannot mount {mount.source or '/'} from {mount.origin}: not found")
    if entry.is_dir:
        mounting.layers(mount, stack.merged(path))
    elif stat.S_ISREG(entry.status.st_mode):
        mounting.layers(mount, (), entry.path)
    else:
        raise BuildError(f"{place.where}: cannot mount {mount.source}: it is neither a directory nor a file")


async def _copy_into(layering: Layering, place: Place, mount: Mount, source: Source, directory: str) -> None:
    """Copy the files of a mount into an empty directory."""
    from supervisor.image.builder.copying import Copier

    writer = LayerWriter(directory, (), layering.epoch_s, layering.session.stopped, place.where)
    operation = CopyOp(False, (), "/", (), "", "", "", False, False, (), "", False, None)
    scratch = layering.session.directory()

    def work() -> None:
        selected = select(source.tree, [mount.source or "."], place.where)
        Copier(operation, writer, layering.digests, None, scratch).run([Taken(source.tree, tuple(selected))])

    await layering.session.thread(work)
