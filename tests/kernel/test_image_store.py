"""The store of images: what is in it is whole, names move, kills leave it usable, prune takes the rest."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.core.reference import parse_reference
from supervisor.image import config as oci
from supervisor.image.blobs import BlobError
from supervisor.image.store import Image, ImageStore, NotFoundError, StoreError

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def tar_of(**files: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def make(store: ImageStore, name: str | None, *layers: bytes) -> Image:
    found = [store.layers.unpack(io.BytesIO(data), None) for data in layers]
    config = oci.ImageConfig("amd64", "linux", oci.RootFs(diff_ids=[layer.diff_id for layer in found]))
    return store.add(oci.encode(config), parse_reference(name) if name else None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    yield ImageStore(str(tmp_path / "images"))


def files(tmp_path: Path) -> set[str]:
    """Every file of the store, but locks."""
    base = tmp_path / "images"
    return {str(p.relative_to(base)) for p in base.rglob("*") if p.is_file() and p.suffix != ".lock"}


def test_layers_are_shared_and_images_found_by_name_and_id(store: ImageStore) -> None:
    base = tar_of(a="1")
    one = make(store, "one", base, tar_of(b="2"))
    two = make(store, "two:1.0", base)
    assert store.lowers(one)[1] == store.lowers(two)[0]
    assert (Path(store.lowers(one)[0]) / "b").read_text() == "2"
    assert store.find("one") == one
    assert store.find("docker.io/library/two:1.0") == two
    assert store.find(one.id) == one
    assert store.find(one.id.removeprefix("sha256:")[:12]) == one
    with pytest.raises(NotFoundError, match="no such image: three:latest"):
        store.find("three")
    with pytest.raises(StoreError, match="must be lowercase"):
        store.find("One")


def test_a_name_moves_and_the_image_that_lost_it_stays_without(store: ImageStore) -> None:
    old = make(store, "app", tar_of(a="1"))
    new = make(store, "app", tar_of(a="2"))
    assert store.find("app").id == new.id
    assert [image.names for image in store.images() if image.id == old.id] == [()]
    store.tag(store.find(old.id), parse_reference("app:old"))
    assert store.find("app:old").id == old.id
    assert len(store.images()) == 2
    store.untag(parse_reference("app:old"))
    assert [image.id for image in store.images()] == [new.id]


def test_prune_takes_what_nothing_needs_and_nothing_else(store: ImageStore, tmp_path: Path) -> None:
    kept = make(store, "kept", tar_of(a="1"))
    before = files(tmp_path)
    lost = make(store, "lost", tar_of(b="2"))
    held = store.layers.unpack(io.BytesIO(tar_of(c="3")), None)
    store.untag(parse_reference("lost"))
    store.prune(dangling=False, used=lambda _: False, kept_layers=frozenset({held.diff_id}))
    assert store.layers.find(held.diff_id) is not None
    assert store.layers.find(lost.diff_ids[0]) is None
    _, freed = store.prune(dangling=True, used=lambda _: False, kept_layers=frozenset())
    assert freed >= held.size
    assert files(tmp_path) == before
    assert store.find("kept") == kept
    with store.working(), pytest.raises(StoreError, match="under way"):
        store.prune(dangling=True, used=lambda _: False, kept_layers=frozenset())


def test_content_that_is_not_what_was_promised_is_refused(store: ImageStore, tmp_path: Path) -> None:
    before = files(tmp_path)
    wrong = "sha256:" + "0" * 64
    with pytest.raises(BlobError, match="and not"):
        store.layers.unpack(io.BytesIO(tar_of(a="1")), wrong)
    with pytest.raises(BlobError, match="and not"), store.blobs.write(wrong) as writer:
        writer.write(b"x")
    assert files(tmp_path) == before
    digest = store.blobs.put(b"{}")
    Path(store.blobs.path(digest)).write_bytes(b"[]")
    with pytest.raises(BlobError, match="another digest"):
        store.blobs.read(digest)
    with pytest.raises(BlobError, match="only sha256"):
        store.blobs.path("sha256:../../../etc/passwd")


def test_what_was_built_here_is_written_again_byte_by_byte(store: ImageStore, tmp_path: Path) -> None:
    """Moved, not copied; its archive is made from the files, and a change of them is noticed."""
    built = tmp_path / "images" / "built"
    built.mkdir()
    (built / "file").write_text("hello")
    inode = (built / "file").stat().st_ino
    layer = store.layers.adopt(str(built), newest_s=1_600_000_000)
    place = Path(store.layers.directory(layer.diff_id))
    assert (place / "file").stat().st_ino == inode
    out = io.BytesIO()
    store.layers.write_archive(layer.diff_id, out.write)
    assert oci.digest_of(out.getvalue()) == layer.diff_id
    assert len(out.getvalue()) == layer.size
    (place / "file").write_text("changed")
    with pytest.raises(BlobError, match="have changed"):
        store.layers.write_archive(layer.diff_id, io.BytesIO().write)


PROGRAM = """
import io, sys, tarfile
sys.path.insert(0, sys.argv[2])
from test_image_store import make, tar_of
from supervisor.image.store import ImageStore
store = ImageStore(sys.argv[1])
number = 0
while True:
    number += 1
    with store.working():
        make(store, f"app:{number % 5}", tar_of(base="b" * 100000), tar_of(top=str(number)))
    print(number, flush=True)
