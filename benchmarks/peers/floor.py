"""The C floor: `floor.c`, compiled where there is a compiler."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

_SOURCE = Path(__file__).parents[1] / "floor.c"
_PROGRAM = Path(__file__).parents[2] / ".cache" / "bench" / "floor"


def missing() -> str:
    """Why it cannot take part; "" if it can. Compiles it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return "no C compiler (apt-get install gcc libc6-dev)"
    if not _PROGRAM.exists() or _PROGRAM.stat().st_mtime < _SOURCE.stat().st_mtime:
        _PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        made = subprocess.run(
            [compiler, "-O2", "-o", str(_PROGRAM), str(_SOURCE)], capture_output=True, text=True, check=False
        )
        if made.returncode:
            return f"cannot compile floor.c: {made.stderr.strip()}"
    return ""


class Floor:
    """A running one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def pid(self) -> int:
        """Of the run that has just begun; once for each run."""
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


@contextlib.contextmanager
def running(pipe: str, script: str) -> Iterator[Floor]:
    """The floor, supervising one service. `pipe`: bound to /pipe in it."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=_PROGRAM.parent) as base:
        for name in ("upper", "work", "root"):
            (Path(base) / name).mkdir()
        process = subprocess.Popen([str(_PROGRAM), base, pipe, script], stdout=subprocess.PIPE, text=True)
        try:
            yield Floor(process)
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
