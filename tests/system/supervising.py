"""A supervisor as processes, driven by the command as a user drives it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import leaks
import psutil

PATIENCE_S = 60.0


@dataclass(slots=True)
class Supervisor:
    """One supervisor with directories of its own."""

    base: Path
    daemon: subprocess.Popen[bytes] | None = None
    metrics: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "SHIPKEEPER_STATE_DIR": str(self.base / "state"),
            "SHIPKEEPER_RUN_DIR": str(self.base / "run"),
            "SHIPKEEPER_CONFIG": str(self.base / "shipkeeper.yaml"),
        }

    def start(self) -> None:
        self.daemon = subprocess.Popen(
            [sys.executable, "-m", "supervisor.cli.main", "daemon"], env=self.environment, cwd=self.base
        )
        until(lambda: self.run("ps").returncode == 0, "the daemon answers")

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        self.daemon.wait(PATIENCE_S)

    def kill_all(self, but: str = "nobody") -> None:
        """The daemon, its helpers but those with a module of that name, and the services, all at once."""
        self.kill()
        ending = [each for each in leaks.processes(self.base) if but not in " ".join(each.cmdline())]
        for process in ending:
            process.kill()
        groups = [group for group in leaks.cgroups(self.base) if group.name != but]
        for pid in [pid for group in groups for pid in leaks.members(group)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        psutil.wait_procs(ending, PATIENCE_S)
        until(lambda: not any(map(leaks.members, groups)), "nothing lives any more")

    def power_cut(self) -> None:
        """Everything ends at once, nothing of it is in the kernel or below /run, and the host boots again."""
        self.kill_all()
        leaks.wipe(self.base)
        assert leaks.of_supervisor(self.base) == [f"directory {each}" for each in self.instances()]
        with contextlib.closing(sqlite3.connect(self.base / "state" / "shipkeeper.db")) as db, db:
            db.execute("UPDATE meta SET value = 'another' WHERE key = 'boot_id'")
        self.start()

    def instances(self) -> list[Path]:
        """Their directories."""
        place = self.base / "state" / "instances"
        return sorted(place.iterdir()) if place.is_dir() else []

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "supervisor.cli.main", *arguments],
            env=self.environment,
            cwd=self.base,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command that is still under way."""
        return subprocess.Popen(
            [sys.executable, "-m", "supervisor.cli.main", *arguments],
            env=self.environment,
            cwd=self.base,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def ok(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def compose(self, text: str) -> None:
        (self.base / "compose.yaml").write_text(text)

    def rows(self) -> list[dict[str, Any]]:
        """What `ps -a` says."""
        return [json.loads(line) for line in self.ok("ps", "-a", "--format", "json").splitlines()]

    def row(self, service: str) -> dict[str, Any]:
        (row,) = [row for row in self.rows() if row["Service"] == service]
        return row

    def clear(self) -> None:
        """Remove all instances, running or not."""
        if names := [row["Name"] for row in self.rows()]:
            self.ok("rm", "--force", *names)

    def state(self, service: str) -> str:
        return str(self.row(service)["State"])

    def helpers(self) -> list[psutil.Process]:
        """The launcher and the log writer of this run directory."""
        run_dir = str(self.base / "run")
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if any("supervisor.launcher" in word for word in words) and any(
                    word.startswith(run_dir) for word in words
                ):
                    found.append(process)
        return found


def until(reached: Callable[[], bool], what: str) -> None:
    """Look again and again until it is so; each look is a whole command, so nothing spins."""
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline, f"never came true: {what}"


@contextlib.contextmanager
def supervising() -> Iterator[Supervisor]:
    """A running supervisor; afterwards its services, processes and files are gone."""
    with tempfile.TemporaryDirectory(prefix="shipkeeper-") as directory:
        made = Supervisor(Path(directory))
        with socket.create_server(("127.0.0.1", 0)) as free:
            made.metrics = f"127.0.0.1:{free.getsockname()[1]}"
        (made.base / "shipkeeper.yaml").write_text(
            f'metrics_address: "{made.metrics}"\nprojects_dir: {made.base}/projects\n'
        )
        (made.base / "projects").mkdir()
        made.start()
        try:
            yield made
        finally:
            if made.daemon is None or made.daemon.poll() is not None:
                made.start()
            assert made.daemon is not None
            made.clear()
            made.daemon.terminate()
            made.daemon.wait(PATIENCE_S)
            for process in made.helpers():
                with contextlib.suppress(psutil.NoSuchProcess):
                    pidfd = os.pidfd_open(process.pid)
                    ended, _, _ = select.select([pidfd], [], [], PATIENCE_S)
                    os.close(pidfd)
                    assert ended, "the launcher ends with the last service"
            leaks.none_left(lambda: leaks.of_supervisor(made.base))
