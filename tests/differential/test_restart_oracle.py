"""The `docker` column of both restart tables, asked of a real dockerd: the table is checked, not believed.

    DOCKER_HOST=unix:///run/docker.sock pytest tests/differential/test_restart_oracle.py

Needs Debian's docker.io and busybox-static; no registry. A boot of the host cannot be had here: an orderly
stop of the engine and the death of all that is its own stand for it, which is all that an engine sees.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from dockers import Docker, PrivateDockerd, busybox_archive
from restart_play import Player
from restart_tables import ENDS_BADLY, PLAIN, RETURNS, STEADY, Return, Row, Service, Verdicts, World, columns

from supervisor.core.model import Policy

HOST = os.environ.get("DOCKER_HOST", "")
BUSYBOX = shutil.which("busybox")

pytestmark = [
    pytest.mark.skipif(not HOST.startswith("unix://"), reason="no local dockerd is named by DOCKER_HOST"),
    pytest.mark.skipif(BUSYBOX is None, reason="no busybox on this machine; apt-get install busybox-static"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    # The SDK leaves sockets open when an engine goes away under it.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def archive() -> bytes:
    """What every container runs in."""
    assert BUSYBOX is not None
    return busybox_archive(BUSYBOX)


@pytest.fixture(scope="module")
def named(archive: bytes) -> Iterator[Docker]:
    """The engine that DOCKER_HOST names."""
    engine = Docker(HOST, archive)
    print(f"compared with dockerd {engine.version()}")
    yield engine
    engine.close()


@pytest.fixture
def private() -> Iterator[PrivateDockerd]:
    """An engine of our own, not started."""
    if shutil.which("dockerd") is None:
        pytest.skip("no dockerd on this machine; apt-get install docker.io")
    engine = PrivateDockerd(Path(tempfile.mkdtemp(prefix="shipkeeper-dockerd-")))
    yield engine
    engine.close()


def expected(row: Row | Return) -> Verdicts:
    return row.ours if row.docker is None else row.docker


@pytest.mark.parametrize("row", STEADY, ids=lambda row: row.name)
def test_table_1_5(row: Row, named: Docker, tmp_path: Path) -> None:
    """A row under its policies."""
    found: dict[Policy, str] = {}
    players = {
        policy: Player(named, f"shipkeeper-test-{os.getpid()}-{policy.value}", row.service, policy, tmp_path)
        for policy, _ in columns(row.ours)
    }
    made = []
    try:
        for player in players.values():
            made.append(player)
            player.create()
        for policy, player in players.items():
            player.ready()
            player.acts(row.acts)
            found[policy] = player.verdict()
            player.mend()
    finally:
        for player in made:
            named.remove(player.name)
    assert found == dict(columns(expected(row)))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("world", World, ids=lambda world: world.value)
def test_table_1_6(world: World, private: PrivateDockerd, archive: bytes, tmp_path: Path) -> None:
    """All rows of a world at once; what is alive is kept with live-restore only, so CRASH has it."""
    live_restore = world is World.CRASH
    private.start(live_restore=live_restore)
    engine = Docker(private.address, archive)
    rows = [row for row in RETURNS if row.world is world]
    players = {
        (row.name, policy.value): (
            row,
            Player(engine, f"r{number}-{policy.value}", row.service, policy, tmp_path),
        )
        for number, row in enumerate(rows)
        for policy, _ in columns(row.ours)
    }
    for row, player in players.values():
        player.create(start=not row.created)
    for row, player in players.values():
        if not row.created:
            player.ready()
        player.acts(row.acts)
    for _, player in players.values():
        player.mend()
        player.mark()
    match world:
        case World.CRASH:
            private.crash()
            for row, player in players.values():
                if row.meanwhile is not None:
                    player.meanwhile(row.meanwhile)
        case World.ORDERLY:
            private.stop()
        case World.POWER:
            private.power_cut([pid for _, player in players.values() if (pid := player.look().pid)])
    private.start(live_restore=live_restore)
    wanted = {(row.name, policy.value): found for row in rows for policy, found in columns(expected(row))}
    for key, (_, player) in players.items():
        if wanted[key] == "R":
            player.comes_back()
    found = {key: player.verdict(kept=world is World.CRASH) for key, (_, player) in players.items()}
    codes = {
        key: player.look().code
        for key, (row, player) in players.items()
        if row.code is not None and found[key] == "X"
    }
    for _, player in players.values():
        engine.remove(player.name)
    engine.close()
    assert found == wanted
    assert codes == {key: row.code for key, (row, _) in players.items() if key in codes}


@pytest.mark.parametrize("script", [PLAIN, ENDS_BADLY], ids=["exits 0 on TERM", "exits 5 on TERM"])
def test_without_live_restore_a_killed_engine_stops_what_runs(
    script: str, private: PrivateDockerd, archive: bytes, tmp_path: Path
) -> None:
    """We differ on purpose: services live on. Docker's clean-up counts as a stop by a person."""
    private.start(live_restore=False)
    engine = Docker(private.address, archive)
    players = {
        policy: Player(engine, policy.value, Service(script), policy, tmp_path)
        for policy, _ in columns(("X", "X", "R", "X"))
    }
    for player in players.values():
        player.create()
    for player in players.values():
        player.ready()
        player.mark()
    private.crash()
    private.start(live_restore=False)
    players[Policy.ALWAYS].comes_back()
    found = {policy: player.verdict() for policy, player in players.items()}
    for player in players.values():
        engine.remove(player.name)
    engine.close()
    on_failure = "R" if script == ENDS_BADLY else "X"
    assert found == {
        Policy.NO: "X",
        Policy.ON_FAILURE: on_failure,
        Policy.ALWAYS: "R",
        Policy.UNLESS_STOPPED: "X",
    }
