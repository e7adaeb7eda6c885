"""Reads environment files: `.env` of the project and `env_file` of a service, by Compose's precedence.

For the values in a Compose file, the shell wins over `--env-file`s (the later over the earlier) or `.env`.
A service gets `environment` over its `env_file`s (the later over the earlier); a name without a value takes
it from the project's variables, or is left out. An `env_file` may use the project's variables first, then
`environment`, then its own earlier lines.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from supervisor.compose import dotenv
from supervisor.compose.filebytes import read_bytes, why
from supervisor.compose.problems import Findings, Mark
from supervisor.compose.service import Draft
from supervisor.compose.servicekeys import EnvFile
from supervisor.compose.template import Lookup
from supervisor.compose.yamltext import MAX_BYTES


def project_variables(
    project_dir: str, env: Mapping[str, str], env_files: Sequence[str], findings: Findings
) -> dict[str, str]:
    """The variables that a Compose file may name: shell, then `--env-file`s or `.env` of the project."""
    files = list(env_files) or [name for name in env.get("COMPOSE_ENV_FILES", "").split(",") if name]
    if not files and env.get("COMPOSE_DISABLE_ENV_FILE", "").lower() not in ("1", "t", "true"):
        default = os.path.join(project_dir, ".env")  # noqa: PTH118 - the text is part of messages
        files = [default] if Path(default).is_file() else []
    return file_variables(files, env.get, findings) | dict(env)


def file_variables(
    files: Sequence[str], lookup: Lookup, findings: Findings, place: Mark | None = None
) -> dict[str, str]:
    """The variables of environment files, the later over the earlier. place: where they are named."""
    found: dict[str, str] = {}
    for file in files:
        text = _text(file, "", place or Mark(file), findings)
        if text is None:
            continue
        try:
            found = dotenv.parse(text, lookup, found)
        except dotenv.EnvFileError as error:
            findings.error(Mark(file, error.line, 1), "", f"cannot read the file: {error}", error.hint)
    return found


def _text(file: str, path: str, place: Mark, findings: Findings) -> str | None:
    """A text file that `place` names, or None after a finding."""
    try:
        data = read_bytes(file)
    except (OSError, ValueError) as error:
        reason = why(error) if isinstance(error, OSError) else str(error)
        findings.error(place, path, f"cannot read the environment file {file}: {reason}", "check the path")
        return None
    if len(data) > MAX_BYTES or b"\0" in data:
        reason = "larger than 4 MiB" if len(data) > MAX_BYTES else "not a text file"
        findings.error(place, path, f"cannot read the environment file {file}: {reason}", "check the path")
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        findings.error(
            place, path, f"cannot read the environment file {file}: not UTF-8", "save it as UTF-8 text"
        )
        return None


def service_environment(
    draft: Draft, project: Mapping[str, str], findings: Findings
) -> dict[str, str | None]:
    """The variables of a service by name; None for a name that has no value anywhere."""
    written = {
        name: project.get(name) if value is None else value for name, value in draft.environment.items()
    }
    given = {name: value for name, value in written.items() if value is not None}

    def lookup(name: str) -> str | None:
        value = project.get(name)
        return given.get(name) if value is None else value

    found = dict(given)
    for number, file in enumerate(draft.env_files):
        found = _apply(file, f"services.{draft.spec.name}.env_file[{number}]", lookup, found, findings)
    return {**found, **written}


def _nothing(_name: str) -> None:
    return None


def service_labels(draft: Draft, findings: Findings) -> dict[str, str]:
    """The labels of a service: those of its label files, the later over the earlier, then its own.

    As in Compose a label file may use its own earlier lines, and no variables of the project.
    """
    found: dict[str, str] = {}
    for number, file in enumerate(draft.label_files):
        found = _apply(file, f"services.{draft.spec.name}.label_file[{number}]", _nothing, found, findings)
    return found | dict(draft.spec.labels)


def _apply(
    file: EnvFile, path: str, lookup: Lookup, known: dict[str, str], findings: Findings
) -> dict[str, str]:
    if not file.required and not Path(file.path).exists():
        return known
    text = _text(file.path, path, file.node.mark, findings)
    if text is None:
        return known
    try:
        if file.raw:
            return dotenv.parse_raw(text, lookup, known)
        return dotenv.parse(
            text,
            lookup,
            known,
            lambda name: findings.warn(
                Mark(file.path), path, f'the variable "{name}" is not set, a blank string is used', "set it"
            ),
        )
    except dotenv.EnvFileError as error:
        findings.error(Mark(file.path, error.line, 1), path, f"cannot read the file: {error}", error.hint)
        return known
