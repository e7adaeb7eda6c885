"""pre_start hooks: what has to end well before a service starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from supervising import Supervisor, until
from test_images import root_archive

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

WAITS = "sh -c 'echo serving; exec sleep 1000'"


def project(supervisor: Supervisor, hooks: str, *, more: str = "") -> None:
    supervisor.compose(
        f"name: p\nservices:\n  web:\n    command: {WAITS}\n    network_mode: none\n"
        f"    stop_signal: SIGKILL\n    volumes: ['data:/data', '{supervisor.base}/told:/told']\n"
        f"    environment: {{A: one, B: two}}\n"
        f"    pre_start:\n{hooks}{more}volumes: {{data: {{}}}}\n"
    )
    (supervisor.base / "told").mkdir(exist_ok=True)
    (supervisor.base / "told" / "list").write_text("")


def hook(script: str, more: str = "") -> str:
    script = script.replace("$", "$$")  # no variable of the file
    return f"    - {{command: [sh, -c, '{script}']{more}}}\n"


def told(supervisor: Supervisor) -> list[str]:
    return (supervisor.base / "told" / "list").read_text().split()


def hooks_left(supervisor: Supervisor) -> list[Path]:
    """Directories of instances beside the service's own."""
    return sorted((supervisor.base / "state" / "instances").iterdir())


def test_hooks_end_in_their_order_before_the_service_begins(clean: Supervisor) -> None:
    project(
        clean,
        hook("sleep 0.2; echo $A:$B:$(id -u) >> /told/list; echo made > /data/file")
        + hook(
            "echo $A:$(pwd):$(cat /data/file) >> /told/list", ", environment: {A: own}, working_dir: /told"
        ),
    )
    clean.ok("up", "-d")
    assert told(clean) == ["one:two:0", "own:/told:made"]
    assert clean.ok("exec", "web", "cat", "/data/file").strip() == "made"
    lines = [line.split("|")[0].strip() for line in clean.ok("logs", "web").splitlines()]
    assert lines == ["p-web-1-pre_start-1"] * 2 + ["p-web-1-pre_start-2"] * 2 + ["p-web-1"] * 2
    assert [row["Name"] for row in clean.rows()] == ["p-web-1"]
    clean.ok("up", "-d")
    assert len(told(clean)) == 2, "it runs: nothing is started"
    clean.ok("stop", "web")
    clean.ok("start", "web")
    assert len(told(clean)) == 4, "a start by a person runs them"
    clean.ok("down", "-v")
    assert hooks_left(clean) == []


def test_a_hook_that_fails_keeps_the_service_down_and_says_why(clean: Supervisor) -> None:
    project(clean, hook("echo no key >&2; exit 3") + hook("echo never >> /told/list"))
    result = clean.run("up", "-d")
    assert result.returncode == 1
    assert "exit code 3, no key" in result.stdout + result.stderr
    row = clean.row("web")
    assert row["State"] == "created"
    assert "pre_start hook" in row["Reason"]
    assert told(clean) == []
    assert "no key" in clean.ok("logs", "web")
    project(clean, hook("echo now >> /told/list"))
    clean.ok("up", "-d")
    assert (clean.state("web"), told(clean)) == ("running", ["now"])
    assert "no key" not in clean.ok("logs", "web"), "what failed went with what was replaced"
    clean.ok("down", "-v")
    assert hooks_left(clean) == []


@pytest.mark.parametrize("verb", ["stop", "down"])
def test_a_stop_ends_a_hook(clean: Supervisor, verb: str) -> None:
    project(clean, hook("echo began >> /told/list; exec sleep 1000"))
    starting = clean.begin("up", "-d")
    until(lambda: told(clean) == ["began"], "the hook runs")
    clean.ok(verb, *(["-t", "0"] if verb == "down" else []))
    starting.communicate(timeout=60)
    assert [row["State"] for row in clean.rows()] == ([] if verb == "down" else ["created"])
    if verb == "stop":
        assert "stopped" in clean.row("web")["Reason"]
        clean.ok("down")
    assert hooks_left(clean) == []


def test_a_daemon_that_is_killed_during_a_hook_begins_again(supervisor: Supervisor) -> None:
    script = "echo began >> /told/list; test -e /told/go || exec sleep 1000"
    project(supervisor, hook(script))
    starting = supervisor.begin("up", "-d")
    until(lambda: told(supervisor) == ["began"], "the hook runs")
    supervisor.kill()
    starting.communicate(timeout=60)
    (supervisor.base / "told" / "go").touch()
    supervisor.start()
    until(lambda: supervisor.state("web") == "running", "the start goes on")
    assert told(supervisor) == ["began", "began"], "from the first hook on"
    supervisor.ok("down", "-v")
    assert hooks_left(supervisor) == []


def test_a_hook_has_an_image_of_its_own(clean: Supervisor) -> None:
    """With the volumes of the service; the image stays as long as the service is there."""
    (clean.base / "root.tgz").write_bytes(root_archive("7"))
    clean.ok("import", "root.tgz", "tools:1")
    project(
        clean,
        "    - {image: tools:1, command: [/bin/sh, -c, 'read v < /etc/version; echo $$v > /data/version']}\n",
    )
    clean.ok("up", "-d")
    assert clean.ok("exec", "web", "cat", "/data/version").strip() == "7"
    assert clean.run("rmi", "tools:1").returncode == 1
    clean.ok("down", "-v")
    clean.ok("rmi", "tools:1")
