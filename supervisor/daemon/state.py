"""The state database: what is wanted and by whom, and the last runs of every instance.

SQLite in WAL mode with synchronous=FULL: what was wanted survives a power cut. A file that is torn or
foreign is moved aside, never written over, and an empty database takes its place; survivors are adopted all
the same.

Tables: `meta` (schema version, boot id), `instance` (one row each: service definition and state machine as
JSON of `daemon.record`), `run` (the last 50 runs of each instance). One owner: the daemon of this state
directory.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from supervisor.core.exits import Ending
from supervisor.core.model import ServiceSpec, Volume
from supervisor.core.state import Instance
from supervisor.daemon.record import (
    RecordError,
    load_ending,
    load_instance,
    load_spec,
    load_volumes,
    save_ending,
    save_instance,
    save_spec,
    save_volumes,
)

SCHEMA = 1
RUNS_KEPT = 50
_GOING_KEPT = 1000
_RUN = "run, started_wall, ended_wall, ending, verdict, user_s, system_s, max_rss_bytes, cpu_ns"

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS instance (
    id TEXT PRIMARY KEY, project TEXT NOT NULL, service TEXT NOT NULL, number INTEGER NOT NULL,
    name TEXT NOT NULL UNIQUE, created_wall REAL NOT NULL, config_hash TEXT NOT NULL,
    working_dir TEXT NOT NULL, volumes BLOB NOT NULL, spec BLOB NOT NULL, state BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS run (
    instance TEXT NOT NULL, run INTEGER NOT NULL, started_wall REAL, ended_wall REAL NOT NULL,
    ending BLOB NOT NULL, verdict TEXT NOT NULL, user_s REAL NOT NULL, system_s REAL NOT NULL,
    max_rss_bytes INTEGER NOT NULL, cpu_ns INTEGER NOT NULL, PRIMARY KEY (instance, run)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS began (
    instance TEXT PRIMARY KEY, run INTEGER NOT NULL, wall REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS going (instance TEXT NOT NULL);
"""


class StateError(Exception):
    """The state database cannot be opened or written as things are. The text is for the operator."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One instance as it is kept. `name` is the container name, unique on this host."""

    instance: Instance
    spec: ServiceSpec
    project: str
    number: int
    name: str
    created_wall: float
    config_hash: str
    working_dir: str
    volumes: tuple[Volume, ...] = ()


