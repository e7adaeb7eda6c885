"""`update: start-first`: the old instance goes when the new one is up, not before; and rolls of several."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from networking import Networked, free_port, networked
from supervising import PATIENCE_S, Supervisor, until

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

# Says its version to everybody; ends as soon as it is asked to, once what it was asked is answered. A version
# that is told to wait becomes healthy when /go is there, a bad one ends.
SERVER = textwrap.dedent(
    """
    import http.server, os, signal, sys, threading
    version = os.environ["VERSION"]
    if version == "bad":
        print("cannot read the key", flush=True)
        sys.exit(3)
    class Says(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            good = version != "waits" or os.path.exists("/go")
            self.send_response(200 if good or self.path != "/health" else 503)
            self.send_header("Content-Length", str(len(version)))
            self.end_headers()
            self.wfile.write(version.encode())
        def log_message(self, *_): pass
    server = http.server.ThreadingHTTPServer(("", 80), Says)
    end = lambda *_: threading.Thread(target=server.shutdown).start()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if version == "stays" else end)
    server.serve_forever()
    """
)


@pytest.fixture
def net() -> Iterator[Networked]:
    with networked() as made:
        yield made


FIRST = "x-shipkeeper: {update: start-first}"


def serving(supervisor: Supervisor, version: str, ports: str, *more: str) -> None:
    """A project `p` with a service that says its version, and one that asks it by name."""
    (supervisor.base / "serve.py").write_text(SERVER)
    probe = "import urllib.request; urllib.request.urlopen('http://127.0.0.1/health')"
    keys = (
        "command: python3 /serve.py",
        "volumes: [./serve.py:/serve.py:ro]",
        f'environment: {{VERSION: "{version}"}}',
        f'ports: ["{ports}:80"]',
        f'healthcheck: {{test: [CMD, python3, -c, "{probe}"], interval: 200ms, retries: 1000}}',
        *(more or (FIRST,)),
    )
    supervisor.compose(
        "name: p\nservices:\n  client: {command: sleep 1000, stop_signal: SIGKILL}\n  web:\n"
        + "".join(f"    {key}\n" for key in keys)
    )


def rows(supervisor: Supervisor, service: str = "web") -> list[dict[str, Any]]:
    return [row for row in supervisor.rows() if row["Service"] == service]


def says(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())


def going_up(supervisor: Supervisor) -> subprocess.Popen[str]:
    """An `up` that is waited for later."""
    return subprocess.Popen(
        [sys.executable, "-m", "supervisor.cli.main", "up", "-d"],
        env=supervisor.environment,
        cwd=supervisor.base,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def addresses(supervisor: Supervisor) -> set[str]:
    """What the name of the service leads to."""
    text = supervisor.ok("exec", "client", "getent", "ahostsv4", "web")
    return {line.split()[0] for line in text.splitlines()}


class Asking:
    """Somebody who asks a port all the time. heard: versions and errors, in order, without repetitions."""

    def __init__(self, port: int) -> None:
        self.heard: list[str] = []
        self._port = port
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._end.is_set():
            try:
                found = says(self._port)
            except OSError as error:
                found = repr(error)
            if self.heard[-1:] != [found]:
                self.heard.append(found)


def test_nobody_notices_an_update(net: Networked) -> None:
    """Every question is answered, on a fixed port of the host and by name; name, number and port stay."""
    supervisor, port = net.supervisor, free_port()
    serving(supervisor, "one", str(port))
    supervisor.ok("up", "-d", "--wait")
    (before,) = rows(supervisor)
    serving(supervisor, "waits", str(port))
    with Asking(port) as asking, going_up(supervisor) as up:
        assert up.stdout is not None
        until(lambda: len(rows(supervisor)) == 2, "the new instance is there")
        new = next(row["Name"] for row in rows(supervisor) if row["Name"] != "p-web-1")
        assert new == f"{before['ID'][:12]}_p-web-1"
        until(lambda: [row["State"] for row in rows(supervisor)] == ["running"] * 2, "it runs")
        assert addresses(supervisor) == {net.address("p-web-1", "p_default")}
        with urllib.request.urlopen(f"http://{supervisor.metrics}/metrics") as answer:
            text = answer.read().decode()
        assert text.count('shipkeeper_service_up{project="p",replica="1",service="web"}') == 1
        until(lambda: supervisor.run("exec", new, "touch", "/go").returncode == 0, "it runs")
        said = up.stdout.read()
        assert up.wait(PATIENCE_S) == 0, said
    assert asking.heard == ["one", "waits"]
    (after,) = rows(supervisor)
    assert (after["Name"], after["ID"] != before["ID"]) == ("p-web-1", True)
    assert "p-web-1: healthy (its definition has changed)" in said
    assert addresses(supervisor) == {net.address("p-web-1", "p_default")}
    assert "p-web-1: unchanged" in supervisor.ok("up", "-d")
    supervisor.ok("restart", "web")
    supervisor.ok("up", "-d", "--wait")
    assert says(port) == "waits"


def test_one_that_does_not_come_up_leaves_the_old_one(net: Networked) -> None:
    """Untouched, and the error says why, with the last lines of the new one."""
    supervisor, port = net.supervisor, free_port()
    serving(supervisor, "one", str(port))
    supervisor.ok("up", "-d", "--wait")
    before = rows(supervisor)
    serving(supervisor, "bad", str(port))
    with Asking(port) as asking:
        result = supervisor.run("up", "-d")
    assert result.returncode == 1
    assert "p-web-1: not recreated: the new instance did not come up (exited: exit code 3" in result.stdout
    assert "the old one runs on; its last words: cannot read the key" in result.stdout
    assert asking.heard == ["one"]
    after = rows(supervisor)
    assert [(row["ID"], row["Pid"]) for row in after] == [(row["ID"], row["Pid"]) for row in before]
    # Ports that it cannot have are the same: found when the old one still runs.
    with Asking(port) as asking, socket.create_server(("127.0.0.1", 0)) as taken:
        serving(supervisor, "two", f"127.0.0.1:{taken.getsockname()[1]}")
        result = supervisor.run("up", "-d")
    assert "not recreated: the new instance did not come up (cannot publish port 80/tcp" in result.stdout
    assert asking.heard == ["one"]
    serving(supervisor, "two", str(free_port()))
    supervisor.ok("up", "-d")
    (row,) = rows(supervisor)
    assert row["Name"] == "p-web-1"
    with pytest.raises(urllib.error.URLError):
        says(port)


@pytest.mark.parametrize("how", ["up", "down", "stop"])
def test_an_update_that_is_called_off_leaves_one_instance(net: Networked, how: str) -> None:
    """By another `up`, by `down`, and by a stop of the service."""
    supervisor, port = net.supervisor, free_port()
    serving(supervisor, "one", str(port))
    supervisor.ok("up", "-d", "--wait")
    serving(supervisor, "waits", str(port))
    with going_up(supervisor) as up:
        assert up.stdout is not None
        until(lambda: [row["State"] for row in rows(supervisor)] == ["running"] * 2, "the new instance runs")
        if how == "up":
            serving(supervisor, "two", str(port))
            supervisor.ok("up", "-d", "--wait")
            wanted = ["running"]
        elif how == "down":
            supervisor.ok("down")
            wanted = []
        else:
            supervisor.ok("stop", "web")
            wanted = ["exited"]
        said = up.stdout.read()
        up.wait(PATIENCE_S)
    assert "not recreated" in said
    assert [row["State"] for row in rows(supervisor)] == wanted
    if how == "up":
        assert "a newer `up` took over" in said
        assert says(port) == "two"


def test_a_daemon_that_dies_in_the_middle_leaves_one_instance(net: Networked) -> None:
    """The old one, which runs on; the next `up` makes the update."""
    supervisor, port = net.supervisor, free_port()
    serving(supervisor, "one", str(port))
    supervisor.ok("up", "-d", "--wait")
    (before,) = rows(supervisor)
    serving(supervisor, "waits", str(port))
    with going_up(supervisor) as up, Asking(port) as asking:
        until(lambda: [row["State"] for row in rows(supervisor)] == ["running"] * 2, "the new instance runs")
        supervisor.kill()
        up.communicate(timeout=PATIENCE_S)
        supervisor.start()
        until(lambda: len(rows(supervisor)) == 1, "one is left")
    (after,) = rows(supervisor)
    assert (after["Name"], after["ID"], after["Pid"]) == ("p-web-1", before["ID"], before["Pid"])
    assert asking.heard == ["one"]
    serving(supervisor, "two", str(port))
    supervisor.ok("up", "-d", "--wait")
    assert says(port) == "two"


def test_a_daemon_that_dies_after_the_hand_over_goes_on_with_it(net: Networked) -> None:
    """The new one has the port, and the old one has not ended yet: there is no way back."""
    supervisor, port = net.supervisor, free_port()
    serving(supervisor, "stays", str(port), FIRST, "stop_grace_period: 1h")
    supervisor.ok("up", "-d", "--wait")
    (old,) = rows(supervisor)
    serving(supervisor, "two", str(port), FIRST, "stop_grace_period: 1h")
    with going_up(supervisor) as up:
        until(lambda: {row["State"] for row in rows(supervisor)} == {"running", "stopping"}, "it is stopped")
        assert says(port) == "two"
        supervisor.kill()
        up.communicate(timeout=PATIENCE_S)
    assert says(port) == "two"
    supervisor.start()
    assert says(port) == "two"
    assert len(rows(supervisor)) == 2
    supervisor.ok("kill", old["ID"])
    until(lambda: len(rows(supervisor)) == 1, "one is left")
    (row,) = rows(supervisor)
    assert row["Name"] == "p-web-1"
    assert row["ID"] != old["ID"]
    assert says(port) == "two"
    assert addresses(supervisor) == {net.address("p-web-1", "p_default")}
    assert "p-web-1: unchanged" in supervisor.ok("up", "-d")


def test_several_are_replaced_one_after_the_other(net: Networked) -> None:
    """Each when the one before is up; where one fails, the others stay as they are. Ports are of a range."""
    supervisor, port = net.supervisor, free_port()
    roll = ("scale: 3", "deploy: {update_config: {parallelism: 1, order: stop-first, delay: 10ms}}")
    serving(supervisor, "one", f"{port}-{port + 20}", *roll)
    supervisor.ok("up", "-d", "--wait")
    published = [row["Ports"] for row in rows(supervisor)]
    assert len(set(published)) == 3, "one port of the range each"
    serving(supervisor, "two", f"{port}-{port + 20}", *roll)
    supervisor.ok("up", "-d")
    began = [started(supervisor, f"p-web-{number}") for number in (1, 2, 3)]
    assert began == sorted(began)
    serving(supervisor, "bad", f"{port}-{port + 20}", *roll)
    result = supervisor.run("up", "-d")
    assert result.returncode == 1
    for number in (2, 3):
        assert (
            f"p-web-{number}: not recreated: p-web-1 did not come up; this one stays as it is"
            in result.stdout
        )
    assert [row["State"] for row in rows(supervisor)] == ["exited", "running", "running"]


def inspect(supervisor: Supervisor, name: str) -> dict[str, Any]:
    return dict(json.loads(supervisor.ok("inspect", name))[0]["State"])


def started(supervisor: Supervisor, name: str) -> str:
    return str(inspect(supervisor, name)["StartedAt"])


def test_an_address_that_is_fixed_is_refused_before_anything_is_touched(net: Networked) -> None:
    supervisor = net.supervisor
    supervisor.compose(
        "name: p\nservices:\n  web: {command: sleep 1000, networks: {default: {ipv4_address: 10.254.78.9}},"
        " x-shipkeeper: {update: start-first}}\n"
        "networks: {default: {ipam: {config: [{subnet: 10.254.78.0/24}]}}}\n"
    )
    result = supervisor.run("up", "-d")
    assert result.returncode == 1
    assert (
        "cannot update web start-first: the new instance would have the address 10.254.78.9" in result.stderr
    )
    assert supervisor.rows() == []
