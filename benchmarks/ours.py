"""A supervisor of our own for a benchmark: in directories that go again, driven by the command."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = (sys.executable, "-m", "supervisor.cli.main")


@dataclass(slots=True)
class Ours:
    """A running daemon. `base` is its directory, with compose.yaml in it."""

    base: Path
    environment: dict[str, str]

    def run(self, *arguments: str) -> str:
        """One command of ours; what it printed. Raises CalledProcessError."""
        return subprocess.run(
            [*COMMAND, *arguments],
            env=self.environment,
            cwd=self.base,
            check=True,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ).stdout

    def rows(self) -> list[dict[str, Any]]:
        """What `ps -a` says."""
        return [json.loads(line) for line in self.run("ps", "-a", "--format", "json").splitlines()]


def environment(base: Path, metrics: str = "") -> dict[str, str]:
    """For every command of a supervisor that keeps all it has below `base`."""
    return {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "SHIPKEEPER_STATE_DIR": f"{base}/state",
        "SHIPKEEPER_RUN_DIR": f"{base}/run",
        "SHIPKEEPER_METRICS_ADDRESS": metrics,
        "SHIPKEEPER_PROJECTS_DIR": f"{base}/projects",
    }


@contextlib.contextmanager
def answering(
    base: Path, variables: dict[str, str], before: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that answers; afterwards it has ended. before: words before its command, which become it.

    Raises RuntimeError with its log.
    """
    command = [*before, *COMMAND, "daemon"]
    with (base / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(command, env=variables, cwd=base, stdout=log, stderr=log)
    try:
        while subprocess.run(
            [*COMMAND, "ps"], env=variables, cwd=base, capture_output=True, check=False
        ).returncode:
            if daemon.poll() is not None:
                raise RuntimeError((base / "daemon.log").read_text())
        yield daemon
    finally:
        daemon.terminate()
        daemon.wait()


@contextlib.contextmanager
def ours(metrics: str = "") -> Iterator[Ours]:
    """A daemon that answers; afterwards everything of it is gone."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        made = Ours(Path(directory), environment(Path(directory), metrics))
        with answering(made.base, made.environment):
            try:
                yield made
            finally:
                with contextlib.suppress(subprocess.CalledProcessError):
                    for project in {row["Project"] for row in made.rows()}:
                        made.run("-p", project, "down", "-t", "0")


def load_average() -> str:
    """Of the last minute: how quiet the machine is."""
    return f"{os.getloadavg()[0]:.1f}"
