"""How long `ps`, `logs` and `version` take with a daemon running, beside the interpreter alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

from benchmarks.supervised import machine, show, supervised

ROUNDS = 20


def main() -> None:
    """Interleaved."""
    machine()
    with supervised() as world, world.daemon_running():
        world.compose(1)
        world.run("up", "-d")
        world.hear()
        commands = {
            "shipkeeper ps": world.command("ps"),
            "shipkeeper logs": world.command("logs"),
            "shipkeeper version": world.command("version"),
            "python -c pass": [sys.executable, "-c", "pass"],
        }
        if shutil.which("docker") is not None:
            commands["docker version --client"] = ["docker", "version", "--client"]
        took: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(ROUNDS):
            for name, command in commands.items():
                began = time.perf_counter()
                subprocess.run(
                    command,
                    env={**os.environ, **world.environment},
                    cwd=world.base,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=False,
                )
                took[name].append(time.perf_counter() - began)
        for name, seconds in took.items():
            show(name, seconds)


if __name__ == "__main__":
    main()
