"""The command as a user meets it: exec on pipes and on a terminal, logs, top, stats, wait, errors."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

import docker
import pytest
from supervising import PATIENCE_S, Supervisor, supervising, until

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

FILE = """
name: shop
services:
  web:
    command: [sh, -c, 'trap "exit 0" TERM; echo web is here; while :; do sleep 1000 & wait; done']
    environment: {COLOUR: green}
    restart: always
    network_mode: host
  job:
    command: [sh, -c, 'echo working; echo failing >&2; exit 3']
    restart: 'on-failure:1'
    network_mode: none
"""


@pytest.fixture(scope="module")
def shop() -> Iterator[Supervisor]:
    """A supervisor with a project that is up, shared by tests that change nothing."""
    with supervising() as made:
        made.compose(FILE)
        made.run("up", "-d")
        until(lambda: made.state("job") == "exited", "the job gave up")
        yield made


class Spawned(subprocess.Popen[bytes]):
    """Killed where a test gives up: to wait for its end would hide why."""

    def __exit__(self, kind: object, *rest: object) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *rest)  # type: ignore[arg-type]


def spawn(supervisor: Supervisor, *arguments: str, **more: object) -> Spawned:
    """The command in the background."""
    return Spawned(
        [sys.executable, "-m", "supervisor.cli.main", *arguments],
        env=supervisor.environment,
        cwd=supervisor.base,
        **more,  # type: ignore[call-overload]
    )


# --- exec --------------------------------------------------------------------------------------------
def test_exec_passes_streams_environment_and_exit_code(shop: Supervisor) -> None:
    """stdin to its end, both outputs apart, the service's environment and ours, the directory, the code."""
    script = "cat; echo $COLOUR $MINE $PWD >&2; exit 7"
    process = spawn(
        shop, "exec", "-e", "MINE=mine", "-w", "/tmp", "web", "sh", "-c", script,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    data = bytes(range(256)) * 4096
    out, err = process.communicate(data, timeout=PATIENCE_S)
    assert (out, err, process.returncode) == (data, b"green mine /tmp\n", 7)


def test_exec_is_by_the_rules_of_the_service(shop: Supervisor) -> None:
    """No new privileges, the filter, its own root and processes; --privileged lifts the first two."""
    status = shop.ok("exec", "web", "cat", "/proc/self/status")
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert "CapEff:\t00000000a80425fb" in status
    lifted = shop.ok("exec", "--privileged", "web", "cat", "/proc/self/status")
    assert "Seccomp:\t0" in lifted
    shop.ok("exec", "web", "touch", "/made-inside")
    assert not os.path.exists("/made-inside")
    assert shop.run("exec", "-u", "nobody", "web", "id", "-un").stdout == "nobody\n"


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["web", "no-such-program"], 127, "executable file not found"),
        (["web", "/etc"], 126, "is a directory"),
        (["job", "true"], 1, "not running"),
        (["wep", "true"], 4, "did you mean web?"),
    ],
)
def test_exec_says_what_it_cannot_do(shop: Supervisor, command: list[str], code: int, words: str) -> None:
    result = shop.run("exec", *command)
    assert (result.returncode, result.stdout) == (code, "")
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_exec_on_a_terminal(shop: Supervisor) -> None:
    """A real pty of the service's own: its size from the beginning, resizing, Ctrl-C, the exit code."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    traps = "trap 'stty size; exit 9' INT; trap 'echo size=$(stty size)' WINCH"
    script = f"{traps}; tty; stty size; while :; do sleep 0.05; done"
    process = spawn(shop, "exec", "-it", "web", "sh", "-c", script, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    seen = b""

    def read_until(wanted: bytes) -> None:
        nonlocal seen
        while wanted not in seen:
            ready, _, _ = select.select([master], [], [], PATIENCE_S)
            assert ready, seen
            seen += os.read(master, 4096)

    try:
        read_until(b"/dev/pts/")
        read_until(b"33 77\r\n")
        fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 99, 0, 0))
        process.send_signal(
            signal.SIGWINCH
        )  # the kernel sends it only where this is our controlling terminal
        read_until(b"size=44 99")
        os.write(master, b"\x03")
        read_until(b"44 99\r\n")
        assert process.wait(PATIENCE_S) == 9
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_a_signal_to_exec_reaches_the_process(shop: Supervisor) -> None:
    """Without a terminal Ctrl-C is passed on, where docker exec leaves the process behind."""
    script = "trap 'echo got it; exit 5' INT; echo ready; while :; do sleep 0.05; done"
    command = ("exec", "web", "sh", "-c", script)
    with spawn(shop, *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == b"got it\n"
        assert process.wait(PATIENCE_S) == 5


def test_a_detached_exec_returns_at_once_and_runs(shop: Supervisor) -> None:
    exec_id = shop.ok("exec", "-d", "web", "sh", "-c", "echo done > /tmp/detached").strip()
    assert re.fullmatch("[0-9a-f]{64}", exec_id)
    until(lambda: shop.run("exec", "web", "cat", "/tmp/detached").stdout == "done\n", "it ran")


def test_exec_by_dockers_own_client(shop: Supervisor) -> None:
    """The python SDK of Docker: create, start with frames apart, inspect; top and stats by the way."""
    client = docker.APIClient(base_url=f"unix://{shop.base}/run/shipkeeper.sock", version="1.43")
    try:
        made = client.exec_create("shop-web-1", ["sh", "-c", "echo out; echo err >&2; exit 4"])
        assert client.exec_start(made["Id"], demux=True) == (b"out\n", b"err\n")
        assert client.exec_inspect(made["Id"])["ExitCode"] == 4
        titles = client.top("shop-web-1")["Titles"]
        assert titles[:3] == ["UID", "PID", "PPID"]
        stats = client.stats("shop-web-1", stream=False)
        assert stats["pids_stats"]["current"] >= 1
        with pytest.raises(docker.errors.NotFound):
            client.exec_create("nobody", ["true"])
    finally:
        client.close()


# --- logs --------------------------------------------------------------------------------------------
def test_logs_are_merged_with_marks_or_exactly_what_was_written(shop: Supervisor) -> None:
    text = shop.ok("logs", "web", "job")
    assert "shop-web-1 | web is here\n" in text
    ended = text.index("shop-job-1 | -- run 1 ended: exit code 3")
    assert text.index("shop-job-1 | failing\n") < ended < text.index("shop-job-1 | -- run 2 began --")
    assert "\x1b" not in text, "no colours outside of a terminal"
    assert sorted(shop.ok("logs", "--no-log-prefix", "job").splitlines()) == ["failing"] * 2 + ["working"] * 2
    assert len(shop.ok("logs", "--no-log-prefix", "-n", "1", "job").splitlines()) == 1


def test_logs_since_and_until_are_times_or_durations(shop: Supervisor) -> None:
    stamps = [line.split()[0] for line in shop.ok("logs", "-t", "--no-log-prefix", "job").splitlines()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", stamp) for stamp in stamps)
    assert shop.ok("logs", "--until", "2020-01-02T03:04:05Z", "job") == ""
    assert "working" in shop.ok("logs", "--since", "1h", "job")
    result = shop.run("logs", "--since", "yesterday", "job")
    assert result.returncode == 2
    assert "write 10m" in result.stderr


def test_logs_follow_several_services_over_a_restart(supervisor: Supervisor) -> None:
    """What comes from both, the marks between the runs, and a service that is made later."""
    supervisor.compose(FILE.replace("name: shop", "name: followed"))
    supervisor.ok("up", "-d", "web")
    follow = ("logs", "-f", "--no-color")
    with spawn(supervisor, *follow, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        for wanted in ("web is here", "-- run 1 ended", "-- run 2 began", "web is here", "followed-job-1 | "):
            if wanted == "-- run 1 ended":
                supervisor.ok("restart", "web")
            if wanted.startswith("followed-job"):
                supervisor.run("up", "-d", "job")
            assert any(wanted in line for line in lines), wanted
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0


# --- looking -----------------------------------------------------------------------------------------
def test_every_reading_command_speaks_json(shop: Supervisor) -> None:
    for command in (
        ["ps", "-a"],
        ["top", "web"],
        ["stats", "--no-stream"],
        ["why", "job"],
        ["logs", "web"],
        ["version"],
        ["up", "--dry-run"],
    ):
        lines = shop.ok(*command, "--format", "json").splitlines()
        assert lines, command
        for line in lines:
            json.loads(line)
    assert json.loads(shop.ok("inspect", "web"))[0]["Name"] == "shop-web-1"
    assert json.loads(shop.ok("config", "--format", "json"))["name"] == "shop"


def test_ps_tells_why_something_is_down_and_what_runs_uses(shop: Supervisor) -> None:
    rows = {line.split()[0]: line for line in shop.ok("ps", "-a").splitlines()}
    assert "1 gave up" in rows["shop-job-1"]
    assert "exit code 3" in rows["shop-job-1"]
    assert re.search(r"Up .* 0 +\d+ +\d+\.\d% +[\d.]+[KM]iB", rows["shop-web-1"])
    assert shop.ok("ps", "web", "-q").strip() == json.loads(shop.ok("inspect", "web"))[0]["Id"]


def test_top_and_stats_show_the_processes_of_the_service_only(shop: Supervisor) -> None:
    text = shop.ok("top", "web")
    assert "sleep 1000" in text
    assert str(os.getpid()) not in text.split()
    (row,) = [
        json.loads(line) for line in shop.ok("stats", "--no-stream", "--format", "json", "web").splitlines()
    ]
    assert row["PIDs"] == 2
    assert 0 < row["MemUsage"] < 100 << 20


def test_names_and_verbs_that_are_wrong_get_a_hint(shop: Supervisor) -> None:
    for command, code, words in (
        (["stop", "wep"], 4, "did you mean web?"),
        (["why", "jop"], 4, "did you mean job?"),
        (["stat"], 2, "did you mean"),
        (["kill", "-s", "NOPE", "web"], 1, "no signal 'NOPE'"),
        (["unpause", "web"], 1, "it is running"),
    ):
        result = shop.run(*command)
        assert result.returncode == code, command
        assert words in result.stderr, command
        assert "Traceback" not in result.stderr


def test_completion_knows_verbs_and_living_names(shop: Supervisor) -> None:
    assert "_SHIPKEEPER_COMPLETE=bash_complete" in shop.ok("completion", "bash")
    asked = subprocess.run(
        [sys.executable, "-m", "supervisor.cli.main"],
        env={
            **shop.environment,
            "_SHIPKEEPER_COMPLETE": "bash_complete",
            "COMP_WORDS": "shipkeeper stop we",
            "COMP_CWORD": "2",
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "web" in asked.stdout


# --- waiting -----------------------------------------------------------------------------------------
def test_up_wait_says_what_came_up_and_what_did_not(supervisor: Supervisor) -> None:
    supervisor.compose(
        "name: waited\nservices:\n"
        "  good: {command: sleep 1000, network_mode: none, stop_signal: SIGKILL}\n"
        "  done: {command: 'true', network_mode: none}\n"
        "  bad: {command: 'false', network_mode: none}\n"
        "  loop: {command: 'false', network_mode: none, restart: always}\n"
    )
    try:
        result = supervisor.run("up", "--wait", "good", "done")
        assert result.returncode == 0, result.stderr
        assert "waited-good-1: up" in result.stdout
        assert "waited-done-1: up" in result.stdout
        result = supervisor.run("up", "--wait", "bad")
        assert result.returncode == 3
        assert "waited-bad-1 did not come up" in result.stderr
        result = supervisor.run("up", "--wait", "--wait-timeout", "2", "loop")
        assert result.returncode == 124
        assert "waited-loop-1" in result.stderr
        assert supervisor.run("wait", "--condition", "up", "good").returncode == 0
        assert supervisor.run("wait", "--condition", "up", "bad").returncode == 3
        assert supervisor.run("wait", "--timeout", "0.2", "good").returncode == 124
        assert supervisor.ok("wait", "bad").strip() == "1"
    finally:
        supervisor.ok("down")


def test_a_stop_of_the_project_ends_dependents_first(supervisor: Supervisor) -> None:
    supervisor.compose(
        "name: ordered\nservices:\n"
        "  base: {command: sleep 1000, network_mode: none, stop_signal: SIGKILL}\n"
        "  one: {command: sleep 1000, network_mode: none, stop_signal: SIGKILL, depends_on: [base]}\n"
        "  two: {command: sleep 1000, network_mode: none, stop_signal: SIGKILL, depends_on: [base]}\n"
    )
    supervisor.ok("up", "-d")
    supervisor.ok("stop")
    ended = {
        view["Service"]: view["State"]["FinishedAt"]
        for view in json.loads(supervisor.ok("inspect", "base", "one", "two"))
    }
    assert ended["base"] > max(ended["one"], ended["two"])


def test_a_stop_for_a_time_tells_when_it_ends_and_ends(supervisor: Supervisor) -> None:
    supervisor.compose(
        "name: held\nservices:\n  web: {command: sleep 1000, network_mode: none, stop_signal: SIGKILL}\n"
    )
    supervisor.ok("up", "-d")
    supervisor.ok("stop", "--for", "30m", "web")
    assert re.search(r"stopped by you; starts again in (30|29) minutes", supervisor.ok("ps", "-a"))
    supervisor.ok("start", "web")
    assert supervisor.run("stop", "--for", "soon", "web").returncode == 2
    supervisor.ok("stop", "--for", "1ms", "web")
    assert supervisor.ok("wait", "--condition", "up", "--timeout", "60", "web") == "web: running\n"
