"""The daemon, the launcher and the log writer as processes, driven by the command as a user drives it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from supervising import PATIENCE_S, Supervisor, until

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


def test_a_service_killed_by_hand_is_back_under_another_pid(supervisor: Supervisor) -> None:
    """`restart: always` means a kill from any shell too."""
    supervisor.compose("services: {web: {command: sleep 1000, restart: always, network_mode: host}}")
    supervisor.ok("up", "-d")
    before = supervisor.row("web")
    os.kill(before["Pid"], signal.SIGKILL)
    until(lambda: supervisor.row("web")["Pid"] not in (0, before["Pid"]), "it runs again")
    assert supervisor.row("web")["RestartCount"] == 1
    assert "killed by SIGKILL" in supervisor.ok("why", "web")


def test_a_stop_rests_whatever_the_policy(supervisor: Supervisor) -> None:
    """Row 5 of table 1.5, from outside."""
    supervisor.compose(
        "services: {web: {command: sleep 1000, restart: always, init: true, network_mode: host}}"
    )
    supervisor.ok("up", "-d")
    supervisor.ok("stop", "web")
    row = supervisor.row("web")
    assert (row["State"], row["Reason"]) == ("exited", "stopped by you")
    supervisor.ok("start", "web")
    assert supervisor.state("web") == "running"


def test_what_is_new_on_the_host_is_hidden_from_the_next_run(supervisor: Supervisor) -> None:
    """Also by a launcher that was there before the layer that hides it, and after a new daemon."""
    supervisor.compose(
        'services: {web: {command: [sh, -c, "ls /etc/security; exec sleep 1000"], network_mode: host}}'
    )
    supervisor.ok("up", "-d")
    for again in (("stop", "web"), None):
        with tempfile.NamedTemporaryFile(dir="/etc/security", prefix="shipkeeper-test-") as secret:
            if again is not None:
                supervisor.ok(*again)
            else:
                supervisor.kill()
                supervisor.start()
                os.kill(supervisor.row("web")["Pid"], signal.SIGKILL)
                until(lambda: supervisor.state("web") == "exited", "it ended")
            seen = len(supervisor.ok("logs", "--no-log-prefix", "web").splitlines())
            supervisor.ok("start", "web")
            until(
                lambda seen=seen: len(supervisor.ok("logs", "--no-log-prefix", "web").splitlines()) > seen,
                "it has listed",
            )
            assert supervisor.state("web") == "running"
            assert os.path.basename(secret.name) not in supervisor.ok("logs", "web")


def test_a_taken_metrics_address_keeps_nothing_from_running(supervisor: Supervisor) -> None:
    """The daemon starts, and serves them once the other one has gone."""
    supervisor.kill()
    host, _, port = supervisor.metrics.partition(":")
    with socket.create_server((host, int(port))):
        supervisor.start()

    def served() -> bool:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://{supervisor.metrics}/readyz") as answer,
        ):
            return bool(answer.status == 200)
        return False

    until(served, "the metrics are served")


def test_the_daemon_loads_no_openssl(supervisor: Supervisor) -> None:
    """7 MB that its plain HTTP has no use for; many modules would bring it."""
    supervisor.ok("ps")
    maps = Path(f"/proc/{supervisor.daemon.pid}/maps").read_text()
    assert "libsqlite3" in maps or "_sqlite3" in maps, "it is the daemon that was looked at"
    assert "libcrypto" not in maps
    assert "_hashlib" not in maps


def test_on_failure_n_gives_up_and_says_so(supervisor: Supervisor) -> None:
    """N restarts, then it rests with the reason."""
    supervisor.compose(
        'services: {job: {command: sh -c "exit 3", restart: "on-failure:2", network_mode: host}}'
    )
    supervisor.run("up", "-d")
    until(lambda: supervisor.state("job") == "exited", "it gives up")
    row = supervisor.row("job")
    assert (row["ExitCode"], row["RestartCount"]) == (3, 2)
    assert row["Reason"].startswith("gave up after 2 of 2 restarts")


def test_a_command_that_is_not_there_says_so_and_is_retried(supervisor: Supervisor) -> None:
    """Rows 13 and 14: Docker would never try again."""
    supervisor.compose(
        'services: {job: {command: no-such-program, restart: "on-failure:1", network_mode: host}}'
    )
    result = supervisor.run("up", "-d")
    assert result.returncode == 1
    until(lambda: supervisor.state("job") == "exited", "it gives up")
    row = supervisor.row("job")
    assert row["ExitCode"] == 127
    assert row["RestartCount"] == 1
    assert "no-such-program" in row["Reason"]


def test_services_and_ends_survive_kills_of_the_daemon(supervisor: Supervisor) -> None:
    """Kill -9 the daemon: what runs keeps its pid, what ends meanwhile is recorded with its true status."""
    supervisor.compose(
        "services:\n"
        "  keep: {command: sleep 1000, restart: always, network_mode: host}\n"
        "  ends: {command: 'sh -c \"read line < /pipe; exit 7\"', network_mode: host,\n"
        f"         volumes: ['{supervisor.base}/pipe:/pipe']}}\n"
    )
    os.mkfifo(supervisor.base / "pipe")
    supervisor.ok("up", "-d")
    keep, ends = supervisor.row("keep"), supervisor.row("ends")
    pidfd = os.pidfd_open(ends["Pid"])
    supervisor.kill()
    (supervisor.base / "pipe").write_text("go\n")
    ended, _, _ = select.select([pidfd], [], [], PATIENCE_S)
    os.close(pidfd)
    assert ended, "the precondition: it ended while the daemon was away"
    supervisor.start()
    assert supervisor.row("keep")["Pid"] == keep["Pid"]
    row = supervisor.row("ends")
    assert (row["State"], row["ExitCode"]) == ("exited", 7)
    told = json.loads(supervisor.ok("why", "--format", "json", "ends"))
    assert [run["ExitCode"] for run in told["Runs"]] == [7], "recorded once"


def test_services_survive_the_launcher(supervisor: Supervisor) -> None:
    """Kill -9 the launcher: the daemon starts another, which adopts; the pid stays, a later end is seen."""
    supervisor.compose("services: {web: {command: sleep 1000, restart: always, network_mode: host}}")
    supervisor.ok("up", "-d")
    pid = supervisor.row("web")["Pid"]
    launcher = next(p for p in supervisor.helpers() if "supervisor.launcher.server" in p.cmdline())
    launcher.kill()
    until(
        lambda: any(
            p.pid != launcher.pid and "supervisor.launcher.server" in p.cmdline()
            for p in supervisor.helpers()
        ),
        "a new launcher",
    )
    assert supervisor.row("web")["Pid"] == pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: supervisor.row("web")["Pid"] not in (0, pid), "it runs again")


def test_up_touches_only_what_changed(supervisor: Supervisor) -> None:
    """Unchanged keeps its pid, changed is recreated with the reason, --dry-run changes nothing."""
    text = (
        "services:\n"
        "  a: {command: sleep 1000, network_mode: host, stop_signal: KILL}\n"
        "  b: {command: sleep 1000, network_mode: host, stop_signal: KILL, depends_on: [a]}\n"
    )
    supervisor.compose(text)
    supervisor.ok("up", "-d")
    a, b = supervisor.row("a"), supervisor.row("b")
    supervisor.compose(
        text.replace(
            "sleep 1000, network_mode: host, stop_signal: KILL, d",
            "sleep 2000, network_mode: host, stop_signal: KILL, d",
        )
    )
    plan = supervisor.ok("up", "--dry-run")
    assert "recreate" in plan
    assert supervisor.row("b")["Pid"] == b["Pid"]
    assert "its definition has changed" in supervisor.ok("up", "-d")
    assert supervisor.row("a")["Pid"] == a["Pid"]
    assert supervisor.row("b")["Pid"] != b["Pid"]


def test_errors_are_one_line_and_an_exit_code(supervisor: Supervisor) -> None:
    """A typing error in a name, a bad file: never a traceback."""
    result = supervisor.run("stop", "wbe")
    assert result.returncode == 4
    assert result.stderr.count("\n") == 1
    supervisor.compose("services: {web: {comand: sleep 1}}")
    result = supervisor.run("up", "-d")
    assert result.returncode == 2
    assert "compose.yaml:1:" in result.stderr
    assert "command" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_foreground_up_hosts_the_supervisor_and_stops_everything() -> None:
    """Without a daemon `up` is the supervisor; SIGINT ends all of it."""
    with tempfile.TemporaryDirectory(prefix="shipkeeper-") as directory:
        own = Supervisor(Path(directory))
        (own.base / "shipkeeper.yaml").write_text('metrics_address: ""\n')
        own.compose("services: {web: {command: sleep 1000, restart: always, network_mode: host, init: true}}")
        process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.cli.main", "up"],
            env=own.environment,
            cwd=own.base,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                if "is up" in line:
                    break
            pid = own.row("web")["Pid"]
            assert psutil.pid_exists(pid)
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0
        assert not psutil.pid_exists(pid)


def test_metrics_count_what_happened(supervisor: Supervisor) -> None:
    """Three crashes and a give-up, an end for memory, a failed start: each once, in families that parse."""
    supervisor.compose(
        "services:\n"
        "  crash: {command: sh -c 'exit 3', restart: 'on-failure:2', network_mode: host}\n"
        "  lost: {command: no-such-program, network_mode: host}\n"
        "  greedy: {command: python3 -c 'x = bytearray(400000000)', mem_limit: 64m, memswap_limit: 64m,"
        " network_mode: host}\n"
        "  web: {command: sh -c 'echo 12345; exec sleep 1000', mem_limit: 64m, network_mode: host,"
        " stop_signal: SIGKILL}\n"
    )
    supervisor.run("up", "-d")
    for service in ("crash", "lost", "greedy"):
        until(lambda service=service: supervisor.state(service) == "exited", f"{service} is down")  # type: ignore[misc]
    with urllib.request.urlopen(f"http://{supervisor.metrics}/metrics", timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    found = {
        (s.name, s.labels.get("service"), s.labels.get("reason") or s.labels.get("trigger")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }
    prefix = "shipkeeper_service_"
    assert found[f"{prefix}exits_total", "crash", "error"] == 3
    assert found[f"{prefix}restarts_total", "crash", "exit"] == 2
    assert found[f"{prefix}restarts_exhausted", "crash", None] == 1
    assert found[f"{prefix}exits_total", "lost", "spawn"] == 1
    assert found[f"{prefix}exits_total", "greedy", "oom"] == 1
    assert found[f"{prefix}oom_kills_total", "greedy", None] == 1
    assert found[f"{prefix}up", "crash", None] == 0
    assert found[f"{prefix}wanted_up", "crash", None] == 1, "it gave up, and that is a fault"
    assert found[f"{prefix}wanted_up", "greedy", None] == 0, "its policy says that it is done"
    assert found[f"{prefix}downtime_seconds_total", "crash", None] > 0
    assert found[f"{prefix}startup_duration_seconds_count", "crash", None] == 3
    assert found["shipkeeper_restart_reaction_seconds_count", None, None] >= 2
    assert found["shipkeeper_config_last_reload_successful", None, None] == 1
    assert found[f"{prefix}processes", "web", None] == 1
    assert found[f"{prefix}memory_limit_bytes", "web", None] == 64 << 20
    assert 0 < found[f"{prefix}memory_usage_bytes", "web", None] < 64 << 20
    assert found[f"{prefix}cpu_seconds_total", "greedy", None] > 0, "runs that have ended count on"
    written = {
        s.labels["stream"]: s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if s.name == f"{prefix}log_written_bytes_total" and s.labels["service"] == "web"
    }
    assert written == {"stdout": len("12345\n"), "stderr": 0}
    with urllib.request.urlopen(f"http://{supervisor.metrics}/readyz", timeout=PATIENCE_S) as answer:
        assert answer.status == 200
    promtool = shutil.which("promtool")
    if promtool is not None:
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text, text=True, capture_output=True, check=False
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_projects_of_the_directory_come_up_and_policies_decide_after_a_restart(
    supervisor: Supervisor,
) -> None:
    """A start of the daemon creates what is new; what was stopped by a person is left to its policy."""
    (supervisor.base / "projects/shop.yaml").write_text(
        "services:\n"
        "  always: {command: sleep 1000, restart: always, init: true, network_mode: host}\n"
        "  unless: {command: sleep 1000, restart: unless-stopped, init: true, network_mode: host}\n"
    )
    (supervisor.base / "projects/broken.yaml").write_text("services: {a: {comand: x}}\n")
    (supervisor.base / "projects/named.yaml").write_text(
        "name: other\nservices: {own: {command: sleep 1000, init: true, network_mode: host}}\n"
    )
    assert supervisor.daemon is not None
    supervisor.daemon.send_signal(signal.SIGHUP)
    until(lambda: supervisor.ok("ps", "--format", "json").count('"State": "running"') == 3, "all run")
    assert supervisor.row("own")["Project"] == "other"
    assert supervisor.row("always")["Project"] == "shop"
    supervisor.ok("stop", "always", "unless")
    supervisor.kill()
    supervisor.start()
    until(lambda: supervisor.state("always") == "running", "always is back")
    assert supervisor.state("unless") == "exited"
