"""Files that the command writes for the user: there as a whole, or not at all."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from supervisor.cli.output import WriteError, whole_file


def test_what_was_there_stays_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with whole_file(str(path)) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ValueError, match="mine"), whole_file(str(path)) as file:
        file.write(b"new")
        raise ValueError("mine")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_path_that_was_asked_for(tmp_path: Path) -> None:
    wanted = {
        tmp_path / "none/file": "No such file or directory",
        tmp_path: "Is a directory",
        tmp_path / "plain/file": "Not a directory",
    }
    (tmp_path / "plain").touch()
    for path, why in wanted.items():
        with pytest.raises(WriteError) as caught, whole_file(str(path)):
            pass
        assert str(caught.value) == f"cannot write {path}: {why}"


def test_an_error_about_another_file_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(str(tmp_path / "file")):
        (tmp_path / "other").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("file")
    with whole_file(str(tmp_path / "link")) as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "new"


def test_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(path.read_bytes()))
    reader.start()
    with whole_file(str(path)) as file:
        file.write(b"new")
    reader.join()
    assert read == [b"new"]
    assert stat.S_ISFIFO(path.stat().st_mode)
