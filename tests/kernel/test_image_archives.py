"""Images into archives and out of them; skopeo, which checks every digest, as the judge."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.core.reference import parse_reference
from supervisor.image import config as oci
from supervisor.image.blobs import BlobError
from supervisor.image.load import host_platform, load_archive
from supervisor.image.save import save_archive
from supervisor.image.store import Image, ImageStore, StoreError
from supervisor.image.unpacking import ArchiveError

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]
needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="no skopeo on this machine")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    yield ImageStore(str(tmp_path / "images"))


def foreign_layer(**files: str) -> bytes:
    """As another tool writes it: GNU headers, names of users."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.uname, member.gname = len(text), "root", "root"
            archive.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def docker_archive(*layers: bytes, tags: list[str], **wrong: object) -> bytes:
    """What docker save 20.10 writes, a link in place of a layer that is there twice included."""
    config = {
        "architecture": host_platform()[1], "os": "linux", "config": {"Cmd": ["sh"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": [oci.digest_of(layer) for layer in layers]}, **wrong,
    }  # fmt: skip
    text = json.dumps(config).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        names = []
        for number, layer in enumerate(layers):
            names.append(f"{number}/layer.tar")
            if layer in layers[:number]:
                member = tarfile.TarInfo(names[-1])
                member.type, member.linkname = tarfile.SYMTYPE, f"../{layers.index(layer)}/layer.tar"
                archive.addfile(member)
            else:
                add(names[-1], layer)
        add("config.json", text)
        add(
            "manifest.json",
            json.dumps([{"Config": "config.json", "RepoTags": tags, "Layers": names}]).encode(),
        )
    return out.getvalue()


def load(store: ImageStore, data: bytes) -> list[Image]:
    return load_archive(store, io.BytesIO(data), "x.tar", lambda _: None)


def save(store: ImageStore, *names: str) -> bytes:
    out = io.BytesIO()
    save_archive(store, [(store.find(name), (parse_reference(name),)) for name in names], out.write)
    return out.getvalue()


def test_what_docker_saved_is_loaded_and_saved_with_the_same_id(store: ImageStore, tmp_path: Path) -> None:
    base, top = foreign_layer(a="1"), foreign_layer(b="2", c="3")
    (image,) = load(store, gzip.compress(docker_archive(base, top, base, tags=["app:1", "app:latest"])))
    assert [name.familiar for name in image.names] == ["app:1", "app:latest"]
    assert image.config.config.env == ["A=b"]
    assert (Path(store.lowers(image)[1]) / "c").read_text() == "3"
    assert len(store.layers.all()) == 2, "the same layer is there once"
    data = save(store, "app:1")
    other = ImageStore(str(tmp_path / "other"))
    (again,) = load(other, data)
    assert again.id == image.id
    assert save(other, "app:1") == data, "and always the same bytes"


def test_what_is_built_here_needs_no_second_copy(store: ImageStore, tmp_path: Path) -> None:
    built = tmp_path / "images/built"
    built.mkdir()
    (built / "file").write_text("x" * 10000)
    layer = store.layers.adopt(str(built), newest_s=0)
    config = oci.ImageConfig(host_platform()[1], "linux", oci.RootFs(diff_ids=[layer.diff_id]))
    image = store.add(oci.encode(config), parse_reference("mine"))
    data = save(store, "mine")
    other = ImageStore(str(tmp_path / "other"))
    (again,) = load(other, data)
    assert again.id == image.id
    assert not other.blobs.has(layer.diff_id), "its archive is written from its files"
    assert save(other, "mine") == data


@needs_skopeo
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_skopeo_reads_what_we_save_and_we_what_it_writes(
    store: ImageStore, tmp_path: Path, form: str
) -> None:
    load(store, docker_archive(foreign_layer(a="1"), foreign_layer(b="2"), tags=["app:1"]))
    ours = tmp_path / "ours.tar"
    ours.write_bytes(save(store, "app:1"))
    theirs = tmp_path / "theirs.tar"
    # An OCI archive of one image is found by its tag, one of Docker's by its name.
    source = f"docker-archive:{ours}:app:1" if form == "docker-archive" else f"oci-archive:{ours}:1"
    policy = ("skopeo", "--insecure-policy", "copy", "--quiet")
    subprocess.run([*policy, source, f"{form}:{theirs}:app:2"], check=True)
    (image,) = load(store, theirs.read_bytes())
    assert image.id == store.find("app:1").id or form == "oci-archive"
    assert image.diff_ids == store.find("app:1").diff_ids
    assert "app:2" in [name.familiar for name in image.names]


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", ArchiveError, "tar archive"),
        (b"no archive" * 1000, ArchiveError, "tar archive"),
        (foreign_layer(a="1"), StoreError, "it has no image"),
        (foreign_layer(**{"manifest.json": "{"}), StoreError, "cannot be read"),
        (
            foreign_layer(**{"manifest.json": '[{"Config": "../../../etc/passwd", "Layers": []}]'}),
            StoreError,
            "outside of it",
        ),
        (foreign_layer(**{"manifest.json": '[{"Config": "c", "Layers": []}]'}), StoreError, "is missing"),
        (docker_archive(foreign_layer(a="1"), tags=["No:1"]), StoreError, "must be lowercase"),
        (
            docker_archive(foreign_layer(a="1"), tags=[], rootfs={"type": "layers", "diff_ids": []}),
            StoreError,
            "names 0 layers, and 1 are in it",
        ),
        (
            docker_archive(
                foreign_layer(a="1"), tags=[], rootfs={"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}
            ),
            BlobError,
            "and not sha256:0000",
        ),
        (gzip.compress(docker_archive(foreign_layer(a="1"), tags=["a"]))[:-200], ArchiveError, "whole"),
    ],
)  # fmt: skip
def test_archives_that_are_wrong_leave_no_image(
    store: ImageStore, tmp_path: Path, data: bytes, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        load(store, data)
    assert store.images() == []
    assert os.listdir(store.blobs.ingest) == []


def test_an_index_of_other_platforms_says_so(store: ImageStore) -> None:
    manifest = oci.Descriptor(
        oci.MANIFEST, "sha256:" + "0" * 64, 1, platform={"os": "linux", "architecture": "s390x"}
    )
    inner = oci.encode(oci.Index([manifest]))
    digest = oci.digest_of(inner)
    index = oci.encode(oci.Index([oci.Descriptor(oci.INDEX, digest, len(inner))]))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in (("index.json", index), (f"blobs/{digest.replace(':', '/')}", inner)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with pytest.raises(StoreError, match="only for linux/s390x"):
        load(store, out.getvalue())
