"""Several instances of a service: names, numbers, what is made and what goes, and what `up` is asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from typing import Any

import pytest
from supervising import Supervisor, until

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

QUICK = "stop_signal: SIGKILL, network_mode: none"


def compose(supervisor: Supervisor, *services: str) -> None:
    """A project `p` of services, each a line."""
    supervisor.compose("name: p\nservices:\n" + "".join(f"  {line}\n" for line in services))


def web(replicas: int = 3, more: str = "", seconds: int = 1000) -> str:
    return f"web: {{command: sleep {seconds}, {QUICK}, deploy: {{replicas: {replicas}}}{more}}}"


def names(supervisor: Supervisor) -> list[str]:
    return [row["Name"] for row in supervisor.rows()]


def ids(supervisor: Supervisor) -> dict[str, str]:
    return {row["Name"]: row["ID"] for row in supervisor.rows()}


def told(text: str) -> dict[str, str]:
    """What a command said of each name."""
    return dict(line.split(": ", 1) for line in text.splitlines())


def test_each_instance_has_its_own_name_state_log_and_metrics(clean: Supervisor) -> None:
    """And a service's name means all of them, or the first where one is meant."""
    command = "sh -c 'hostname; exec sleep 1000'"
    compose(clean, f"web: {{command: {command}, {QUICK}, scale: 3, volumes: [/data]}}")
    clean.ok("up", "-d", "--wait")
    assert names(clean) == ["p-web-1", "p-web-2", "p-web-3"]
    lines = [line for line in clean.ok("logs").splitlines() if "--" not in line]
    hostnames = dict(line.split(" | ") for line in lines)
    assert hostnames.keys() == {"p-web-1", "p-web-2", "p-web-3"}
    assert len(set(hostnames.values())) == 3
    assert clean.ok("exec", "web", "hostname") == hostnames["p-web-1"] + "\n"
    assert clean.ok("exec", "p-web-3", "hostname") == hostnames["p-web-3"] + "\n"
    volumes = {name: mount["source"] for name in names(clean) for mount in spec(clean, name)["mounts"]}
    assert len(set(volumes.values())) == 3, "an anonymous volume each"
    clean.ok("kill", "p-web-2")
    until(lambda: clean.rows()[1]["State"] == "exited", "the second is down")
    assert [row["State"] for row in clean.rows()] == ["running", "exited", "running"]
    with urllib.request.urlopen(f"http://{clean.metrics}/metrics") as answer:
        text = answer.read().decode()
    for number in (1, 2, 3):
        assert f'project="p",replica="{number}",service="web"' in text
    assert told(clean.ok("stop", "web")) == dict.fromkeys(names(clean), "stopped")
    assert told(clean.ok("rm", "-v", "web")) == dict.fromkeys(("p-web-1", "p-web-2", "p-web-3"), "removed")


def spec(supervisor: Supervisor, name: str) -> dict[str, Any]:
    return dict(json.loads(supervisor.ok("inspect", name))[0]["Spec"])


def test_only_what_is_missing_or_has_changed_is_made(clean: Supervisor) -> None:
    compose(clean, web(3))
    clean.ok("up", "-d")
    before = ids(clean)
    clean.ok("rm", "-f", "p-web-2")
    assert told(clean.ok("up", "-d")) == {
        "p-web-1": "unchanged",
        "p-web-2": "running",
        "p-web-3": "unchanged",
    }
    after = ids(clean)
    assert {name for name in after if before[name] != after[name]} == {"p-web-2"}
    compose(clean, web(2))
    assert told(clean.ok("up", "-d")) == {
        "p-web-3": "removed (2 instances are wanted)",
        "p-web-1": "unchanged",
        "p-web-2": "unchanged",
    }
    planned = clean.ok("up", "--dry-run", "--scale", "web=4").splitlines()
    assert [line.split()[:2] for line in planned] == [
        ["keep", "p-web-1:"],
        ["keep", "p-web-2:"],
        ["create", "p-web-3:"],
        ["create", "p-web-4:"],
    ]
    unchanged = {"p-web-1": "unchanged", "p-web-2": "unchanged"}
    assert told(clean.ok("scale", "web=4")) == unchanged | {"p-web-3": "running", "p-web-4": "running"}
    assert names(clean) == ["p-web-1", "p-web-2", "p-web-3", "p-web-4"]
    compose(clean, web(2, seconds=999))
    said = told(clean.ok("up", "-d"))
    assert said["p-web-1"] == said["p-web-2"] == "running (its definition has changed)"
    assert said["p-web-4"] == "removed (2 instances are wanted)"
    assert clean.run("scale", "web=0").returncode == 0
    assert names(clean) == []


def test_all_instances_of_a_dependency_are_waited_for(clean: Supervisor) -> None:
    """The last one to be ready counts; one that fails is the reason that is told."""
    health = "healthcheck: {test: 'test -e /ready', interval: 100ms, retries: 1000}"
    compose(
        clean,
        f"db: {{command: sleep 1000, {QUICK}, scale: 2, {health}}}",
        f"web: {{command: sleep 1000, {QUICK}, depends_on: {{db: {{condition: service_healthy}}}}}}",
    )
    clean.ok("up", "-d", "--no-start")
    assert {row["State"] for row in clean.rows()} == {"created"}
    clean.ok("start", "p-db-1", "p-db-2")
    clean.ok("exec", "p-db-1", "touch", "/ready")
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor.cli.main", "up", "-d"],
        env=clean.environment,
        cwd=clean.base,
        stdout=subprocess.PIPE,
        text=True,
    ) as up:
        assert up.stdout is not None
        line = next(line for line in up.stdout if line.startswith("p-web-1"))
        assert line == "p-web-1: waits for db to be healthy\n"
        until(lambda: row(clean, "p-db-1")["Health"] == "healthy", "the first is healthy")
        assert row(clean, "p-web-1")["State"] == "created"
        clean.ok("exec", "p-db-2", "touch", "/ready")
        assert up.stdout.read().splitlines()[-1] == "p-web-1: running"
    assert row(clean, "p-db-2")["Health"] == "healthy"


