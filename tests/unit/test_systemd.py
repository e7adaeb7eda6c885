"""What the daemon tells systemd, and what it reads out of systemctl's answers. The rest is in tests/vm."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from supervisor.daemon import systemd

UNIT = "shipkeeper-services.service"


@pytest.mark.parametrize(
    ("listed", "ending"),
    [
        ("", False),
        ("No jobs running.\n", False),
        (f"1234 {UNIT} stop waiting\n", True),
        (f"1234 {UNIT} restart waiting\n", True),
        (f"1234 {UNIT} start running\n", False),
        ("7 shipkeeper.service stop running\n", False),
        (f"7 shipkeeper.service stop running\n8 {UNIT} stop waiting\n", True),
    ],
)
def test_only_a_job_that_ends_the_services_unit_ends_the_services(listed: str, ending: bool) -> None:
    """A stop of the daemon alone does not; a restart of the other unit does."""
    assert systemd.has_stop_job(listed, UNIT) == ending


@pytest.mark.parametrize(
    ("env", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "77"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "78"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_it_bites(
    env: dict[str, str], interval_s: float | None
) -> None:
    """Nothing where it is off, or meant for another process."""
    assert systemd.watchdog_s(env, 77) == interval_s


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told_over_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    """Each word on a line, to a path or an abstract name."""
    name = f"@shipkeeper-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if abstract else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        systemd.notify("READY=1", "STATUS=up")
        assert listener.recv(1000) == b"READY=1\nSTATUS=up"


def test_a_socket_that_is_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one that was never there."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    systemd.notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    systemd.notify("READY=1")


def test_a_long_stop_is_asked_for_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, with more time than until the next message, and not any more when the stop is over."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        async def stop() -> bytes:
            async with systemd.patience(lambda: "stopped 1 of 2"):
                return await asyncio.get_running_loop().sock_recv(listener, 1000)

        words = asyncio.run(stop()).decode().splitlines()
        assert words == ["EXTEND_TIMEOUT_USEC=30000000", "WATCHDOG=1", "STATUS=stopped 1 of 2"]
        with pytest.raises(BlockingIOError):
            listener.recv(1000)


def systemctl(directory: Path, script: str) -> str:
    """A PATH on which a program stands in for systemctl: what it answers is the test's."""
    program = directory / "systemctl"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo LoadState=loaded; echo ActiveState=active; echo ControlGroup=", "has no cgroup"),
        ("echo LoadState=loaded; echo ActiveState=active; echo ControlGroup=/", "has no cgroup"),
        ("echo LoadState=not-found; echo ActiveState=inactive", "not-found.*make install"),
        ("echo Failed to connect; exit 1", "Failed to connect"),
        (
            (
                '[ "$1" = start ] && { echo Transaction is destructive; exit 1; };'
                " echo LoadState=loaded; echo ActiveState=inactive; echo ControlGroup=/a/b"
            ),
            f"cannot start {UNIT}: Transaction is destructive",
        ),
    ],
)
def test_a_unit_that_cannot_hold_the_services_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    """Never the root of the hierarchy instead, and the text says what systemd says."""
    monkeypatch.setenv("PATH", systemctl(tmp_path, script))
    with pytest.raises(systemd.SystemdError, match=message):
        asyncio.run(systemd.services_cgroup(UNIT))


def test_a_unit_that_has_ended_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd ends it with its last process; an active one is not started."""
    state = tmp_path / "started"
    monkeypatch.setenv(
        "PATH",
        systemctl(
            tmp_path,
            f'[ "$1" = start ] && {{ echo x >> {state}; exit 0; }}; echo LoadState=loaded;'
            f" if [ -e {state} ]; then echo ActiveState=active; echo ControlGroup=/system.slice/{UNIT};"
            " else echo ActiveState=inactive; echo ControlGroup=; fi",
        ),
    )
    for _ in range(2):
        assert asyncio.run(systemd.services_cgroup(UNIT)) == f"system.slice/{UNIT}"
    assert state.read_text() == "x\n"


def test_a_host_without_systemctl_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting was made on a host that does not run systemd."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(systemd.SystemdError, match="cannot run systemctl"):
        asyncio.run(systemd.is_ending(UNIT))
