"""The store of images: an OCI image layout whose layers are unpacked.

`<root>/index.json` names the images; blobs are configurations, manifests, and layers from elsewhere. What is
written is whole or not there; the index changes under a lock. Whoever adds to the store holds it against
`prune` (`working`), which so never takes what is only just arriving.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import msgspec

from supervisor.core.reference import InvalidReferenceError, Reference, as_id, parse_reference
from supervisor.image import config as oci
from supervisor.image.blobs import BlobError, Blobs
from supervisor.image.layers import Layers
from supervisor.image.layerstack import without_repeats
from supervisor.kernel.files import remove_cut_off, replace_file

_REF_NAME = "org.opencontainers.image.ref.name"
_PULLED = "io.shipkeeper.pulled"
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class StoreError(Exception):
    """The store cannot do it. The text is for the user."""


class NotFoundError(StoreError):
    """No such image."""


@dataclass(frozen=True, slots=True)
class Image:
    """One that is there. id: digest of its configuration. size_bytes: of its plain layers.

    digests: `name@sha256:...` as registries have it: of this image, or of the index of platforms it is from.
    """

    id: str
    manifest_digest: str
    names: tuple[Reference, ...]
    config: oci.ImageConfig
    size_bytes: int
    digests: tuple[Reference, ...] = ()

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """Its layers, the lowest first."""
        return tuple(self.config.rootfs.diff_ids)


class ImageStore:
    """See the module. All block; all raise StoreError, BlobError and OSError."""

    def __init__(self, root: str) -> None:
        """Make the directories where they are not there."""
        self._root = root
        os.makedirs(root, 0o711, exist_ok=True)
        self.blobs = Blobs(root)
        self.layers = Layers(root, self.blobs)
        if not os.path.exists(f"{root}/oci-layout"):
            replace_file(f"{root}/oci-layout", _LAYOUT)

    @property
    def root(self) -> str:
        """Where it is; what belongs to builds lies in `build` below it."""
        return self._root

    # --- reading --------------------------------------------------------------------------------
    def images(self) -> list[Image]:
        """All images, by name; those without one last."""
        index = self._index()
        found = [self._image(digest, index) for digest in dict.fromkeys(d.digest for d in index.manifests)]
        return sorted(
            found, key=lambda image: (not image.names, str(image.names[0]) if image.names else image.id)
        )

    def find(self, text: str) -> Image:
        """The image of a name, or of an id or the beginning of one. Raises NotFoundError, StoreError."""
        index = self._index()
        try:
            wanted = parse_reference(text)
        except InvalidReferenceError as error:
            wanted, why = None, str(error)
        if wanted is not None:
            # Of `name:tag@digest` the digest counts, as for Docker.
            named = str(replace(wanted, tag="") if wanted.digest else wanted)
            for descriptor in index.manifests:
                if _named(descriptor) == named or (wanted.digest and wanted.digest == descriptor.digest):
                    return self._image(descriptor.digest, index)
        prefix = wanted.digest.removeprefix("sha256:") if wanted and wanted.digest else as_id(text)
        if prefix:
            digests = sorted({d.digest for d in index.manifests})
            ids = {digest: self._manifest_of(digest).config.digest for digest in digests}
            matches = [digest for digest in digests if ids[digest].removeprefix("sha256:").startswith(prefix)]
            if len({ids[digest] for digest in matches}) > 1:
                raise StoreError(f"cannot tell which image {text} is: {len(matches)} ids begin with it")
            if matches:
                return self._image(matches[0], index)
        if wanted is None:
            raise StoreError(f"cannot use image {text!r}: {why}")
        raise NotFoundError(f"no such image: {wanted.familiar}; `shipkeeper images` lists what is there")

    def lowers(self, image: Image) -> tuple[str, ...]:
        """The directories that a root of it stands on, topmost first. Raises StoreError if one is missing."""
        for diff_id in image.diff_ids:
            if self.layers.find(diff_id) is None:
                raise StoreError(
                    f"cannot use image {image.id[7:19]}: layer {diff_id} is missing; pull or load it again"
                )
        return without_repeats(self.layers.directory(diff_id) for diff_id in reversed(image.diff_ids))

    def manifest(self, image: Image) -> oci.Manifest:
        """The manifest of an image that is there."""
        return self._manifest_of(image.manifest_digest)

    def _manifest_of(self, digest: str) -> oci.Manifest:
        manifest = oci.decode_manifest(self.blobs.read(digest))
        if isinstance(manifest, oci.Index):
            raise BlobError(f"cannot use {digest}: an index of platforms, and no image")
        return manifest

    def _image(self, digest: str, index: oci.Index) -> Image:
        id_ = self._manifest_of(digest).config.digest
        config = oci.decode_config(self.blobs.read(id_))
        layers = [self.layers.find(diff_id) for diff_id in config.rootfs.diff_ids]
        size = sum(layer.size for layer in layers if layer is not None)
        texts = [_named(d) for d in index.manifests if d.digest == digest]
        names = sorted((parse_reference(text) for text in texts if text), key=str)
        tagged = tuple(name for name in names if not name.digest)
        return Image(id_, digest, tagged, config, size, tuple(name for name in names if name.digest))

    # --- changing -------------------------------------------------------------------------------
    def add(self, config: bytes, name: Reference | None = None, manifest: bytes | None = None) -> Image:
        """An image whose layers are in the store. manifest: the one that it came with; else one is made.

        name: is taken from the image that had it. Raises StoreError, ConfigError.
        """
        parsed = oci.decode_config(config)
        config_digest = self.blobs.put(config)
        if manifest is None:
            manifest = oci.encode(self._manifest(parsed, config_digest, len(config)))
        digest = self.blobs.put(manifest)
        with self._changing() as index:
            kept = [d for d in index.manifests if not (name is not None and _named(d) == str(name))]
            if name is not None:
                # The image without a name that it was until now has one.
                kept = [d for d in kept if not (d.digest == digest and _named(d) is None)]
            if name is not None or all(d.digest != digest for d in kept):
                kept.append(_descriptor(digest, len(manifest), name))
            self._write(self._keep_nameless(index, kept))
        return self._image(digest, self._index())

    def tag(self, image: Image, name: Reference) -> None:
        """Give it one more name, taken from the image that had it."""
        with self._changing() as index:
            kept = [d for d in index.manifests if _named(d) != str(name)]
            kept = [d for d in kept if not (d.digest == image.manifest_digest and _named(d) is None)]
            size = os.stat(self.blobs.path(image.manifest_digest)).st_size
            self._write(self._keep_nameless(index, [*kept, _descriptor(image.manifest_digest, size, name)]))

    def untag(self, name: Reference) -> None:
        """Take a name away; with its last one an image is gone, and its layers at the next `prune`."""
        with self._changing() as index:
            kept = [d for d in index.manifests if _named(d) != str(name)]
            named = {d.digest for d in kept if "@" not in (_named(d) or "")}
            lost = {d.digest for d in index.manifests if _named(d) == str(name)} - named
            self._write([d for d in kept if d.digest not in lost])

    def note_pull(self, name: Reference, when_s: int) -> None:
        """Note that a registry was asked for this name just then. Any other change of the name forgets it."""
        with self._changing() as index:
            noted = [
                msgspec.structs.replace(d, annotations={**(d.annotations or {}), _PULLED: str(when_s)})
                if _named(d) == str(name)
                else d
                for d in index.manifests
            ]
            self._write(noted)

    def pulled_s(self, name: Reference) -> int | None:
        """When a registry was last asked for this name (wall clock); None if it came in another way."""
        for descriptor in self._index().manifests:
            text = (descriptor.annotations or {}).get(_PULLED, "")
            if _named(descriptor) == str(name) and text.isdigit():
                return int(text)
        return None

    def forget(self, image: Image) -> None:
        """Take an image out of the index, with all its names."""
        with self._changing() as index:
            self._write([d for d in index.manifests if d.digest != image.manifest_digest])

    def prune(
        self, *, dangling: bool, used: Callable[[Image], bool], kept_layers: frozenset[str]
    ) -> tuple[list[Image], int]:
        """Remove what nothing needs: (images that went, bytes that are free).

        dangling: also images without a name that are not `used`. kept_layers: diff ids that services or the
        build cache stand on. Raises StoreError while somebody works in the store.
        """
        with self._alone():
            gone = [image for image in self.images() if dangling and not image.names and not used(image)]
            for image in gone:
                self.forget(image)
            freed = 0
            needed_blobs: set[str] = set()
            needed_layers = set(kept_layers)
            for image in self.images():
                manifest = self.manifest(image)
                needed_blobs |= {
                    image.manifest_digest,
                    image.id,
                    *(layer.digest for layer in manifest.layers),
                }
                needed_layers |= set(image.diff_ids)
            for diff_id in self.layers.all():
                layer = self.layers.find(diff_id)
                if diff_id in needed_layers:
                    needed_blobs |= {layer.blob} if layer is not None else set()
                    continue
                freed += layer.size if layer is not None else 0
                self.layers.remove(diff_id)
            freed += sum(
                self.blobs.remove(digest) for digest in self.blobs.digests() if digest not in needed_blobs
            )
            self.layers.sweep()
            self.blobs.sweep()
            with self._changing():  # a tag may be on its way
                remove_cut_off(f"{self._root}/index.json")
            remove_cut_off(f"{self._root}/oci-layout")
            return gone, freed

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Hold the store against `prune` while something is added to it."""
        with self._locked("use.lock", fcntl.LOCK_SH):
            yield

    # --- inside ---------------------------------------------------------------------------------
    def _manifest(self, config: oci.ImageConfig, digest: str, size: int) -> oci.Manifest:
        layers = []
        for diff_id in config.rootfs.diff_ids:
            layer = self.layers.find(diff_id)
            if layer is None:
                raise StoreError(f"cannot add an image: its layer {diff_id} is not in the store")
            if layer.blob:
                blob_size = os.stat(self.blobs.path(layer.blob)).st_size
                layers.append(oci.Descriptor(layer.media_type, layer.blob, blob_size))
            else:
                layers.append(oci.Descriptor(oci.LAYER, diff_id, layer.size))
        return oci.Manifest(oci.Descriptor(oci.CONFIG, digest, size), layers)

    def _index(self) -> oci.Index:
        try:
            with open(f"{self._root}/index.json", "rb") as file:
                found = oci.decode_manifest(file.read())
        except FileNotFoundError:
            return oci.Index([])
        if not isinstance(found, oci.Index):
            raise StoreError(f"cannot use {self._root}/index.json: it is no index")
        return found

    def _write(self, manifests: list[oci.Descriptor]) -> None:
        ordered = sorted(manifests, key=lambda d: (_named(d) or "", d.digest))
        replace_file(f"{self._root}/index.json", oci.encode(oci.Index(ordered)))

    @staticmethod
    def _keep_nameless(before: oci.Index, after: list[oci.Descriptor]) -> list[oci.Descriptor]:
        """An image that loses its last name to another one stays, without: it may be in use."""
        there = {descriptor.digest for descriptor in after}
        lost = {d.digest: d for d in before.manifests if d.digest not in there}
        return after + [_descriptor(d.digest, d.size, None) for d in lost.values()]

    @contextlib.contextmanager
    def _changing(self) -> Iterator[oci.Index]:
        with self._locked("index.lock", fcntl.LOCK_EX):
            yield self._index()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            with self._locked("use.lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
                yield
        except BlockingIOError:
            raise StoreError(
                "cannot prune images: a build, pull or load is under way; try again after it"
            ) from None

    @contextlib.contextmanager
    def _locked(self, name: str, how: int) -> Iterator[None]:
        fd = os.open(f"{self._root}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, how)
            yield
        finally:
            os.close(fd)


def _named(descriptor: oci.Descriptor) -> str | None:
    return (descriptor.annotations or {}).get(_REF_NAME)


def _descriptor(digest: str, size: int, name: Reference | None) -> oci.Descriptor:
    annotations = {_REF_NAME: str(name)} if name is not None else None
    return oci.Descriptor(oci.MANIFEST, digest, size, annotations)
