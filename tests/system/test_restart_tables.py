"""Both restart tables on the real daemon: every row, under every policy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest
from restart_play import Player, Seen
from restart_tables import RETURNS, STEADY, Return, Row, Service, World, columns
from supervising import PATIENCE_S, Supervisor, supervising

from supervisor.cli.client import ApiError, Client
from supervisor.compose import load_project
from supervisor.core.model import Policy
from supervisor.core.paths import Paths
from supervisor.daemon.app import Daemon
from supervisor.daemon.settings import load_settings

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


class Ours:
    """`restart_play.Engine` over Shipkeeper's API; a row's services are projects of their own."""

    def __init__(self, made: Supervisor) -> None:
        self._made = made
        self._client = Client(f"{made.base}/run/shipkeeper.sock")

    def create(self, name: str, service: Service, policy: Policy, ctl: Path, *, start: bool) -> None:
        restart = policy.value + (f":{service.max_attempts}" if service.max_attempts is not None else "")
        command = ["/no/such/program"] if service.missing else ["sh", "-c", service.script]
        spec: dict[str, object] = {
            "command": command,
            "restart": restart,
            "volumes": [f"{ctl}:/ctl"],
            "stop_grace_period": f"{service.grace_s}s",
            "network_mode": "host",
            "container_name": name,
        }
        if service.stop_signal:
            spec["stop_signal"] = f"SIG{service.stop_signal}"
        if service.memory_mb:
            spec |= {"mem_limit": f"{service.memory_mb}m", "memswap_limit": f"{service.memory_mb}m"}
        assert start
        file = ctl.with_suffix(".json")
        file.write_text(json.dumps({"name": name, "services": {"one": spec}}))
        loaded = load_project([str(file)], project_name=None, project_dir=None, env=os.environ)
        body = msgspec.json.encode(loaded.project)
        for _ in self._client.stream("POST", f"/projects/{name}/up", body=body):
            pass

    def look(self, name: str) -> Seen:
        view = self._client.call("GET", f"/containers/{name}/json")
        state = view["State"]
        return Seen(state["Status"], state["Pid"], state["ExitCode"], view["RestartCount"])

    def _post(self, name: str, verb: str, **query: object) -> None:
        self._client.call("POST", f"/containers/{name}/{verb}", query)

    def stop(self, name: str, grace_s: int | None) -> None:
        self._post(name, "stop", t=grace_s)

    def kill(self, name: str, signame: str) -> None:
        try:
            self._post(name, "kill", signal=signame)
        except ApiError as error:
            # Where Docker takes it for a stop: nothing runs that it could go to.
            assert "it waits for its restart" in str(error)

    def restart(self, name: str) -> None:
        self._post(name, "restart")

    def pause(self, name: str, paused: bool) -> None:
        self._post(name, "pause" if paused else "unpause")

    def remove(self, name: str) -> None:
        self._client.call("DELETE", f"/containers/{name}", {"force": 1})


@pytest.fixture(scope="module")
def ours() -> Iterator[Ours]:
    """One supervisor for all rows of the first table."""
    with supervising() as made:
        yield Ours(made)


@pytest.mark.parametrize("row", STEADY, ids=lambda row: row.name)
def test_table_1_5(row: Row, ours: Ours, tmp_path: Path) -> None:
    """A row under its policies, on processes."""
    found: dict[Policy, str] = {}
    players = {
        policy: Player(ours, f"row-{policy.value}", row.service, policy, tmp_path)
        for policy, _ in columns(row.ours)
    }
    made = []
    try:
        for player in players.values():
            player.create()
            made.append(player)
        for policy, player in players.items():
            player.ready()
            player.acts(row.acts)
            found[policy] = player.verdict()
            player.mend()
    finally:
        for player in made:
            ours.remove(player.name)
    assert found == dict(columns(row.ours))


@pytest.mark.parametrize("world", World, ids=lambda world: world.value)
def test_table_1_6(world: World, supervisor: Supervisor, tmp_path: Path) -> None:
    """All rows of a world at once, for there is one start of the supervisor for all of them.

    Shipkeeper has no command that creates without starting, so that row is for the core alone.
    """
    ours = Ours(supervisor)
    rows = [row for row in RETURNS if row.world is world and not row.created]
    players = {
        (row.name, policy.value): (
            row,
            Player(ours, f"r{number}-{policy.value}", row.service, policy, tmp_path),
        )
        for number, row in enumerate(rows)
        for policy, _ in columns(row.ours)
    }
    for _, player in players.values():
        player.create()
    for row, player in players.values():
        player.ready()
        player.acts(row.acts)
    for _, player in players.values():
        player.mend()
        player.mark()
    change(world, supervisor, [(player, row) for row, player in players.values()])
    expected = {(row.name, policy.value): verdict for row in rows for policy, verdict in columns(row.ours)}
    for key, (_, player) in players.items():
        if expected[key] == "R":
            player.comes_back()
    # All starts have been made by now, those too that should not have been.
    found = {key: player.verdict(kept=world is World.CRASH) for key, (_, player) in players.items()}
    codes = {key: last_code(supervisor, player.name) for key, (row, player) in players.items() if row.code}
    assert found == expected
    assert codes == {key: row.code for key, (row, _) in players.items() if row.code}


def change(world: World, made: Supervisor, players: list[tuple[Player, Return]]) -> None:
    """Let it happen, and wait for the supervisor's return."""
    assert made.daemon is not None
    match world:
        case World.CRASH:
            made.kill()
            for player, row in players:
                if row.meanwhile is not None:
                    player.meanwhile(row.meanwhile)
        case World.ORDERLY:
            made.daemon.send_signal(signal.SIGTERM)
            made.daemon.wait()
            asyncio.run(shut_down(made))
            boot_again(made)
        case World.POWER:
            made.kill()
            victims = made.helpers()
            for victim in victims:
                victim.kill()
            pidfds = []
            for path in Path("/sys/fs/cgroup").glob(
                f"**/{Paths(f'{made.base}/state').own_cgroup}/*/*/cgroup.procs"
            ):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    for pid in map(int, path.read_text().split()):
                        pidfds.append(os.pidfd_open(pid))
                        os.kill(pid, signal.SIGKILL)
            for pidfd in pidfds:
                assert select.select([pidfd], [], [], PATIENCE_S)[0], "everything is gone"
                os.close(pidfd)
            psutil.wait_procs(victims, PATIENCE_S)
            boot_again(made)
    made.start()


async def shut_down(made: Supervisor) -> None:
    """What a stop of the host asks of the supervisor: services in order, then itself."""
    settings = load_settings(made.environment, state_dir=None, run_dir=None)
    daemon = Daemon(settings, print)
    await daemon.start()
    await daemon.stop(services=True)


def boot_again(made: Supervisor) -> None:
    """The supervisor is to find another boot than the one that it knows."""
    with contextlib.closing(sqlite3.connect(made.base / "state/shipkeeper.db")) as database, database:
        database.execute("UPDATE meta SET value = 'another' WHERE key = 'boot_id'")


def last_code(made: Supervisor, name: str) -> int:
    """The exit code of the last run that is recorded."""
    runs = Client(f"{made.base}/run/shipkeeper.sock").call("GET", f"/containers/{name}/runs")["Runs"]
    return int(runs[-1]["ExitCode"])
