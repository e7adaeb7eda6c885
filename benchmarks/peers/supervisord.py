"""supervisord, from PyPI, in a virtual environment of its own below .cache."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_HOME = Path(__file__).parents[2] / ".cache" / "bench" / "supervisord"


def missing() -> str:
    """Why it cannot take part; "" if it can. Installs it."""
    if (_HOME / "bin/supervisord").exists():
        return ""
    try:
        subprocess.run([sys.executable, "-m", "venv", str(_HOME)], check=True, capture_output=True)
        subprocess.run(
            [str(_HOME / "bin/pip"), "install", "-q", "supervisor", "setuptools<80"],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        return f"cannot install supervisor from PyPI: {error}"
    return ""


@dataclass(slots=True)
class Supervisord:
    """A running one. up_s: from its launch until every program runs."""

    pid: int
    up_s: float
    base: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    def control(self, *arguments: str) -> str:
        """supervisorctl."""
        return subprocess.run(
            [str(_HOME / "bin/supervisorctl"), "-c", f"{self.base}/conf", *arguments],
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    def stop(self) -> float:
        """End it with all programs; seconds that takes."""
        began = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        return time.perf_counter() - began


@contextlib.contextmanager
def running(count: int, command: str = "/bin/sleep 1000000") -> Iterator[Supervisord]:
    """supervisord with so many programs, all of them running; stopped by SIGKILL, as ours are."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        base = Path(directory)
        lines = [
            "[supervisord]", "nodaemon=true", f"logfile={base}/log", f"pidfile={base}/pid", "minfds=10000",
            f"childlogdir={base}", "[unix_http_server]", f"file={base}/sock", "[supervisorctl]",
            f"serverurl=unix://{base}/sock", "[rpcinterface:supervisor]",
            "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface",
        ]  # fmt: skip
        for number in range(count):
            lines += [
                f"[program:s{number}]", f"command={command}", "startsecs=0", "stopsignal=KILL",
                "autorestart=true", "startretries=1000",
            ]  # fmt: skip
        (base / "conf").write_text("\n".join(lines) + "\n")
        began = time.perf_counter()
        with open(base / "out", "wb") as out:
            process = subprocess.Popen(
                [str(_HOME / "bin/supervisord"), "-c", f"{base}/conf"], stdout=out, stderr=out
            )
        try:
            while len(children(process.pid)) < count:
                if process.poll() is not None:
                    raise RuntimeError((base / "out").read_text())
            yield Supervisord(process.pid, time.perf_counter() - began, base, process)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def children(pid: int) -> list[int]:
    """Pids of the children of a process."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(word) for word in text.split()]
    return []
