"""Images out of archives: what `docker save`, `podman save` and OCI tools write, plain or compressed.

The archive is unpacked beside the store first, as hostile as any; then each layer is unpacked into the store
and checked against the configuration that names it. Nothing becomes an image before all of it is there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
import zstandard

from supervisor.core.reference import InvalidReferenceError, Reference, parse_reference
from supervisor.image import config as oci
from supervisor.image.archive import DECOMPRESSION_ERRORS, decompressed
from supervisor.image.blobs import BlobError
from supervisor.image.layers import SKELETON, Layer
from supervisor.image.machine import host_platform
from supervisor.image.skeleton import Content, write_skeleton
from supervisor.image.store import Image, ImageStore, StoreError
from supervisor.image.unpacking import ArchiveError, Bounds, unpack_tar

_REF_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True, slots=True)
class _Found:
    """One image of an archive: its configuration, its layers' files, its names."""

    config: bytes
    layers: tuple[str, ...]
    names: tuple[Reference, ...]


def parse_platform(text: str) -> tuple[str, ...]:
    """`OS/ARCH[/VARIANT]` as a tuple. Raises StoreError."""
    parts = tuple(text.split("/"))
    if len(parts) not in (2, 3) or not all(parts):
        raise StoreError(f"cannot use platform {text!r}: write OS/ARCH, as linux/arm64, or OS/ARCH/VARIANT")
    return parts


def load_archive(store: ImageStore, stream: IO[bytes], name: str, told: Callable[[str], None]) -> list[Image]:
    """The images of an archive, in its order. name: of the archive, for errors; told: of each layer.

    stream: can seek. Raises ArchiveError, StoreError, BlobError, ConfigError, OSError; layers that were read
    before stay until the next `prune`.
    """
    with store.working():
        place = tempfile.mkdtemp(dir=store.blobs.ingest)
        try:
            with decompressed(stream) as plain:
                unpack_tar(plain, name, place, Bounds())
            found = _found(place, name)
            if not found:
                raise StoreError(
                    f"cannot load {name}: it has no image; is it from `docker save` or an OCI tool?"
                )
            return [_add(store, image, name, told) for image in found]
        except DECOMPRESSION_ERRORS as error:
            raise ArchiveError(f"cannot load {name}: {error}; is it a tar archive, and whole?") from error
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _add(store: ImageStore, found: _Found, name: str, told: Callable[[str], None]) -> Image:
    config = oci.decode_config(found.config)
    if len(config.rootfs.diff_ids) != len(found.layers):
        raise StoreError(
            f"cannot load {name}: its configuration names {len(config.rootfs.diff_ids)} layers,"
            f" and {len(found.layers)} are in it"
        )
    for diff_id, path in zip(config.rootfs.diff_ids, found.layers, strict=True):
        if store.layers.find(diff_id) is None:
            told(f"unpacking {diff_id[7:19]}")
            add_layer(store, path, diff_id, f"layer {diff_id[7:19]} of {name}")
    image = store.add(found.config, found.names[0] if found.names else None)
    for reference in found.names[1:]:
        store.tag(image, reference)
    return store.find(image.id)


def add_layer(store: ImageStore, path: str, diff_id: str, name: str) -> Layer:
    """Unpack the archive of a layer, plain or compressed, into the store.

    The archive itself is kept, compressed, only where it could not be written again from the files. Raises
    ArchiveError, BlobError, OSError.
    """
    contents: list[Content] = []

    def settle(directory: str, layer: Layer) -> Layer:
        # Before the layer is there: one without an archive that needs one could never be saved.
        with open(path, "rb") as raw, decompressed(raw) as plain:
            if write_skeleton(plain, contents, f"{directory}/{SKELETON}"):
                return layer
        with open(path, "rb") as raw, decompressed(raw) as plain, store.blobs.write() as blob:
            zstandard.ZstdCompressor(level=3, threads=-1).copy_stream(plain, blob)  # type: ignore[arg-type]  # it writes
        return msgspec.structs.replace(layer, blob=blob.digest, media_type=oci.LAYER_ZSTD)

    try:
        with open(path, "rb") as raw, decompressed(raw) as plain:
            return store.layers.unpack(plain, diff_id, name=name, contents=contents, settle=settle)
    except DECOMPRESSION_ERRORS as error:
        raise ArchiveError(f"cannot unpack {name}: {error}; is it whole?") from error


