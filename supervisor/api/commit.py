"""Docker's commit: what an instance wrote becomes an image."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from supervisor.api.containers import freeze
from supervisor.api.lookup import find
from supervisor.core.model import ServiceSpec
from supervisor.core.reference import InvalidReferenceError, Reference, parse_reference
from supervisor.core.state import Running
from supervisor.daemon.app import Daemon
from supervisor.daemon.engine import Entry
from supervisor.image import config as oci
from supervisor.image.blobs import BlobError
from supervisor.image.store import Image, ImageStore, NotFoundError, StoreError
from supervisor.image.unpacking import ArchiveError
from supervisor.runtime.rootview import root_alone, without_links

if TYPE_CHECKING:
    from supervisor.image.commit import Told


def routes(daemon: Daemon) -> list[web.RouteDef]:
    """POST /commit."""

    async def commit(request: web.Request) -> web.Response:
        """?container ?repo ?tag ?author ?comment ?pause ?changes, and a configuration as body."""
        # Tar, compression, the parser of Dockerfiles: a daemon that is not asked has none of them.
        from supervisor.image.commit import ChangeError, Told

        entry = find(daemon.engine, request.query.get("container", ""), request.query.get("project"))
        what = f"cannot commit {entry.stored.name}"
        if entry.stored.spec.rootfs.kind != "image":
            raise web.HTTPBadRequest(
                text=f"{what}: its root is no image; `export` and `import` make one of all its files"
            )
        spec = entry.stored.spec
        told = Told(
            request.query.get("author", ""), request.query.get("comment", ""), " ".join(spec.command or ())
        )
        changes = [line for text in request.query.getall("changes", []) for line in text.splitlines()]
        given = await request.read()
        try:
            name = _name(request)
            body = msgspec.json.decode(given or b"null", type=oci.Process | None)
        except (InvalidReferenceError, msgspec.MsgspecError) as error:
            raise web.HTTPBadRequest(text=f"{what}: {error}") from error
        pause = request.query.get("pause", "1").lower() not in ("0", "false")
        phase = entry.instance.phase
        frozen = pause and isinstance(phase, Running) and not phase.paused
        if frozen:
            await freeze(daemon, entry, paused=True)
        try:
            made = await asyncio.to_thread(_commit, daemon, entry, body, changes, told, name)
        except ChangeError as error:
            raise web.HTTPBadRequest(text=f"{what}: {error}") from error
        except NotFoundError as error:
            raise web.HTTPNotFound(text=f"{what}: {error}") from error
        except (StoreError, BlobError, ArchiveError, oci.ConfigError) as error:
            raise web.HTTPInternalServerError(text=f"{what}: {error}") from error
        except OSError as error:
            raise web.HTTPInternalServerError(text=f"{what}: {error.strerror or error}") from error
        finally:
            now = entry.instance.phase
            if frozen and isinstance(now, Running) and now.paused:
                await freeze(daemon, entry, paused=False)
        return web.json_response({"Id": made.id}, status=201)

    return [web.post("/commit", commit)]


def _name(request: web.Request) -> Reference | None:
    repository, tag = request.query.get("repo", ""), request.query.get("tag", "")
    if not repository:
        return None
    return parse_reference(f"{repository}:{tag}" if tag else repository)


def _commit(
    daemon: Daemon,
    entry: Entry,
    given: oci.Process | None,
    changes: list[str],
    told: Told,
    name: Reference | None,
) -> Image:
    from supervisor.image.commit import apply_changes, commit_layer

    store = ImageStore(daemon.paths.images)
    base = store.find(entry.stored.spec.rootfs.image_id)
    process = _process(base.config.config, entry.stored.spec)
    if given is not None:
        process = msgspec.structs.replace(
            process, **{key: value for key, value in msgspec.structs.asdict(given).items() if value}
        )
    process = apply_changes(process, changes)
    with daemon.plans.looked_at(entry.stored) as steps:
        upper = root_alone(steps).upper
    assert upper is not None, "the root of every service is writable below"
    with without_links(upper) as directory:
        return commit_layer(store, base, directory, process, told, name)


def _process(base: oci.Process, spec: ServiceSpec) -> oci.Process:
    """How the service runs, in the image's words."""
    return msgspec.structs.replace(
        base,
        user=spec.user or "",
        env=[f"{key}={value}" for key, value in spec.environment] or None,
        entrypoint=list(spec.entrypoint) if spec.entrypoint else None,
        cmd=list(spec.command) if spec.command else None,
        working_dir=spec.working_dir or "",
        labels=dict(spec.labels) or None,
        stop_signal=spec.stop_signal or "",
    )
