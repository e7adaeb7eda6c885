"""kill -9 at random moments: of the daemon, the launcher, the log writer, pairs of them, and all three.

Every round is drawn from a seed, which is printed: SHIPKEEPER_KILL_SEED repeats a run, SHIPKEEPER_KILL_ROUNDS
makes it longer. A moment is random by a pause before it; nothing is taken to have happened after a pause.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from supervising import PATIENCE_S, Supervisor

from supervisor.cli.client import ApiError, Client, UnreachableError

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

T = TypeVar("T")
ROUNDS = int(os.environ.get("SHIPKEEPER_KILL_ROUNDS", "12"))
SEED = int(os.environ.get("SHIPKEEPER_KILL_SEED", str(random.randrange(1 << 32))))

DAEMON, LAUNCHER, WRITER = "daemon", "launcher", "log writer"
EVERY = tuple(
    frozenset(chosen)
    for count in (1, 2, 3)
    for chosen in itertools.combinations((DAEMON, LAUNCHER, WRITER), count)
)

# Both say a number a line, the second one a life. Its exit code is its number, too: what is recorded of run n
# is n % 100 + 3, if every run was started once, and its end recorded once and truly.
STEADY = "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.005; done"
LOOPING = (
    "read n < /ctl/n; n=$((n + 1)); echo $n > /ctl/new; mv /ctl/new /ctl/n; echo $n; exit $((n % 100 + 3))"
)


def code_of(number: int) -> int:
    return number % 100 + 3


def project(ctl: Path) -> dict[str, Any]:
    quick = {"backoff": {"initial": "30ms", "factor": 1, "max": "30ms"}}
    return {
        "name": "kills",
        "services": {
            "steady": {"command": ["sh", "-c", STEADY], "restart": "always", "network_mode": "host"},
            "looping": {
                "command": ["sh", "-c", LOOPING],
                "restart": "always",
                "network_mode": "host",
                "volumes": [f"{ctl}:/ctl"],
                "x-shipkeeper": quick,
            },
            "done": {"command": ["sh", "-c", "exit 9"], "restart": "on-failure:2", "network_mode": "host"},
        },
    }


@dataclass(slots=True)
class Scene:
    """The services of a supervisor, seen over its API and in their files."""

    made: Supervisor
    ctl: Path
    client: Client
    logs: dict[str, str] = field(default_factory=dict)

    def view(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.call("GET", f"/containers/kills-{service}-1/json")
        return found

    def runs(self, service: str) -> list[tuple[int, int, bool]]:
        """(run, exit code, whether nobody could know it) of every recorded run, oldest first."""
        told = self.client.call("GET", f"/containers/kills-{service}-1/runs")
        return [(row["Run"], row["ExitCode"], "exit status unknown" in row["Ending"]) for row in told["Runs"]]

    def pids(self, victim: str) -> list[int]:
        if victim == DAEMON:
            assert self.made.daemon is not None
            return [self.made.daemon.pid]
        module = "supervisor.launcher.server" if victim == LAUNCHER else "supervisor.launcher.logwriter"
        here = os.readlink("/proc/self/ns/pid")
        found = []
        for process in self.made.helpers():
            with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
                # A run that has not come to its exec yet looks like the launcher, but for its namespace.
                if module in process.cmdline() and os.readlink(f"/proc/{process.pid}/ns/pid") == here:
                    found.append(process.pid)
        return found

    def numbers(self, service: str) -> list[int]:
        """The numbers in its log, in the order of the file."""
        lines = Path(self.logs[service]).read_text().splitlines()
        return [int(text) for line in lines if (text := line.split(" ", 3)[3])]

    def life(self) -> int:
        """How many lives the looping one has had."""
        return int((self.ctl / "n").read_text())


def until(look: Callable[[], T], reached: Callable[[T], bool], what: str) -> T:
    """Look again and again until it is so; what was seen then. No answer is no look."""
    deadline = time.monotonic() + PATIENCE_S
    seen: T | None = None
    while True:
        with contextlib.suppress(UnreachableError, ApiError, OSError, ValueError, IndexError, psutil.Error):
            seen = look()
            if reached(seen):
                return seen
        assert time.monotonic() < deadline, f"never came true: {what}; last seen: {seen!r}"
        time.sleep(0.01)  # between two looks


def begin(made: Supervisor) -> Scene:
    ctl = made.base / "ctl"
    ctl.mkdir()
    (ctl / "n").write_text("0\n")
    scene = Scene(made, ctl, Client(f"{made.base}/run/shipkeeper.sock"))
    made.compose(json.dumps(project(ctl)).replace("$", "$$"))
    made.run("up", "-d")
    scene.logs = {service: scene.view(service)["LogPath"] for service in ("steady", "looping")}
    until(lambda: min(len(scene.numbers(service)) for service in scene.logs), lambda count: count > 3, "logs")
    until(lambda: scene.view("done"), lambda view: view["State"]["Status"] == "exited", "done gives up")
    return scene


def kill(scene: Scene, victims: list[str], rng: random.Random) -> None:
    """In this order, at once or a little apart."""
    for victim in victims:
        for pid in scene.pids(victim):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        time.sleep(rng.choice((0.0, 0.0, rng.uniform(0.0, 0.03))))
    if DAEMON in victims:
        scene.made.kill()
        time.sleep(rng.uniform(0.0, 0.2))
        scene.made.start()


def whole_again(scene: Scene) -> None:
    """One of each process, and news from both services that came after that."""
    until(
        lambda: [len(scene.pids(victim)) for victim in (DAEMON, LAUNCHER, WRITER)],
        lambda counts: counts == [1, 1, 1],
        "one daemon, one launcher, one log writer",
    )
    said, lived = scene.numbers("steady")[-1], scene.life()
    until(lambda: scene.numbers("steady")[-1], lambda last: last > said + 5, "steady is logged")
    until(
        lambda: (scene.numbers("looping")[-1], scene.life(), scene.runs("looping")[-1]),
        lambda now: (
            now[0] > lived + 2 and now[1] > lived + 2 and now[2][1] in (code_of(now[0]), code_of(now[1]))
        ),
        "looping lives, is logged and recorded",
    )


@dataclass(slots=True)
class Excuses:
    """What nobody could know or keep, by what was killed at once; everything else is held to the letter.

    The launcher while a start is under way, or with the daemon: how the one run that ended meanwhile ended
    (lost, 255), and whether it had begun at all. Launcher and log writer: a batch that had left its pipe, and
    what such a run had said.
    """

    lost: set[int] = field(default_factory=set)
    never_began: set[int] = field(default_factory=set)
    unlogged: dict[str, set[int]] = field(default_factory=lambda: {"steady": set(), "looping": set()})


def test_nothing_is_lost_whoever_is_killed(supervisor: Supervisor) -> None:
    """Same pid, every end recorded once and truly, every line once and in order, nothing left over."""
    print(f"SHIPKEEPER_KILL_SEED={SEED} SHIPKEEPER_KILL_ROUNDS={ROUNDS}")
    rng = random.Random(SEED)
    scene = begin(supervisor)
    excuses = Excuses()
    steady = scene.view("steady")["State"]["Pid"]
    drawn: list[frozenset[str]] = []
    for number in range(ROUNDS):
        drawn = drawn or rng.sample(EVERY, len(EVERY))
        victims = sorted(drawn.pop())
        rng.shuffle(victims)
        print(f"round {number}: {', '.join(victims)}")
        time.sleep(rng.uniform(0.0, 0.3))
        began = {"steady": scene.numbers("steady")[-1], "looping": scene.numbers("looping")[-1]}
        kill(scene, victims, rng)
        whole_again(scene)
        if {LAUNCHER, WRITER} <= set(victims):
            for service, first in began.items():
                excuses.unlogged[service] |= set(range(first + 1, scene.numbers(service)[-1] + 1))
        if LAUNCHER in victims:
            excuse_a_run(scene, excuses, before=began["looping"])

        view = scene.view("steady")
        assert view["State"]["Pid"] == steady, "it runs on under its pid"
        assert view["RestartCount"] == 0
        check_runs(scene, excuses)
        for service in scene.logs:
            check_log(scene.numbers(service), excuses.unlogged[service], service)
        done = scene.view("done")
        assert (done["State"]["Status"], done["State"]["ExitCode"], done["RestartCount"]) == ("exited", 9, 2)
        assert [row[:2] for row in scene.runs("done")] == [(1, 9), (2, 9), (3, 9)], "each end once"
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    masks = f"{supervisor.base}/run/masks"
    ours = (masks, f"{supervisor.base}/run/netns", f"{supervisor.base}/run/mounts")
    left = [place for place in mounts if place.startswith(str(supervisor.base)) and place not in ours]
    assert [os.path.dirname(place) for place in left] == [masks], "none but the masks'"


def number_of(run: int, excuses: Excuses) -> int:
    """The number that the life of a run has: one for each run that began."""
    return run - sum(other < run for other in excuses.never_began)


def excuse_a_run(scene: Scene, excuses: Excuses, before: int) -> None:
    """Of the runs since that one, one may be lost, since one at a time lives; its output may be, too."""
    runs = scene.runs("looping")
    lost = {run for run, _, lost in runs if lost and run >= before} - excuses.lost
    assert len(lost) <= 1
    for run in lost:
        excuses.lost.add(run)
        after, code, _ = next(row for row in runs if row[0] > run)
        if code == code_of(number_of(after, excuses) - 1):
            excuses.never_began.add(run)
        print(f"  lost: run {run}" + (", which never began" if run in excuses.never_began else ""))
        excuses.unlogged["looping"].add(number_of(run, excuses))


def check_runs(scene: Scene, excuses: Excuses) -> None:
    """Every life is a run, every run is recorded once, and each with its own status."""
    runs = scene.runs("looping")
    first = runs[0][0]
    assert [run for run, _, _ in runs] == list(range(first, first + len(runs))), "each run is recorded once"
    assert runs == [
        (run, 255, True) if run in excuses.lost else (run, code_of(number_of(run, excuses)), False)
        for run, _, _ in runs
    ]
    view = until(
        lambda: scene.view("looping"), lambda view: view["State"]["Status"] == "restarting", "it waits"
    )
    assert view["RestartCount"] >= runs[-1][0], "each end is counted as a restart"


def check_log(numbers: list[int], excused: set[int], service: str) -> None:
    """Each number once and in order, and none missing that nobody could keep."""
    assert numbers == sorted(set(numbers)), "once, and in order"
    missing = set(range(1, numbers[-1] + 1)) - set(numbers)
    if missing:
        print(f"  missing of {service}: {sorted(missing)}")
    assert missing <= excused


@pytest.mark.parametrize("damage", ["torn", "foreign", "gone"])
def test_survivors_are_adopted_without_the_database(supervisor: Supervisor, damage: str) -> None:
    """The file is moved aside and named; what runs goes on under its pid, and is known by all it is."""
    supervisor.compose(
        "name: kept\n"
        "services:\n"
        "  web: {command: sleep 1000, restart: always, network_mode: host, labels: {tier: front}}\n"
        "  ends: {command: 'sh -c \"sleep 1000\"', network_mode: host}\n"
        "  down: {command: sleep 1000, restart: always, network_mode: host, stop_signal: KILL}\n"
    )
    supervisor.ok("up", "-d")
    supervisor.ok("stop", "down")
    client = Client(f"{supervisor.base}/run/shipkeeper.sock")
    names = ("web", "ends", "down")
    before = {name: client.call("GET", f"/containers/kept-{name}-1/json") for name in names}
    supervisor.kill()
    pidfd = os.pidfd_open(before["ends"]["State"]["Pid"])
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], PATIENCE_S)[0], "the precondition: it ends while the daemon is away"
    os.close(pidfd)
    database = supervisor.base / "state/shipkeeper.db"
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    match damage:
        case "torn":
            database.write_bytes(database.read_bytes()[:16] + b"\xde\xad\xbe\xef" * 4096)
        case "foreign":
            database.unlink()
            with contextlib.closing(sqlite3.connect(database)) as other, other:
                other.execute("CREATE TABLE songs (title TEXT)")
        case "gone":
            database.unlink()
    supervisor.start()
    aside = [path.name for path in database.parent.iterdir() if ".damaged-" in path.name]
    assert bool(aside) == (damage != "gone"), "the old file is kept"
    web = client.call("GET", "/containers/kept-web-1/json")
    for key in ("Id", "Name", "Project", "Service", "Created", "Command", "ConfigHash", "HostConfig", "Spec"):
        assert web[key] == before["web"][key], key
    assert web["State"]["Pid"] == before["web"]["State"]["Pid"]
    ends = client.call("GET", "/containers/kept-ends-1/json")
    assert (ends["State"]["Status"], ends["State"]["ExitCode"]) == ("exited", 137), "judged by its policy"
    with pytest.raises(ApiError):
        client.call("GET", "/containers/kept-down-1/json")  # what did not run has to be brought up again
    os.kill(web["State"]["Pid"], signal.SIGKILL)
    until(
        lambda: client.call("GET", "/containers/kept-web-1/json"),
        lambda view: view["State"]["Pid"] not in (0, web["State"]["Pid"]) and view["RestartCount"] == 1,
        "it is restarted",
    )
    assert "keep" in supervisor.ok("up", "--dry-run"), "nothing has changed for `up`"
    kept = supervisor.base / "state/instances" / before["down"]["Id"]
    assert kept.is_dir(), "what was written by one that nobody knows any more is a person's to remove"
    shutil.rmtree(kept)


def test_a_stop_that_a_kill_interrupts_is_finished(supervisor: Supervisor) -> None:
    """Launcher and daemon die while it ignores TERM: it is still its service, still stopping, and ends."""
    supervisor.compose(
        "services: {deaf: {command: \"sh -c 'trap : TERM; echo up; while :; do sleep 1; done'\","
        " restart: always, network_mode: host, stop_grace_period: 2s}}"
    )
    supervisor.ok("up", "-d")
    until(lambda: supervisor.ok("logs", "deaf"), lambda text: "up" in text, "it has its trap")
    pid = supervisor.row("deaf")["Pid"]
    pidfd = os.pidfd_open(pid)
    stopping = subprocess.Popen(
        [sys.executable, "-m", "supervisor.cli.main", "stop", "deaf"],
        env=supervisor.environment,
        cwd=supervisor.base,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    until(lambda: supervisor.state("deaf"), lambda state: state == "stopping", "the stop is under way")
    supervisor.kill()
    stopping.wait(PATIENCE_S)
    for process in supervisor.helpers():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    supervisor.start()
    assert select.select([pidfd], [], [], PATIENCE_S)[0], "it is killed after its grace period"
    os.close(pidfd)
    until(lambda: supervisor.state("deaf"), lambda state: state == "exited", "it is down")
    told = json.loads(supervisor.ok("why", "--format", "json", "deaf"))
    assert [run["ExitCode"] for run in told["Runs"]] == [137], "one run, its status from the kernel"
