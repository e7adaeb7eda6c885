"""Configs and secrets: where they are to be seen, and where nobody may ever see them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from supervising import Supervisor, until

from supervisor.cli.client import Client
from supervisor.cli.grants import ContentsError, collect, request_body
from supervisor.core.grants import FileGrant, FileSource
from supervisor.core.model import Policy, Project, RestartRules, ServiceSpec

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces, mounts and cgroups"),
]

SECRET = "s3cr3t-of-the-variable-0001"
INLINE = "config-inline-of-the-file-0002"
TOKEN = "t0ken-in-a-file-of-the-user-0003"


def source(kind: Literal["config", "secret"], key: str, origin: Any, value: str) -> FileSource:
    return FileSource(kind, key, f"shop_{key}", origin, value)


def project(tmp_path: Path, command: str, *, inline: str = INLINE) -> Project:
    """One service with a secret of a variable, one of a file, and a config of the Compose file itself."""
    service = ServiceSpec(
        "web",
        command=("sh", "-c", command),
        user="1000:1000",
        restart=RestartRules(Policy.ALWAYS),
        network_mode="none",
        grants=(
            FileGrant("secret", "password", "/run/secrets/password", uid="1000", mode=0o400),
            FileGrant("secret", "token", "/run/secrets/token"),
            FileGrant("config", "settings", "/etc/app/settings", gid="1000", mode=0o440),
        ),
    )
    files = (
        source("secret", "password", "environment", "PASSWORD"),
        source("secret", "token", "file", str(tmp_path / "token")),
        source("config", "settings", "content", inline),
    )
    return Project("shop", "/", services=(service,), files=files)


def bring_up(
    supervisor: Supervisor, wanted: Project, variables: Mapping[str, str], verb: str = "up"
) -> list[dict[str, Any]]:
    """As the command does it; the lines of the answer."""
    collected, contents = collect(wanted, variables)
    client = Client(str(supervisor.base / "run/shipkeeper.sock"))
    answer = client.stream("POST", f"/projects/{wanted.name}/{verb}", body=request_body(collected, contents))
    return list(answer)


def kept(supervisor: Supervisor) -> list[Path]:
    """Contents that are kept, without the key of the digests."""
    return sorted(path for path in (supervisor.base / "state/secrets").iterdir() if path.name != "key")


def places_with(base: Path, *texts: str) -> set[str]:
    """The files below a directory in which one of these bytes are to be found."""
    found = set()
    for directory, _, names in os.walk(base):
        for name in names:
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink():
                content = path.read_bytes()
                if any(text.encode() in content for text in texts):
                    found.add(str(path.relative_to(base)))
    return found


SHOW = (
    "for f in /run/secrets/password /run/secrets/token /etc/app/settings; do"
    " stat -c '%n %u:%g %a' $f; done; echo run; sleep 600"
)


def test_delivered_and_nowhere_else(supervisor: Supervisor, tmp_path: Path) -> None:
    """Owner, mode and bytes inside; none of them in the database, logs, inspect, or other files but one."""
    (tmp_path / "token").write_text(TOKEN)
    wanted = project(tmp_path, SHOW)
    lines = bring_up(supervisor, wanted, {"PASSWORD": SECRET})
    assert lines[0]["outcome"] == "running", lines
    until(lambda: "run" in supervisor.ok("logs", "web"), "it has looked")
    logs = supervisor.ok("logs", "web")
    assert "/run/secrets/password 1000:0 400" in logs
    assert "/run/secrets/token 0:0 444" in logs
    assert "/etc/app/settings 0:1000 440" in logs
    for path, content in (("secrets/password", SECRET), ("secrets/token", TOKEN)):
        assert supervisor.ok("exec", "web", "cat", f"/run/{path}") == content
    assert supervisor.ok("exec", "web", "cat", "/etc/app/settings") == INLINE
    as_root = ("exec", "-u", "0", "web", "sh", "-c")
    assert "Read-only" in supervisor.run(*as_root, "echo x > /run/secrets/token").stderr
    assert supervisor.run(*as_root, "umount /run/secrets/token").returncode != 0
    shown = supervisor.ok("inspect", "web") + supervisor.ok("ps", "-a", "--format", "json")
    assert not any(text in shown for text in (SECRET, INLINE, TOKEN))
    state = supervisor.base / "state"
    for path in places_with(state, SECRET, INLINE, TOKEN):
        assert path.startswith("secrets/"), "the one place"
    assert len(kept(supervisor)) == 2, "what is in a file of the user's is not kept"
    for path in (*kept(supervisor), state / "secrets"):
        assert (path.stat().st_uid, path.stat().st_mode & 0o077) == (0, 0)
    on_the_host = Path("/proc/self/mounts").read_text()
    assert on_the_host.count(f"shipkeeper-files {supervisor.base}/run/mounts/files-") == 1
    supervisor.kill()  # also not in what is written at the end of a life
    assert places_with(state, SECRET, INLINE, TOKEN) == {f"secrets/{path.name}" for path in kept(supervisor)}
    supervisor.start()
    supervisor.ok("-p", "shop", "down")
    assert kept(supervisor) == []
    until(lambda: "shipkeeper-files" not in mounts_of(supervisor), "its memory is free")


def mounts_of(supervisor: Supervisor) -> str:
    table = Path("/proc/self/mounts").read_text().splitlines()
    return "\n".join(line for line in table if str(supervisor.base) in line)


def test_a_change_of_content_recreates(supervisor: Supervisor, tmp_path: Path) -> None:
    """And `up` says of which; without one nothing is touched."""
    (tmp_path / "token").write_text(TOKEN)
    wanted = project(tmp_path, SHOW)
    (created,) = bring_up(supervisor, wanted, {"PASSWORD": SECRET})
    assert created["verb"] == "create"
    (unchanged,) = bring_up(supervisor, wanted, {"PASSWORD": SECRET})
    assert unchanged["verb"] == "keep"
    supervisor.kill()
    supervisor.start()
    assert bring_up(supervisor, wanted, {"PASSWORD": SECRET})[0]["verb"] == "keep"
    changed = {"PASSWORD": "another-0004"}
    planned = bring_up(supervisor, wanted, changed, "plan")[0]
    assert planned[0]["cause"] == "secret password changed"
    assert len(kept(supervisor)) == 2, "a plan keeps nothing"
    (recreated,) = bring_up(supervisor, wanted, changed)
    assert (recreated["verb"], recreated["cause"]) == ("recreate", "secret password changed")
    assert supervisor.ok("exec", "web", "cat", "/run/secrets/password") == "another-0004"
    assert SECRET not in "".join(path.read_text() for path in kept(supervisor))
    (tmp_path / "token").write_text("new-token")
    other = project(tmp_path, SHOW, inline="other")
    (recreated,) = bring_up(supervisor, other, changed)
    assert recreated["cause"] == "secret token changed, config settings changed"


def test_filled_once_for_restarts_and_again_for_starts(supervisor: Supervisor, tmp_path: Path) -> None:
    """A policy's restart uses what is there, over a kill of the daemon, too; a start reads files again."""
    (tmp_path / "token").write_text(TOKEN)
    bring_up(supervisor, project(tmp_path, "cat /run/secrets/token; echo; sleep 600"), {"PASSWORD": SECRET})
    until(lambda: supervisor.ok("logs", "web").count(TOKEN) == 1, "the first run")
    (tmp_path / "token").write_text("rotated")
    os.kill(supervisor.row("web")["Pid"], 9)
    until(lambda: supervisor.ok("logs", "web").count(TOKEN) == 2, "its next run")
    assert "rotated" not in supervisor.ok("logs", "web")
    pid = supervisor.row("web")["Pid"]
    supervisor.kill()
    os.kill(pid, 9)
    supervisor.start()
    until(lambda: supervisor.ok("logs", "web").count(TOKEN) == 3, "under another daemon")
    supervisor.ok("stop", "-t", "0", "web")
    until(lambda: "shipkeeper-files" not in mounts_of(supervisor), "it is down")
    supervisor.ok("start", "web")
    until(lambda: "rotated" in supervisor.ok("logs", "web"), "the file was read again")


