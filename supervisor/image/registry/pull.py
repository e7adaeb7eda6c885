"""An image out of a registry into the store, blob by blob.

What is here is not fetched again: a layer that is unpacked, or a blob that came whole before a pull was cut
off. The image is there when all of it is; a pull that ends early leaves whole blobs to the next one, or to
`prune`.
"""

from __future__ import annotations

import contextlib
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from supervisor.core.reference import Reference
from supervisor.image import config as oci
from supervisor.image.archive import DECOMPRESSION_ERRORS, decompressed
from supervisor.image.blobs import BlobError
from supervisor.image.load import no_platform, pick_platform
from supervisor.image.registry.proxy import RemoteImage, opened
from supervisor.image.registry.skopeo import Progress, RegistryError, Skopeo, Tell, advice
from supervisor.image.store import Image, ImageStore, NotFoundError
from supervisor.image.unpacking import ArchiveError

_AT_ONCE = 3  # as Docker: max-concurrent-downloads
_CONFIG_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pulled:
    """digest: the registry's, of the index where there are several platforms. fresh: it was not here."""

    image: Image
    digest: str
    fresh: bool


def pull(
    store: ImageStore,
    reference: Reference,
    skopeo: Skopeo,
    tell: Tell,
    platform: tuple[str, ...] | None = None,
) -> Pulled:
    """Fetch an image and give it its name. Blocks; `skopeo.cancel()` from another thread ends it.

    platform: (os, architecture[, variant]), None for the host's. Raises RegistryError, StoreError, BlobError,
    ArchiveError, ConfigError, OSError: with what failed, not with what was wanted.
    """
    try:
        with store.working():
            return _pull(store, reference, skopeo, tell, platform)
    except RegistryError as error:
        raise RegistryError(
            f"cannot pull {reference.familiar}: {error}{advice(str(error), reference)}"
        ) from error
    except (BlobError, ArchiveError, oci.ConfigError) as error:
        raise RegistryError(f"cannot pull {reference.familiar}: {error}") from error


def _pull(
    store: ImageStore, reference: Reference, skopeo: Skopeo, tell: Tell, platform: tuple[str, ...] | None
) -> Pulled:
    raw = skopeo.manifest(reference)
    digest = oci.digest_of(raw)
    if reference.digest and digest != reference.digest:
        raise RegistryError(f"the registry sent a manifest of digest {digest}")
    chosen, manifest = _for_platform(raw, reference, skopeo, platform)
    exact = replace(reference, tag="", digest=oci.digest_of(chosen))
    before = _local(store, reference)
    if before is None or before.manifest_digest != exact.digest or not _complete(store, before):
        with contextlib.ExitStack() as stack:
            remotes = [stack.enter_context(opened(skopeo, exact))]
            config = _config(store, manifest, remotes[0])
            missing = _missing(store, manifest, oci.decode_config(config), tell)
            remotes += [stack.enter_context(opened(skopeo, exact)) for _ in missing[1:_AT_ONCE]]
            _layers(store, missing, remotes, tell)
    config = store.blobs.read(manifest.config.digest)
    name = None if reference.digest else reference
    image = store.add(config, name, chosen)
    pinned = replace(reference, tag="", digest=digest)
    store.tag(image, pinned)
    store.note_pull(name or pinned, int(time.time()))
    fresh = before is None or before.manifest_digest != image.manifest_digest
    return Pulled(store.find(str(pinned)), digest, fresh)


def _for_platform(
    raw: bytes, reference: Reference, skopeo: Skopeo, platform: tuple[str, ...] | None
) -> tuple[bytes, oci.Manifest]:
    """The manifest of one image: what came, or that of the platform out of an index."""
    found = oci.decode_manifest(raw)
    if isinstance(found, oci.Manifest):
        return raw, found
    chosen = pick_platform(found, platform)
    if chosen is None:
        raise RegistryError(no_platform(found, platform))
    inner = skopeo.manifest(replace(reference, tag="", digest=chosen.digest))
    if oci.digest_of(inner) != chosen.digest:
        raise RegistryError(f"the registry sent another manifest than {chosen.digest}")
    manifest = oci.decode_manifest(inner)
    if isinstance(manifest, oci.Index):
        raise RegistryError("its index has an index in it, which no image has")
    return inner, manifest


