"""Probes of running services: what they see, what they cost the service, and what comes of their results."""

from __future__ import annotations

import os
import shutil
import socket
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from healthy import WAITS, api, becomes, health, inspect, last, service, shell, up
from supervising import Supervisor, until
from test_images import root_archive, with_config

from supervisor.core.healthcheck import Healthcheck, Probe
from supervisor.core.model import Policy, RestartRules

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture(scope="module")
def host(host: Supervisor) -> Supervisor:
    """With the image `box`."""
    if shutil.which("busybox") is None:
        pytest.skip("no busybox on this machine")
    (host.base / "root.tgz").write_bytes(root_archive("1"))
    host.ok("import", "root.tgz", "box")
    return host


def log(supervisor: Supervisor, name: str) -> list[dict[str, Any]]:
    return list(inspect(supervisor, name)["State"]["Health"]["Log"])


def test_a_command_is_run_inside_and_its_success_is_seen_at_once(clean: Supervisor) -> None:
    """The interval is an hour: only an early probe can have said it. It has the service's root and user."""
    clean.ok(
        "run", "-d", "--name", "web", "-u", "app", "-e", "COLOUR=green", "--health-interval", "1h",
        "--health-cmd", "cat /etc/version; id -un; echo $COLOUR $$ >&2", "box", "/bin/sleep", "1000",
    )  # fmt: skip
    becomes(clean, "web", "healthy")
    state = inspect(clean, "web")["State"]["Health"]
    assert state["FailingStreak"] == 0
    assert state["Log"][-1]["ExitCode"] == 0
    assert state["Log"][-1]["Output"].split()[:1] == ["1app"]
    assert "green" in state["Log"][-1]["Output"]
    assert "(healthy)" in clean.ok("ps")
    assert clean.row("web")["Health"] == "healthy"
    story = clean.ok("why", "web")
    assert "health: healthy" in story
    assert ": succeeded: 1app" in story
    assert clean.row("web")["RestartCount"] == 0


def test_failures_in_a_row_make_it_unhealthy_and_a_success_heals_it(clean: Supervisor) -> None:
    clean.ok(
        "run", "-d", "--name", "web", "--health-interval", "200ms", "--health-retries", "2",
        "--health-cmd", "cat /data/well 2>/dev/null || { echo no well; exit 7; }",
        "box", "/bin/sleep", "1000",
    )  # fmt: skip
    becomes(clean, "web", "unhealthy")
    assert log(clean, "web")[-1]["ExitCode"] == 7
    assert "exit code 7" in clean.ok("why", "web")
    assert "(unhealthy)" in clean.ok("ps")
    assert "no well" in clean.ok("ps")
    assert clean.state("web") == "running", "on_unhealthy is ignore"
    clean.ok("exec", "-T", "web", "/bin/touch", "/data/well")
    becomes(clean, "web", "healthy")


def test_a_probe_that_takes_too_long_is_killed_with_its_group(clean: Supervisor) -> None:
    clean.ok(
        "run", "-d", "--name", "web", "--health-interval", "100ms", "--health-timeout", "300ms",
        "--health-retries", "1", "--health-cmd", "echo began; sleep 1234 & sleep 1234",
        "box", "/bin/sleep", "1000",
    )  # fmt: skip
    becomes(clean, "web", "unhealthy")
    newest = log(clean, "web")[-1]
    assert (newest["ExitCode"], newest["Output"]) == (-1, "Health check exceeded timeout (0.3s): began\n")
    clean.ok("pause", "web")  # no probe is under way now
    clean.ok("unpause", "web")
    rows = clean.ok("top", "web").splitlines()
    assert sum("1234" in row for row in rows) <= 2, "earlier probes have left nothing"


def test_output_is_cut_and_a_flood_does_not_block(clean: Supervisor) -> None:
    clean.ok(
        "run", "-d", "--name", "web", "--health-cmd", "i=0; while [ $i -lt 3000 ]; do i=$((i+1));"
        " echo 0123456789012345678901234567890123456789; done", "box", "/bin/sleep", "1000",
    )  # fmt: skip
    becomes(clean, "web", "healthy")
    assert len(log(clean, "web")[-1]["Output"]) == 4096


def test_a_command_that_is_not_there_is_a_failure_that_names_it(clean: Supervisor) -> None:
    up(clean, service("web", healthcheck=Healthcheck(Probe("command", ("nothing-here",)), interval_s=0.2)))
    becomes(clean, "p-web-1", "unhealthy")
    newest = log(clean, "p-web-1")[-1]
    assert newest["ExitCode"] == -1
    assert "nothing-here" in newest["Output"]


