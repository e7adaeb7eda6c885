"""The `docker` command of Docker itself, each one that is installed, on our socket."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from supervising import PATIENCE_S, Supervisor, supervising
from test_images import root_archive

CLIENTS = sorted(
    {
        os.path.realpath(path)
        for directory in ("/usr/bin", "/usr/local/bin", *os.environ.get("PATH", "").split(":"))
        if directory and os.access(path := f"{directory}/docker", os.X_OK)
    }
)
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox on this machine"),
    pytest.mark.skipif(not CLIENTS, reason="no docker client on this machine (docker.io, docker-cli)"),
]
Docker = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def box() -> Iterator[Supervisor]:
    with supervising() as made:
        (made.base / "root.tgz").write_bytes(root_archive("1"))
        made.ok("import", "root.tgz", "box")
        yield made


@pytest.fixture(params=CLIENTS)
def docker(request: pytest.FixtureRequest, box: Supervisor, tmp_path: Path) -> Docker:
    def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [request.param, "-H", f"unix://{box.base}/run/shipkeeper.sock", *words],
            env={**os.environ, "DOCKER_CONFIG": str(tmp_path)}, input=stdin, capture_output=True, text=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip

    return run


def test_run_gives_output_stdin_and_exit_code(docker: Docker) -> None:
    ran = docker("run", "--rm", "box", "/bin/sh", "-c", "echo hi; echo err >&2; exit 3")
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "hi\n", "err\n")
    ran = docker("run", "-i", "--rm", "box", "/bin/cat", stdin="x\n")
    assert (ran.returncode, ran.stdout) == (0, "x\n")
    assert docker("ps", "-aq").stdout == "", "both were removed"
    ran = docker("run", "--rm", "nothing/at:all")
    assert ran.returncode == 125
    assert "POST /images/create" in ran.stderr
    assert '{"message"' not in ran.stderr, "the reason, and not its JSON"


def test_a_container_from_its_start_to_its_removal(docker: Docker) -> None:
    script = "echo one; echo two >&2; trap 'exit 0' TERM; while :; do sleep 0.1; done"
    made = docker("run", "-d", "--name", "dd", "-l", "a=b", "box", "/bin/sh", "-c", script)
    assert made.returncode == 0, made.stderr
    try:
        row = "{{.ID}} {{.Names}} {{.Image}} {{.State}} {{.Labels}}"
        assert docker("ps", "--format", row).stdout == f"{made.stdout[:12]} dd box running a=b\n"
        assert "Up " in docker("ps").stdout
        assert docker("ps", "-q", "--filter", "label=a=c").stdout == ""
        assert docker("ps", "-q", "--filter", "name=d", "--filter", "status=running").stdout != ""
        assert docker("exec", "-i", "dd", "/bin/cat", stdin="in").stdout == "in"
        assert docker("exec", "dd", "/bin/sh", "-c", "exit 4").returncode == 4
        (seen,) = json.loads(docker("inspect", "dd").stdout)
        assert (seen["Name"], seen["State"]["Running"], seen["Config"]["Image"]) == ("/dd", True, "box")
        assert docker("stop", "dd").returncode == 0
        assert docker("wait", "dd").stdout == "0\n"
        assert "Exited (0)" in docker("ps", "-a").stdout
        for follow in ([], ["-f"]):
            logs = docker("logs", *follow, "dd")
            assert (logs.stdout, logs.stderr) == ("one\n", "two\n")
        stamped = docker("logs", "-t", "--tail", "1", "dd").stderr
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z two\n", stamped)
        assert docker("logs", "--since", "2000-01-01T00:00:00", "dd").stdout == "one\n"
        assert docker("logs", "--until", "2000-01-01T00:00:00", "dd").stdout == ""
        assert docker("start", "dd").returncode == 0
        assert docker("rename", "dd", "ee").returncode == 0
    finally:
        docker("rm", "-f", "dd", "ee")
    assert docker("ps", "-aq").stdout == ""


def test_logs_are_followed_to_the_end(docker: Docker) -> None:
    docker("run", "-d", "--name", "ff", "box", "/bin/sh", "-c", "echo a; sleep 1; echo b; echo -n c")
    try:
        assert docker("logs", "-f", "ff").stdout == "a\nb\nc\n"
        assert (
            docker("create", "--name", "gg", "box", "/bin/sh", "-c", "echo started; exit 6").returncode == 0
        )
        started = docker("start", "-a", "gg")
        assert (started.returncode, started.stdout) == (6, "started\n")
    finally:
        docker("rm", "-f", "ff", "gg")
