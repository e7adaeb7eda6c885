"""An image of the store into a registry, without sending what is there.

An image that came from a registry goes as it came, by the same digest. Of another one each layer's archive is
compressed with gzip, which every engine reads, once: the blob stays in the store. skopeo gets a `dir:` of
links to the blobs (containers-transports(5)), so nothing is copied; how far it is, the kernel says.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.core.reference import Reference
from supervisor.image import config as oci
from supervisor.image.archive import decompressed
from supervisor.image.blobs import BlobError
from supervisor.image.layers import Layer
from supervisor.image.registry.skopeo import (
    Progress,
    RegistryError,
    Skopeo,
    Tell,
    address,
    advice,
    reason,
    tls,
)
from supervisor.image.store import Image, ImageStore, StoreError
from supervisor.kernel import inotify

_LOOK_S = 0.1
_GZIP_LEVEL, _GZIP_FORMAT = 6, 31
_CHUNK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pushed:
    """digest, size: of the manifest that the registry has now."""

    digest: str
    size: int


def push(store: ImageStore, image: Image, reference: Reference, skopeo: Skopeo, tell: Tell) -> Pushed:
    """Send an image to the registry of a name. Blocks; `skopeo.cancel()` from another thread ends it.

    Raises RegistryError, StoreError, BlobError, OSError.
    """
    if reference.digest:
        raise StoreError(f"cannot push {reference.familiar}: a digest follows from the content; name a tag")
    with store.working():
        text, manifest = _manifest(store, image, tell)
        place = tempfile.mkdtemp(dir=store.blobs.ingest)
        try:
            _write_dir(store, place, text, manifest)
            with contextlib.closing(_Opened(store, manifest)) as seen:
                _send(place, reference, skopeo, seen, tell)
        except RegistryError as error:
            hint = advice(str(error), reference)
            raise RegistryError(f"cannot push {reference.familiar}: {error}{hint}") from error
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return Pushed(oci.digest_of(text), len(text))


def _manifest(store: ImageStore, image: Image, tell: Tell) -> tuple[bytes, oci.Manifest]:
    """The manifest that is sent, all of whose blobs are in the store."""
    manifest = store.manifest(image)
    if all(layer.media_type in _GZIPS and store.blobs.has(layer.digest) for layer in manifest.layers):
        return store.blobs.read(image.manifest_digest), manifest
    if image.digests and all(store.blobs.has(layer.digest) for layer in manifest.layers):
        return store.blobs.read(image.manifest_digest), manifest
    layers = []
    for diff_id in image.diff_ids:
        layer = store.layers.find(diff_id)
        if layer is None:
            raise StoreError(f"cannot push an image: its layer {diff_id} is missing; pull or load it again")
        if layer.media_type != oci.LAYER_GZIP or not store.blobs.has(layer.blob):
            layer = _compress(store, layer, tell)
        layers.append(
            oci.Descriptor(oci.LAYER_GZIP, layer.blob, os.stat(store.blobs.path(layer.blob)).st_size)
        )
    config = oci.Descriptor(oci.CONFIG, image.id, os.stat(store.blobs.path(image.id)).st_size)
    made = oci.Manifest(config, layers)
    return oci.encode(made), made


_GZIPS = (oci.LAYER_GZIP, oci.DOCKER_LAYER_GZIP)


def _compress(store: ImageStore, layer: Layer, tell: Tell) -> Layer:
    """The archive of a layer as a gzip blob, the same for the same layer: no name and no time in it."""
    done = 0
    with store.blobs.write() as blob:
        packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_FORMAT)

        def write(data: bytes) -> None:
            nonlocal done
            blob.write(packer.compress(data))
            done += len(data)
            tell(Progress(layer.diff_id, "compressing", done, layer.size))

        if layer.blob and store.blobs.has(layer.blob):
            with open(store.blobs.path(layer.blob), "rb") as raw, decompressed(raw) as plain:
                while data := plain.read(_CHUNK_BYTES):
                    write(data)
        else:
            store.layers.write_archive(layer.diff_id, write)
        blob.write(packer.flush())
    tell(Progress(layer.diff_id, "compressed", layer.size, layer.size))
    return store.layers.keep_blob(layer, blob.digest, oci.LAYER_GZIP)


def _write_dir(store: ImageStore, place: str, text: bytes, manifest: oci.Manifest) -> None:
    with open(f"{place}/manifest.json", "xb") as file:
        file.write(text)
    with open(f"{place}/version", "x") as file:
        file.write("Directory Transport Version: 1.1\n")
    for digest in {manifest.config.digest, *(layer.digest for layer in manifest.layers)}:
        if not store.blobs.has(digest):
            raise BlobError(f"cannot read blob {digest}: it is not in the store; pull or load it again")
        os.symlink(store.blobs.path(digest), f"{place}/{digest.removeprefix('sha256:')}")


def _send(place: str, reference: Reference, skopeo: Skopeo, seen: _Opened, tell: Tell) -> None:
    arguments = (
        "copy",
        "--preserve-digests",
        *tls(reference.domain, "--dest-tls-verify"),
        f"dir:{place}",
        address(reference),
    )
    seen.begin(tell)
    silent_s = 0.0
    with (
        tempfile.TemporaryFile() as errors,
        skopeo.started(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors.fileno()
        ) as process,
    ):
        while True:
            try:
                process.wait(_LOOK_S)
                break
            except subprocess.TimeoutExpired:
                silent_s = 0.0 if seen.look(process.pid, tell) else silent_s + _LOOK_S
                if silent_s > skopeo.access.silence_s:
                    raise RegistryError(f"the registry took nothing for {silent_s:.0f} s") from None
        if process.returncode:
            skopeo.check_cancelled()
            errors.seek(0)
            raise RegistryError(reason(errors.read()))
    seen.finish(tell)


class _Opened:
    """Which blobs skopeo reads: it opens only those that the registry does not have."""

    def __init__(self, store: ImageStore, manifest: oci.Manifest) -> None:
        self._notify = inotify.Inotify()
        self._sizes = {layer.digest: layer.size for layer in manifest.layers}
        self._paths = {os.path.realpath(store.blobs.path(digest)): digest for digest in self._sizes}
        self._watches = {
            self._notify.watch(path, inotify.OPEN): digest for path, digest in self._paths.items()
        }
        self._sent: dict[str, int] = {}

    def begin(self, tell: Tell) -> None:
        for digest, size in self._sizes.items():
            tell(Progress(digest, "waiting", 0, size))

    def look(self, pid: int, tell: Tell) -> bool:
        """Tell how far each is; whether anything moved."""
        moved = False
        self._note_opened()
        for digest, position in self._positions(pid):
            if position > self._sent.get(digest, -1):
                self._sent[digest] = position
                moved = True
                tell(Progress(digest, "pushing", position, self._sizes[digest]))
        return moved

    def finish(self, tell: Tell) -> None:
        self._note_opened()
        for digest, size in self._sizes.items():
            tell(Progress(digest, "done" if digest in self._sent else "exists", size, size))

    def close(self) -> None:
        self._notify.close()

    def _note_opened(self) -> None:
        for event in self._notify.read():
            digest = self._watches.get(event.watch)
            if digest is not None:
                self._sent.setdefault(digest, 0)

    def _positions(self, pid: int) -> Iterator[tuple[str, int]]:
        """How far the process has read each blob that it holds open (proc(5), fdinfo)."""
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    digest = self._paths.get(os.readlink(f"/proc/{pid}/fd/{fd}"))
                    if digest is not None:
                        with open(f"/proc/{pid}/fdinfo/{fd}") as file:
                            yield digest, int(file.readline().split()[1])
