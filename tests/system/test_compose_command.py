"""`shipkeeper compose` as somebody uses it who knows `docker compose`: output shapes, scope, one-off runs."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest
from supervising import PATIENCE_S, Supervisor, supervising, until

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

FILE = """
name: shop
services:
  web:
    command: [sh, -c, 'trap "exit 0" TERM; echo web is here; while :; do sleep 1000 & wait; done']
    environment: {COLOUR: green, SIZE: $$big}
    network_mode: host
    container_name: shop-front
    restart: always
    depends_on: {db: {condition: service_healthy}}
  db:
    command: [sh, -c, 'touch /tmp/up; exec sleep 1000']
    stop_signal: SIGKILL
    network_mode: none
    healthcheck: {test: test -e /tmp/up, interval: 100ms}
    volumes: [data:/data]
  twin:
    command: [sleep, '1000']
    stop_signal: SIGKILL
    network_mode: none
    scale: 2
volumes: {data: {}}
"""
OTHER = "name: other\nservices: {web: {command: sleep 1000, network_mode: none, stop_signal: SIGKILL}}\n"


@pytest.fixture(scope="module")
def shop() -> Iterator[Supervisor]:
    """A project that is up, and another one with a service of the same name; tests change neither."""
    with supervising() as made:
        (made.base / "other.yaml").write_text(OTHER)
        made.ok("compose", "-f", "other.yaml", "up", "-d")
        made.compose(FILE)
        made.ok("compose", "up", "-d", "--wait")
        yield made


@pytest.fixture
def alone(shop: Supervisor) -> Iterator[Supervisor]:
    """After a test what it ran once is gone."""
    yield shop
    left = [row["Name"] for row in shop.rows() if "-run-" in row["Name"] or row["Name"] == "mine"]
    if left:
        shop.ok("rm", "--force", *left)


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


# --- looking -----------------------------------------------------------------------------------------
def test_ps_is_of_the_project_with_the_columns_of_compose(shop: Supervisor) -> None:
    head, *rows = shop.ok("compose", "ps").splitlines()
    assert head.split() == ["NAME", "IMAGE", "COMMAND", "SERVICE", "CREATED", "STATUS", "PORTS"]
    assert [row.split()[0] for row in rows] == ["shop-db-1", "shop-front", "shop-twin-1", "shop-twin-2"]
    assert shop.ok("compose", "ps", "--services").split() == ["db", "twin", "web"]
    found = {row["Name"]: row for row in lines(shop.ok("compose", "ps", "--format", "json"))}
    assert found["shop-db-1"]["Health"] == "healthy"
    assert found["shop-front"]["Service"] == "web"
    assert found["shop-front"]["Publishers"] == []
    assert shop.ok("compose", "ps", "--format", "{{.Name}}={{.State}}", "web") == "shop-front=running\n"
    assert shop.ok("compose", "ps", "--status", "exited").split() == head.split()
    ids = shop.ok("compose", "ps", "-q", "db").split()
    assert ids == [found["shop-db-1"]["ID"]]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["ps", "nope"], 4, "no such service: nope"),
        (["ps", "--format", "{{.Nope}}"], 2, "there is no field Nope"),
        (["ps", "--format", "{{range .}}"], 2, "cannot use the template"),
        (["exec", "nope", "true"], 4, "no such service"),
        (["exec", "--index", "3", "twin", "true"], 4, 'service "twin" has no container #3; there is 1, 2'),
        (["run", "nope"], 2, "nope"),
        (["run", "-P", "-p", "80", "web"], 2, "exclude each other"),
        (["publish", "x"], 2, "cannot publish"),
        (["upp"], 2, "did you mean up?"),
        (["events", "--since", "1h"], 2, "events are not kept"),
        (["up", "--menu"], 2, "there is none"),
        (["up", "-d", "--attach", "web"], 2, "nobody stays to see it"),
        (["up", "--exit-code-from", "wep"], 2, "did you mean web?"),
        (["watch"], 2, "develop.watch"),
        (["port", "web", "80"], 1, "no port 80/tcp"),
        (["wait", "nope"], 4, "no such service"),
    ],
)
def test_what_cannot_be_is_one_clear_error(shop: Supervisor, words: list[str], code: int, said: str) -> None:
    result = shop.run("compose", *words)
    assert (result.returncode, said in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stderr


def test_ls_lists_projects_with_their_files(shop: Supervisor) -> None:
    found = json.loads(shop.ok("compose", "ls", "--format", "json"))
    assert found == [
        {"Name": "other", "Status": "running(1)", "ConfigFiles": f"{shop.base}/other.yaml"},
        {"Name": "shop", "Status": "running(4)", "ConfigFiles": f"{shop.base}/compose.yaml"},
    ]
    assert shop.ok("compose", "ls", "-q", "--filter", "name=sh*") == "shop\n"
    assert shop.ok("compose", "ls").splitlines()[0].split() == ["NAME", "STATUS", "CONFIG", "FILES"]


def test_other_verbs_that_look_have_compose_s_shapes(shop: Supervisor) -> None:
    assert shop.ok("compose", "volumes", "-q") == "shop_data\n"
    assert json.loads(shop.ok("compose", "volumes", "--format", "json"))["Driver"] == "local"
    top = shop.ok("compose", "top", "web").splitlines()
    assert top[0].split()[:4] == ["SERVICE", "#", "UID", "PID"]
    assert {row.split()[0] for row in top[1:]} == {"web"}
    assert shop.ok("compose", "images").split()[:2] == ["CONTAINER", "REPOSITORY"]
    stats = lines(shop.ok("compose", "stats", "--no-stream", "--format", "json", "web"))
    assert [row["Name"] for row in stats] == ["shop-front"]
    assert "web is here" in shop.ok("compose", "logs", "--no-log-prefix", "web")
    assert (
        shop.ok("compose", "version", "--short")
        == shop.ok("compose", "version", "--format", "json").split('"')[3] + "\n"
    )
    assert "web" in shop.ok("compose", "config", "--services").split()


def test_events_are_of_the_project(shop: Supervisor) -> None:
    command = [sys.executable, "-m", "supervisor.cli.main", "compose", "events", "--json", "db"]
    with subprocess.Popen(
        command, env=shop.environment, cwd=shop.base, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        seen = process.stdout
        # When it listens nobody says: something is caused until it is told.
        while not select.select([seen], [], [], 0)[0]:
            shop.ok("compose", "pause", "db")
            shop.ok("compose", "unpause", "db")
        event = json.loads(seen.readline())
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE_S)
    assert shop.ok("compose", "events", "--until", "1s") == "", "that was a second ago"
    assert event["action"] in ("pause", "unpause")
    assert (event["type"], event["service"], event["attributes"]["name"]) == ("container", "db", "shop-db-1")


def test_index_chooses_a_replica_and_the_first_is_meant_without(shop: Supervisor) -> None:
    shop.ok("compose", "exec", "--index", "2", "twin", "touch", "/second")
    assert shop.run("compose", "exec", "twin", "test", "-e", "/second").returncode == 1
    (shop.base / "file").write_text("copied")
    shop.ok("compose", "cp", "--all", "file", "twin:/both")
    for index in ("1", "2"):
        assert shop.ok("compose", "exec", "--index", index, "twin", "cat", "/both") == "copied"
    shop.ok("compose", "cp", "--index", "2", "twin:/second", "fetched")
    assert (shop.base / "fetched").exists()


def test_a_dry_run_changes_nothing(shop: Supervisor) -> None:
    before = shop.rows()
    for words in (["stop"], ["--dry-run", "rm", "-fs"], ["down"], ["kill"], ["run", "web"], ["up", "-d"]):
        given = words if "--dry-run" in words else [*words[:1], "--dry-run", *words[1:]]
        told = shop.ok("compose", *given)
        assert ("DRY-RUN" in told) or words[0] == "up", words
    stable = ("ID", "State", "RestartCount", "Pid")
    assert [[row[key] for key in stable] for row in shop.rows()] == [
        [row[key] for key in stable] for row in before
    ]


# --- run ---------------------------------------------------------------------------------------------
def test_run_has_what_the_service_has_and_passes_its_end_on(alone: Supervisor) -> None:
    script = 'echo "$COLOUR $SIZE $MORE $(pwd)"; cat; echo bad >&2; exit 7'
    done = subprocess.run(
        [
            sys.executable, "-m", "supervisor.cli.main", "compose", "run", "--rm", "-e", "MORE=$x",
            "-w", "/usr", "web", "sh", "-c", script,
        ],
        env=alone.environment, cwd=alone.base, input="typed\n", capture_output=True, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (7, "green $big $x /usr\ntyped\n")
    assert "bad\n" in done.stderr
    assert not [row for row in alone.rows() if "-run-" in row["Name"]]


def test_what_is_run_once_stands_beside_the_service(alone: Supervisor) -> None:
    """Its own name, no restart, no part in up, stop and names; ps shows it with -a only; down takes it."""
    alone.ok("compose", "run", "-d", "--name", "mine", "--entrypoint", "sleep", "web", "1000")
    (row,) = [row for row in alone.rows() if row["Name"] == "mine"]
    assert (row["Service"], row["State"]) == ("web", "running")
    assert "mine" not in alone.ok("compose", "ps")
    assert "mine" in alone.ok("compose", "ps", "-a")
    assert "sleep" in alone.ok("compose", "exec", "mine", "cat", "/proc/1/cmdline")
    assert alone.ok("compose", "exec", "web", "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline").startswith(
        "sh -c"
    )
    told = alone.ok("compose", "up", "-d", "--remove-orphans")
    assert "mine" not in told
    assert set(told.split()[1::2]) == {"unchanged"}
    alone.ok("kill", "mine")
    until(lambda: [r["State"] for r in alone.rows() if r["Name"] == "mine"] == ["exited"], "it stays down")


def test_run_without_a_name_is_called_as_compose_calls_it(alone: Supervisor) -> None:
    made = alone.ok("compose", "run", "-d", "twin", "sleep", "1000").strip()
    (row,) = [row for row in alone.rows() if row["ID"] == made]
    head, _, slug = row["Name"].rpartition("-")
    assert (head, len(slug)) == ("shop-twin-run", 12)


def test_run_on_a_terminal_has_a_terminal(alone: Supervisor) -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    command = [sys.executable, "-m", "supervisor.cli.main", "compose", "run", "--rm", "web"]
    with subprocess.Popen(
        [*command, "sh", "-c", "tty; read x; exit 5"],
        env=alone.environment, cwd=alone.base, stdin=slave, stdout=slave, stderr=slave,
    ) as process:  # fmt: skip
        os.close(slave)
        seen = b""
        while b"/dev/pts/" not in seen:
            seen += os.read(master, 4096)
        os.write(master, b"\r")
        assert process.wait(PATIENCE_S) == 5
    os.close(master)


def test_run_starts_what_it_needs_and_waits_for_it(supervisor: Supervisor) -> None:
    supervisor.compose(FILE)
    done = supervisor.run("compose", "run", "--rm", "web", "echo", "ran")
    assert (done.returncode, done.stdout) == (0, "ran\n"), done.stderr
    assert {row["Service"]: row["Health"] for row in supervisor.rows()} == {"db": "healthy"}
    supervisor.ok("compose", "down", "-v")
    done = supervisor.run("compose", "run", "--rm", "--no-deps", "web", "echo", "ran")
    assert done.stdout == "ran\n"
    assert supervisor.rows() == []


def test_run_that_may_not_start_leaves_nothing(supervisor: Supervisor) -> None:
    supervisor.compose(
        FILE.replace("test -e /tmp/up, interval: 100ms", "'false', interval: 50ms, retries: 1")
    )
    done = supervisor.run("compose", "run", "--rm", "web", "true")
    assert done.returncode == 125, done.stderr
    assert "depends on db, which is unhealthy" in done.stderr
    assert [row["Service"] for row in supervisor.rows()] == ["db"]


# --- acting ------------------------------------------------------------------------------------------
def test_the_life_of_a_project(supervisor: Supervisor) -> None:
    supervisor.compose(
        "name: p\nservices:\n"
        "  a: {command: sh -c 'exec sleep 1000', stop_signal: SIGKILL, network_mode: none}\n"
        "  b: {command: sh -c 'trap \"exit 3\" TERM; sleep 1000 & wait', network_mode: none}\n"
    )
    supervisor.ok("compose", "create")
    assert {row["State"] for row in supervisor.rows()} == {"created"}
    supervisor.ok("compose", "start", "--wait")
    assert supervisor.ok("compose", "kill", "-s", "SIGKILL", "a")
    until(lambda: supervisor.state("a") == "exited", "it has ended by the signal")
    assert "p-a-1" in supervisor.ok("compose", "rm", "-f")
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor.cli.main", "compose", "wait", "--down-project", "b"],
        env=supervisor.environment, cwd=supervisor.base, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        until(lambda: len(os.listdir(f"/proc/{process.pid}/task")) > 1, "a thread of it waits")
        supervisor.ok("compose", "stop", "b")
        out, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, 'container "p-b-1" exited with status code 3' in out) == (3, True)
    assert supervisor.rows() == []
