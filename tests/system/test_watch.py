"""`watch`: changes of the sources, carried into services that run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from supervising import PATIENCE_S, Supervisor, until
from test_build_services import prepared

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

STAYS = "[sh, -c, 'trap \"exit 0\" TERM; echo began; while :; do sleep 1000 & wait; done']"
SYNC = f"""
name: w
services:
  web:
    command: {STAYS}
    network_mode: none
    user: nobody
    scale: 2
    develop:
      watch:
        - {{path: ./src, action: sync, target: /srv/site, ignore: ['*.tmp', deep/], initial_sync: true}}
        - {{path: ./conf.ini, action: sync+restart, target: /srv/conf.ini}}
        - {{path: ./hook, action: sync+exec, target: /srv/hook, exec: {{command: [cp, -r, /srv/hook, /tmp]}}}}
"""


@contextlib.contextmanager
def watching(supervisor: Supervisor, *words: str) -> Iterator[None]:
    """`watch` in the background, when it is enabled."""
    log = supervisor.base / "watch.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.cli.main", *words],
            env=supervisor.environment, cwd=supervisor.base, stdout=out, stderr=out,
        )  # fmt: skip
    try:
        until(lambda: "watch enabled" in log.read_text() or process.poll() is not None, "it watches")
        assert process.poll() is None, log.read_text()
        yield
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(PATIENCE_S)


def inside(supervisor: Supervisor, index: int, *command: str) -> str:
    return supervisor.run("compose", "exec", "-T", "--index", str(index), "web", *command).stdout


def files(supervisor: Supervisor, index: int) -> set[str]:
    return set(inside(supervisor, index, "find", "/srv", "-type", "f").split())


def test_files_come_and_go_in_every_replica(supervisor: Supervisor) -> None:
    """As the user of the service; what was there first, what is ignored, whole directories, removals."""
    source = supervisor.base / "src"
    (source / "sub").mkdir(parents=True)
    (source / "first.txt").write_text("first")
    (source / "sub/gone.txt").write_text("gone")
    (supervisor.base / "conf.ini").write_text("a")
    (supervisor.base / "hook").mkdir()
    supervisor.compose(SYNC)
    with watching(supervisor, "compose", "watch"):
        first = {"/srv/site/first.txt", "/srv/site/sub/gone.txt"}
        assert files(supervisor, 1) == first
        assert files(supervisor, 2) == first
        (source / "x.tmp").write_text("no")
        (source / "deep").mkdir()
        (source / "deep/x").write_text("no")
        shutil.rmtree(source / "sub")
        ready = supervisor.base / "moved"
        (ready / "inner").mkdir(parents=True)
        (ready / "inner/file").write_text("whole")
        ready.rename(source / "moved")
        (source / "last.txt").write_text("last")
        wanted = {"/srv/site/first.txt", "/srv/site/moved/inner/file", "/srv/site/last.txt"}
        for index in (1, 2):
            until(lambda index=index: files(supervisor, index) == wanted, "the same is there")  # type: ignore[misc]
        assert inside(supervisor, 1, "stat", "-c", "%U", "/srv/site/last.txt") == "nobody\n"

        before = supervisor.rows()
        # As editors do it: a new file takes the place.
        (supervisor.base / "conf.new").write_text("b")
        (supervisor.base / "conf.new").rename(supervisor.base / "conf.ini")
        until(lambda: inside(supervisor, 2, "cat", "/srv/conf.ini") == "b", "it was copied")
        until(
            lambda: {r["Pid"] for r in before}.isdisjoint(r["Pid"] for r in supervisor.rows()),
            "all restarted",
        )
        assert files(supervisor, 1) == {*wanted, "/srv/conf.ini"}, "a restart takes nothing away"

        (supervisor.base / "hook/h").write_text("h")
        until(lambda: inside(supervisor, 2, "cat", "/tmp/hook/h") == "h", "its command ran after the copy")


@pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox on this machine")
def test_a_rebuild_recreates_and_takes_the_old_image_away(supervisor: Supervisor) -> None:
    """By `up --watch`; a build that fails changes nothing."""
    prepared(supervisor)
    context = supervisor.base / "web"
    (context / "Dockerfile").write_text(
        'FROM base\nENV PATH=/bin\nCOPY say /what\nCMD ["/bin/sh", "-c", "cat /what; exec sleep 1000"]\n'
    )
    (context / "say").write_text("one\n")
    supervisor.compose(
        "name: w\nservices: {web: {build: ./web, network_mode: none, stop_signal: SIGKILL, develop: {watch:"
        " [{path: ./web, action: rebuild}]}}}\n"
    )
    with watching(supervisor, "up", "--watch"):
        images = supervisor.ok("images", "-q", "--no-trunc").split()
        (context / "say").write_text("two\n")
        until(lambda: supervisor.ok("logs", "--no-log-prefix", "web").split()[-1:] == ["two"], "it is new")
        until(lambda: len(supervisor.ok("images", "-q").split()) == len(images), "the old image is gone")
        (context / "Dockerfile").write_text("FROM base\nENV PATH=/bin\nRUN exit 1\n")
        log = Path(supervisor.base, "watch.log")
        until(lambda: "the build failed" in log.read_text(), "it tells")
        assert supervisor.state("web") == "running"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("develop: {watch: [{path: ./none, action: restart}]}", "no such file or directory"),
        ("develop: {watch: [{path: ., action: rebuild}]}", "has no `build`"),
        ("restart: always", "none of the services has `develop.watch`"),
    ],
)
def test_what_cannot_be_watched_is_said_first(clean: Supervisor, text: str, said: str) -> None:
    clean.compose(f"services: {{web: {{command: sleep 1, network_mode: none, {text}}}}}\n")
    result = clean.run("watch")
    assert (result.returncode, said in result.stderr) == (2, True), result.stderr
    assert clean.rows() == []
