"""Runs the real Docker Compose over many small projects, in batches, and makes its answers comparable."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from supervisor.compose import ComposeErrors, config_document, load_project

_BINARY = Path(sys.executable).parent / "docker-compose"
COMPOSE = str(_BINARY) if _BINARY.exists() else shutil.which("docker-compose")
ENV = {"PATH": "/usr/bin:/bin", "HOME": "/home/someone", "VAR": "value", "EMPTY": "", "PORT": "8080"}

Answer = dict[str, Any] | str
"""The canonical model, or why there is none."""


def oracle(
    directory: Path, names: Sequence[str], *arguments: str, env: Mapping[str, str] = ENV
) -> subprocess.CompletedProcess[str]:
    """Run the real thing on files, in bounds of memory and time."""
    assert COMPOSE is not None
    files = [word for name in names for word in ("-f", name)]
    return subprocess.run(
        ["prlimit", "--as=3000000000", COMPOSE, *files, *arguments],
        cwd=directory,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def theirs(directory: Path, names: Sequence[str], *arguments: str) -> Answer:
    """What Docker Compose makes of files."""
    done = oracle(directory, names, *arguments, "config", "--format", "json", "--no-env-resolution")
    if done.returncode != 0:
        return done.stderr.strip() or "refused"
    return comparable(json.loads(done.stdout))


def ours(directory: Path, names: Sequence[str], **options: Any) -> Answer:
    """What we make of files, with everything built in."""
    try:
        loaded = load_project(
            [str(directory / name) for name in names],
            project_name=options.pop("project_name", None),
            project_dir=None,
            env=ENV,
            not_yet={},
            read_env_files=False,
            **options,
        )
    except ComposeErrors as errors:
        assert errors.problems
        assert all("\n" not in str(problem) for problem in errors.problems)
        return str(errors)
    return comparable(json.loads(json.dumps(config_document(loaded, env_files=True))))


def comparable(document: dict[str, Any]) -> dict[str, Any]:
    """Without what only Go's JSON encoder adds or leaves out: x- keys, empty `ipam`, `exec` of a watch.

    And with the limits of devices as its YAML has them: its JSON says Path, Rate and Weight.
    """
    cleaned: dict[str, Any] = _clean(document)
    for service in cleaned.get("services", {}).values():
        for rows in service.get("blkio_config", {}).values():
            if isinstance(rows, list):
                rows[:] = [{key.lower(): value for key, value in row.items()} for row in rows]
        for hook in service.get("pre_start", ()):
            # Compose prints all that a hook inherits from its service, too.
            for key in set(hook) - _HOOK:
                del hook[key]
    return cleaned


_HOOK = {"command", "user", "privileged", "working_dir", "per_replica"}


def _clean(value: Any) -> Any:
    match value:
        case dict():
            return {
                key: _clean(item)
                for key, item in value.items()
                if not key.startswith("x-")
                and not (key == "ipam" and item == {})
                and not (key == "exec" and item == {"command": None})
            }
        case list():
            return [_clean(item) for item in value]
        case _:
            return value


def write(directory: Path, files: Mapping[str, str]) -> None:
    """The files of a project."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def judge_services(
    directory: Path, preamble: str, bodies: Sequence[str], overrides: Sequence[str] = ()
) -> list[Answer]:
    """Docker Compose's answer to each service, many in one file. overrides: of each, in a second file.

    Where a batch is refused it is halved, until the service is found that is to blame.
    """
    directory.mkdir(parents=True, exist_ok=True)
    indices = range(len(bodies))

    def judge(part: Sequence[int]) -> list[Answer]:
        name = f"batch{part[0]}-{len(part)}"
        files = {f"{name}.yaml": preamble + "".join(f"  t{at}: {bodies[at]}\n" for at in part)}
        if overrides:
            files[f"{name}.over.yaml"] = "services:\n" + "".join(f"  t{at}: {overrides[at]}\n" for at in part)
        write(directory, files)
        answer = theirs(directory, list(files))
        if isinstance(answer, dict):
            return [answer["services"][f"t{at}"] for at in part]
        if len(part) == 1:
            return [answer]
        half = len(part) // 2
        return judge(part[:half]) + judge(part[half:])

    size = 40
    parts = [indices[start : start + size] for start in range(0, len(bodies), size)]
    with ThreadPoolExecutor(2) as pool:
        return [answer for answers in pool.map(judge, parts) for answer in answers]


def judge_projects(directory: Path, projects: Sequence[Mapping[str, str]]) -> list[Answer]:
    """Docker Compose's answer to each project, whose files are those whose names end in .yaml at its top."""

    def judge(at: int) -> Answer:
        place = directory / f"case{at}" / "proj"
        write(place, projects[at])
        return theirs(place, main_files(projects[at]))

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(judge, range(len(projects))))


def main_files(project: Mapping[str, str]) -> list[str]:
    """Those that are named with -f: c0.yaml, c1.yaml ..."""
    return sorted(name for name in project if name.startswith("c") and name[1:2].isdigit())