def row(supervisor: Supervisor, name: str) -> dict[str, Any]:
    (found,) = [row for row in supervisor.rows() if row["Name"] == name]
    return found


def test_what_only_one_can_have_stops_up_before_it_touches_anything(clean: Supervisor) -> None:
    compose(clean, web(1))
    clean.ok("up", "-d")
    clean.compose(
        "name: p\nservices:\n  web: {command: sleep 1000, ports: ['18080:80'], scale: 2}\n"
        "  new: {command: sleep 1000, network_mode: none}\n"
    )
    for arguments in (("up", "-d"), ("up", "--dry-run")):
        result = clean.run(*arguments)
        assert result.returncode == 1
        assert "cannot run 2 instances of web: each would be published at port 18080" in result.stderr
    compose(clean, "web: {command: sleep 1000, container_name: front, network_mode: none}")
    result = clean.run("up", "-d", "--scale", "web=2")
    assert "its container_name front is a name for one" in result.stderr
    assert names(clean) == ["p-web-1"]
    assert "no such service" in clean.run("up", "-d", "--scale", "wob=2").stderr
    for wrong in ("web", "web=x", "web=-1", "=2"):
        assert clean.run("up", "-d", "--scale", wrong).returncode == 2


def test_what_is_there_can_be_left_recreated_or_only_made(clean: Supervisor) -> None:
    db = f"db: {{command: sleep 1000, {QUICK}}}"
    compose(clean, web(1, ", depends_on: [db]"), db)
    assert told(clean.ok("up", "--no-start")) == {"p-db-1": "created", "p-web-1": "created"}
    assert {row["State"] for row in clean.rows()} == {"created"}
    assert told(clean.ok("up", "-d", "--no-deps", "web")) == {"p-web-1": "running"}
    assert row(clean, "p-db-1")["State"] == "created", "it was not asked for"
    assert told(clean.ok("up", "-d")) == {"p-db-1": "running", "p-web-1": "unchanged"}
    compose(clean, web(1, ", depends_on: [db]", seconds=999), db)
    assert told(clean.ok("up", "-d", "--no-recreate", "--scale", "web=2"))["p-web-1"] == "unchanged"
    assert [spec(clean, name)["command"][1] for name in ("p-web-1", "p-web-2")] == ["1000", "999"]
    said = told(clean.ok("up", "-d", "--force-recreate", "--scale", "web=2", "web"))
    assert said["p-web-1"] == "running (you asked for it)"
    assert said["p-db-1"] == "unchanged"
    said = told(clean.ok("up", "-d", "--always-recreate-deps", "web"))
    assert said["p-db-1"] == "running (you asked for it)"
    assert said["p-web-1"] == "unchanged"
    result = clean.run("up", "-d", "--force-recreate", "--no-recreate")
    assert result.returncode == 2
    assert "exclude each other" in result.stderr


def test_orphans_are_told_ignored_or_removed(clean: Supervisor) -> None:
    """What was not asked for is no orphan."""
    old = f"old: {{command: sleep 1000, {QUICK}, container_name: mine}}"
    compose(clean, web(1), old)
    clean.ok("up", "-d")
    assert told(clean.ok("up", "-d", "web")) == {"p-web-1": "unchanged"}
    compose(clean, web(1), f"fresh: {{command: sleep 1000, {QUICK}, container_name: mine}}")
    result = clean.run("up", "-d")
    assert result.returncode == 1
    assert "the name is taken" in result.stderr
    said = told(clean.ok("up", "-d", "--remove-orphans"))
    assert said == {
        "mine": "running",
        "p-web-1": "unchanged",
    }
    assert row(clean, "mine")["Service"] == "fresh"


def test_down_takes_what_depends_on_what_was_named(clean: Supervisor) -> None:
    others = (f"{name}: {{command: sleep 1000, {QUICK}}}" for name in ("db", "x"))
    compose(clean, web(2, ", depends_on: [db]"), *others)
    clean.ok("up", "-d")
    assert told(clean.ok("down", "db")).keys() == {"p-web-1", "p-web-2", "p-db-1"}
    assert names(clean) == ["p-x-1"]
    result = clean.run("down", "db")
    assert "nothing of db in the project p is there" in result.stderr


def test_instances_come_back_after_a_restart_of_the_supervisor(clean: Supervisor) -> None:
    compose(clean, web(3, ", restart: always"))
    clean.ok("up", "-d")
    before = {row["Name"]: row["Pid"] for row in clean.rows()}
    clean.kill()
    clean.start()
    assert {row["Name"]: row["Pid"] for row in clean.rows()} == before
    assert told(clean.ok("up", "-d")) == dict.fromkeys(before, "unchanged")


def test_what_depends_on_several_is_restarted_once(clean: Supervisor) -> None:
    compose(
        clean,
        f"db: {{command: sleep 1000, {QUICK}, scale: 3}}",
        f"web: {{command: sleep 1000, {QUICK},"
        " depends_on: {db: {condition: service_started, restart: true}}}",
    )
    clean.ok("up", "-d")
    clean.ok("restart", "db")
    runs = json.loads(clean.ok("why", "p-web-1", "--format", "json"))["Runs"]
    assert len(runs) == 1
