"""s6, of the host, or from Debian's packages: downloaded and unpacked below .cache, not installed."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

NAME = "s6"
SETTLE_S = 1.3  # it starts a service at most once in a second
_HOME = Path(__file__).parents[2] / ".cache" / "bench" / "s6"
_PACKAGES = ("s6", "libs6-2.11", "libskarnet2.13", "execline", "libexecline2.9")


def missing() -> str:
    """Why it cannot take part; "" if it can. Downloads it."""
    if shutil.which("s6-svscan", path=_environment()["PATH"]):
        return ""
    _HOME.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(["apt-get", "download", *_PACKAGES], cwd=_HOME, check=True, capture_output=True)
        for package in _HOME.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(_HOME)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"cannot download {', '.join(_PACKAGES)}: {error}"
    return "" if shutil.which("s6-svscan", path=_environment()["PATH"]) else f"no s6-svscan in {_HOME}"


@contextlib.contextmanager
def running(base: Path, io: Path, names: list[str]) -> Iterator[None]:
    """A run script for each; no logger."""
    for name in names:
        (base / name).mkdir()
        script = base / name / "run"
        script.write_text(f"#!/bin/sh\nexec {io}/probe {name} {io}/up\n")
        script.chmod(0o755)
    # It looks for its own programs in /usr/bin: where they are not installed, they are there in a mount
    # namespace that only it sees.
    see = f"mount -t overlay overlay -o lowerdir={_HOME}/usr/bin:/usr/bin /usr/bin &&"
    if not (_HOME / "usr/bin").is_dir():
        see = ""
    process = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", f"{see} exec s6-svscan -c {2 * len(names) + 100} {base}"],
        env=_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        subprocess.run(["s6-svscanctl", "-t", str(base)], env=_environment(), check=True)
        process.wait()


def _environment() -> dict[str, str]:
    libraries = ":".join(f"{_HOME}/{place}" for place in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"))
    programs = f"{_HOME}/usr/bin:{_HOME}/bin:{os.environ.get('PATH', '/usr/bin:/bin')}"
    return {**os.environ, "PATH": programs, "LD_LIBRARY_PATH": libraries}
