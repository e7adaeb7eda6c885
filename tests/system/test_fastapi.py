"""The FastAPI example under a real daemon: it comes up, does its work, and bears the death of each part."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]

CHECKOUT = Path(__file__).parents[2]
EXAMPLE = CHECKOUT / "configs/fastapi"
SHIPKEEPER = (sys.executable, "-m", "supervisor.cli.main")
SERVICES = ("auth", "cache", "db", "gateway", "queue", "worker")
KILL_ORDER = ("gateway", "auth", "worker", "cache", "queue", "db")
# What is waited for at most; nothing here is expected to take long.
PATIENCE_S = 60.0
BUILD_S = 500.0


@dataclass(frozen=True, slots=True)
class Supervised:
    """The example, up, with a daemon and ports of its own."""

    environment: dict[str, str]
    url: str
    # Of each service, when `up` had returned: its health and how often it was restarted.
    after_up: dict[str, tuple[str, int]] = field(default_factory=dict)

    def shipkeeper(
        self, *arguments: str, timeout_s: float = PATIENCE_S * 2, directory: Path = EXAMPLE
    ) -> subprocess.CompletedProcess[str]:
        """Run the CLI on the example, or on another one."""
        return subprocess.run(
            [*SHIPKEEPER, *arguments],
            cwd=directory,
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )

    def inspect(self, service: str) -> dict[str, Any]:
        """Docker's fields of the instance of a service."""
        result = self.shipkeeper("inspect", service)
        assert result.returncode == 0, result.stderr
        answer: dict[str, Any] | list[dict[str, Any]] = json.loads(result.stdout)
        return answer[0] if isinstance(answer, list) else answer

    def pid(self, service: str) -> int:
        """The main process of a service; 0 while there is none."""
        return int(self.inspect(service)["State"]["Pid"])

    def smoke(self) -> str:
        """What a client needs works; what was proved."""
        return self.client("smoke.py")

    def client(self, script: str, *arguments: str) -> str:
        """Run a script of the example on it; what it printed."""
        result = subprocess.run(
            [sys.executable, EXAMPLE / script, "--url", self.url, "--timeout", str(PATIENCE_S), *arguments],
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=PATIENCE_S * 8,
            check=False,
        )
        assert result.returncode == 0, result.stdout + result.stderr + self.shipkeeper("logs").stdout[-4000:]
        return result.stdout


@pytest.fixture(scope="module")
def example() -> Iterator[Supervised]:
    """Start a daemon, build the images, bring the example up; afterwards nothing is left."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    port, metrics = free_ports(2)
    with tempfile.TemporaryDirectory(prefix="fastapi-") as temporary:
        environment = {
            **os.environ,
            "PYTHONPATH": str(CHECKOUT),
            "SHIPKEEPER_STATE_DIR": f"{temporary}/state",
            "SHIPKEEPER_RUN_DIR": f"{temporary}/run",
            "SHIPKEEPER_METRICS_ADDRESS": f"127.0.0.1:{metrics}",
            "CRASH_AFTER_SECONDS": "",
            "GATEWAY_PORT": str(port),
        }
        supervised = Supervised(environment, f"http://127.0.0.1:{port}")
        with running_daemon(environment, Path(temporary)):
            try:
                built = supervised.shipkeeper("build", timeout_s=BUILD_S)
                assert built.returncode == 0, built.stdout + built.stderr
                up = supervised.shipkeeper("up", "-d", "--wait", timeout_s=PATIENCE_S * 4)
                assert up.returncode == 0, up.stderr + supervised.shipkeeper("logs").stdout[-4000:]
                for service in SERVICES:
                    found = supervised.inspect(service)
                    supervised.after_up[service] = (found["State"]["Health"]["Status"], found["RestartCount"])
                yield supervised
            finally:
                down = supervised.shipkeeper("down", "-v")
            assert down.returncode == 0, down.stdout + down.stderr


def test_a_request_reaches_every_service(example: Supervised) -> None:
    """Sign-up, login, a read from the cache, a job through the worker, and one that kills it."""
    example.smoke()


def test_each_service_has_a_root_of_its_own(example: Supervised) -> None:
    """The programs of one are not in another, and the host's are in none."""
    found = {}
    for service in SERVICES:
        root = Path(f"/proc/{example.pid(service)}/root")
        found[service] = (
            (root / "usr/bin/redis-server").exists(),
            any((root / "usr/lib/postgresql").glob("*/bin/postgres")),
            any(root.glob("usr/local/lib/python3*/*-packages/fastapi")),
            (root / "usr/lib/rabbitmq").exists(),
            (root / "usr/bin/git").exists(),
        )
    app = (False, False, True, False, False)
    assert found == {
        "auth": app,
        "gateway": app,
        "worker": app,
        "cache": (True, False, False, False, False),
        "db": (False, True, False, False, False),
        "queue": (False, False, False, True, False),
    }


