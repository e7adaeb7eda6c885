"""Images into archives that Docker, Podman and OCI tools load: an OCI layout with Docker's manifest.json.

Always the same bytes for the same images. Layers are plain in it, so that every tool reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import zstandard

from supervisor.core.reference import Reference
from supervisor.image import config as oci
from supervisor.image.archive import decompressed
from supervisor.image.layers import Layer
from supervisor.image.layertar import write_member
from supervisor.image.store import Image, ImageStore, StoreError

_END = b"\0" * 1024
Write = Callable[[bytes], object]


def save_archive(
    store: ImageStore, images: Sequence[tuple[Image, tuple[Reference, ...]]], write: Write
) -> None:
    """Write images, each with the names that it is to have. Raises StoreError, BlobError, OSError."""
    written: set[str] = set()
    docker: list[dict[str, Any]] = []
    manifests: list[oci.Descriptor] = []
    with store.working():
        for image, names in images:
            config = store.blobs.read(image.id)
            layers = [_layer(store, diff_id) for diff_id in image.diff_ids]
            manifest = oci.encode(
                oci.Manifest(
                    oci.Descriptor(oci.CONFIG, image.id, len(config)),
                    [oci.Descriptor(oci.LAYER, layer.diff_id, layer.size) for layer in layers],
                )
            )
            digest = oci.digest_of(manifest)
            for layer in layers:
                if layer.diff_id not in written:
                    written.add(layer.diff_id)
                    write_member(_path(layer.diff_id), layer.size, write)
                    _write_layer(store, layer, write)
                    write(b"\0" * (-layer.size % 512))
            for blob, data in ((image.id, config), (digest, manifest)):
                if blob not in written:
                    written.add(blob)
                    _write_file(_path(blob), data, write)
            for name in names or (None,):
                annotations = None
                if name is not None:
                    annotations = {
                        "io.containerd.image.name": str(name),
                        "org.opencontainers.image.ref.name": name.tag,
                    }
                manifests.append(oci.Descriptor(oci.MANIFEST, digest, len(manifest), annotations))
            docker.append(
                {
                    "Config": _path(image.id),
                    "RepoTags": [name.familiar for name in names] or None,
                    "Layers": [_path(layer.diff_id) for layer in layers],
                }
            )
        _write_file("index.json", oci.encode(oci.Index(manifests)), write)
        _write_file("manifest.json", msgspec.json.encode(docker), write)
        _write_file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}', write)
        write(_END)


def _layer(store: ImageStore, diff_id: str) -> Layer:
    layer = store.layers.find(diff_id)
    if layer is None:
        raise StoreError(f"cannot save an image: its layer {diff_id} is missing; pull or load it again")
    return layer


def _write_layer(store: ImageStore, layer: Layer, write: Write) -> None:
    """The plain archive of a layer: from its blob, or from its files."""
    if not layer.blob:
        store.layers.write_archive(layer.diff_id, write)
        return
    with open(store.blobs.path(layer.blob), "rb") as raw, decompressed(raw) as plain:
        while data := plain.read(zstandard.DECOMPRESSION_RECOMMENDED_OUTPUT_SIZE):
            write(data)


def _write_file(path: str, data: bytes, write: Write) -> None:
    write_member(path, len(data), write)
    write(data + b"\0" * (-len(data) % 512))


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/', 1)}"
