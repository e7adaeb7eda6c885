"""Images: building cold, with everything cached, after a change in the last COPY; loading; `run --rm true`.

Every builder starts from the same base, an archive of a busybox, and builds the same Dockerfile of ten RUN
steps and a COPY. The rounds are interleaved. Needs root; peers that are not installed are left out and named.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

from benchmarks.builders import Builder, buildah, busybox_root, dockerd, missing, ours
from benchmarks.supervised import machine

STEPS = 10
LARGE_MB = 500


def main() -> None:
    """All figures, a line each: seconds, the median of the rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large-mb", type=int, default=LARGE_MB)
    options = parser.parse_args()
    machine()
    with tempfile.TemporaryDirectory(prefix="builds-", dir="/var/tmp") as place:
        base = Path(place)
        small = _archive(base / "base.tar", "bench-base", busybox_root())
        context = _context(base / "context")
        with contextlib.ExitStack() as stack:
            stack.callback(_unmount, base)
            builders = [stack.enter_context(made) for made in _builders(base)]
            figures: dict[tuple[str, str], list[float]] = {}
            for builder in builders:
                builder.timed(_load(builder, small), base / "log", None if builder.from_file else small)
            for number in range(options.rounds):
                # Another one in every round, so that no store has its layer.
                large = _archive(base / "large.tar", f"bench-large{number}", _large(options.large_mb))
                for builder in builders:
                    for what, took in _round(builder, context, large, base, number):
                        figures.setdefault((what, builder.name), []).append(took)
        for (what, name), seconds in sorted(figures.items()):
            shown = ", ".join(f"{second:.3f}" for second in sorted(seconds))
            print(f"{what:<28} {name:<18} median {statistics.median(seconds):8.3f} s  ({shown})")


def _unmount(base: Path) -> None:
    """What a peer leaves mounted, the innermost first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for target in sorted((line.split()[4] for line in lines), reverse=True):
        if target.startswith(f"{base}/"):
            subprocess.run(["umount", "--lazy", target], check=False)


def _round(
    builder: Builder, context: Path, large: Path, base: Path, number: int
) -> Iterator[tuple[str, float]]:
    log = base / "log"
    # Another text of the first step in every round: nothing is cached.
    (context / "Dockerfile").write_text(_dockerfile(f"{builder.name} {number}"))
    (context / "last").write_text("first")
    build = (*builder.build, str(context))
    yield "cold build, 10 RUN", builder.timed(build, log)
    yield "all cached", builder.timed(build, log)
    (context / "last").write_text(f"changed {number}")
    yield "last COPY changed", builder.timed(build, log)
    loaded = builder.timed(_load(builder, large), log, None if builder.from_file else large)
    yield "load of a large image", loaded
    if builder.run:
        command = (*builder.run, "bench", "true")
        builder.timed(command, log)
        for _ in range(5):
            yield "run --rm true, by command", builder.timed(command, log)


def _load(builder: Builder, archive: Path) -> tuple[str, ...]:
    return (*builder.load, f"docker-archive:{archive}") if builder.from_file else builder.load


def _builders(base: Path) -> Iterator[contextlib.AbstractContextManager[Builder]]:
    makers: dict[str, Callable[[Path], contextlib.AbstractContextManager[Builder]]] = {
        "shipkeeper": ours,
        "dockerd": lambda place: dockerd(place, buildkit=True),
        "dockerd ": lambda place: dockerd(place, buildkit=False),
        "buildah": buildah,
    }
    for name, make in makers.items():
        why = "" if name == "shipkeeper" else missing(name.strip())
        if why:
            print(f"left out: {why}")
            continue
        place = base / name.replace(" ", "-classic")
        place.mkdir()
        yield make(place)


def _dockerfile(salt: str) -> str:
    steps = [f"RUN echo {salt!r} {number} > /step{number}" for number in range(STEPS)]
    return "\n".join(["FROM bench-base", *steps, "COPY last /", ""])


def _context(path: Path) -> Path:
    path.mkdir()
    for number in range(200):
        (path / f"file{number}").write_bytes(os.urandom(4096))
    return path


def _large(megabytes: int) -> bytes:
    """A layer of many small files and some large ones."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as tar:
        left, number = megabytes << 20, 0
        while left > 0:
            size = min(left, 16 << 20 if number % 50 == 0 else 40 << 10)
            entry = tarfile.TarInfo(f"d{number % 97}/f{number}")
            entry.size = size
            tar.addfile(entry, io.BytesIO(os.urandom(size)))
            left, number = left - size, number + 1
    return output.getvalue()


def _archive(path: Path, name: str, layer: bytes) -> Path:
    """An image of one layer, as `docker save` writes it."""
    digest = sha256(layer).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "import"}],
        }
    ).encode()
    entries = {
        "manifest.json": json.dumps(
            [{"Config": "config.json", "RepoTags": [f"{name}:latest"], "Layers": ["layer.tar"]}]
        ).encode(),
        "config.json": config,
        "layer.tar": layer,
    }
    with tarfile.open(path, "w") as tar:
        for entry, data in entries.items():
            made = tarfile.TarInfo(entry)
            made.size = len(data)
            tar.addfile(made, io.BytesIO(data))
    return path


if __name__ == "__main__":
    main()