def test_only_the_gateway_is_reached_from_outside(example: Supervised) -> None:
    """Nothing else is published; the others are found by name, inside the network that all of them are in."""
    settings = {service: example.inspect(service)["NetworkSettings"] for service in SERVICES}
    published = {
        (service, binding["HostIp"], binding["HostPort"])
        for service, found in settings.items()
        for bindings in found["Ports"].values()
        for binding in bindings or ()
    }
    assert published == {("gateway", "127.0.0.1", example.environment["GATEWAY_PORT"])}
    assert {frozenset(found["Networks"]) for found in settings.values()} == {frozenset({"fastapi_default"})}
    found = {
        name: example.shipkeeper("exec", "-T", "gateway", "getent", "hosts", name).returncode
        for name in SERVICES
    }
    assert found == dict.fromkeys(SERVICES, 0)


def test_the_start_followed_health(example: Supervised) -> None:
    """`up --wait` returned with everything healthy, and nothing began too early and had to be restarted."""
    assert example.after_up == dict.fromkeys(SERVICES, ("healthy", 0))


def test_every_service_is_killed_and_nothing_is_lost(example: Supervised) -> None:
    """The example's own proof: each part dies under load, notes wait in the queue when it dies."""
    printed = example.client("kills.py", "--shipkeeper", shlex.join(SHIPKEEPER))
    table = printed.splitlines()[1:-1]
    assert [line.split()[0].rstrip(",") for line in table] == [*KILL_ORDER, "queue"], printed
    for line in table:
        *_, rows_before, rows_after, accepted, _refused, lost = line.split()
        assert int(rows_after) >= int(rows_before) + (int(accepted) if "waiting" in line else 1), printed
        assert lost == "0", printed


@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_part_comes_back_and_the_whole_works(example: Supervised, service: str) -> None:
    """SIGKILL from outside, as by anybody with a shell: another process takes over, no other is restarted."""
    wait_until(f"{service} runs", lambda: example.pid(service))
    others = {other: example.pid(other) for other in SERVICES if other not in (service, "worker")}
    old = example.pid(service)
    os.kill(old, signal.SIGKILL)
    wait_until(f"{service} has another process", lambda: example.pid(service) not in (0, old))
    example.smoke()
    # The worker ends by itself where it loses the cache or the database, and by the smoke test.
    assert {other: example.pid(other) for other in others} == others


def test_a_second_build_builds_nothing(example: Supervised) -> None:
    """Every step is cached, and every image is the one that is there."""
    images = example.shipkeeper("images", "--format", "json").stdout
    again = example.shipkeeper("build", "--progress", "plain")
    assert again.returncode == 0, again.stderr
    steps = [line for line in (again.stdout + again.stderr).splitlines() if "] RUN " in line]
    cached = [line for line in (again.stdout + again.stderr).splitlines() if line.endswith(" CACHED")]
    assert steps
    assert len(cached) >= len(steps)
    assert example.shipkeeper("images", "--format", "json").stdout == images