def _config(store: ImageStore, manifest: oci.Manifest, remote: RemoteImage) -> bytes:
    wanted = manifest.config
    if wanted.size > _CONFIG_BYTES:
        raise RegistryError(f"its configuration has {wanted.size} bytes; this is no image")
    if not store.blobs.has(wanted.digest):
        with store.blobs.write(wanted.digest) as writer:
            remote.blob(wanted.digest, wanted.size, writer.write)
    return store.blobs.read(wanted.digest, _CONFIG_BYTES)


_Missing = list[tuple[oci.Descriptor, str]]


def _missing(store: ImageStore, manifest: oci.Manifest, config: oci.ImageConfig, tell: Tell) -> _Missing:
    """The layers that the store does not have, each once, with their diff ids."""
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise RegistryError(
            f"its configuration names {len(diff_ids)} layers and its manifest {len(manifest.layers)}"
        )
    wanted: dict[str, oci.Descriptor] = {}
    for layer, diff_id in zip(manifest.layers, diff_ids, strict=True):
        there = store.layers.find(diff_id) is not None
        tell(Progress(layer.digest, "exists" if there else "waiting", 0, layer.size))
        if not there:
            wanted[diff_id] = layer
    return [(layer, diff_id) for diff_id, layer in wanted.items()]


def _layers(store: ImageStore, missing: _Missing, remotes: list[RemoteImage], tell: Tell) -> None:
    """Fetch several at once, and unpack them in order as they come."""
    idle: queue.SimpleQueue[RemoteImage] = queue.SimpleQueue()
    for remote in remotes:
        idle.put(remote)

    def fetch(layer: oci.Descriptor) -> None:
        remote = idle.get()
        try:
            _fetch(store, layer, remote, tell)
        finally:
            idle.put(remote)

    with ThreadPoolExecutor(len(remotes)) as pool:
        coming = [pool.submit(fetch, layer) for layer, _ in missing]
        try:
            for (layer, diff_id), fetched in zip(missing, coming, strict=True):
                fetched.result()
                tell(Progress(layer.digest, "unpacking", layer.size, layer.size))
                _unpack(store, layer, diff_id)
                tell(Progress(layer.digest, "done", layer.size, layer.size))
        except BaseException:
            for future in coming:
                future.cancel()
            for remote in remotes:
                remote.abort()
            raise


def _fetch(store: ImageStore, layer: oci.Descriptor, remote: RemoteImage, tell: Tell) -> None:
    if not store.blobs.has(layer.digest):
        done = 0
        with store.blobs.write(layer.digest) as writer:

            def write(data: bytes) -> None:
                nonlocal done
                writer.write(data)
                done += len(data)
                tell(Progress(layer.digest, "downloading", done, layer.size))

            remote.blob(layer.digest, layer.size, write)
    tell(Progress(layer.digest, "downloaded", layer.size, layer.size))


def _unpack(store: ImageStore, layer: oci.Descriptor, diff_id: str) -> None:
    try:
        with open(store.blobs.path(layer.digest), "rb") as raw, decompressed(raw) as plain:
            store.layers.unpack(
                plain,
                diff_id,
                blob=layer.digest,
                media_type=oci.as_oci_layer(layer.media_type),
                name=f"layer {layer.digest[7:19]}",
            )
    except (BlobError, ArchiveError, *DECOMPRESSION_ERRORS) as error:
        store.blobs.remove(layer.digest)  # one that a disk has spoilt is fetched anew the next time
        if isinstance(error, (BlobError, ArchiveError)):
            raise
        raise ArchiveError(f"cannot unpack layer {layer.digest[7:19]}: {error}") from error


def _local(store: ImageStore, reference: Reference) -> Image | None:
    try:
        return store.find(str(reference))
    except NotFoundError:
        return None


def _complete(store: ImageStore, image: Image) -> bool:
    return all(store.layers.find(diff_id) is not None for diff_id in image.diff_ids)
