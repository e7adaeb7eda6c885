"""A layer of another tool's making is stored once, as files, and written again byte for byte."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.image.archive import decompressed
from supervisor.image.config import digest_of
from supervisor.image.load import add_layer
from supervisor.image.store import ImageStore
from supervisor.image.unpacking import ArchiveError

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

CONTENT = b"content of some length " * 500
KINDS = {
    "file": tarfile.REGTYPE, "directory": tarfile.DIRTYPE, "link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE,
}  # fmt: skip


def tar(*members: tuple[str, str, str], form: int = tarfile.GNU_FORMAT) -> bytes:
    """Of (kind, name, content or target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for kind, name, text in members:
            member = tarfile.TarInfo(name)
            member.type, member.uname, member.mtime = KINDS[kind], "somebody", 1.5
            if kind == "file":
                member.size = len(text)
            else:
                member.linkname = text
            archive.addfile(member, io.BytesIO(text.encode()) if kind == "file" else None)
    return out.getvalue()


def added(place: Path, data: bytes) -> tuple[str, bytes]:
    """The blob that was kept of a layer ("": none), and its archive as the store writes it."""
    store = ImageStore(str(place / "images"))
    (place / "layer.tar").write_bytes(data)
    layer = add_layer(store, str(place / "layer.tar"), digest_of(data), "layer")
    out = io.BytesIO()
    if not layer.blob:
        store.layers.write_archive(layer.diff_id, out.write)
    return layer.blob, out.getvalue()


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_the_files_are_the_only_copy(tmp_path: Path, form: int) -> None:
    text = CONTENT.decode()
    data = tar(
        ("file", "z", text), ("directory", "d", ""), ("file", "d/a", "x" * 512), ("file", "empty", ""),
        ("link", "l", "d"), ("file", "l/through", text), ("hard", "d/h", "z"), ("file", ".wh.gone", ""),
        form=form,
    )  # fmt: skip
    data += b"\0" * 10240 + b"what follows the end"
    assert added(tmp_path, data) == ("", data)
    stored = sum(path.stat().st_size for path in (tmp_path / "images/layers").rglob("skeleton"))
    assert 0 < stored < 2000, "its headers, and no content"


@pytest.mark.parametrize(
    "last", [("file", "a", "2" * 700), ("link", "a", "elsewhere"), ("directory", "a", ""), ("hard", "a", "b")]
)
def test_a_file_that_is_replaced(tmp_path: Path, last: tuple[str, str, str]) -> None:
    """What it had first is in the archive alone."""
    data = tar(("file", "a", "1" * 700), ("file", "b", "3" * 700), last)
    assert added(tmp_path, data) == ("", data)


def test_much_that_is_replaced_keeps_the_archive(tmp_path: Path) -> None:
    data = tar(("file", "a", "1" * 70_000_000), ("file", "a", ""))
    blob, _ = added(tmp_path, data)
    assert blob
    with decompressed((tmp_path / "images/blobs/sha256" / blob.removeprefix("sha256:")).open("rb")) as kept:
        assert kept.read() == data


def test_a_file_of_holes(tmp_path: Path) -> None:
    with (tmp_path / "holes").open("wb") as file:
        file.seek(5_000_000)
        file.write(CONTENT)
    command = ["tar", "-S", "-C", str(tmp_path), "-cf", "-", "holes"]
    data = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    assert len(data) < 100_000
    assert added(tmp_path, data) == ("", data)


MEMBERS = st.tuples(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(["a", "b", "a/b", "b/c", ".wh.a"]),
    st.sampled_from(["", "a", "b" * 600]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(MEMBERS, max_size=7))
def test_what_is_written_again_is_what_came(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, str, str]]
) -> None:
    data = tar(*members)
    try:
        blob, written = added(tmp_path_factory.mktemp("layer"), data)
    except (ArchiveError, OSError):
        return  # it cannot be unpacked at all
    assert blob or written == data
