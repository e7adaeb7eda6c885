"""`up`, another `up` and `down` of a project at once, with kills between: it ends as one of them asked.

Each round is drawn from a seed, which is printed: SHIPKEEPER_ASKED_SEED repeats a run,
SHIPKEEPER_ASKED_ROUNDS makes it longer.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import leaks
import psutil
import pytest
from networking import Networked, networked
from supervising import PATIENCE_S, Supervisor, until

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ROUNDS = int(os.environ.get("SHIPKEEPER_ASKED_ROUNDS", "8"))
SEED = int(os.environ.get("SHIPKEEPER_ASKED_SEED", str(random.randrange(1 << 32))))

MODEL = """
name: both
services:
  web: {{command: sleep 1000, stop_signal: SIGKILL, restart: always, environment: [MODEL={name}],
        networks: {networks}, depends_on: [db]}}
  db: {{command: sleep 1000, stop_signal: SIGKILL, restart: always, environment: [MODEL={name}],
       networks: [back], healthcheck: {{test: 'true', interval: 50ms}}}}
  side: {{command: sleep 1000, stop_signal: SIGKILL, restart: always, environment: [MODEL={name}],
         network_mode: 'service:web', depends_on: {{db: {{condition: service_healthy}}}}}}
networks: {{front: , back: }}
"""
NETWORKS = {"a": ["front", "back"], "b": ["back"]}
VICTIMS = ("daemon", "supervisor.launcher", "supervisor.resolver")


@pytest.fixture
def net() -> Iterator[Networked]:
    with networked() as made:
        for name, networks in NETWORKS.items():
            text = MODEL.format(name=name, networks=json.dumps(networks))
            (made.supervisor.base / f"{name}.yaml").write_text(text)
        yield made


def ask(supervisor: Supervisor, what: str) -> subprocess.Popen[bytes]:
    """Begin one: "a" and "b" bring that model up."""
    words = ("-p", "both", "down", "-t", "0") if what == "down" else ("-f", f"{what}.yaml", "up", "-d")
    return subprocess.Popen(
        [sys.executable, "-m", "supervisor.cli.main", *words],
        env=supervisor.environment,
        cwd=supervisor.base,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill(supervisor: Supervisor, victim: str) -> None:
    if victim == "daemon":
        supervisor.kill()
        supervisor.start()
        return
    for process in leaks.processes(supervisor.base):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(word.startswith(victim) for word in process.cmdline()):
                process.kill()


def models(net: Networked) -> set[tuple[str, str, tuple[str, ...]]]:
    """(service, model, its networks) of all that is up."""
    found = set()
    for row in net.supervisor.rows():
        view = net.inspect(row["Name"])
        (model,) = [text[6:] for text in view["Config"]["Env"] if text.startswith("MODEL=")]
        found.add((row["Service"], f"{model} {row['State']}", tuple(view["NetworkSettings"]["Networks"])))
    return found


def wanted(what: str) -> set[tuple[str, str, tuple[str, ...]]]:
    if what == "down":
        return set()
    return {
        ("web", f"{what} running", tuple(f"both_{name}" for name in NETWORKS[what])),
        ("db", f"{what} running", ("both_back",)),
        ("side", f"{what} running", ()),
    }


def settled(net: Networked) -> bool:
    """Nothing that was asked is still under way."""
    asked = Path(net.supervisor.base / "state" / "asked")
    return not asked.is_dir() or not list(asked.glob("*.json"))


def test_the_end_is_what_one_of_them_asked(net: Networked) -> None:
    """Never a mixture of two models, and never a part of one; nothing is left when it is down."""
    print(f"SHIPKEEPER_ASKED_SEED={SEED} SHIPKEEPER_ASKED_ROUNDS={ROUNDS}")
    rng = random.Random(SEED)
    supervisor, before = net.supervisor, "down"
    for number in range(ROUNDS):
        what = [rng.choice(("a", "b", "down")) for _ in range(rng.randint(1, 3))]
        victims = rng.sample(VICTIMS, rng.choice((0, 1, 1, 2)))
        print(f"round {number}: {before}, then {', '.join(what)}; killed: {', '.join(victims) or 'nobody'}")
        asked = []
        for each in what:
            asked.append(ask(supervisor, each))
            time.sleep(rng.choice((0.0, rng.uniform(0.0, 0.8))))
        for victim in victims:
            time.sleep(rng.uniform(0.0, 0.8))
            kill(supervisor, victim)
        codes = [each.wait(PATIENCE_S) for each in asked]
        until(lambda: settled(net), "all that was asked has come to its end")
        # One that was asked while no daemon was there to hear it was never asked.
        ends = {*what, before} if "daemon" in victims else set(what)
        possible = {end: wanted(end) for end in ends}
        until(lambda possible=possible: models(net) in possible.values(), f"one of {possible}; codes {codes}")
        (before,) = [end for end in possible if models(net) == possible[end]]
    supervisor.ok("-p", "both", "down", "-t", "0")
    assert (net.links(), net.table(), net.namespaces()) == ([], "", [])
    leaks.none_left(lambda: leaks.of_instances(supervisor.base))


@pytest.mark.parametrize("last", ["b", "down"])
def test_what_a_killed_daemon_was_asked_is_done_by_the_next(net: Networked, last: str) -> None:
    """The kill comes when some services are changed and others are not."""
    supervisor = net.supervisor
    command = [sys.executable, "-m", "supervisor.cli.main", "events"]
    with subprocess.Popen(
        command, env=supervisor.environment, cwd=supervisor.base, stdout=subprocess.PIPE, text=True
    ) as events:
        assert events.stdout is not None
        supervisor.ok("-f", "a.yaml", "up", "-d")
        asked = None
        for line in events.stdout:
            if asked is None and "start" in line and "side" in line:
                asked = ask(supervisor, last)
            if "destroy" in line:
                break
        supervisor.kill()
    assert asked is not None
    asked.wait(PATIENCE_S)
    supervisor.start()
    until(lambda: models(net) == wanted(last), f"{last} is done")
    until(lambda: settled(net), "and forgotten")
