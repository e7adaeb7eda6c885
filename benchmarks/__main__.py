"""Run the benchmarks: `python -m benchmarks [NAME]...`; without a name all of them."""

from __future__ import annotations

import runpy
import sys

NAMES = (
    "builds", "cli_start", "health", "log_throughput", "names", "networking", "projects", "restart_latency",
    "run_latency", "scale",
)  # fmt: skip


def main() -> int:
    """Run what is named. Each prints its own figures."""
    wanted = sys.argv[1:] or list(NAMES)
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        print(
            f"cannot run {', '.join(unknown)}: no such benchmark; there are {', '.join(NAMES)}",
            file=sys.stderr,
        )
        return 2
    for name in wanted:
        print(f"== {name}", flush=True)
        sys.argv = [name]
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
