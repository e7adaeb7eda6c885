"""`cp`, `export` and `commit`, by the command and by Docker's own client."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from supervising import Supervisor
from test_images import root_archive

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox on this machine"),
]


@pytest.fixture
def box(supervisor: Supervisor) -> Supervisor:
    (supervisor.base / "root.tgz").write_bytes(root_archive("1"))
    supervisor.ok("import", "root.tgz", "box")
    return supervisor


def test_files_of_a_stopped_service_on_the_hosts_root(supervisor: Supervisor) -> None:
    """Its writable layer lies in what it stands on. Reading changes nothing."""
    supervisor.compose(
        "name: p\nservices:\n  web: {command: sleep 1000, network_mode: none, stop_signal: SIGKILL}\n"
    )
    supervisor.ok("up", "-d")
    supervisor.ok("exec", "web", "sh", "-c", "echo kept > /root/mine")
    supervisor.ok("stop", "web")
    supervisor.ok("cp", "web:/root/mine", str(supervisor.base / "got"))
    assert (supervisor.base / "got").read_text() == "kept\n"
    supervisor.ok("cp", "web:/etc/passwd", str(supervisor.base / "passwd"))
    assert (supervisor.base / "passwd").read_bytes() == Path("/etc/passwd").read_bytes()
    supervisor.ok("cp", str(supervisor.base / "got"), "web:/root/given")
    supervisor.ok("start", "web")
    assert supervisor.ok("exec", "web", "cat", "/root/mine", "/root/given") == "kept\nkept\n"


@pytest.fixture
def api(box: Supervisor) -> Iterator[docker.APIClient]:
    client = docker.APIClient(f"unix://{box.base}/run/shipkeeper.sock", version="1.43", timeout=60)
    yield client
    client.close()


@pytest.fixture(params=["running", "stopped"])
def service(box: Supervisor, request: pytest.FixtureRequest) -> str:
    """A service that runs, or one that has ended; a volume at /data in both."""
    script = (
        "echo own > /own; echo kept > /data/kept; ln -s /etc/version /link; ln -s /etc /dir;"
        " ln -s ../../../../../../etc/version /out;"
    )
    box.ok("run", "-d", "--name", "svc", "-v", "kept:/data", "box", "/bin/sh", "-c", f"{script} sleep 1000")
    box.ok("exec", "svc", "/bin/sh", "-c", "while ! [ -L /out ]; do sleep 0.01; done")
    if request.param == "stopped":
        box.ok("stop", "-t", "0", "svc")
    return "svc"


def archived(api: docker.APIClient, path: str) -> tuple[dict[str, bytes | str | None], dict[str, object]]:
    """What Docker's client gets: (name: content, or the text of a link, or None for a directory; stat)."""
    chunks, found = api.get_archive("svc", path)
    files: dict[str, bytes | str | None] = {}
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            files[member.name] = content.read() if content else member.linkname or None
    return files, found


def test_dockers_client_takes_files_out(api: docker.APIClient, service: str) -> None:
    """Names, the stat header, links that are not followed but with a slash; volumes."""
    assert archived(api, "/own")[0] == {"own": b"own\n"}
    files, found = archived(api, "/link")
    assert files == {"link": "/etc/version"}
    assert (found["name"], found["linkTarget"]) == ("link", "/etc/version")
    assert found["mode"] & 1 << 27
    assert archived(api, "/dir/")[0]["dir/version"] == b"1"
    assert archived(api, "/etc/.")[0]["./version"] == b"1"
    assert archived(api, "/data")[0] == {"data": None, "data/kept": b"kept\n", "data/seed": b"s"}
    assert archived(api, "/out")[1]["linkTarget"] == "/etc/version", "it stays in the root"
    everything = archived(api, "/")[0]
    assert everything["own"] == b"own\n"
    assert not any(name.startswith(("proc/", "sys/", "dev/")) for name in everything)
    with pytest.raises(docker.errors.NotFound):
        api.get_archive("svc", "/no/such")


