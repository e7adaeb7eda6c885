"""The state database: what was stored loads, and what is torn or foreign is moved aside."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.core.exits import Exit, SpawnFailure
from supervisor.core.model import Mount, Policy, RestartRules, ServiceSpec
from supervisor.core.state import Instance, Running, Waiting
from supervisor.daemon.state import RUNS_KEPT, Boot, Changes, RunRecord, StateDatabase, Stored

SPEC = ServiceSpec(
    "web", command=("sleep", "9"), mounts=(Mount("volume", "/data", "p_data"),), environment=(("A", "b"),)
)


def stored(name: str = "p-web-1") -> Stored:
    instance = Instance(
        name,
        rules=RestartRules(Policy.ON_FAILURE, max_attempts=3),
        phase=Running(42, 7.5),
        run=3,
        last=Exit(1),
    )
    return Stored(instance, SPEC, "p", 1, name, 1000.0, "hash", "/srv")


def quiet(text: str) -> None:
    raise AssertionError(f"nothing was to be reported: {text}")


def test_what_was_put_loads_equal(tmp_path: Path) -> None:
    """load(save(s)) == s, over a close of the file."""
    path = str(tmp_path / "s.db")
    database = StateDatabase(path, quiet)
    database.apply(Changes(new=(stored(),)))
    changed = replace(
        stored().instance, phase=Waiting(4, 9.0), last=SpawnFailure("exec", 2, "x", 127), timer=4
    )
    database.apply(Changes(instances=(changed,)))
    database.save_boot(Boot("boot-1", 7.5))
    database.close()
    again = StateDatabase(path, quiet)
    assert again.load(quiet) == [replace(stored(), instance=changed)]
    assert again.boot() == Boot("boot-1", 7.5)
    again.close()


def test_when_a_run_began_is_known_after_a_power_cut(tmp_path: Path) -> None:
    """Of the newest run of each instance, until the instance goes."""
    path = str(tmp_path / "s.db")
    database = StateDatabase(path, quiet)
    database.apply(Changes(new=(stored(),)))
    database.apply(Changes(began=(("p-web-1", 1, 100.5),)))
    database.apply(Changes(began=(("p-web-1", 2, 200.5),)))
    database.close()
    again = StateDatabase(path, quiet)
    assert again.began() == {"p-web-1": (2, 200.5)}
    again.apply(Changes(removed=("p-web-1",)))
    assert again.began() == {}
    again.close()


def test_what_was_removed_is_known_until_its_files_are_gone(tmp_path: Path) -> None:
    """In the same transaction; an instance that is there is never one of them."""
    path = str(tmp_path / "db")
    database = StateDatabase(path, quiet)
    one, other = stored("p-one-1"), stored("p-other-1")
    database.apply(Changes(new=(one, other)))
    assert database.going() == []
    database.apply(Changes(removed=(one.instance.id,)))
    database.close()
    database = StateDatabase(path, quiet)
    assert database.going() == [one.instance.id]
    database.apply(Changes(new=(one,)))
    assert database.going() == []
    database.apply(Changes(removed=tuple(f"{number:064x}" for number in range(3000))))
    assert len(database.going()) == 1000, "bounded: their files went long ago"
    database.close()


def test_the_last_fifty_runs_are_kept_and_a_run_is_recorded_once(tmp_path: Path) -> None:
    """A second report of the same end changes nothing."""
    database = StateDatabase(str(tmp_path / "s.db"), quiet)
    database.apply(Changes(new=(stored(),)))
    for run in range(1, RUNS_KEPT + 6):
        database.apply(Changes(ends=(("p-web-1", RunRecord(run, 1.0, 2.0, Exit(run % 7), "why")),)))
    database.apply(Changes(ends=(("p-web-1", RunRecord(RUNS_KEPT + 5, 1.0, 3.0, Exit(99), "again")),)))
    runs = database.runs("p-web-1")
    assert [record.run for record in runs] == list(range(6, RUNS_KEPT + 6))
    assert runs[-1].ending != Exit(99)
    assert database.runs("p-web-1", last=1) == runs[-1:]
    database.apply(Changes(removed=("p-web-1",)))
    assert database.runs("p-web-1") == []
    assert database.load(quiet) == []
    database.close()


@pytest.mark.parametrize("damage", ["garbage", "truncated", "foreign", "newer"])
def test_a_torn_or_foreign_database_is_moved_aside(tmp_path: Path, damage: str) -> None:
    """The old file is kept, the message names it, and an empty database works."""
    path = tmp_path / "s.db"
    if damage == "foreign":
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE songs (title TEXT)")
        other.commit()
        other.close()
    else:
        database = StateDatabase(str(path), quiet)
        for number in range(200):
            database.apply(Changes(new=(stored(f"p-web-{number}"),)))
        database.close()
        content = path.read_bytes()
        if damage == "garbage":
            path.write_bytes(b"not a database at all" * 500)
        elif damage == "truncated":
            path.write_bytes(content[: len(content) // 2])
        else:
            other = sqlite3.connect(path)
            other.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
            other.commit()
            other.close()
    told: list[str] = []
    database = StateDatabase(str(path), told.append)
    assert database.load(quiet) == []
    database.apply(Changes(new=(stored(),)))
    database.close()
    aside = [name for name in os.listdir(tmp_path) if ".damaged-" in name]
    assert aside, "the old file is kept"
    assert len(told) == 1
    assert aside[0].split("-wal")[0].split("-shm")[0] in told[0]


def test_a_kill_at_any_moment_leaves_a_state_that_loads(tmp_path: Path) -> None:
    """Ten writers are killed in the middle of writing; each time what was committed is there."""
    path = str(tmp_path / "s.db")
    program = (
        "import sys\n"
        "from dataclasses import replace\n"
        "from supervisor.core.model import ServiceSpec\n"
        "from supervisor.core.state import Instance\n"
        "from supervisor.daemon.state import Changes, StateDatabase, Stored\n"
        "database = StateDatabase(sys.argv[1], print)\n"
        "instance = Instance('i')\n"
        "made = Stored(instance, ServiceSpec('web'), 'p', 1, 'n', 0.0, 'h', '/')\n"
        "database.apply(Changes(new=(made,)))\n"
        "for run in range(int(sys.argv[2]), 10**9):\n"
        "    database.apply(Changes(instances=(replace(instance, run=run),)))\n"
        "    print(run, flush=True)\n"
    )
    last = 0
    for _ in range(10):
        writer = subprocess.Popen(
            [sys.executable, "-c", program, path, str(last + 1)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        with writer:
            for line in writer.stdout:
                last = int(line)
                if last % 7 == 0:
                    writer.send_signal(signal.SIGKILL)
                    break
            for line in writer.stdout:
                last = int(line)
        database = StateDatabase(path, quiet)
        (found,) = database.load(quiet)
        assert found.instance.run in (last, last + 1), "committed, or committed and not yet said"
        last = found.instance.run
        database.close()
