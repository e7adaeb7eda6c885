"""Services that say themselves when they are ready: by sd_notify, or on a descriptor."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest
from healthy import becomes, health, inspect, last, service, shell, up
from supervising import Supervisor, until

from supervisor.core.healthcheck import Ready
from supervisor.core.model import Dependency, Mount, Policy, RestartRules, ServiceSpec

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

# Says what is written to the pipe /told/say, a message a line; `;` stands for a newline in it.
SAYS = """
import os, socket, sys
out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
print("here", flush=True)
while True:
    for line in open("/told/say"):
        text = line.strip()
        if text == "exit":
            sys.exit(3)
        out.sendto(text.replace(";", "\\n").encode(), os.environ["NOTIFY_SOCKET"])
"""


def said(supervisor: Supervisor, text: str) -> None:
    """Have the service say that: it reads the pipe when it has begun."""
    (supervisor.base / "told" / "say").write_text(f"{text}\n")


def speaker(supervisor: Supervisor, ready: Ready, name: str = "web", **more: Any) -> ServiceSpec:
    place = supervisor.base / "told"
    place.mkdir(exist_ok=True)
    if not (place / "say").exists():
        os.mkfifo(place / "say", 0o666)
        (place / "say").chmod(0o666)
    mounts = (Mount("bind", "/told", str(place)),)
    return ServiceSpec(
        name, command=("python3", "-c", SAYS), ready=ready, mounts=mounts, stop_signal="SIGKILL", **more
    )


def notify(supervisor: Supervisor, name: str = "p-web-1") -> dict[str, Any]:
    return dict(inspect(supervisor, name)["State"]["Notify"])


def test_ready_is_healthy_and_the_status_is_shown(clean: Supervisor) -> None:
    """By a user without rights; `up --wait` and a dependency wait for it."""
    after = service("after", depends_on=(Dependency("web", "service_healthy"),))
    compose = clean.base / "compose.yaml"
    compose.write_text("name: p\nservices: {}\n")
    lines: list[Any] = []
    web = speaker(clean, Ready(), user="65534", network_mode="none")
    up(clean, web)
    assert health(clean, "p-web-1") == "starting"
    assert notify(clean) == {"Ready": False, "Status": "", "Stopping": False, "Why": ""}
    said(clean, "STATUS=loading 3 of 7")
    until(lambda: notify(clean)["Status"] == "loading 3 of 7", "its status is shown")
    assert "loading 3 of 7" in clean.ok("ps")
    said(clean, "READY=1;STATUS=open")
    becomes(clean, "p-web-1", "healthy")
    lines = up(clean, web, after)
    assert last(lines, "after") == "running"
    assert "says that it is ready: open" in clean.ok("why", "web")
    said(clean, "STOPPING=1")
    until(lambda: notify(clean)["Stopping"], "it says that it is stopping")


def test_with_a_healthcheck_both_have_to_be_so(clean: Supervisor) -> None:
    check = shell("test -e /told/well")
    up(clean, speaker(clean, Ready(), healthcheck=check))
    said(clean, "READY=1")
    until(lambda: notify(clean)["Ready"], "it is ready")
    assert health(clean, "p-web-1") in ("starting", "unhealthy")
    (clean.base / "told" / "well").touch()
    becomes(clean, "p-web-1", "healthy")
    (clean.base / "told" / "well").unlink()
    becomes(clean, "p-web-1", "unhealthy")


def test_a_newline_on_a_descriptor_means_ready(clean: Supervisor) -> None:
    """As s6 has it; nobody gets a SIGPIPE who goes on writing there."""
    script = "test -p /proc/self/fd/5 || exit 9; echo >&5; for i in 1 2 3; do echo more >&5; done; sleep 1000"
    up(clean, service("web", script, ready=Ready(fd=5), stop_signal="SIGKILL"))
    becomes(clean, "p-web-1", "healthy")
    quiet = service("web", "exec 3>&-; exec sleep 1000", ready=Ready(fd=3), stop_signal="SIGKILL")
    up(clean, quiet)
    assert health(clean, "p-web-1") == "starting", "to close it says nothing"


def test_not_ready_in_time_is_a_failed_start(clean: Supervisor) -> None:
    late = Ready(timeout_s=0.5)
    script = 'trap "exit 0" TERM; while :; do sleep 1000 & wait; done'
    up(
        clean,
        service("never", script, ready=late),
        service("again", script, ready=late, restart=RestartRules(Policy.ON_FAILURE, max_attempts=1)),
    )
    for name, why in (
        ("never", "start failed: not ready within 0.5 s; restart policy no"),
        ("again", "gave up after 1 of 1 restarts: start failed: not ready within 0.5 s"),
    ):
        until(lambda name=name: clean.state(name) == "exited", f"{name} is given up")
        assert clean.row(name)["Reason"].startswith(why)


def test_a_watchdog_that_falls_silent_makes_it_unhealthy(clean: Supervisor) -> None:
    up(clean, speaker(clean, Ready(watchdog_s=1.0)))
    said(clean, "READY=1")
    becomes(clean, "p-web-1", "healthy")
    becomes(clean, "p-web-1", "unhealthy")
    assert "nothing was heard of its watchdog for 1 s" in clean.ok("ps")
    said(clean, "WATCHDOG_USEC=900000000;WATCHDOG=1")
    becomes(clean, "p-web-1", "healthy")


def test_it_stays_ready_over_the_death_of_each_of_ours(supervisor: Supervisor) -> None:
    """And what it says meanwhile is heard: of a dead daemon's time, and after a launcher's."""
    up(supervisor, speaker(supervisor, Ready()))
    supervisor.kill()
    said(supervisor, "READY=1;STATUS=said to nobody")
    said(supervisor, "STATUS=to nobody")  # it has read the first, and so has sent it
    supervisor.start()
    becomes(supervisor, "p-web-1", "healthy")
    until(lambda: notify(supervisor)["Status"] == "to nobody", "what it said last is known")
    supervisor.kill()
    supervisor.start()
    assert health(supervisor, "p-web-1") == "healthy"
    (launcher,) = {each.ppid() for each in supervisor.helpers() if "logwriter" in " ".join(each.cmdline())}
    psutil.Process(launcher).kill()
    until(lambda: supervisor.run("ps").returncode == 0, "the daemon answers")
    path = Path(f"/proc/{inspect(supervisor, 'p-web-1')['State']['Pid']}/root/run/notify/socket")
    until(lambda: _is_heard(path), "a new launcher listens")
    said(supervisor, "STATUS=to the next")
    until(lambda: notify(supervisor)["Status"] == "to the next", "it is heard again")
    assert health(supervisor, "p-web-1") == "healthy"


def _is_heard(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(str(path))
        except OSError:
            return False
    return True


def test_only_the_service_itself_is_believed(clean: Supervisor) -> None:
    """Root of the host can reach the socket; it is in another cgroup."""
    up(clean, speaker(clean, Ready()))
    (path,) = (clean.base / "run" / "notify").glob("*/socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        place = os.open(path.parent, os.O_PATH)
        stranger.sendto(b"READY=1", f"/proc/self/fd/{place}/socket")
        os.close(place)
    said(clean, "STATUS=mine")
    until(lambda: notify(clean)["Status"] == "mine", "what came later is there")
    assert not notify(clean)["Ready"]
    assert clean.run("exec", "web", "python3", "-c", _READY).returncode == 0
    becomes(clean, "p-web-1", "healthy")
    clean.clear()
    assert list((clean.base / "run" / "notify").iterdir()) == []


_READY = (
    "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM);"
    " s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])"
)
