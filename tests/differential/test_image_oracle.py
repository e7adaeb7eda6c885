"""Archives of images between us and others: dockerd and buildah (Podman's storage) load what we save.

And we what they save: the id of an image, the digest of its configuration, is the same all the way.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from dockers import PrivateDockerd

from supervisor.core.reference import parse_reference
from supervisor.image import config as oci
from supervisor.image.load import import_layer, load_archive
from supervisor.image.machine import host_platform
from supervisor.image.save import save_archive
from supervisor.image.store import Image, ImageStore

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox on this machine"),
]
needs_dockerd = pytest.mark.skipif(
    shutil.which("dockerd") is None, reason="no dockerd on this machine; apt-get install docker.io"
)
needs_buildah = pytest.mark.skipif(
    shutil.which("buildah") is None, reason="no buildah on this machine; apt-get install buildah"
)


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    out.seek(0)
    return out


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """Two layers, the second with a whiteout, and most of what a configuration has. In the store `store`."""
    store = ImageStore(str(tmp_path / "images"))
    busybox = Path(shutil.which("busybox") or "").read_bytes()
    program, gone = tarfile.TarInfo("bin/sh"), tarfile.TarInfo("gone")
    program.mode, program.mtime = 0o4755, 1000
    below = import_layer(store, tar_of((program, busybox), (gone, b"x")), "below")
    upper = tmp_path / "images/upper"
    upper.mkdir()
    (upper / "own").write_text("own")
    subprocess.run(["mknod", str(upper / "gone"), "c", "0", "0"], check=True)
    above = store.layers.adopt(str(upper), newest_s=None)
    process = oci.Process(
        env=["PATH=/bin", "A=b c"], cmd=["/bin/sh"], labels={"x": "y"}, working_dir="/bin", user="7"
    )
    config = oci.ImageConfig(
        host_platform()[1],
        "linux",
        oci.RootFs(diff_ids=[below.diff_id, above.diff_id]),
        process,
        [oci.History("2024-01-01T00:00:00Z", "COPY a b", comment="c"), oci.History(created_by="RUN c")],
        "2024-01-01T00:00:00Z",
    )
    return store.add(oci.encode(config), parse_reference("ours:1"))


def saved(store: ImageStore, image: Image) -> bytes:
    out = io.BytesIO()
    save_archive(store, [(image, image.names)], out.write)
    return out.getvalue()


def loaded(directory: Path, data: bytes) -> tuple[ImageStore, Image]:
    store = ImageStore(str(directory))
    (image,) = load_archive(store, io.BytesIO(data), "x", lambda _: None)
    return store, image


@pytest.fixture
def engine() -> Iterator[docker.APIClient]:
    """A dockerd of the test's own."""
    private = PrivateDockerd(Path(tempfile.mkdtemp(prefix="shipkeeper-dockerd-")))
    try:
        private.start(live_restore=False)
        client = docker.APIClient(private.address, timeout=60)
        yield client
        client.close()
    finally:
        private.close()


@needs_dockerd
def test_dockerd_loads_what_we_save_and_we_what_it_saves(
    engine: docker.APIClient, image: Image, tmp_path: Path
) -> None:
    store = ImageStore(str(tmp_path / "images"))
    list(engine.load_image(saved(store, image)))
    found = engine.inspect_image("ours:1")
    assert found["Id"] == image.id
    assert found["RootFS"]["Layers"] == list(image.diff_ids)
    assert (found["Config"]["Env"], found["Config"]["User"]) == (["PATH=/bin", "A=b c"], "7")
    made = engine.create_container("ours:1")
    with tarfile.open(fileobj=io.BytesIO(b"".join(engine.export(made)))) as root:
        assert {"own", "bin/sh"} <= set(root.getnames())
        assert "gone" not in root.getnames(), "the whiteout"
        assert root.getmember("bin/sh").mode & 0o7777 == 0o4755
    engine.put_archive(made, "/", tar_of((tarfile.TarInfo("theirs"), b"t")).read())
    committed = engine.commit(made, "theirs", "2", changes=["ENV C=d"])
    engine.remove_container(made)
    theirs, again = loaded(tmp_path / "theirs", b"".join(engine.get_image("theirs:2")))
    assert again.id == committed["Id"]
    assert [name.familiar for name in again.names] == ["theirs:2"]
    assert (Path(theirs.lowers(again)[0]) / "theirs").read_text() == "t"
    list(engine.load_image(saved(theirs, again)))  # and back
    assert engine.inspect_image("theirs:2")["Id"] == again.id


@needs_buildah
@pytest.mark.parametrize("form", ["docker-archive", "oci-archive"])
def test_buildah_loads_what_we_save_and_we_what_it_saves(image: Image, tmp_path: Path, form: str) -> None:
    """Its storage is Podman's."""
    store = ImageStore(str(tmp_path / "images"))
    (tmp_path / "ours.tar").write_bytes(saved(store, image))
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    place = ["--root", f"{tmp_path}/root", "--runroot", f"{tmp_path}/run", "--storage-driver", "vfs"]

    def buildah(verb: str, *words: str) -> str:
        command = ["buildah", *place, verb, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    policy = ["--signature-policy", f"{tmp_path}/policy.json"]
    pulled = buildah("pull", "-q", *policy, f"{form}:{tmp_path}/ours.tar").strip()
    assert f"sha256:{pulled}" == image.id
    (row,) = json.loads(buildah("images", "--json"))
    assert pulled.startswith(row["id"])
    buildah("push", "-q", *policy, pulled, f"{form}:{tmp_path}/theirs.tar:theirs:2")
    theirs, again = loaded(tmp_path / "theirs", (tmp_path / "theirs.tar").read_bytes())
    assert again.config == image.config
    assert (Path(theirs.lowers(again)[0]) / "own").read_text() == "own"
    assert again.id == image.id
