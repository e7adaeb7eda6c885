"""Which Compose files a command means when none is named with -f."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from supervisor.compose.envfiles import project_variables
from supervisor.compose.problems import ComposeError, ComposeErrors, Findings

# The order of compose-go's cli/options.go: docker-compose.yml comes before docker-compose.yaml.
FILE_NAMES = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
OVERRIDE_NAMES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)


def find_files(start_dir: str, env: Mapping[str, str], env_files: Sequence[str] = ()) -> list[str]:
    """The Compose files for a command in `start_dir`, as absolute paths.

    COMPOSE_FILE (from `env`, else from `env_files`, or `.env` in start_dir) names them, separated by
    COMPOSE_PATH_SEPARATOR or ":"; otherwise the first of FILE_NAMES in start_dir or its nearest parent,
    with its override file if there is one. Raises ComposeError.
    """
    start = os.path.abspath(start_dir)  # noqa: PTH100 - not resolved: the name of a link stays
    findings = Findings()
    variables = project_variables(start, env, env_files, findings)
    if findings.errors:
        raise ComposeErrors(findings.errors)
    if named := variables.get("COMPOSE_FILE"):
        separator = variables.get("COMPOSE_PATH_SEPARATOR") or ":"
        return [part if part == "-" else str(Path(start, part)) for part in named.split(separator) if part]
    for directory in (Path(start), *Path(start).parents):
        found = next((directory / name for name in FILE_NAMES if (directory / name).exists()), None)
        if found is not None:
            override = next(
                (directory / name for name in OVERRIDE_NAMES if (directory / name).exists()), None
            )
            return [str(found)] + ([str(override)] if override else [])
    raise ComposeError(
        f"cannot find a Compose file: neither {start} nor a directory above it has one of"
        f" {', '.join(FILE_NAMES)}; write one, or name it with -f FILE"
    )
