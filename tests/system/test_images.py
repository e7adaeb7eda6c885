"""Images as a user meets them: import, load, save, names; services that stand on them."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
from supervising import Supervisor, until

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox on this machine"),
]

TOOLS = ("sh", "cat", "echo", "id", "ls", "sleep", "touch", "env", "pwd")


def root_archive(version: str) -> bytes:
    """A root with a static busybox in it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        archive.add(shutil.which("busybox") or "", "bin/busybox")
        for tool in TOOLS:
            link = tarfile.TarInfo(f"bin/{tool}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        for name, text in (
            ("etc/version", version),
            ("etc/passwd", "app:x:7:7::/:/bin/sh\n"),
            ("data/seed", "s"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


def with_config(supervisor: Supervisor, name: str, **process: object) -> None:
    """Give an image of the store a configuration, by way of the archive that it is saved as."""
    supervisor.ok("save", "-o", "out.tar", name)
    members = {}
    with tarfile.open(supervisor.base / "out.tar") as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            members[member.name] = content.read()
    manifest = json.loads(members["manifest.json"])
    config = json.loads(members[manifest[0]["Config"]])
    config["config"] = process
    with tarfile.open(supervisor.base / "in.tar", "w") as archive:
        files = {
            "config.json": json.dumps(config).encode(),
            "layer.tar": members[manifest[0]["Layers"][0]],
            "manifest.json": json.dumps(
                [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
            ).encode(),
        }
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    supervisor.ok("load", "-i", "in.tar")


def test_a_service_stands_on_an_image_and_takes_what_it_says(supervisor: Supervisor) -> None:
    """Entrypoint, command, environment, user, directory, stop signal, volumes; its own come first."""
    (supervisor.base / "root.tgz").write_bytes(root_archive("1"))
    image_id = supervisor.ok("import", "root.tgz", "app:1").strip()
    assert image_id.startswith("sha256:")
    with_config(
        supervisor, "app:1", Entrypoint=["/bin/sh", "-c"],
        Cmd=["echo $A $B $(pwd) $(id -u); exec sleep 1000"],
        Env=["PATH=/bin", "A=image", "B=image"], User="app", WorkingDir="/data", StopSignal="SIGKILL",
        Volumes={"/data": {}},
    )  # fmt: skip
    supervisor.compose(
        "name: boxed\nservices:\n"
        "  plain: {image: 'app:1', network_mode: none}\n"
        "  own: {image: 'app:1', network_mode: none, environment: {A: own}, user: '0', working_dir: /etc}\n"
        "  other: {image: 'app:1', network_mode: none, entrypoint: [/bin/cat, /etc/version]}\n"
    )
    supervisor.ok("up", "-d", "--wait")
    assert supervisor.ok("logs", "--no-log-prefix", "plain") == "image image /data 7\n"
    assert supervisor.ok("logs", "--no-log-prefix", "own") == "own image /etc 0\n"
    assert supervisor.ok("logs", "--no-log-prefix", "other") == "1\n", (
        "an entrypoint drops the image's command"
    )
    assert supervisor.ok("exec", "plain", "cat", "/data/seed") == "s", "a fresh volume has the image's files"
    supervisor.ok("exec", "-u", "0", "plain", "touch", "/made")
    assert supervisor.run("exec", "own", "ls", "/made").returncode != 0, (
        "one does not see what another writes"
    )
    refused = supervisor.run("rmi", "app:1")
    assert refused.returncode == 1
    assert "boxed-plain-1" in refused.stderr


def test_up_recreates_what_stands_on_an_image_that_was_replaced(supervisor: Supervisor) -> None:
    (supervisor.base / "root.tgz").write_bytes(root_archive("1"))
    supervisor.ok("import", "root.tgz", "app")
    supervisor.compose(
        "name: boxed\nservices: {web: {image: app, network_mode: none, stop_signal: SIGKILL,"
        " command: [/bin/sh, -c, 'cat /etc/version; exec sleep 1000']}}\n"
    )
    supervisor.ok("up", "-d")
    assert "unchanged" in supervisor.ok("up", "-d")
    (supervisor.base / "root.tgz").write_bytes(root_archive("2"))
    supervisor.ok("import", "root.tgz", "app")
    until(lambda: supervisor.ok("logs", "--no-log-prefix", "web").strip() == "1", "it runs on")
    supervisor.ok("image", "prune", "-f")
    assert supervisor.ok("exec", "web", "cat", "/etc/version") == "1", "what is in use is not pruned"
    assert "its definition has changed" in supervisor.ok("up", "-d")
    until(lambda: supervisor.ok("logs", "--no-log-prefix", "web").strip() == "2", "the new one runs")
    supervisor.ok("image", "prune", "-f")
    assert len(supervisor.ok("images", "-q").split()) == 1


def test_what_is_missing_is_said_before_anything_is_touched(supervisor: Supervisor) -> None:
    supervisor.compose(
        "name: boxed\nservices:\n"
        "  a: {command: sleep 1000, network_mode: none}\n"
        "  b: {image: '127.0.0.1:1/missing', network_mode: none}\n"
        "  c: {image: '127.0.0.1:1/x:1', network_mode: none}\n"
    )
    result = supervisor.run("up", "-d")
    assert result.returncode == 1
    assert "cannot find image 127.0.0.1:1/missing:latest: store: it is not there; registry: " in result.stderr
    assert "cannot find image 127.0.0.1:1/x:1: " in result.stderr
    result = supervisor.run("up", "-d", "--pull", "never")
    assert result.returncode == 1
    assert "no such image: 127.0.0.1:1/missing:latest" in result.stderr
    assert "no such image: 127.0.0.1:1/x:1" in result.stderr
    assert supervisor.ok("ps", "-a", "-q") == ""
    for command, code in (
        (("rmi", "missing"), 4),
        (("save", "missing"), 4),
        (("tag", "Bad", "x"), 1),
        (("load", "-i", "no"), 1),
    ):
        result = supervisor.run(*command)
        assert (result.returncode, "Traceback" in result.stderr) == (code, False), command


def test_a_file_that_cannot_be_had_is_told_by_the_name_that_was_given(supervisor: Supervisor) -> None:
    (supervisor.base / "root.tar").write_bytes(root_archive("1"))
    supervisor.ok("import", "root.tar", "app:1")

    for command in (("load", "-i", "none.tar"), ("import", "none.tar", "app:2")):
        result = supervisor.run(*command)
        assert result.returncode == 1
        assert result.stderr.startswith("shipkeeper: cannot read the archive none.tar: No such file")
    result = supervisor.run("save", "-o", "none/out.tar", "app:1")

    assert result.returncode == 1
    assert result.stderr.startswith("shipkeeper: cannot write none/out.tar: No such file")


def test_images_are_listed_tagged_and_removed(supervisor: Supervisor) -> None:
    (supervisor.base / "root.tgz").write_bytes(root_archive("1"))
    supervisor.ok("import", "root.tgz", "app:1")
    supervisor.ok("tag", "app:1", "registry.example/app:2")
    rows = [json.loads(line) for line in supervisor.ok("images", "--format", "json").splitlines()]
    assert [(row["Repository"], row["Tag"]) for row in rows] == [("app", "1"), ("registry.example/app", "2")]
    (view,) = json.loads(supervisor.ok("image", "inspect", "app:1"))
    assert view["RepoTags"] == ["app:1", "registry.example/app:2"]
    assert "imported from root.tgz" in supervisor.ok("history", "app:1")
    archive = Path(supervisor.base / "saved.tar")
    supervisor.ok("save", "-o", str(archive), "app:1")
    first = archive.read_bytes()
    supervisor.ok("rmi", "app:1", "registry.example/app:2")
    assert supervisor.ok("images", "-q") == ""
    assert supervisor.ok("load", "-i", str(archive)) == "Loaded image: app:1\n"
    supervisor.ok("save", "-o", str(archive), "app:1")
    assert archive.read_bytes() == first


def test_the_disk_is_counted_and_pruned_by_rules(supervisor: Supervisor) -> None:
    """system df by kinds; image prune with filters; rmi of several, of which some cannot go."""
    (supervisor.base / "root.tgz").write_bytes(root_archive("1"))
    (supervisor.base / "other.tgz").write_bytes(root_archive("2"))
    supervisor.ok("import", "root.tgz", "app:1")
    free = supervisor.ok("import", "other.tgz", "free:1").strip()
    supervisor.ok("run", "-d", "--name", "svc", "-v", "kept:/data", "app:1", "/bin/sleep", "1000")
    kinds = {row["Type"]: row for row in map(json.loads, supervisor.ok(
        "system", "df", "-v", "--format", "json").splitlines())}  # fmt: skip
    counted = {name: (kind["TotalCount"], kind["Active"]) for name, kind in kinds.items()}
    assert counted == {"Images": (2, 1), "Containers": (1, 1), "Local Volumes": (1, 1), "Build Cache": (0, 0)}
    assert 0 < kinds["Images"]["Reclaimable"] < kinds["Images"]["Size"]
    assert kinds["Local Volumes"]["Items"][0]["Name"] == "kept"
    assert supervisor.ok("system", "df").splitlines()[0].split()[0] == "TYPE"
    for unfit in ("label=x", "until=1h", "until=2020-01-01"):
        assert "deleted" not in supervisor.ok("image", "prune", "-af", "--filter", unfit)
    assert "cannot filter" in supervisor.run("image", "prune", "-f", "--filter", "x=y").stderr
    result = supervisor.run("rmi", "no/such", "app:1", free[7:19])
    assert result.returncode == 4
    assert "no such image" in result.stderr
    assert "svc uses it" in result.stderr
    assert f"deleted: {free}" in result.stdout
    supervisor.ok("import", "other.tgz", "free:1")
    assert "deleted: " in supervisor.ok(
        "image", "prune", "-af", "--filter", "label!=x", "--filter", "until=0s"
    )
    assert supervisor.ok("images", "-q").split() == [supervisor.ok("images", "-q", "app").strip()]
    context = supervisor.base / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM app:1\nCOPY Dockerfile /\nCOPY Dockerfile /more\n")
    supervisor.ok("build", "-t", "built", str(context))
    supervisor.ok("rmi", "built")
    assert '"TotalCount":2' in supervisor.ok("system", "df", "--format", "json").replace(" ", "")
    assert "reclaimed" in supervisor.ok("builder", "prune", "-f")
    assert '"TotalCount":2' not in supervisor.ok("system", "df", "--format", "json").replace(" ", "")
    assert "reclaimed" in supervisor.ok("system", "prune", "-af")
    assert supervisor.state("svc") == "running"
