"""post_start and pre_stop: run inside the service, in their order, and told of when they fail."""

from __future__ import annotations

import os

import pytest
from healthy import WAITS, inspect, last, service, up
from supervising import Supervisor, until

from supervisor.core.healthcheck import Hook, Hooks
from supervisor.core.model import Mount, Policy, RestartRules, ServiceSpec

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def clean(clean: Supervisor) -> Supervisor:
    """With an empty list for hooks to write to."""
    (clean.base / "told").mkdir(exist_ok=True)
    (clean.base / "told" / "list").write_text("")
    return clean


def told(supervisor: Supervisor) -> list[str]:
    return (supervisor.base / "told" / "list").read_text().split()


def hook(script: str, **more: object) -> Hook:
    return Hook(("sh", "-c", script), **more)  # type: ignore[arg-type]


def hooked(supervisor: Supervisor, script: str = WAITS, **more: object) -> ServiceSpec:
    mounts = (Mount("bind", "/told", str(supervisor.base / "told")),)
    return service("web", script, mounts=mounts, **more)


def test_hooks_run_inside_in_their_order_with_their_own_values(clean: Supervisor) -> None:
    hooks = Hooks(
        post_start=(
            hook("sleep 0.2; echo first >> /told/list"),
            hook("echo $COLOUR:$(id -u):$(pwd) >> /told/list", environment=(("COLOUR", "red"),), user="0"),
            hook("echo $(id -u):$(pwd) >> /told/list; ", user="0", working_dir="/told"),
        ),
        pre_stop=(hook("echo before >> /told/list"),),
    )
    stopping = 'trap "echo stopped >> /told/list; exit" TERM; while :; do sleep 99 & wait; done'
    lines = up(clean, hooked(clean, stopping, hooks=hooks))
    assert last(lines, "web") == "running"
    assert told(clean) == ["first", "red:0:/", "0:/told"], "`up` ends after them"
    clean.ok("stop", "p-web-1")
    assert told(clean)[3:] == ["before", "stopped"]


def test_a_restart_by_policy_is_a_start_and_no_stop(clean: Supervisor) -> None:
    hooks = Hooks((), (hook("echo start >> /told/list"),), (hook("echo stop >> /told/list"),))
    up(clean, hooked(clean, hooks=hooks, restart=RestartRules(Policy.ALWAYS)))
    clean.ok("kill", "-s", "KILL", "p-web-1")  # by a person: it stays down
    clean.ok("start", "p-web-1")
    until(lambda: told(clean) == ["start", "start"], "the second start ran it, too")
    os.kill(inspect(clean, "p-web-1")["State"]["Pid"], 9)
    until(lambda: told(clean) == ["start"] * 3, "and so did the one by policy")
    clean.ok("restart", "p-web-1")
    until(lambda: told(clean) == ["start"] * 3 + ["stop", "start"], "a restart stops, then starts")


def test_a_failed_post_start_is_told_and_ends_nothing(clean: Supervisor) -> None:
    hooks = Hooks((), (hook("echo no key >&2; exit 4"), hook("echo never >> /told/list")))
    lines = up(clean, hooked(clean, hooks=hooks))
    assert last(lines, "web").startswith("running; post_start hook 'sh -c echo no key")
    assert last(lines, "web").endswith("of p-web-1 failed: exit code 4, no key")
    assert clean.state("web") == "running"
    assert told(clean) == []


def test_a_pre_stop_that_hangs_has_no_more_than_the_grace_period(clean: Supervisor) -> None:
    hooks = Hooks(pre_stop=(hook("echo began >> /told/list; sleep 1000"),))
    up(clean, hooked(clean, hooks=hooks, stop_grace_s=1.0))
    clean.ok("stop", "p-web-1")
    assert told(clean) == ["began"]
    assert clean.state("web") == "exited"
    assert clean.row("web")["ExitCode"] == 0, "the program still had its stop signal"


def test_down_runs_pre_stop_and_kill_does_not(clean: Supervisor) -> None:
    hooks = Hooks(pre_stop=(hook("echo stop >> /told/list"),))
    up(clean, hooked(clean, hooks=hooks))
    clean.ok("kill", "p-web-1")
    until(lambda: clean.state("web") == "exited", "killed")
    assert told(clean) == []
    clean.ok("start", "p-web-1")
    clean.ok("down", "-p", "p")
    assert told(clean) == ["stop"]
