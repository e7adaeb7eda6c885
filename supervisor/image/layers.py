"""Layers, unpacked once and shared by every image and service: what overlayfs stands on.

`<root>/layers/<hex of the diff id>/diff` has the files, `layer.json` beside it says how large its archive is,
and which blob it came from. One that was built or loaded here has no blob: its archive is written anew from
the files whenever it is asked for, and is the same one; a `skeleton` says how another tool wrote it. A layer
is complete when its directory has that name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

import msgspec

from supervisor.image.blobs import BlobError, Blobs
from supervisor.image.layertar import write_layer
from supervisor.kernel.files import remove_cut_off, replace_file, sync_directory

if TYPE_CHECKING:
    from supervisor.image.skeleton import Content

SKELETON = "skeleton"


class Layer(msgspec.Struct, frozen=True, omit_defaults=True):
    """diff_id, size: of the plain archive. blob: the one that it came from, with its media type."""

    diff_id: str
    size: int
    blob: str = ""
    media_type: str = ""


class Layers:
    """The layers of one store. All raise OSError."""

    def __init__(self, root: str, blobs: Blobs) -> None:
        """`root` exists."""
        self._layers = f"{root}/layers"
        self._blobs = blobs
        os.makedirs(self._layers, 0o700, exist_ok=True)
        # No other user of the host may reach an image's setuid programs, whoever made the directory.
        os.chmod(self._layers, 0o700)

    def directory(self, diff_id: str) -> str:
        """Where a layer's files are, or would be."""
        return f"{self._place(diff_id)}/diff"

    def find(self, diff_id: str) -> Layer | None:
        """A layer that is there."""
        try:
            with open(f"{self._place(diff_id)}/layer.json", "rb") as file:
                return msgspec.json.decode(file.read(), type=Layer)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise BlobError(f"cannot use layer {diff_id}: its layer.json is damaged: {error}") from error

    def unpack(
        self,
        plain: IO[bytes],
        diff_id: str | None,
        *,
        blob: str = "",
        media_type: str = "",
        name: str = "a layer",
        contents: list[Content] | None = None,
        settle: Callable[[str, Layer], Layer] | None = None,
    ) -> Layer:
        """Unpack a plain archive into the store. diff_id: as the image's configuration promises it.

        contents: see `unpack_tar`. settle: is given its directory and what is known of it, before it is there
        for others; what it returns is noted.

        Raises ArchiveError for a hostile or damaged one, BlobError for another digest; nothing is left then.
        """
        from supervisor.image.unpacking import Bounds, unpack_tar  # builds that are cached need no tarfile

        counted = _Counted(plain)
        new = f"{self._layers}/.new-{secrets.token_hex(8)}"
        os.makedirs(f"{new}/diff", 0o755)
        try:
            unpack_tar(counted, name, f"{new}/diff", Bounds(), layer=True, contents=contents)  # type: ignore[arg-type]  # it reads
            if diff_id is not None and counted.digest != diff_id:
                raise BlobError(f"cannot use {name}: its digest is {counted.digest}, and not {diff_id}")
            layer = Layer(counted.digest, counted.size, blob, media_type)
            return self._keep(new, layer if settle is None else settle(new, layer))
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def keep_blob(self, layer: Layer, blob: str, media_type: str) -> Layer:
        """Note which blob a layer came from."""
        noted = Layer(layer.diff_id, layer.size, blob, media_type)
        replace_file(f"{self._place(layer.diff_id)}/layer.json", msgspec.json.encode(noted))
        return noted

    def adopt(self, directory: str, *, newest_s: int | None) -> Layer:
        """Take a directory of overlayfs, on the same file system, over as a layer: it is moved, not copied.

        newest_s: see `write_layer`. The directory is the store's afterwards. Raises TarError.
        """
        hashing = _Hashing()
        write_layer(directory, hashing.write, newest_s=newest_s)
        layer = Layer(hashing.digest, hashing.size)
        if self.find(layer.diff_id) is not None:
            shutil.rmtree(directory)
            return layer
        _settle_times(directory, newest_s)
        new = f"{self._layers}/.new-{secrets.token_hex(8)}"
        os.makedirs(new, 0o755)
        try:
            os.rename(directory, f"{new}/diff")
            return self._keep(new, layer)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def write_archive(self, diff_id: str, write: Callable[[bytes], object]) -> None:
        """The plain archive of a layer that has no blob; the same bytes as when its id was made."""
        hashing = _Hashing()

        def both(data: bytes) -> None:
            hashing.write(data)
            write(data)

        if os.path.exists(skeleton := f"{self._place(diff_id)}/{SKELETON}"):
            from supervisor.image.skeleton import write_again

            write_again(skeleton, self.directory(diff_id), both)
        else:
            write_layer(self.directory(diff_id), both)
        if hashing.digest != diff_id:
            raise BlobError(
                f"cannot write layer {diff_id}: its files have changed; somebody wrote into"
                f" {self.directory(diff_id)}; build or load the image again"
            )

    def all(self) -> list[str]:
        """The diff ids of all layers that are there."""
        return [f"sha256:{name}" for name in sorted(os.listdir(self._layers)) if not name.startswith(".")]

    def remove(self, diff_id: str) -> None:
        """Remove one that nothing stands on. It goes out of sight at once."""
        gone = f"{self._layers}/.gone-{secrets.token_hex(8)}"
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._place(diff_id), gone)
            shutil.rmtree(gone, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what was cut off. Nobody else may be working in the store."""
        for name in os.listdir(self._layers):
            if name.startswith("."):
                shutil.rmtree(f"{self._layers}/{name}", ignore_errors=True)
            else:
                remove_cut_off(f"{self._layers}/{name}/layer.json")

    def _keep(self, new: str, layer: Layer) -> Layer:
        replace_file(f"{new}/layer.json", msgspec.json.encode(layer))
        os.sync()  # a power cut must not leave a complete-looking layer of empty files
        try:
            os.rename(new, self._place(layer.diff_id))
        except OSError:
            found = self.find(layer.diff_id)  # another process was quicker
            if found is None:
                raise
            return found
        sync_directory(self._layers)
        return layer

    def _place(self, diff_id: str) -> str:
        self._blobs.path(diff_id)  # refuses what is no digest
        return f"{self._layers}/{diff_id.removeprefix('sha256:')}"


class _Hashing:
    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self._hash.update(data)
        self.size += len(data)

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


class _Counted(_Hashing):
    """A stream that digests what is read of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(size)
        self.write(data)
        return data


def _settle_times(root: str, newest_s: int | None) -> None:
    """Give files the times that the archive says, so that it can be written again from them."""
    if newest_s is None:
        return
    for directory, names, files in os.walk(root, topdown=False):
        for name in (*names, *files):
            path = f"{directory}/{name}"
            if os.lstat(path).st_mtime > newest_s:
                os.utime(path, (newest_s, newest_s), follow_symlinks=False)
    # The root itself is in no archive.
