"""supervisord, from PyPI, in a virtual environment of its own below .cache."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

NAME = "supervisord"
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


@contextlib.contextmanager
def running(base: Path, io: Path, names: list[str]) -> Iterator[None]:
    """Its defaults, but for restarts without end and enough descriptors."""
    lines = ["[supervisord]", "nodaemon=true", f"logfile={base}/log", f"pidfile={base}/pid"]
    lines += [f"minfds={5 * len(names) + 1024}", f"childlogdir={base}"]
    for name in names:
        lines += [f"[program:{name}]", f"command={io}/probe {name} {io}/up", "autorestart=true"]
    (base / "conf").write_text("\n".join(lines) + "\n")
    # Not ours, which has an import package of the same name.
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    command = [str(_HOME / "bin/supervisord"), "-c", f"{base}/conf"]
    with (base / "out").open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        yield
    finally:
        process.terminate()
        process.wait()
