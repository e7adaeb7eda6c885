"""Layers to archives and back: the same bytes, the same files, whiteouts and all; GNU tar reads them, too."""

from __future__ import annotations

import io
import os
import stat
import subprocess
from pathlib import Path

import pytest

from supervisor.image.layertar import write_layer
from supervisor.image.unpacking import Bounds, unpack_tar

pytestmark = [pytest.mark.kernel, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

OPAQUE = "trusted.overlay.opaque"


def archive(root: Path, newest_s: int | None = None) -> bytes:
    out = io.BytesIO()
    write_layer(str(root), out.write, newest_s=newest_s)
    return out.getvalue()


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """One of everything that a layer can have. On ext4 or xfs, for tmpfs has no user xattrs."""
    root = tmp_path / "layer"
    (root / "d/sub").mkdir(parents=True)
    (root / "d/file").write_bytes(b"x" * 1000)
    (root / "d/file").chmod(0o4755)
    os.link(root / "d/file", root / "hard")
    (root / "link").symlink_to("/etc/passwd")
    (root / ("n" * 120)).write_text("long")
    (root / "gr\u00fc\u00dfe").write_text("words")
    os.fsencode(root)
    Path(os.fsdecode(os.fsencode(root) + b"/raw\xff")).write_text("bytes")
    os.mkfifo(root / "fifo")
    os.mknod(root / "gone", stat.S_IFCHR, os.makedev(0, 0))
    os.setxattr(root / "d/sub", OPAQUE, b"y")
    os.setxattr(root / "d/file", "user.note", b"\x00\xffn=\n")
    os.chown(root / "d/sub", 3_000_000, 3_000_001)
    for path in sorted(root.rglob("*")):
        os.utime(path, (1_700_000_000, 1_700_000_000), follow_symlinks=False)
    return root


def described(root: Path) -> dict[bytes, tuple[object, ...]]:
    """Everything that counts of a tree."""
    found: dict[bytes, tuple[object, ...]] = {}
    base = os.fsencode(root)
    for directory, names, files in os.walk(base):
        for name in names + files:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                content = Path(os.fsdecode(path)).read_bytes()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            xattrs = tuple(
                (key, os.getxattr(path, key, follow_symlinks=False))
                for key in sorted(os.listxattr(path, follow_symlinks=False))
            )
            found[path[len(base) :]] = (
                kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, content, xattrs,
                status.st_rdev, status.st_nlink if kind == stat.S_IFREG else 0,
            )  # fmt: skip
    return found


def test_a_layer_comes_back_as_it_was(layer: Path, tmp_path: Path) -> None:
    data = archive(layer)
    copy = tmp_path / "copy"
    copy.mkdir()
    unpack_tar(io.BytesIO(data), "test", str(copy), Bounds(), layer=True)
    assert described(copy) == described(layer)
    assert archive(copy) == data, "and gives the same archive again"


def test_order_of_creation_and_later_times_do_not_show(layer: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["cp", "-a", "--reflink=never", str(layer), str(other)], check=True)
    os.setxattr(other / "d/sub", OPAQUE, b"y")
    for path in sorted(other.rglob("*"), reverse=True):
        os.utime(path, (1_800_000_000, 1_800_000_000.5), follow_symlinks=False)
    assert archive(other, newest_s=1_600_000_000) == archive(layer, newest_s=1_600_000_000)
    assert archive(other) != archive(layer)


def test_gnu_tar_reads_it(layer: Path) -> None:
    listed = subprocess.run(["tar", "-tf", "-"], input=archive(layer), capture_output=True, check=True)
    names = listed.stdout.splitlines()
    assert b"d/.wh..wh..opq" not in names
    assert {b".wh.gone", b"d/", b"d/file", b"hard", b"d/sub/.wh..wh..opq", b"n" * 120} <= set(names)
    assert names[0] == b".wh.gone", "before its siblings"
    assert names[1:] == sorted(names[1:], key=lambda name: name.rstrip(b"/").split(b"/"))


def test_whiteouts_hide_lower_layers_only(tmp_path: Path) -> None:
    """Removed and made again as a directory in one layer: it does not show what the lower one has."""
    for order in (("gone/", ".wh.gone"), (".wh.gone", "gone/")):
        root = tmp_path / order[0].strip("./")
        root.mkdir()
        import tarfile

        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as made:
            for name in order:
                member = tarfile.TarInfo(name.rstrip("/"))
                member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
                member.mode = 0o755
                made.addfile(member)
        unpack_tar(io.BytesIO(out.getvalue()), "test", str(root), Bounds(), layer=True)
        assert (root / "gone").is_dir()
        assert os.getxattr(root / "gone", OPAQUE) == b"y"