def test_a_missing_file_is_a_failed_start_that_is_tried_again(supervisor: Supervisor, tmp_path: Path) -> None:
    """At `up` an error before anything is touched; later an ending like another, with its backoff."""
    wanted = project(tmp_path, SHOW)
    with pytest.raises(ContentsError, match=r"cannot give secret token: .*no such file") as caught:
        bring_up(supervisor, wanted, {})
    assert "environment variable 'PASSWORD' is not set" in str(caught.value), "all at once"
    (tmp_path / "token").write_text(TOKEN)
    bring_up(supervisor, wanted, {"PASSWORD": SECRET})
    supervisor.ok("stop", "-t", "0", "web")
    (tmp_path / "token").unlink()
    supervisor.run("start", "web")
    until(lambda: "cannot give secret token" in supervisor.ok("why", "web"), "it says why")
    assert supervisor.state("web") == "restarting"
    (tmp_path / "token").write_text(TOKEN)
    until(lambda: supervisor.state("web") == "running", "the next try finds it")


def test_what_cannot_be_given_is_told_once(supervisor: Supervisor) -> None:
    """`up` fails with it; no warning says the same before."""
    supervisor.compose(
        "name: p\nservices: {web: {command: sleep 9, network_mode: none, secrets: [s, f]}}\n"
        "secrets: {s: {environment: NOT_SET_HERE}, f: {file: ./gone}}\n"
    )
    result = supervisor.run("up", "-d")
    assert result.returncode == 1, result.stderr
    assert (result.stderr.count("NOT_SET_HERE"), result.stderr.count("/gone")) == (1, 1)
    assert supervisor.run("config", "-q").stderr.count("is not set") == 1
