"""Copying into and out of a root whose owner is hostile: nothing outside of it is read or written."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import stat
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.image.unpacking import ArchiveError
from supervisor.runtime.rootfiles import Rename, find, read_tar, remove, resolved, write_tar

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A root beside a secret, with links to it of every kind."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/file").write_text("secret")
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "real/file").write_text("inside")
    os.symlink(f"{tmp_path}/secret", root / "absolute")
    os.symlink("../secret", root / "relative")
    os.symlink("/real", root / "inner")
    return root


@pytest.fixture
def root(place: Path) -> Iterator[int]:
    fd = os.open(place, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def out(root: int, path: str, **more: str) -> dict[str, tarfile.TarInfo]:
    buffer = io.BytesIO()
    write_tar(root, path, buffer, **more)
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as archive:
        return {member.name: member for member in archive}


def archive(*members: tuple[str, bytes, str], mode: int = 0o644) -> io.BytesIO:
    """(name, type, link or content)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, text in members:
            member = tarfile.TarInfo(name)
            member.type, member.mode = kind, mode
            if kind == tarfile.REGTYPE:
                member.size = len(text)
            else:
                member.linkname = text
            tar.addfile(member, io.BytesIO(text.encode()))
    buffer.seek(0)
    return buffer


def put(root: int, path: str, *members: tuple[str, bytes, str], keep_kinds: bool = False) -> None:
    read_tar(root, path, archive(*members), keep_kinds=keep_kinds)


def test_links_are_followed_inside_the_root_only(root: int, place: Path) -> None:
    """As if the root were /: what they name outside is looked for inside, and is not there."""
    assert list(out(root, "/inner/file")) == ["file"]
    for link in ("absolute", "relative"):
        with pytest.raises(FileNotFoundError):
            out(root, f"/{link}/file")
        with pytest.raises(FileNotFoundError):
            put(root, f"/{link}", ("new", tarfile.REGTYPE, "x"))
        assert out(root, f"/{link}")[link].issym(), "itself it is copied"
    assert resolved(root, "/relative/file") == "/secret/file"
    assert find(root, "/inner").target == "/real"
    assert find(root, "/inner/").mode == os.stat(place / "real").st_mode


def test_an_archive_writes_through_no_link(root: int, place: Path) -> None:
    """A name that is a link is replaced, one below a link is made inside the root; `..` is refused."""
    evil = ("evil", tarfile.SYMTYPE, str(place.parent / "secret"))
    put(root, "/", ("absolute", tarfile.REGTYPE, "replaced"), evil)
    put(root, "/", ("inner/file", tarfile.REGTYPE, "new"))
    assert (place / "absolute").read_text() == "replaced"
    assert (place / "real/file").read_text() == "new"
    with pytest.raises(FileNotFoundError):
        put(root, "/", evil, ("evil/file", tarfile.REGTYPE, "written"))
    assert (place.parent / "secret/file").read_text() == "secret"
    for name in ("../out", "a/../../out"):
        with pytest.raises(ArchiveError, match=r"'\.\.'"):
            put(root, "/", (name, tarfile.REGTYPE, "x"))
    with pytest.raises(FileNotFoundError):
        put(root, "/real", ("hard", tarfile.LNKTYPE, "secret/file"))
    assert not (place.parent / "out").exists()


def test_what_is_removed_is_inside_the_root(root: int, place: Path) -> None:
    """A link is removed itself, or followed inside the root; a directory goes with all in it."""
    (place / "real/deep").mkdir()
    os.symlink(f"{place.parent}/secret", place / "real/deep/out")
    assert remove(root, "/relative")
    assert not remove(root, "/absolute/file")
    assert not remove(root, "/real/nothing")
    assert not remove(root, "/real/file/below")
    assert remove(root, "/inner/file")
    assert not (place / "real/file").exists()
    assert remove(root, "/real/")
    assert not (place / "real").exists()
    assert (place.parent / "secret/file").read_text() == "secret"


def test_what_replaces_what(root: int, place: Path) -> None:
    """Directories are merged; other kinds replace one another, unless that is refused; no device is made."""
    put(root, "/", ("real", tarfile.DIRTYPE, ""), ("real/more", tarfile.REGTYPE, "m"))
    assert sorted(os.listdir(place / "real")) == ["file", "more"]
    for member in (("real", tarfile.REGTYPE, "x"), ("real/file", tarfile.DIRTYPE, "")):
        with pytest.raises(ArchiveError, match="cannot overwrite"):
            put(root, "/", member, keep_kinds=True)
    put(root, "/", ("null", tarfile.CHRTYPE, ""), ("real", tarfile.REGTYPE, "x"))
    assert (place / "real").read_text() == "x"
    assert not (place / "null").exists()


def test_names_in_an_archive_are_changed(root: int, place: Path) -> None:
    """Of hard links, too."""
    given = archive(
        ("a", tarfile.DIRTYPE, ""), ("a/x", tarfile.REGTYPE, "x"), ("a/y", tarfile.LNKTYPE, "a/x")
    )
    read_tar(root, "/real", given, keep_kinds=True, owner=(7, 8), rename=Rename(1, "b"))
    assert os.stat(place / "real/b/x").st_ino == os.stat(place / "real/b/y").st_ino
    assert (os.stat(place / "real/b").st_uid, os.stat(place / "real/b/x").st_gid) == (7, 8)
    assert sorted(out(root, "/real", name="c")) == ["c", "c/b", "c/b/x", "c/b/y", "c/file"]


def test_modes_capabilities_and_names_that_are_no_text_come_back(root: int, place: Path) -> None:
    odd = os.fsencode(place) + b"/real/\xff\n"
    Path(os.fsdecode(odd)).write_text("odd")
    os.setxattr(odd, "security.capability", bytes.fromhex("0100000200200000000000000000000000000000"))
    os.setxattr(odd, "user.note", b"\xfe\0")
    os.chmod(odd, 0o4755)
    os.utime(odd, (5, 5))
    buffer = io.BytesIO()
    write_tar(root, "/real", buffer)
    buffer.seek(0)
    (place / "copy").mkdir()
    read_tar(root, "/copy", buffer, keep_kinds=True)
    copy = os.fsencode(place) + b"/copy/real/\xff\n"
    status = os.stat(copy)
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o4755, 5)
    for name in ("security.capability", "user.note"):
        assert os.getxattr(copy, name) == os.getxattr(odd, name)


def test_a_service_that_swaps_a_directory_for_a_link_gains_nothing(root: int, place: Path) -> None:
    """While copies go on both ways, never a byte of the secret comes out, and none of ours gets in."""
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            # What is copied in meanwhile may be in the way of each.
            for step in (
                lambda: os.rename(place / "real", place / "aside"),
                lambda: os.symlink(place.parent / "secret", place / "real"),
                lambda: os.unlink(place / "real"),
                lambda: os.rename(place / "aside", place / "real"),
                lambda: shutil.rmtree(place / "aside"),
            ):
                with contextlib.suppress(OSError):
                    step()

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in itertools.repeat(None, 300):
            buffer = io.BytesIO()
            try:
                write_tar(root, "/", buffer)
            except OSError:
                continue
            finally:
                assert b"secret\0" not in buffer.getvalue().replace(b"/secret\0", b"")
            try:
                put(root, "/real", ("file", tarfile.REGTYPE, "mine"))
                put(root, "/", ("real/file", tarfile.REGTYPE, "mine"))
            except (OSError, ArchiveError):
                continue
    finally:
        done.set()
        thread.join()
    assert (place.parent / "secret/file").read_text() == "secret"
    assert os.listdir(place.parent / "secret") == ["file"]