def import_layer(store: ImageStore, stream: IO[bytes], name: str) -> Layer:
    """The root file system in an archive, plain or compressed, as a layer of our own making.

    stream: can seek. Raises ArchiveError, OSError.
    """
    place = tempfile.mkdtemp(dir=store.blobs.ingest)
    try:
        root = f"{place}/root"
        os.mkdir(root, 0o755)
        with decompressed(stream) as plain:
            unpack_tar(plain, name, root, Bounds())
        return store.layers.adopt(root, newest_s=None)
    except DECOMPRESSION_ERRORS as error:
        raise ArchiveError(f"cannot import {name}: {error}; is it a tar archive, and whole?") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


# --- what is in an archive ---------------------------------------------------------------------------
def _found(place: str, name: str) -> list[_Found]:
    if os.path.exists(f"{place}/manifest.json"):
        return _docker(place, name)
    if os.path.exists(f"{place}/index.json"):
        return _layout(place, name)
    return []


def _docker(place: str, name: str) -> list[_Found]:
    """`docker save`: manifest.json lists configurations, names and layers."""
    found = []
    for row in _json(place, "manifest.json", name, list[dict[str, Any]]):
        layers = tuple(_inside(place, str(path), name) for path in row.get("Layers") or [])
        config = Path(_inside(place, str(row.get("Config")), name)).read_bytes()
        names = tuple(_reference(str(text), name) for text in row.get("RepoTags") or [])
        found.append(_Found(config, layers, names))
    return found


def _layout(place: str, name: str) -> list[_Found]:
    """An OCI image layout."""
    index = _json(place, "index.json", name, oci.Index)
    found = []
    for descriptor in index.manifests:
        manifest = _manifest(place, descriptor, name)
        layers = tuple(_blob(place, layer.digest, name) for layer in manifest.layers)
        config = _checked(place, manifest.config.digest, name)
        annotations = descriptor.annotations or {}
        texts = [annotations[key] for key in _REF_NAMES if annotations.get(key)]
        # A bare tag, as skopeo writes it, names nothing.
        names = tuple(_reference(text, name) for text in texts[:1] if "/" in text or ":" in text)
        found.append(_Found(config, layers, names))
    return found


def _manifest(place: str, descriptor: oci.Descriptor, name: str) -> oci.Manifest:
    """The manifest of a descriptor; of an index of platforms, that of this host."""
    manifest = oci.decode_manifest(_checked(place, descriptor.digest, name))
    if isinstance(manifest, oci.Manifest):
        return manifest
    chosen = pick_platform(manifest)
    if chosen is None:
        raise StoreError(f"cannot load {name}: {no_platform(manifest)}")
    return _manifest(place, chosen, name)


def pick_platform(index: oci.Index, wanted: tuple[str, ...] | None = None) -> oci.Descriptor | None:
    """What an index has for a platform (os, architecture[, variant]), None for this host's."""
    wanted = wanted or host_platform()
    for descriptor in index.manifests:
        there = descriptor.platform or {}
        if tuple(there.get(key) for key in ("os", "architecture", "variant"))[: len(wanted)] == wanted:
            return descriptor
    return None


def no_platform(index: oci.Index, wanted: tuple[str, ...] | None = None) -> str:
    """What to say where there is none."""
    known = [d.platform for d in index.manifests if d.platform and d.platform.get("os") != "unknown"]
    there = sorted(
        {"/".join(str(p[key]) for key in ("os", "architecture", "variant") if p.get(key)) for p in known}
    )
    shown = "/".join(wanted or host_platform())
    return f"it has no image for {shown}, only for {', '.join(there) or 'unknown platforms'}"


def _json(place: str, path: str, name: str, kind: Any) -> Any:
    try:
        return msgspec.json.decode(Path(_inside(place, path, name)).read_bytes(), type=kind)
    except msgspec.MsgspecError as error:
        raise StoreError(f"cannot load {name}: its {path} cannot be read: {error}") from error


def _checked(place: str, digest: str, name: str) -> bytes:
    data = Path(_blob(place, digest, name)).read_bytes()
    if oci.digest_of(data) != digest:
        raise BlobError(f"cannot load {name}: blob {digest} has another content; the archive is damaged")
    return data


def _blob(place: str, digest: str, name: str) -> str:
    return _inside(place, f"blobs/{digest.replace(':', '/', 1)}", name)


def _inside(place: str, path: str, name: str) -> str:
    """A file of the unpacked archive; links are followed within it only."""
    found = os.path.realpath(f"{place}/{path}")
    if not found.startswith(f"{os.path.realpath(place)}/"):
        raise StoreError(f"cannot load {name}: {path} is outside of it")
    if not os.path.isfile(found):
        raise StoreError(f"cannot load {name}: {path} is missing in it; is it whole?")
    return found


def _reference(text: str, name: str) -> Reference:
    try:
        return parse_reference(text)
    except InvalidReferenceError as error:
        raise StoreError(f"cannot load {name}: {error}") from error