"""


def test_kills_at_any_moment_leave_a_store_that_works(store: ImageStore, tmp_path: Path) -> None:
    """Ten writers die in the middle; each time every image is whole, and prune leaves what images need."""
    for lines in range(1, 11):
        writer = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / "images"), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
        )
        with writer:
            assert writer.stdout is not None
            for _ in range(lines % 4 + 1):
                assert writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
        for image in store.images():
            assert (Path(store.lowers(image)[1]) / "base").stat().st_size == 100000
    store.prune(dangling=True, used=lambda _: False, kept_layers=frozenset())
    images = store.images()
    assert 1 <= len(images) <= 5
    wanted = {"oci-layout", "index.json"}
    for image in images:
        manifest = json.loads(store.blobs.read(image.manifest_digest))
        for digest in (image.manifest_digest, manifest["config"]["digest"]):
            wanted.add(f"blobs/sha256/{digest.removeprefix('sha256:')}")
        for diff_id, name in zip(image.diff_ids, ("base", "top"), strict=True):
            place = f"layers/{diff_id.removeprefix('sha256:')}"
            wanted |= {f"{place}/layer.json", f"{place}/diff/{name}"}
    assert files(tmp_path) == wanted


def test_a_digest_of_a_registry_finds_its_image_and_goes_with_the_last_name(store: ImageStore) -> None:
    image = make(store, "app:1", tar_of(a="1"))
    pinned = parse_reference(f"app@sha256:{'5' * 64}")
    store.tag(image, pinned)
    assert store.find(str(pinned)).id == image.id
    assert store.find(f"app:other@{pinned.digest}").id == image.id
    found = store.find("app:1")
    assert (found.names, found.digests) == ((parse_reference("app:1"),), (pinned,))
    store.untag(parse_reference("app:1"))
    assert store.images() == []


def test_a_name_is_found_without_reading_other_images(store: ImageStore) -> None:
    damaged, image = make(store, "damaged", tar_of(a="1")), make(store, "whole", tar_of(a="2"))
    Path(store.blobs.path(damaged.id)).write_text("")
    assert store.find("whole").id == image.id


def test_prune_takes_what_a_kill_left_of_writing_a_file(store: ImageStore) -> None:
    """Beside the index and beside a layer's description, which stay as they are."""
    image = make(store, "kept:1", tar_of(a="1"))
    layer = os.path.dirname(store.layers.directory(image.diff_ids[0]))
    left = [
        Path(store.root, "index.json.0123"),
        Path(store.root, "oci-layout.0123"),
        Path(layer, "layer.json.0123"),
    ]
    for path in left:
        path.write_text("torn")
    store.prune(dangling=True, used=lambda _: False, kept_layers=frozenset())
    assert [path for path in left if path.exists()] == []
    assert store.find("kept:1").id == image.id
    store.lowers(image)


def test_prune_takes_a_directory_of_an_archive_that_was_cut_off(store: ImageStore) -> None:
    os.makedirs(f"{store.blobs.ingest}/tmpcut/blobs")
    store.prune(dangling=True, used=lambda _: False, kept_layers=frozenset())
    assert os.listdir(store.blobs.ingest) == []