def test_the_image_says_how_it_is_examined_and_may_be_overruled(clean: Supervisor) -> None:
    test = {"Test": ["CMD-SHELL", "echo of the image"], "Interval": 3_600_000_000_000}
    with_config(clean, "box", Healthcheck=test)
    clean.ok("run", "-d", "--name", "theirs", "box", "/bin/sleep", "1000")
    clean.ok("run", "-d", "--name", "none", "--no-healthcheck", "box", "/bin/sleep", "1000")
    clean.ok("run", "-d", "--name", "ours", "--health-cmd", "echo ours", "box", "/bin/sleep", "1000")
    becomes(clean, "theirs", "healthy")
    becomes(clean, "ours", "healthy")
    assert log(clean, "theirs")[-1]["Output"] == "of the image\n"
    assert log(clean, "ours")[-1]["Output"] == "ours\n"
    assert inspect(clean, "ours")["Config"]["Healthcheck"]["Interval"] == 3_600_000_000_000
    assert health(clean, "none") == "none"
    assert inspect(clean, "none")["Config"]["Healthcheck"]["Test"] == ["NONE"]
    assert "health" not in clean.ok("why", "none")


class Answers(BaseHTTPRequestHandler):
    code = 200

    def do_GET(self) -> None:
        self.send_response(type(self).code if self.path == "/ready" else 404)
        self.end_headers()
        self.wfile.write(b"what it says")

    def log_message(self, *_: object) -> None:
        pass


def test_http_and_tcp_are_asked_without_a_process_on_the_hosts_network(clean: Supervisor) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever).start()
        try:
            port = server.server_address[1]
            quick = {"interval_s": 0.2, "retries": 1}
            up(
                clean,
                service("get", healthcheck=Healthcheck(Probe("http", port=port, path="/ready"), **quick)),
                service("no", healthcheck=Healthcheck(Probe("http", port=port, path="/not"), **quick)),
                service("tcp", healthcheck=Healthcheck(Probe("tcp", port=port), **quick)),
            )
            becomes(clean, "p-get-1", "healthy")
            becomes(clean, "p-tcp-1", "healthy")
            becomes(clean, "p-no-1", "unhealthy")
            assert log(clean, "p-get-1")[-1]["Output"].startswith("HTTP/1.0 200 OK")
            assert "404 Not Found" in log(clean, "p-no-1")[-1]["Output"]
            Answers.code = 503
            becomes(clean, "p-get-1", "unhealthy")
        finally:
            Answers.code = 200
            server.shutdown()
    becomes(clean, "p-tcp-1", "unhealthy")
    assert "Connection refused" in log(clean, "p-tcp-1")[-1]["Output"]


SERVER = (
    "import http.server as h\n"
    "class A(h.BaseHTTPRequestHandler):\n"
    " def do_GET(self): self.send_response(302); self.send_header('Location', '/'); self.end_headers()\n"
    " def log_message(self, *_): pass\n"
    "h.HTTPServer(('127.0.0.1', {port}), A).serve_forever()\n"
)


