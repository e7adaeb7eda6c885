"""Volumes with options: mounted while they are held, for whoever looks from the launcher's namespace, too."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.core.paths import Paths
from supervisor.runtime.heldmounts import HeldMounts
from supervisor.runtime.localdriver import LocalDriverError, check_options, mount_local

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts"),
]

TMPFS = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m,uid=1000"}


@pytest.fixture
def held(tmp_path: Path) -> Iterator[HeldMounts]:
    """Of directories of its own; no mount is left afterwards."""
    made = HeldMounts(Paths(str(tmp_path / "state"), str(tmp_path / "run")))
    yield made
    made.forget()
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def hold(held: HeldMounts, instance: str, run: int, options: dict[str, str] | None = None) -> str:
    return held.hold("volume-v", instance, run, lambda place: mount_local("v", options or TMPFS, place))


def test_mounted_while_somebody_holds_it(held: HeldMounts) -> None:
    """The second holder finds what the first wrote; with the last one it goes, and a new one is fresh."""
    place = hold(held, "a", 1)
    Path(place, "file").write_text("x")
    assert os.stat(place).st_uid == 1000
    assert hold(held, "b", 7) == place
    held.release("a", 1)
    assert Path(place, "file").read_text() == "x"
    held.release("b", 7)
    assert not os.path.ismount(place)
    hold(held, "a", 2)
    assert os.listdir(place) == []


def test_a_late_release_takes_nothing_from_a_later_run(held: HeldMounts) -> None:
    """The run that follows is on its way already when the release of the one before comes."""
    place = hold(held, "a", 1)
    hold(held, "a", 2)
    held.release("a", 1)
    assert os.path.ismount(place)
    held.release("a", 2)
    assert not os.path.ismount(place)


def test_the_next_daemon_keeps_what_is_used_and_unmounts_the_rest(held: HeldMounts, tmp_path: Path) -> None:
    """Another life of the daemon has the mounts of the one before, and not its memory."""
    kept = hold(held, "a", 1)
    lost = held.hold("volume-w", "b", 1, lambda place: mount_local("w", TMPFS, place))
    later = HeldMounts(Paths(str(tmp_path / "state"), str(tmp_path / "run")))
    later.take_over({"volume-v": {"a": 1}})
    assert os.path.ismount(kept)
    assert not os.path.ismount(lost)
    later.release("a", 1)
    assert not os.path.ismount(kept)


def test_a_bind_comes_and_goes_without_its_source(held: HeldMounts, tmp_path: Path) -> None:
    """Also where the source is on a shared mount; the source and what is mounted in it stay."""
    source = tmp_path / "source"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(source)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(source)], check=True)
        (source / "file").write_text("x")
        options = {"type": "none", "o": "bind", "device": str(source)}
        place = hold(held, "a", 1, options)
        assert Path(place, "file").read_text() == "x"
        held.release("a", 1)
        assert not os.path.ismount(place)
        assert (source / "file").read_text() == "x"
    finally:
        subprocess.run(["umount", "-l", str(source)], check=True)


def test_it_is_seen_from_a_namespace_of_before(held: HeldMounts) -> None:
    """The launcher's is a slave of ours, older than the mount; what is unmounted goes there, too."""
    outside = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "slave", "sh", "-c", "echo ready; read _"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert outside.stdin is not None
    assert outside.stdout is not None
    try:
        assert outside.stdout.readline() == b"ready\n"
        place = hold(held, "a", 1)
        table = Path(f"/proc/{outside.pid}/mounts")
        assert f" {place} " in table.read_text()
        held.release("a", 1)
        assert f" {place} " not in table.read_text()
    finally:
        outside.communicate(b"\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"type": "none", "o": "bind", "device": "/does/not/exist"}, "special device /does/not/exist"),
        ({"type": "none", "o": "bind", "device": "x"}, "no absolute path"),
        ({"type": "nosuchfs", "device": "/dev/null"}, "/dev/null"),
    ],
)
def test_an_error_names_the_volume_and_its_options(
    held: HeldMounts, options: dict[str, str], said: str
) -> None:
    """And leaves nothing behind that would pass for the mount."""
    with pytest.raises(LocalDriverError, match="cannot mount volume v") as caught:
        hold(held, "a", 1, options)
    assert said in str(caught.value)
    assert f"device: {options['device']}" in str(caught.value)
    assert not held.holds("a")


@pytest.mark.parametrize("kind", ["nfs", "cifs"])
def test_a_network_file_system_says_what_it_lacks(kind: str) -> None:
    """The helper, if it is not installed; else the server."""
    with pytest.raises(LocalDriverError) as caught:
        mount_local("v", {"type": kind, "device": ":/export", "o": "vers=4"}, "/nowhere")
    text = str(caught.value)
    assert f"there is no mount.{kind}" in text or "no server" in text or "/nowhere" not in text
    assert "cannot mount volume v" in text


def test_options_that_never_work() -> None:
    """Docker's own words, where it has some."""
    for options, said in (
        ({"type": "tmpfs"}, 'missing required option: "device"'),
        ({"device": "x"}, 'missing required option: "type"'),
        ({"typ": "x"}, 'invalid option: "typ"'),
        ({"size": "1m"}, "quota"),
    ):
        with pytest.raises(LocalDriverError, match="cannot create volume v") as caught:
            check_options("v", options)
        assert said in str(caught.value)