def test_dockers_client_puts_files_in(api: docker.APIClient, box: Supervisor, service: str) -> None:
    """Owners, modes and times as in the archive; links of the root stay in it; what is refused."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind in (("new", tarfile.DIRTYPE), ("new/file", tarfile.REGTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.uid, member.gid, member.mtime = kind, 0o750, 7, 8, 1000
            member.size = 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"new"))
    for place in ("/data", "/dir"):
        assert api.put_archive("svc", place, buffer.getvalue())
        chunks, _ = api.get_archive("svc", f"{place}/new/file")
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
            (member,) = archive.getmembers()
            assert (member.mode, member.uid, member.gid, member.mtime) == (0o750, 7, 8, 1000)
    assert (box.base / "state/volumes/kept/_data/new/file").read_bytes() == b"new"
    assert not Path("/etc/new").exists()
    with pytest.raises(docker.errors.NotFound):
        api.put_archive("svc", "/no/such", buffer.getvalue())
    with pytest.raises(docker.errors.APIError, match=r"'\.\.'"):
        api.put_archive("svc", "/", tar_of("../escaped"))


def tar_of(name: str, content: bytes = b"x") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def test_export_is_the_root_without_its_volumes(api: docker.APIClient, box: Supervisor, service: str) -> None:
    with tarfile.open(fileobj=io.BytesIO(b"".join(api.export("svc")))) as archive:
        names = archive.getnames()
    assert {"own", "bin/busybox", "etc/version", "data"} <= set(names)
    assert "data/kept" not in names
    box.ok("export", "-o", "out.tar", "svc")
    box.ok("import", "out.tar", "again")
    assert box.ok("run", "--rm", "again", "/bin/cat", "/own") == "own\n"


def test_cp_copies_like_docker(box: Supervisor, service: str) -> None:
    """Where the names go depends on what is there (cp(1)); `-` is a stream; -L; -a."""
    tree = box.base / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_text("f")
    os.symlink("sub/file", tree / "link")
    box.ok("cp", "tree", "svc:/made")  # it is not there: it becomes that name
    box.ok("cp", "tree", "svc:/made")  # it is: the tree goes into it
    box.ok("cp", "tree/.", "svc:/data")  # what is in it
    box.ok("cp", "svc:/made", "back")
    found = {str(path.relative_to(box.base / "back")) for path in (box.base / "back").rglob("*")}
    inner = {"sub", "sub/file", "link"}
    assert found == inner | {"tree"} | {f"tree/{name}" for name in inner}
    assert os.readlink(box.base / "back/link") == "sub/file"
    assert (box.base / "state/volumes/kept/_data/sub/file").read_text() == "f"
    box.ok("cp", "svc:/link", "plain")
    assert os.readlink(box.base / "plain") == "/etc/version"
    box.ok("cp", "-L", "svc:/link", "followed")
    assert (box.base / "followed").read_text() == "1"
    box.ok("cp", "-L", "tree/link", "svc:/etc/renamed")
    box.ok("cp", "svc:/etc/renamed", ".")
    assert (box.base / "renamed").read_text() == "f"
    assert box.run("cp", "svc:/no/such", ".").returncode == 4
    assert "exactly one" in box.run("cp", "a", "b").stderr
    assert "no such directory" in box.run("cp", "tree/sub/file", "svc:/not/there/").stderr
    assert "No such file" in box.run("cp", "tree", "svc:/made/not/there/").stderr
    streamed = subprocess.run(
        [sys.executable, "-m", "supervisor.cli.main", "cp", "svc:/own", "-"],
        env=box.environment, cwd=box.base, capture_output=True, check=True,
    )  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(streamed.stdout)) as archive:
        assert archive.getnames() == ["own"]
    subprocess.run(
        [sys.executable, "-m", "supervisor.cli.main", "cp", "-", "svc:/data"],
        env=box.environment, cwd=box.base, input=streamed.stdout, check=True,
    )  # fmt: skip
    assert (box.base / "state/volumes/kept/_data/own").read_text() == "own\n"


def test_commit_makes_an_image_of_what_was_written(
    box: Supervisor, api: docker.APIClient, service: str
) -> None:
    """The writable layer over the image's; how it runs, with changes; the base is untouched; pausing ends."""
    box.ok("exec", "svc", "/bin/sh", "-c", "rm /etc/passwd") if box.state("svc") == "running" else None
    before = box.state("svc")
    made = box.ok(
        "commit", "-a", "me", "-m", "why", "-c", 'CMD ["/bin/cat", "/own"]', "-c", "ENV A=b", "svc", "made:1"
    ).strip()
    assert box.state("svc") == before
    assert box.ok("run", "--rm", "made:1") == "own\n"
    assert box.ok("run", "--rm", "made:1", "/bin/sh", "-c", "echo $A; ls /data") == "b\nseed\n"
    assert "own" not in box.ok("run", "--rm", "box", "/bin/ls", "/")
    if before == "running":
        assert box.run("run", "--rm", "made:1", "/bin/cat", "/etc/passwd").returncode != 0, "a whiteout"
    (found,) = json.loads(box.ok("image", "inspect", "made:1"))
    assert (found["Id"], found["Author"], found["Config"]["Cmd"]) == (made, "me", ["/bin/cat", "/own"])
    (last, *_) = [json.loads(line) for line in box.ok("history", "--format", "json", "made:1").splitlines()]
    assert last["Comment"] == "why"
    box.ok("save", "-o", "made.tar", "made:1")  # its layer can be written again
    answer = api.commit("svc", repository="by-client", tag="2", changes=["LABEL x=y"])
    (found,) = json.loads(box.ok("image", "inspect", "by-client:2"))
    assert (found["Id"], found["Config"]["Labels"]["x"]) == (answer["Id"], "y")
    assert box.daemon is not None
    assert "libssl" not in Path(f"/proc/{box.daemon.pid}/maps").read_text(), "none of it needs OpenSSL"
    assert "cannot apply RUN" in box.run("commit", "-c", "RUN x", "svc").stderr