@pytest.mark.skipif(not Path("/usr/bin/python3").exists(), reason="no /usr/bin/python3 on this machine")
def test_a_probe_without_a_process_is_made_in_the_services_own_network(clean: Supervisor) -> None:
    """The host's port of the same number is closed: only in the service's namespace is there an answer."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    probe = Healthcheck(Probe("http", port=port), interval_s=0.3, retries=1, start_period_s=30.0)
    script = f'exec /usr/bin/python3 -c "{SERVER.format(port=port)}"'
    up(
        clean,
        service("own", script, healthcheck=probe, network_mode="none"),
        service("host", healthcheck=Healthcheck(Probe("tcp", port=port), interval_s=0.3, retries=1)),
    )
    becomes(clean, "p-own-1", "healthy")
    becomes(clean, "p-host-1", "unhealthy")
    assert log(clean, "p-own-1")[-1]["Output"].startswith("HTTP/1.0 302 ")


def test_on_unhealthy_restart_is_a_failure_with_its_own_cause(clean: Supervisor) -> None:
    """The program ends well at the stop signal; on-failure starts it again all the same."""
    sick = Healthcheck(Probe("command", ("false",)), interval_s=0.2, retries=2, on_unhealthy="restart")
    up(clean, service("web", healthcheck=sick, restart=RestartRules(Policy.ON_FAILURE, max_attempts=2)))
    until(lambda: clean.state("web") == "exited", "it gave up")
    row = clean.row("web")
    assert row["RestartCount"] == 2
    assert row["Reason"].startswith("gave up after 2 of 2 restarts: unhealthy: 2 probes failed in a row")
    story = clean.ok("why", "p-web-1")
    assert story.count("-> unhealthy: 2 probes failed in a row: exit code 1; on_unhealthy restart") == 2


def test_a_new_run_starts_anew(clean: Supervisor) -> None:
    up(clean, service("web", healthcheck=shell("exit 1", interval_s=0.2)))
    becomes(clean, "p-web-1", "unhealthy")
    run = inspect(clean, "p-web-1")["State"]["Pid"]
    clean.ok("restart", "p-web-1")
    state = inspect(clean, "p-web-1")["State"]
    assert state["Pid"] != run
    becomes(clean, "p-web-1", "unhealthy")
    assert all(entry["Start"] > state["StartedAt"] for entry in log(clean, "p-web-1"))


def test_health_outlives_the_supervisor_and_events_tell_only_changes(clean: Supervisor) -> None:
    """A healthy service is healthy from the first answer of the new daemon on, and no event says so anew."""
    up(clean, service("web", healthcheck=shell("true", interval_s=3600.0)))
    becomes(clean, "p-web-1", "healthy")
    pid = inspect(clean, "p-web-1")["State"]["Pid"]
    clean.kill()
    clean.start()
    state = inspect(clean, "p-web-1")["State"]
    assert (state["Health"]["Status"], state["Pid"]) == ("healthy", pid)


def test_a_service_that_is_starting_is_looked_after_by_the_next_supervisor(clean: Supervisor) -> None:
    up(clean, service("web", healthcheck=shell(f"cat {clean.base}/well", interval_s=0.3, retries=10**6)))
    becomes(clean, "p-web-1", "starting")
    clean.kill()
    clean.start()
    clean.ok("exec", "-T", "p-web-1", "sh", "-c", f"mkdir -p {clean.base}; touch {clean.base}/well")
    becomes(clean, "p-web-1", "healthy")


def test_probes_go_on_with_another_launcher(clean: Supervisor) -> None:
    up(clean, service("web", healthcheck=shell("date +%N", interval_s=0.2)))
    becomes(clean, "p-web-1", "healthy")
    (launcher,) = [p for p in clean.helpers() if "supervisor.launcher.server" in " ".join(p.cmdline())]
    launcher.kill()
    launcher.wait()
    before = log(clean, "p-web-1")[-1]["Start"]
    until(lambda: log(clean, "p-web-1")[-1]["Start"] > before, "another probe")
    assert health(clean, "p-web-1") == "healthy"


def test_what_is_paused_is_not_probed(clean: Supervisor) -> None:
    up(clean, service("web", healthcheck=shell("true", interval_s=0.1, timeout_s=0.5)))
    becomes(clean, "p-web-1", "healthy")
    clean.ok("pause", "p-web-1")
    count = log(clean, "p-web-1")[-1]
    for _ in range(3):  # each is a whole command, longer than an interval
        assert log(clean, "p-web-1")[-1] == count
    clean.ok("unpause", "p-web-1")
    until(lambda: log(clean, "p-web-1")[-1] != count, "probed again")
    assert health(clean, "p-web-1") == "healthy"


def test_health_is_in_the_metrics(clean: Supervisor) -> None:
    up(clean, service("web", healthcheck=shell("false", interval_s=0.2)), service("bare"))
    becomes(clean, "p-web-1", "unhealthy")
    with urllib.request.urlopen(f"http://{clean.metrics}/metrics") as answer:
        text = answer.read().decode()
    labels = 'project="p",replica="1",service="web"'
    assert f'shipkeeper_service_health_status{{{labels},status="unhealthy"}} 1.0' in text
    assert f'shipkeeper_service_health_status{{{labels},status="healthy"}} 0.0' in text
    assert 'service="bare",status="none"} 1.0' in text
    (checks,) = [
        float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith(f"shipkeeper_service_health_check_failures_total{{{labels}}}")
    ]
    assert checks >= 2


def test_up_wait_waits_for_health(clean: Supervisor) -> None:
    """Of a project with a Compose file the command waits; here the API's part of it."""
    lines = up(clean, service("web", healthcheck=shell("sleep 1", interval_s=0.3)), service("bare", WAITS))
    assert last(lines, "web") in ("running", "starting", "healthy")
    settled = {line["name"]: line for line in api(clean).stream("POST", "/projects/p/wait", {})}
    assert settled["p-web-1"]["up"] is True
    assert settled["p-web-1"]["outcome"] == "healthy"
    assert health(clean, "p-web-1") == "healthy"
    up(clean, service("web", healthcheck=shell("echo broken; exit 1", interval_s=0.2)))
    settled = {
        line["name"]: line for line in api(clean).stream("POST", "/projects/p/wait", {"service": "web"})
    }
    assert settled["p-web-1"]["up"] is False
    assert "broken" in settled["p-web-1"]["outcome"]
