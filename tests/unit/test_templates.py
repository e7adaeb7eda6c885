"""`--format` of `compose ps` and others, and one-off runs as one more Compose file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from supervisor.cli.oneoff import override
from supervisor.cli.templates import TemplateError, rendered
from supervisor.compose import load_project

ROWS = [{"Name": "a", "RunningFor": "1 second ago", "Code": 0}, {"Name": "bb", "RunningFor": "", "Code": 3}]
COLUMNS = {"Name": "NAME", "Code": "CODE"}


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("table", "NAME  CODE\na     0\nbb    3"),
        ("{{.Name}}", "a\nbb"),
        ("{{ .Name }}:{{.Code}}", "a:0\nbb:3"),
        (r"{{.Name}}\t{{.Code}}", "a\t0\nbb\t3"),
        ("{{json .Code}}", "0\n3"),
        ("table {{.RunningFor}}\t{{.Name}}", "RUNNING FOR   NAME\n1 second ago  a\n              bb"),
    ],
)
def test_forms(form: str, text: str) -> None:
    assert rendered(form, ROWS, COLUMNS) == text


def test_json_is_a_document_a_line() -> None:
    assert [json.loads(line) for line in rendered("json", ROWS, COLUMNS).splitlines()] == ROWS
    assert [json.loads(line) for line in rendered("{{json .}}", ROWS, COLUMNS).splitlines()] == ROWS
    assert rendered("json", [], COLUMNS) == ""


@pytest.mark.parametrize("form", ["{{.Nope}}", "{{.}}", "{{range .}}", "{{if .Name}}x{{end}}"])
def test_what_is_not_built_is_an_error(form: str) -> None:
    with pytest.raises(TemplateError):
        rendered(form, ROWS, COLUMNS)


BASE = """
name: p
services:
  web:
    image: img
    entrypoint: [old]
    command: [old]
    environment: {A: base, B: base}
    ports: ['80:80']
    volumes: ['/x:/x']
    labels: {l: base}
"""
NOTHING: dict[str, Any] = {
    "entrypoint": None, "env": (), "env_from_file": (), "user": None, "workdir": None, "cap_add": (),
    "cap_drop": (), "volume": (), "label": (), "service_ports": False, "publish": (),
}  # fmt: skip


def once(tmp_path: Path, command: tuple[str, ...] = (), **given: Any) -> Any:
    (tmp_path / "compose.yaml").write_text(BASE)
    (tmp_path / "over.yaml").write_text(override("web", command, {**NOTHING, **given}, {"MINE": "my$1"}))
    files = [str(tmp_path / name) for name in ("compose.yaml", "over.yaml")]
    return load_project(files, project_name=None, project_dir=None, env={}).project.service("web")


def test_a_command_line_is_one_more_file(tmp_path: Path) -> None:
    """Values are taken as they are: `$` of the shell's words is no variable of Compose."""
    (tmp_path / "vars").write_text("# words\nB=file\nC=file\n")
    spec = once(
        tmp_path,
        ("echo", "$HOME", "a b"),
        env=("A=$x", "MINE", "THEIRS"),
        env_from_file=(str(tmp_path / "vars"),),
        volume=("/y:/y:ro",),
        label=("m=2",),
        user="1:2",
        workdir="/w",
    )
    assert spec.command == ("echo", "$HOME", "a b")
    assert spec.entrypoint == ("old",)
    assert dict(spec.environment) == {"A": "$x", "B": "file", "C": "file", "MINE": "my$1"}
    assert [mount.target for mount in spec.mounts] == ["/x", "/y"]
    assert dict(spec.labels) == {"l": "base", "m": "2"}
    assert (spec.user, spec.working_dir, spec.ports) == ("1:2", "/w", ())


def test_an_entrypoint_takes_the_command_away(tmp_path: Path) -> None:
    spec = once(tmp_path, entrypoint="sh -c 'echo $$'")
    assert (spec.entrypoint, spec.command) == (("sh", "-c", "echo $$"), None)
    assert once(tmp_path, ("x",), entrypoint="sh").command == ("x",)


def test_ports_are_published_where_they_are_asked_for(tmp_path: Path) -> None:
    assert [port.target for port in once(tmp_path, service_ports=True).ports] == [80]
    assert [port.target for port in once(tmp_path, publish=("8080:90",)).ports] == [90]
