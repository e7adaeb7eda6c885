"""How long a command takes: ours with 100 services under a daemon, beside others that a user might type.

The floor is the interpreter alone. `docker compose version` is the real one from PyPI, where tests have it.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.ours import COMMAND, load_average, ours, services, timed
from benchmarks.peers import supervisord

ROUNDS = 20


def main() -> None:
    """All interleaved, so that a busy moment meets each of them."""
    with ours() as made:
        (made.base / "compose.yaml").write_text(services(100))
        made.run("up", "-d")
        commands: dict[str, Sequence[str]] = {
            "floor: python -c pass": (sys.executable, "-c", "pass"),
            "ps": (*COMMAND, "ps"),
            "ps -a --format json": (*COMMAND, "ps", "-a", "--format", "json"),
            "logs s1": (*COMMAND, "logs", "s1"),
            "why s1": (*COMMAND, "why", "s1"),
            "config": (*COMMAND, "config", "-q"),
        }
        compose = shutil.which("docker-compose", path=f"{sys.prefix}/bin")
        if compose is not None:
            commands["docker compose version"] = (compose, "version")
        with supervisord.running(100) if not supervisord.missing() else _nobody() as peer:
            if peer is not None:
                commands["supervisorctl status"] = (
                    f"{supervisord._HOME}/bin/supervisorctl", "-c", f"{peer.base}/conf", "status",
                )  # fmt: skip
            times: dict[str, list[float]] = {name: [] for name in commands}
            for _ in range(ROUNDS):
                for name, command in commands.items():
                    times[name].append(
                        timed(
                            lambda command=command: subprocess.run(  # type: ignore[misc]
                                command, env=made.environment, cwd=made.base, capture_output=True, check=False
                            )
                        )
                    )
        for name, seconds in times.items():
            median = statistics.median(seconds) * 1000
            print(f"{name:26} min {min(seconds) * 1000:6.1f}  median {median:6.1f} ms")
        print(f"load {load_average()}")


class _nobody:  # noqa: N801 - stands for a context manager
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


if __name__ == "__main__":
    main()