@dataclass(frozen=True, slots=True)
class Boot:
    """A boot of the host. clock_offset_s: the wall clock minus CLOCK_BOOTTIME."""

    id: str
    clock_offset_s: float


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run that ended. started_wall is None for one that never began; `verdict`: what was decided, why."""

    run: int
    started_wall: float | None
    ended_wall: float
    ending: Ending
    verdict: str
    user_s: float = 0.0
    system_s: float = 0.0
    max_rss_bytes: int = 0
    cpu_ns: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """What is stored in one transaction. ends: of runs, with the ids of their instances.

    began: the newest runs of instances, and when they began by the wall clock: nobody tells of that any more
    after a host went down without a word.
    """

    new: tuple[Stored, ...] = ()
    instances: tuple[Instance, ...] = ()
    ends: tuple[tuple[str, RunRecord], ...] = ()
    removed: tuple[str, ...] = ()
    began: tuple[tuple[str, int, float], ...] = ()


def save_identity(stored: Stored) -> bytes:
    """All of an instance but the state of its state machine, as JSON: what survives the database."""
    return msgspec.json.encode(
        {
            "id": stored.instance.id,
            "stop_signal": stored.instance.stop_signal,
            "project": stored.project,
            "number": stored.number,
            "name": stored.name,
            "created_wall": stored.created_wall,
            "config_hash": stored.config_hash,
            "working_dir": stored.working_dir,
            "volumes": msgspec.Raw(save_volumes(stored.volumes)),
            "spec": msgspec.Raw(save_spec(stored.spec)),
        }
    )


def load_identity(text: bytes) -> Stored:
    """The instance as it was made, never started. Raises RecordError."""
    try:
        found = msgspec.json.decode(text, type=_Identity)
    except msgspec.MsgspecError as error:
        raise RecordError(f"cannot read what the launcher keeps of an instance: {error}") from error
    spec = load_spec(found.spec)
    instance = Instance(
        found.id, spec.restart, stop_signal=found.stop_signal, stop_grace_s=spec.stop_grace_s, wanted=True
    )
    return Stored(
        instance,
        spec,
        found.project,
        found.number,
        found.name,
        found.created_wall,
        found.config_hash,
        found.working_dir,
        load_volumes(found.volumes),
    )


class _Identity(msgspec.Struct, frozen=True):
    id: str
    stop_signal: int
    project: str
    number: int
    name: str
    created_wall: float
    config_hash: str
    working_dir: str
    volumes: msgspec.Raw
    spec: msgspec.Raw


class StateDatabase:
    """See the module. Every write is committed when the method returns; all raise StateError.

    Writing and reading have a connection each, so that one thread may write while another reads; no two
    threads may do the same at once.
    """

    def __init__(self, path: str, report: Callable[[str], None]) -> None:
        """Open or make the file. `report` is told in one line if a database had to be moved aside."""
        self._path = path
        try:
            self._db = _open(path)
        except sqlite3.DatabaseError as error:
            aside = f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.getpid()}"
            _move_aside(path, aside)
            report(
                f"cannot use the state database {path}: {error}; it was moved to {aside} and an empty one was"
                " made; running services are adopted, stopped ones have to be brought up again"
            )
            try:
                self._db = _open(path)
            except sqlite3.Error as second:
                raise StateError(
                    f"cannot make the state database {path}: {second}; is the disk full?"
                ) from second
        self._reader = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
        self._reader.execute("PRAGMA cache_size=-256")

    def close(self) -> None:
        """Let go of the file."""
        self._reader.close()
        self._db.close()

    def boot(self) -> Boot | None:
        """The boot of the host in which the daemon last ran; None in a new database."""
        found = dict(self._db.execute("SELECT key, value FROM meta"))
        if "boot_id" not in found:
            return None
        return Boot(str(found["boot_id"]), float(found.get("clock_offset_s", 0.0)))

    def save_boot(self, boot: Boot) -> None:
        """Remember under which boot the stored phases and times are true."""
        rows = [("boot_id", boot.id), ("clock_offset_s", repr(boot.clock_offset_s))]
        try:
            with self._db:
                self._db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def load(self, report: Callable[[str], None]) -> list[Stored]:
        """All instances, by name. One that cannot be read is reported and left where it is."""
        found = []
        rows = self._db.execute(
            "SELECT state, spec, project, number, name, created_wall, config_hash, working_dir, volumes"
            " FROM instance ORDER BY name"
        )
        for state, spec, project, number, name, created_wall, config_hash, working_dir, volumes in rows:
            try:
                found.append(
                    Stored(
                        load_instance(state),
                        load_spec(spec),
                        project,
                        number,
                        name,
                        created_wall,
                        config_hash,
                        working_dir,
                        load_volumes(volumes),
                    )
                )
            except RecordError as error:
                report(f"cannot load {name}: {error}; it is left alone")
        return found

    def apply(self, changes: Changes) -> None:
        """Store all of it, or none: one transaction.

        A run ends once: a second report of the same end is dropped.
        """
        try:
            with self._db:
                self._db.executemany("DELETE FROM run WHERE instance = ?", [(i,) for i in changes.removed])
                self._db.executemany("DELETE FROM instance WHERE id = ?", [(i,) for i in changes.removed])
                self._db.executemany(
                    "INSERT OR REPLACE INTO instance VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    [_row(stored) for stored in changes.new],
                )
                self._db.executemany(
                    "UPDATE instance SET state = ? WHERE id = ?",
                    [(save_instance(instance), instance.id) for instance in changes.instances],
                )
                for instance_id, run in changes.ends:
                    self._insert(instance_id, run)
                self._db.executemany("DELETE FROM began WHERE instance = ?", [(i,) for i in changes.removed])
                if changes.removed:
                    self._db.executemany("INSERT INTO going VALUES (?)", [(i,) for i in changes.removed])
                    self._db.execute(
                        "DELETE FROM going WHERE rowid <= (SELECT max(rowid) FROM going) - ?", (_GOING_KEPT,)
                    )
                self._db.executemany("INSERT OR REPLACE INTO began VALUES (?, ?, ?)", changes.began)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _insert(self, instance_id: str, record: RunRecord) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                instance_id,
                record.run,
                record.started_wall,
                record.ended_wall,
                save_ending(record.ending),
                record.verdict,
                record.user_s,
                record.system_s,
                record.max_rss_bytes,
                record.cpu_ns,
            ),
        )
        self._db.execute(
            "DELETE FROM run WHERE instance = ? AND run <= ?", (instance_id, record.run - RUNS_KEPT)
        )

    def runs(self, instance_id: str, last: int = RUNS_KEPT) -> list[RunRecord]:
        """The `last` stored runs, oldest first."""
        rows = self._reader.execute(
            f"SELECT {_RUN} FROM run WHERE instance = ? ORDER BY run DESC LIMIT ?",  # noqa: S608 - a constant
            (instance_id, last),
        )
        return [_record(row) for row in rows][::-1]

    def began(self) -> dict[str, tuple[int, float]]:
        """The newest run that is known to have begun, and when, of every instance that has one."""
        rows = self._db.execute("SELECT instance, run, wall FROM began")
        return {instance: (run, wall) for instance, run, wall in rows}

    def going(self) -> list[str]:
        """The instances that were removed last: a kill may have come before their files were."""
        rows = self._reader.execute(
            "SELECT instance FROM going WHERE instance NOT IN (SELECT id FROM instance)"
        )
        return [str(instance) for (instance,) in rows]

    def last_runs(self) -> dict[str, RunRecord]:
        """The newest stored run of every instance that has one."""
        rows = self._reader.execute(f"SELECT instance, {_RUN}, max(run) FROM run GROUP BY instance")  # noqa: S608
        return {row[0]: _record(row[1:-1]) for row in rows}

    def _failure(self, error: sqlite3.Error) -> StateError:
        return StateError(f"cannot write to the state database {self._path}: {error}; is the disk full?")


def _row(stored: Stored) -> tuple[object, ...]:
    return (
        stored.instance.id,
        stored.project,
        stored.spec.name,
        stored.number,
        stored.name,
        stored.created_wall,
        stored.config_hash,
        stored.working_dir,
        save_volumes(stored.volumes),
        save_spec(stored.spec),
        save_instance(stored.instance),
    )


def _record(row: tuple[Any, ...]) -> RunRecord:
    run, started, ended, ending, *figures = row
    return RunRecord(run, started, ended, load_ending(ending), *figures)


def _make_private(path: str) -> None:
    """Also what an earlier version made; an error shows in what comes next."""
    with contextlib.suppress(OSError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for each in (path, f"{path}-wal", f"{path}-shm"):
        with contextlib.suppress(OSError):
            Path(each).chmod(0o600)


def _open(path: str) -> sqlite3.Connection:
    """Raises sqlite3.DatabaseError for what is no database of this schema.

    Services' environments are in it: it is root's alone, and the files beside it are made with its mode
    (sqlite.org/src, os_unix.c, findCreateFileMode).
    """
    _make_private(path)
    db = sqlite3.connect(path, timeout=5.0, check_same_thread=False)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA cache_size=-256")  # KiB: rows are read once, by key
        row = db.execute("PRAGMA quick_check(1)").fetchone()
        if row is None or row[0] != "ok":
            raise sqlite3.DatabaseError(f"it is damaged ({row[0] if row else 'no answer'})")
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "meta" not in tables:
            raise sqlite3.DatabaseError("it belongs to another program")
        with db:
            db.executescript(_TABLES)
            db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA),))
        found = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()[0]
        if found != str(SCHEMA):
            raise sqlite3.DatabaseError(f"it has schema {found}, this version knows {SCHEMA}")
    except BaseException:
        db.close()
        raise
    return db


def _move_aside(path: str, aside: str) -> None:
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(path + suffix).rename(aside + suffix)
