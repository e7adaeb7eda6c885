"""Archives become roots: whole, once, and never a way out."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor.image.archive import unpack, unpack_cached
from supervisor.image.unpacking import ArchiveError, Bounds

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: keeps the owners of an archive"),
]

type_names = {
    "dir": tarfile.DIRTYPE,
    "file": tarfile.REGTYPE,
    "link": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "block": tarfile.BLKTYPE,
    "char": tarfile.CHRTYPE,
}


def member(
    name: str, kind: str = "file", to: str = "", data: bytes = b"x", **fields: object
) -> tuple[tarfile.TarInfo, bytes]:
    """One member of an archive."""
    info = tarfile.TarInfo(name)
    info.type = type_names[kind]
    info.linkname = to
    info.mode = 0o755 if kind == "dir" else 0o644
    info.size = len(data) if kind == "file" else 0
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> str:
    """Write a tar file."""
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return str(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.ZstdCompressor().compress])
def test_owners_modes_links_and_attributes_are_kept(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """Plain, gzip and zstd give the same root, told by the content and not by the name."""
    plain = archive(
        tmp_path / "plain",
        member("./", "dir", mode=0o711),
        member("etc", "dir", mode=0o500, mtime=77),
        member("./etc/a", uid=12, gid=34, mode=0o4755, mtime=99, pax_headers={"SCHILY.xattr.user.k": "v"}),
        member("etc/b", "hard", "etc/a"),
        member("etc/l", "link", "/nowhere/outside"),
        member("etc/f", "fifo"),
    )
    packed = tmp_path / "whatever"
    packed.write_bytes(pack(Path(plain).read_bytes()))
    cache = tmp_path / "cache"
    cache.mkdir()
    digest, root = unpack_cached(str(packed), str(cache))
    assert root == f"{cache}/{digest}"
    status = os.stat(f"{root}/etc/a")
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode), status.st_mtime) == (
        12,
        34,
        0o4755,
        99,
    )
    assert status.st_nlink == 2
    assert os.getxattr(f"{root}/etc/a", "user.k") == b"v"
    assert os.readlink(f"{root}/etc/l") == "/nowhere/outside"
    assert stat.S_ISFIFO(os.lstat(f"{root}/etc/f").st_mode)
    assert (stat.S_IMODE(os.stat(f"{root}/etc").st_mode), os.stat(f"{root}/etc").st_mtime) == (0o500, 77)
    assert stat.S_IMODE(os.stat(root).st_mode) == 0o711
    assert unpack_cached(str(packed), str(cache)) == (digest, root)
    assert os.listdir(cache) == [digest]


def test_links_of_the_archive_are_followed_inside_only(tmp_path: Path) -> None:
    """bin -> usr/bin as Debian has it, and an absolute link, lead to places of the root."""
    file = archive(
        tmp_path / "a",
        member("bin", "link", "usr/bin"),
        member("bin/sh"),
        member("var/run", "link", "/run"),
        member("var/run/x"),
        member("up", "link", "../../../../../../up2"),
        member("up/y"),
    )
    root = tmp_path / "root"
    root.mkdir()
    unpack(file, str(root), Bounds())
    assert sorted(
        str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and not p.is_symlink()
    ) == [
        "run/x",
        "up2/y",
        "usr/bin/sh",
    ]


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([member("../evil")], "'..'"),
        ([member("a/../../evil")], "'..'"),
        ([member("l", "hard", "../outside")], "'..'"),
        ([member("l", "link", "/outside"), member("h", "hard", "l/secret")], "does not exist"),
        ([member("l", "link", "l"), member("l/x")], "too many symbolic links"),
        ([member("f"), member("f/x")], "is not a directory"),
        ([member("h", "hard", "missing")], "no file of it"),
        ([member("d", "dir"), member("h", "hard", "d")], "no file of it"),
        ([member("big", data=b"0" * 5000)], "more than 4096 bytes"),
        ([member(f"f{n}", data=b"") for n in range(30)], "more than 20 members"),
    ],
)
def test_a_hostile_archive_is_refused_and_leaves_nothing(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], why: str
) -> None:
    """The error names the archive; the cache is as it was; nothing appears outside."""
    file = archive(tmp_path / "a.tar", *members)
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "c").mkdir()
    with pytest.raises(ArchiveError, match=why):
        unpack_cached(file, str(tmp_path / "c"), Bounds(max_bytes=4096, max_members=20))
    assert os.listdir(tmp_path / "c") == []
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "c", "outside"]


def test_devices_and_orders_to_overlayfs_are_left_out(tmp_path: Path) -> None:
    """A device 0:0 would be a whiteout, a trusted attribute an opaque directory, and a disk a disk."""
    file = archive(
        tmp_path / "a",
        member("sda", "block", devmajor=8, devminor=0),
        member("gone", "char"),
        member("d", "dir", pax_headers={"SCHILY.xattr.trusted.overlay.opaque": "y"}),
    )
    root = tmp_path / "root"
    root.mkdir()
    unpack(file, str(root), Bounds())
    assert os.listdir(root) == ["d"]
    assert os.listxattr(root / "d") == []


def test_an_absolute_name_is_taken_below_the_root(tmp_path: Path) -> None:
    """As tar itself does."""
    root = tmp_path / "root"
    root.mkdir()
    unpack(archive(tmp_path / "a", member("/etc/shipkeeper-test")), str(root), Bounds())
    assert (root / "etc/shipkeeper-test").is_file()


@pytest.mark.parametrize(
    "content", [b"", b"no archive at all", b"\x1f\x8bnonsense", b"\x28\xb5\x2f\xfdnonsense"]
)
def test_what_is_no_archive_says_so(tmp_path: Path, content: bytes) -> None:
    """One clear error, never a traceback of a decoder."""
    (tmp_path / "f").write_bytes(content)
    (tmp_path / "c").mkdir()
    with pytest.raises(ArchiveError, match="cannot unpack"):
        unpack_cached(str(tmp_path / "f"), str(tmp_path / "c"))


def test_an_archive_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    """Half a root is no root."""
    whole = Path(archive(tmp_path / "a", member("f", data=b"0" * 100_000))).read_bytes()
    for cut in (whole[:50_000], gzip.compress(whole)[:-20]):
        (tmp_path / "cut").write_bytes(cut)
        (tmp_path / "c").mkdir(exist_ok=True)
        with pytest.raises(ArchiveError):
            unpack_cached(str(tmp_path / "cut"), str(tmp_path / "c"))
        assert os.listdir(tmp_path / "c") == []


def test_a_header_bomb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """A pax header that says it is 8 GiB long must not be read into memory."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, (1 << 33) - 1
    (tmp_path / "f").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))
    (tmp_path / "c").mkdir()
    with pytest.raises(ArchiveError, match="header of"):
        unpack_cached(str(tmp_path / "f"), str(tmp_path / "c"))


