"""`up` that stays: what it shows, when it ends and with which exit code; under a daemon, and hosting one."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from supervising import PATIENCE_S, Supervisor

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

FILE = """
name: job
services:
  web:
    command: [sh, -c, 'trap "echo web ends; exit 0" TERM; echo web begins; sleep 1000 & wait']
    network_mode: none
  test:
    command: [sh, -c, 'echo testing; echo last; exit 7']
    depends_on: [web]
    network_mode: none
  fine:
    profiles: [extra]
    command: [sh, -c, 'echo fine; exit 0']
    network_mode: none
"""


@pytest.fixture(params=["daemon", "hosted"])
def project(request: pytest.FixtureRequest) -> Iterator[Supervisor]:
    """A directory with the file; with a daemon, or without."""
    if request.param == "daemon":
        host = request.getfixturevalue("host")
        host.compose(FILE)
        yield host
        host.ok("down", "-t", "0")
        return
    with tempfile.TemporaryDirectory(prefix="shipkeeper-") as directory:
        own = Supervisor(Path(directory))
        (own.base / "shipkeeper.yaml").write_text('metrics_address: ""\n')
        own.compose(FILE)
        yield own
        assert directory not in Path("/proc/self/mounts").read_text(), "no mount is left"


@pytest.mark.parametrize(
    ("words", "code", "shown", "hidden"),
    [
        (["--abort-on-container-exit", "test"], 7, ["testing", "last"], ["web begins"]),
        (["--exit-code-from", "test"], 7, ["testing", "last", "web ends"], []),
        (["--exit-code-from", "web", "test"], 0, ["testing"], ["web ends"]),
        (["--abort-on-container-failure", "fine", "test"], 7, ["fine", "last"], ["web ends"]),
        (["--attach", "web", "--exit-code-from", "test"], 7, ["web ends"], ["testing"]),
        (["--no-attach", "web", "--exit-code-from", "test"], 7, ["testing"], ["web ends"]),
        (["--attach-dependencies", "--exit-code-from", "test", "test"], 7, ["web ends", "last"], []),
        (["fine"], 0, ["fine"], ["testing"]),
    ],
)
def test_it_ends_with_its_services(
    project: Supervisor, words: list[str], code: int, shown: list[str], hidden: list[str]
) -> None:
    """No line of what is shown is missing, and each is there once."""
    done = project.run("up", *words)
    assert done.returncode == code, done.stdout + done.stderr
    lines = [line.partition(" | ")[2] for line in done.stdout.splitlines() if " | " in line]
    for text in shown:
        assert lines.count(text) == 1, done.stdout
    for text in hidden:
        assert text not in lines, done.stdout


def test_ctrl_c_stops_and_a_second_one_kills(host: Supervisor) -> None:
    host.compose(
        "services:\n  deaf:\n    network_mode: none\n    stop_grace_period: 1h\n"
        "    command: [sh, -c, 'trap \"echo no\" TERM; echo ready; while :; do sleep 1000 & wait; done']\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor.cli.main", "up", "--timestamps"],
        env=host.environment, cwd=host.base, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = iter(process.stdout)
        assert any(re.search(r" \| \d{4}-\d\d-\d\dT[\d:.]+Z ready$", line.rstrip()) for line in lines)
        process.send_signal(signal.SIGINT)
        assert any(line.rstrip().endswith(" no") for line in lines)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
    assert host.state("deaf") == "exited"
    host.ok("down")


def test_a_daemon_that_goes_away_ends_it_and_nothing_else(supervisor: Supervisor) -> None:
    supervisor.compose(FILE)
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor.cli.main", "up", "web"],
        env=supervisor.environment, cwd=supervisor.base, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        lines = iter(process.stdout)
        assert any("web begins" in line for line in lines)
        supervisor.kill()
        assert "what runs runs on" in "".join(lines)
        assert process.wait(PATIENCE_S) == 1
    supervisor.start()
    assert supervisor.state("web") == "running"


def test_on_a_terminal_each_container_has_its_line(host: Supervisor) -> None:
    """Painted live; the last frame says what each has come to, and then where it listens."""
    host.compose(FILE.replace("network_mode: none\n  test", "ports: ['127.0.0.1::80']\n  test"))
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor.cli.main", "up", "-d", "web", "fine"],
        env={**host.environment, "TERM": "xterm"}, cwd=host.base, stdin=slave, stdout=slave, stderr=slave,
    ) as process:  # fmt: skip
        os.close(slave)
        seen = b""
        while data := _read(master):
            seen += data
        assert process.wait(PATIENCE_S) == 0
    os.close(master)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode()).replace("\r", "")
    last = plain.rpartition("[+] up 2/2\n")[2].splitlines()
    assert re.match(r" ✔ Container job-fine-1 +(running|exited: .*) +\d+\.\ds$", last[0]), plain
    assert re.match(r" ✔ Container job-web-1 +running +\d+\.\ds$", last[1]), plain
    assert re.match(r"job-web-1: listens on 127\.0\.0\.1:\d+->80/tcp$", last[2]), plain
    host.ok("down", "-t", "0")


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # EIO: nobody has the other end any more
        return b""


def test_what_has_changed_is_not_started_as_it_was(tmp_path: Path) -> None:
    """The next `up` that hosts the supervisor: its policies would bring the old one back first."""
    own = Supervisor(tmp_path)
    (own.base / "shipkeeper.yaml").write_text('metrics_address: ""\n')
    text = (
        "name: job\nservices:\n  web:\n    restart: always\n    network_mode: none\n"
        "    command: [sh, -c, 'trap exit TERM; echo this is {name}; sleep 1000 & wait']\n"
    )
    for name in ("old", "new"):
        own.compose(text.format(name=name))
        with subprocess.Popen(
            [sys.executable, "-m", "supervisor.cli.main", "up"],
            env=own.environment, cwd=own.base, stdout=subprocess.PIPE, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            said = [next(line for line in process.stdout if "this is" in line)]
            process.send_signal(signal.SIGINT)
            said += [line for line in process.stdout if "this is" in line]
            assert process.wait(PATIENCE_S) == 0
        assert [line.rstrip().rpartition(" ")[2] for line in said] == [name]