def test_up_again_changes_nothing(example: Supervised) -> None:
    """`up` on what is up leaves every process alone."""
    wait_until("the worker runs", lambda: example.pid("worker"))
    before = {service: example.pid(service) for service in SERVICES}
    up = example.shipkeeper("up", "-d")
    assert up.returncode == 0, up.stderr
    assert {service: example.pid(service) for service in SERVICES} == before


def test_what_was_written_survives_a_stop_and_a_start(example: Supervised) -> None:
    """PostgreSQL ends by its own shutdown within its grace, and finds its data again."""
    assert example.shipkeeper("stop", "db").returncode == 0
    state = example.inspect("db")["State"]
    assert (state["Running"], state["ExitCode"]) == (False, 0)
    started = example.shipkeeper("start", "db")
    assert started.returncode == 0, started.stderr
    example.smoke()
    assert example.shipkeeper("logs", "--no-log-prefix", "db").stdout.count("first start") == 1


def test_versions_of_python_and_of_a_library_side_by_side(example: Supervised) -> None:
    """configs/two-versions: each service sees its own, and the host's Python is none of them."""
    place = CHECKOUT / "configs/two-versions"
    try:
        up = example.shipkeeper("up", "-d", "--build", timeout_s=BUILD_S, directory=place)
        assert up.returncode == 0, up.stdout + up.stderr

        def said() -> list[str]:
            logs = example.shipkeeper("logs", "--no-log-prefix", directory=place).stdout
            return sorted(line for line in logs.splitlines() if line.startswith("python"))

        wait_until("all have said what they see", lambda: len(said()) == 3)
        assert [re.sub(r"(3\.\d+)\.\d+", r"\1", line) for line in said()] == [
            "python 3.11, click 8.0.4",
            "python 3.11, click 8.1.8",
            "python 3.13, click 8.1.8",
        ]
    finally:
        assert example.shipkeeper("down", directory=place).returncode == 0


@contextlib.contextmanager
def running_daemon(environment: dict[str, str], directory: Path) -> Iterator[None]:
    """A daemon whose API answers; ended at the end, and with it the launcher, which outlives daemons."""
    log = directory / "daemon.log"
    with open(log, "wb") as output:
        daemon = subprocess.Popen(
            [*SHIPKEEPER, "daemon"], env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:

        def answers() -> bool:
            assert daemon.poll() is None, log.read_text()
            with socket.socket(socket.AF_UNIX) as client:
                return client.connect_ex(f"{environment['SHIPKEEPER_RUN_DIR']}/shipkeeper.sock") == 0

        wait_until("the daemon answers", answers)
        yield
    finally:
        daemon.terminate()
        try:
            daemon.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        end_everything_of(str(directory))


def end_everything_of(directory: str) -> None:
    """Kill what names the temporary directory of this test in its arguments or variables.

    The launcher among them says which cgroup is its own: what is left in that goes too.
    """
    base = None
    ours: set[int] = set()
    for process in sorted(Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)):
        with contextlib.suppress(OSError):  # it ended meanwhile
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            if any(directory.encode() in text for text in (*arguments, (process / "environ").read_bytes())):
                ours.add(int(process.name))
                if b"--cgroup-base" in arguments:
                    base = arguments[arguments.index(b"--cgroup-base") + 1].decode()
    cgroups = [Path("/sys/fs/cgroup", base), *Path("/sys/fs/cgroup").glob(f"*/{base}")] if base else []
    for cgroup in cgroups:
        for members in cgroup.rglob("cgroup.procs"):
            ours.update(map(int, members.read_text().split()))
    for pid in ours:
        with contextlib.suppress(OSError):
            descriptor = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                select.select([descriptor], [], [], PATIENCE_S)
            finally:
                os.close(descriptor)
    for cgroup in cgroups:
        for inner in sorted(cgroup.rglob("*/"), key=lambda path: len(path.parts), reverse=True):
            inner.rmdir()
        with contextlib.suppress(FileNotFoundError):
            cgroup.rmdir()


def wait_until(what: str, condition: Callable[[], object]) -> None:
    """Return when the condition holds; fail when it does not in time."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not in {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