names = st.sampled_from(["a", "b", "a/b", "b/a", "a/b/c", "./a", "/b", "..", "a/..", "../a", "a/../../b", ""])
goals = st.sampled_from(
    ["a", "b", "/", "..", "../..", "/a", "../../../..", "/etc", ".", "a/b", "", "../outside"]
)
members = st.tuples(names, st.sampled_from(sorted(type_names)), goals)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(members, max_size=8))
def test_no_order_of_members_reaches_outside(tmp_path: Path, built: list[tuple[str, str, str]]) -> None:
    """Whatever an archive says, nothing beside the root is made, changed or linked to."""
    base = Path(os.path.realpath(tmp_path)) / os.urandom(6).hex()
    (base / "in/side/root").mkdir(parents=True)
    (base / "outside").write_text("secret")
    (base / "in/outside").write_text("secret")
    file = archive(base / "file", *(member(name, kind, goal) for name, kind, goal in built))
    with contextlib.suppress(ArchiveError, OSError):
        unpack(file, str(base / "in/side/root"), Bounds())
    assert sorted(os.listdir(base)) == ["file", "in", "outside"]
    assert sorted(os.listdir(base / "in")) == ["outside", "side"]
    assert os.listdir(base / "in/side") == ["root"]
    for path in (base / "outside", base / "in/outside"):
        assert path.read_text() == "secret"
        assert path.stat().st_nlink == 1
