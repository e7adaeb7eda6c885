"""A store whose disk is full, or whose load or prune is killed: it works, and prune takes the rest."""

from __future__ import annotations

import io
import json
import os
import random
import select
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_image_archives import docker_archive
from test_image_store import files, tar_of

from supervisor.core.reference import parse_reference
from supervisor.image import config as oci
from supervisor.image.load import load_archive
from supervisor.image.save import save_archive
from supervisor.image.store import Image, ImageStore, StoreError
from supervisor.image.unpacking import ArchiveError

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PROGRAM = """
import os, sys
from supervisor.image.load import load_archive
from supervisor.image.store import ImageStore
store = ImageStore(sys.argv[1])
while True:
    os.write(1, b"x")
    with open(sys.argv[2], "rb") as stream:
        (image,) = load_archive(store, stream, "x", lambda _: os.write(1, b"x"))
    store.forget(image)
    os.write(1, b"x")
    store.prune(dangling=True, used=lambda _: False, kept_layers=frozenset())
"""


def load(store: ImageStore, data: bytes) -> Image:
    (image,) = load_archive(store, io.BytesIO(data), "x", lambda _: None)
    return image


def usable(store: ImageStore) -> None:
    """All that it names is whole: saved again, each layer has the digest that it is called by."""
    for image in store.images():
        out = io.BytesIO()
        save_archive(store, [(image, image.names)], out.write)
        out.seek(0)
        with tarfile.open(fileobj=out) as archive:
            for diff_id in image.diff_ids:
                content = archive.extractfile(f"blobs/{diff_id.replace(':', '/')}")
                assert content is not None
                assert oci.digest_of(content.read()) == diff_id


def test_kills_in_load_and_prune_leave_a_store_that_works(tmp_path: Path) -> None:
    """Twelve times, at random moments between and within the steps; what stays is what was there before."""
    random.seed(3)
    place = tmp_path / "images"
    store = ImageStore(str(place))
    kept = load(store, docker_archive(tar_of(kept="k"), tags=["kept:1"]))
    before = files(tmp_path)
    layers = [tar_of(**{f"f{n}": f"{number}" * 200_000 for n in range(5)}) for number in range(4)]
    (tmp_path / "a.tar").write_bytes(docker_archive(*layers, tags=["app:1"]))
    for _ in range(12):
        worker = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(place), str(tmp_path / "a.tar")], stdout=subprocess.PIPE
        )
        with worker:
            assert worker.stdout is not None
            os.read(worker.stdout.fileno(), 1)
            for _ in range(random.randrange(12)):
                os.read(worker.stdout.fileno(), 1)
            # Anywhere in the step, not only at its beginning.
            select.select([], [], [], random.random() / 50)
            worker.send_signal(signal.SIGKILL)
        usable(store)
        assert kept.id in {image.id for image in store.images()}
        image = load(store, (tmp_path / "a.tar").read_bytes())
        usable(store)
        store.forget(image)
    store.prune(dangling=True, used=lambda _: False, kept_layers=frozenset())
    assert [image.id for image in store.images()] == [kept.id]
    (tmp_path / "a.tar").unlink()
    assert files(tmp_path) == before


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(place: Path) -> None:
    """To the last byte."""
    with (place / "filler").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def test_a_full_disk_refuses_and_spoils_nothing(small: Path) -> None:
    """Load, build's own taking of a directory, names, prune: each says why, and all is as before."""
    store = ImageStore(str(small / "images"))
    kept = load(store, docker_archive(tar_of(kept="k"), tags=["kept:1"]))
    big = docker_archive(tar_of(big="b" * 60_000_000), tags=["big:1"])
    before = files(small)
    with pytest.raises(ArchiveError, match="no space left"):
        load_archive(store, io.BytesIO(big), "x", lambda _: None)
    assert files(small) == before, "nothing of it is left"
    built = small / "images/built"
    built.mkdir()
    (built / "file").write_text("b")
    fill(small)
    for work in (
        lambda: load_archive(
            store, io.BytesIO(docker_archive(tar_of(a="1"), tags=["a:1"])), "x", lambda _: None
        ),
        lambda: store.layers.adopt(str(built), newest_s=None),
        lambda: store.add(
            json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": []}}).encode()
        ),
        lambda: store.tag(kept, parse_reference("other")),
    ):
        with pytest.raises((OSError, ArchiveError, StoreError), match=r"(?i)no space left"):
            work()
        assert [image.names for image in store.images()] == [kept.names]
        usable(store)
    store.prune(dangling=True, used=lambda _: False, kept_layers=frozenset())
    (small / "filler").unlink()
    image = load(store, docker_archive(tar_of(a="1"), tags=["a:1"]))
    usable(store)
    assert image.id in {each.id for each in store.images()}
