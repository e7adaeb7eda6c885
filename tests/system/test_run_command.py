"""`shipkeeper run` and `create`: what the flags do, seen from inside; exit codes, output, and its end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import docker
import pytest
from docker.utils.socket import frames_iter
from supervising import Supervisor, until
from test_images import root_archive

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox on this machine"),
]


@pytest.fixture
def box(supervisor: Supervisor) -> Supervisor:
    (supervisor.base / "root.tgz").write_bytes(root_archive("1"))
    supervisor.ok("import", "root.tgz", "box")
    return supervisor


def sh(box: Supervisor, *words: str) -> str:
    """The output of a script with some flags before it."""
    return box.ok("run", "--rm", *words[:-1], "box", "/bin/sh", "-c", words[-1])


def test_flags_are_seen_from_inside(box: Supervisor) -> None:
    (box.base / "vars").write_text("# none\nA=file\nB=file\n")
    assert sh(box, "--env-file", str(box.base / "vars"), "-e", "A=own", "echo $A $B") == "own file\n"
    assert sh(box, "-w", "/data", "-u", "7", "echo $(pwd) $(id -u)") == "/data 7\n"
    assert sh(box, "--network", "none", "--hostname", "ship", "cat /proc/sys/kernel/hostname") == "ship\n"
    assert sh(box, "--read-only", "touch /x 2>/dev/null; echo $?") == "1\n"
    assert sh(box, "--tmpfs", "/t", "touch /t/x; ls /t") == "x\n"
    (box.base / "shared").mkdir()
    (box.base / "shared" / "seen").touch()
    assert (
        sh(box, "-v", f"{box.base}/shared:/s:ro", "ls /s; touch /s/no 2>/dev/null; ls /s") == "seen\nseen\n"
    )
    assert sh(box, "--ulimit", "nofile=77:88", "ulimit -n") == "77\n"
    assert "0000000000000000" in sh(box, "--cap-drop", "ALL", "cat /proc/self/status | while read a b; do"
                                    " case $a in CapEff:) echo $b;; esac; done")  # fmt: skip
    assert box.ok("run", "--rm", "--entrypoint", "/bin/cat", "box", "/etc/version") == "1"
    assert box.ok("ps", "-a", "-q") == "", "each was removed"


def test_exit_codes_are_dockers(box: Supervisor) -> None:
    for words, code in (
        (("box", "/bin/sh", "-c", "exit 7"), 7),
        (("--init", "box", "/bin/sh", "-c", "kill -9 $$"), 137),
        (("box", "/no/such"), 127),
        (("box", "/etc/version"), 126),
        (("nothing", "true"), 125),
        (("-m", "1k", "box", "/bin/sh"), 125),
    ):
        result = box.run("run", "--rm", *words)
        assert result.returncode == code, (words, result.stderr)
        assert "Traceback" not in result.stderr
    assert box.ok("ps", "-a", "-q") == ""


def test_every_byte_comes_in_order_and_nothing_is_added(box: Supervisor) -> None:
    assert sh(box, "echo -n a; echo b >&2; echo -n c") == "ac", "no newline that it did not write"
    assert sh(box, "echo -n a; echo; echo -n b; echo") == "a\nb\n"
    counted = "i=0; while [ $i -lt 1000000 ]; do echo $i; i=$((i+1)); done"
    assert sh(box, counted) == "".join(f"{i}\n" for i in range(1_000_000))


def test_signals_are_passed_on(box: Supervisor) -> None:
    words = ["run", "--rm", "--name", "told", "box", "/bin/sh", "-c",
             "trap 'echo told; exit 5' TERM; echo ready; while :; do sleep 0.1; done"]  # fmt: skip
    command = [sys.executable, "-m", "supervisor.cli.main", *words]
    with subprocess.Popen(command, env=box.environment, cwd=box.base, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.stdout.read() == b"told\n"
        assert running.wait(60) == 5


def test_what_is_to_be_removed_is_removed_also_when_the_daemon_was_dead(box: Supervisor) -> None:
    box.ok("run", "-d", "--rm", "--name", "short", "box", "/bin/sleep", "1000")
    box.ok("run", "-d", "--name", "kept", "box", "/bin/sleep", "1000")
    pid = box.row("short")["Pid"]
    box.kill()
    os.kill(pid, signal.SIGKILL)
    box.start()
    until(lambda: "short" not in box.ok("ps", "-a"), "it is removed")
    assert box.state("kept") == "running"
    assert box.run("run", "--name", "kept", "box", "/bin/sh").returncode == 125, "the name is taken"


def test_dockers_own_client_creates_starts_and_waits(box: Supervisor) -> None:
    client = docker.APIClient(base_url=f"unix://{box.base}/run/shipkeeper.sock", version="1.43")
    try:
        made = client.create_container(
            "box", ["/bin/sh", "-c", "echo $A; exit 4"], environment={"A": "x"}, name="theirs"
        )
        stream = client.attach_socket(made["Id"], params={"stream": 1, "stdout": 1, "stderr": 1})
        client.start(made["Id"])
        assert list(frames_iter(stream, tty=False)) == [(1, b"x\n")]
        stream._sock.close()
        stream.close()
        assert client.wait(made["Id"])["StatusCode"] == 4
        client.remove_container(made["Id"], v=True)
        with pytest.raises(docker.errors.NotFound):
            client.inspect_container(made["Id"])
        with pytest.raises(docker.errors.APIError, match="not built"):
            client.create_container("box", ["/bin/sh"], host_config={"PidMode": "host"})
    finally:
        client.close()
