"""Layers out of hostile archives: names that nearly are the same, holes, bombs, whiteouts in any order."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import stat
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_rootfs_archive import archive, member, type_names

from supervisor.image.archive import decompressed
from supervisor.image.store import ImageStore
from supervisor.image.unpacking import ArchiveError, Bounds, unpack_tar

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

MEBIBYTE = 1024 * 1024
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def unpacked(data: bytes, root: Path, bounds: Bounds | None = None) -> None:
    root.mkdir(exist_ok=True)
    with decompressed(io.BytesIO(data)) as plain:
        unpack_tar(plain, "x", str(root), bounds or Bounds(), layer=True)


def made(tmp_path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    return Path(archive(tmp_path / "made.tar", *members)).read_bytes()


def test_names_that_look_alike_are_different_files(tmp_path: Path) -> None:
    """Neither case nor composition of letters is touched, so that no file hides behind another one."""
    composed, apart = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    names = ["README", "readme", composed, apart, "a\u200db", "ab", "\u202etxt.exe", " ", "line\nbreak"]
    unpacked(made(tmp_path, *(member(name, data=name.encode()) for name in names)), tmp_path / "root")
    assert {name: (tmp_path / "root" / name).read_text() for name in names} == {name: name for name in names}
    link = [member("Dir", "link", "/etc"), member("dir", "dir"), member("dir/file"), member("DIR/file")]
    unpacked(made(tmp_path, *link), tmp_path / "other")
    assert sorted(os.listdir(tmp_path / "other")) == ["DIR", "Dir", "dir"]


@pytest.mark.parametrize("layer", [True, False])
def test_a_directory_whose_parent_becomes_a_link_gives_its_attributes_to_nobody(
    tmp_path: Path, layer: bool
) -> None:
    """Directories get theirs last, when what was above may lead out of the root."""
    outside = tmp_path / "outside"
    (outside / "below").mkdir(parents=True)
    (outside / "below").chmod(0o700)
    before = (outside / "below").stat()
    below = member("a/below", "dir", mode=0o4777, uid=1234)
    data = made(tmp_path, below, member("a", "link", str(outside)))
    (tmp_path / "root").mkdir()
    unpack_tar(io.BytesIO(data), "x", str(tmp_path / "root"), Bounds(), layer=layer)
    after = (outside / "below").stat()
    assert (after.st_mode, after.st_uid, after.st_mtime) == (before.st_mode, before.st_uid, before.st_mtime)
    assert os.readlink(tmp_path / "root" / "a") == str(outside)


def test_a_directory_whose_parent_becomes_a_file_is_gone(tmp_path: Path) -> None:
    """The archive is whole: what comes later replaces what came before."""
    unpacked(made(tmp_path, member("a/below", "dir"), member("a", data=b"x")), tmp_path / "root")
    assert (tmp_path / "root" / "a").read_bytes() == b"x"


def test_directories_too_deep_to_be_removed_are_refused(tmp_path: Path) -> None:
    """shutil.rmtree fails on them, and with it every prune."""
    with pytest.raises(ArchiveError, match="directories in each other"):
        unpacked(made(tmp_path, member("a/" * 1500 + "f")), tmp_path / "root")
    shutil.rmtree(tmp_path / "root")


def test_setuid_bits_and_capabilities_are_kept(tmp_path: Path) -> None:
    """They mean something in an image; the services' mounts and capabilities bound what."""
    text = CAPABILITY.decode("utf-8", "surrogateescape")
    store = ImageStore(str(tmp_path / "images"))
    data = made(
        tmp_path,
        member("su", mode=0o4755),
        member("shared", "dir", mode=0o3777),
        member("ping", pax_headers={"SCHILY.xattr.security.capability": text}),
    )
    layer = store.layers.unpack(io.BytesIO(data), None)
    place = Path(store.layers.directory(layer.diff_id))
    assert stat.S_IMODE((place / "su").stat().st_mode) == 0o4755
    assert stat.S_IMODE((place / "shared").stat().st_mode) == 0o3777
    assert os.getxattr(place / "ping", "security.capability") == CAPABILITY


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
@pytest.mark.parametrize("where", ["in a file", "behind the end"])
def test_a_decompression_bomb_is_bounded(tmp_path: Path, pack: Callable[[bytes], bytes], where: str) -> None:
    """64 MiB in few bytes: the bound counts what comes out, also of what nobody asked for."""
    zeros = bytes(64 * MEBIBYTE)
    data = made(tmp_path, member("zeros", data=zeros)) if where == "in a file" else made(tmp_path) + zeros
    bomb = pack(data)
    assert len(bomb) < MEBIBYTE
    with pytest.raises(ArchiveError, match=r"more than|does not end"):
        unpacked(bomb, tmp_path / "root", Bounds(max_bytes=4 * MEBIBYTE))
    assert sum(path.stat().st_size for path in (tmp_path / "root").rglob("*")) <= 4 * MEBIBYTE


