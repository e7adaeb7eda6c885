"""Projects that have the same name: each directory keeps to its own services, or is told whose they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from supervising import Supervisor

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ONE = "services:\n  web: {command: sleep 1000, stop_signal: SIGKILL, network_mode: none}\n"
OTHER = "services:\n  db: {command: sleep 1000, stop_signal: SIGKILL, network_mode: none}\n"


@pytest.fixture
def two(clean: Supervisor) -> tuple[Path, Path]:
    """Two directories called shop, the first one's services up."""
    places = clean.base / "a" / "shop", clean.base / "b" / "shop"
    for place, text in zip(places, (ONE, OTHER), strict=True):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        (place / "compose.yaml").write_text(text)
    clean.ok("-f", f"{places[0]}/compose.yaml", "up", "-d")
    return places


def names(supervisor: Supervisor) -> list[str]:
    return sorted(row["Name"] for row in supervisor.rows())


@pytest.mark.parametrize("words", [("up", "-d"), ("up", "--dry-run"), ("up", "-d", "--wait")])
def test_another_directory_of_that_name_is_told_both(
    clean: Supervisor, two: tuple[Path, Path], words: tuple[str, ...]
) -> None:
    """Nothing is touched, and the ways out are named."""
    before = clean.rows()
    result = clean.run("-f", f"{two[1]}/compose.yaml", *words)
    assert result.returncode == 1, result.stdout
    for said in (f"cannot bring up shop from {two[1]}", f"are of {two[0]};", "-p shop down", "name: NAME"):
        assert said in result.stderr, result.stderr
    after = clean.rows()
    assert [(row["Name"], row["Pid"]) for row in after] == [(row["Name"], row["Pid"]) for row in before]


def test_every_way_out_that_the_error_names_is_one(clean: Supervisor, two: tuple[Path, Path]) -> None:
    """Another name; the same project on purpose, after which it is of the new place; the other taken down."""
    other = ("-f", f"{two[1]}/compose.yaml")
    clean.ok(*other, "-p", "shop2", "up", "-d")
    assert names(clean) == ["shop-web-1", "shop2-db-1"]
    clean.ok("-p", "shop2", "down")
    assert "no such service" in clean.ok(*other, "-p", "shop", "up", "-d")
    assert names(clean) == ["shop-db-1", "shop-web-1"]
    clean.ok(*other, "up", "-d")
    assert f"are of {two[1]};" in clean.run("-f", f"{two[0]}/compose.yaml", "up", "-d").stderr
    clean.kill()
    clean.start()
    assert f"are of {two[1]};" in clean.run("-f", f"{two[0]}/compose.yaml", "up", "-d").stderr, "remembered"
    clean.ok("-p", "shop", "down")
    clean.ok("-f", f"{two[0]}/compose.yaml", "up", "-d")
    assert names(clean) == ["shop-web-1"]


def test_a_directory_that_was_moved_takes_its_services_along(
    clean: Supervisor, two: tuple[Path, Path]
) -> None:
    """And nothing is restarted for it."""
    pid = clean.row("web")["Pid"]
    (clean.base / "c").mkdir(exist_ok=True)
    moved = clean.base / "c" / "shop"
    shutil.rmtree(moved, ignore_errors=True)
    two[0].rename(moved)
    assert "unchanged" in clean.ok("-f", f"{moved}/compose.yaml", "up", "-d")
    assert clean.row("web")["Pid"] == pid
    assert f"are of {moved};" in clean.run("-f", f"{two[1]}/compose.yaml", "up", "-d").stderr


def test_a_link_to_its_directory_is_its_directory(clean: Supervisor, two: tuple[Path, Path]) -> None:
    (clean.base / "d").mkdir(exist_ok=True)
    link = clean.base / "d" / "shop"
    link.unlink(missing_ok=True)
    link.symlink_to(two[0])
    assert "unchanged" in clean.ok("-f", f"{link}/compose.yaml", "up", "-d")