def test_a_file_of_holes_counts_with_its_whole_length(tmp_path: Path) -> None:
    """GNU's sparse format: 512 bytes of data that say they are 8 GiB; a small one comes out as it is."""

    def sparse(real: int) -> bytes:
        info = tarfile.TarInfo("holes")
        info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
        header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        header[386:410] = b"%011o\0%011o\0" % (0, 512)  # one piece: where, and how long
        header[483:495] = b"%011o\0" % real
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        return bytes(header) + b"d" * 512 + bytes(1024)

    unpacked(sparse(1000), tmp_path / "small")
    assert (tmp_path / "small/holes").read_bytes() == b"d" * 512 + bytes(488)
    with pytest.raises(ArchiveError, match="becomes more than"):
        unpacked(sparse(8**11 - 1), tmp_path / "big", Bounds(max_bytes=MEBIBYTE))
    assert os.listdir(tmp_path / "big") == []


@pytest.mark.parametrize("name", [".wh..", ".wh...", "a/.wh..."])
def test_a_whiteout_of_a_directory_above_is_refused(tmp_path: Path, name: str) -> None:
    """It would make the place of the layer itself opaque."""
    with pytest.raises(ArchiveError, match="hides"):
        unpacked(made(tmp_path, member("a", "dir"), member(name, data=b"")), tmp_path / "root")
    assert os.listxattr(tmp_path) == os.listxattr(tmp_path / "root") == []


NAMES = [
    "a", "b", "a/b", "b/a", "./a", "/b", "..", "a/..", "../outside", "a/../../outside", "", ".wh.a", ".wh.b",
    "a/.wh.b", ".wh..wh..opq", "a/.wh..wh..opq", ".wh.", ".wh...", ".wh..", "a/.wh...", "..wh.a", ".wh./",
    ".wh.../outside", "A", "a/B",
]  # fmt: skip
GOALS = ["a", "b", "/", "..", "../..", "/a", "../outside", "../../outside", "/etc", ".", "", ".wh.a"]
MEMBERS = st.tuples(st.sampled_from(NAMES), st.sampled_from(sorted(type_names)), st.sampled_from(GOALS))


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(MEMBERS, max_size=9))
def test_no_layer_writes_outside_of_its_directory(tmp_path: Path, built: list[tuple[str, str, str]]) -> None:
    """Whiteouts too: whatever it says, and whatever of it is refused, all beside it is as it was."""
    base = Path(os.path.realpath(tmp_path)) / os.urandom(6).hex()
    (base / "in/root").mkdir(parents=True)
    for place in (base, base / "in"):
        (place / "outside").write_text("secret")
    data = made(base, *(member(name, kind, goal) for name, kind, goal in built))
    (base / "made.tar").unlink()
    before = os.stat(base / "in").st_mode, os.listxattr(base / "in")
    with contextlib.suppress(ArchiveError, OSError):
        unpacked(data, base / "in/root")
    assert sorted(os.listdir(base)) == ["in", "outside"]
    assert sorted(os.listdir(base / "in")) == ["outside", "root"]
    assert (os.stat(base / "in").st_mode, os.listxattr(base / "in")) == before
    for place in (base, base / "in"):
        status = os.lstat(place / "outside")
        assert (stat.S_ISREG(status.st_mode), status.st_nlink, status.st_size) == (True, 1, 6)
