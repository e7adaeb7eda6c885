"""Images to and from registries, by the command: a docker-registry, one that breaks off, one that lies."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from registries import ACCOUNT, PATIENCE_S, Registry, door, needs_registry, registry

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    needs_registry,
]

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(slots=True)
class Host:
    """The command with a state directory of its own, and no daemon."""

    base: Path
    patience_s: float = PATIENCE_S

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "SHIPKEEPER_STATE_DIR": str(self.base / "state"),
            "SHIPKEEPER_RUN_DIR": str(self.base / "run"),
            "SHIPKEEPER_CONFIG": str(self.base / "shipkeeper.yaml"),
            "REGISTRY_AUTH_FILE": str(self.base / "auth.json"),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }

    def start(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "supervisor.cli.main", *arguments],
            env=self.environment, cwd=self.base, text=True,
            stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        with self.start(*arguments, stdin=subprocess.PIPE) as process:
            out, error = process.communicate(stdin, self.patience_s)
        return subprocess.CompletedProcess(arguments, process.returncode, out, error)

    def ok(self, *arguments: str, stdin: str | None = None) -> str:
        result = self.run(*arguments, stdin=stdin)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def files(self) -> list[str]:
        """What is under way in the store."""
        return os.listdir(self.base / "state/images/ingest")


def make_host(base: Path) -> Host:
    base.mkdir()
    (base / "shipkeeper.yaml").write_text("")
    (base / "auth.json").write_text("{}")
    return Host(base)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path / "host")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "registry") as made:
        yield made


def archive(path: Path, *layers: dict[str, bytes], name: str = "app:1", mode: int = 0o644) -> None:
    """An archive as `docker save` writes it."""
    members = {}
    for number, files in enumerate(layers):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as layer:
            for file, data in files.items():
                member = tarfile.TarInfo(file)
                member.size, member.mode = len(data), mode
                layer.addfile(member, io.BytesIO(data))
        members[f"{number}.tar"] = out.getvalue()
    diff_ids = [digest_of(data) for data in members.values()]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": list(members)}]
    members |= {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    with tarfile.open(path, "w") as whole:
        for file, data in members.items():
            member = tarfile.TarInfo(file)
            member.size = len(data)
            whole.addfile(member, io.BytesIO(data))


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def push(host: Host, name: str, *layers: dict[str, bytes]) -> str:
    """Push an image of such layers; its digest."""
    archive(host.base / "app.tar", *layers, name=name)
    host.ok("load", "-i", "app.tar")
    return str(json.loads(host.ok("push", "--format", "json", name).splitlines()[-1])["Digest"])


def test_what_was_pushed_comes_back_and_nothing_moves_twice(
    host: Host, server: Registry, tmp_path: Path
) -> None:
    name = f"{server.host}/team/app:1"
    digest = push(host, name, {"a": b"1" * 5000}, {"b": b"2"})
    (view,) = json.loads(host.ok("image", "inspect", name))
    again = host.ok("push", name)
    assert again.count("Already exists") == 2
    assert f"1: digest: {digest} size: " in again
    seen = json.loads(
        subprocess.check_output(["skopeo", "inspect", "--tls-verify=false", f"docker://{name}"])
    )
    assert seen["Digest"] == digest, "another tool sees the same"

    other = make_host(tmp_path / "other")
    text = other.ok("pull", name)
    assert text.endswith(f"Digest: {digest}\nStatus: Downloaded newer image for {name}\n{name}\n")
    (pulled,) = json.loads(other.ok("image", "inspect", name))
    assert pulled["Id"] == view["Id"]
    assert pulled["RepoDigests"] == [f"{server.host}/team/app@{digest}"]
    assert "Status: Image is up to date" in other.ok("pull", name)
    assert other.ok("pull", "-q", f"{server.host}/team/app@{digest}").strip().endswith(digest)
    other.ok("tag", name, f"{server.host}/mirror:2")
    assert (
        json.loads(other.ok("push", "--format", "json", f"{server.host}/mirror:2").splitlines()[-1])["Digest"]
        == digest
    )
    assert other.files() == []


def test_a_layer_that_is_here_is_not_fetched(host: Host, server: Registry, tmp_path: Path) -> None:
    base = {"base": os.urandom(300_000)}
    push(host, f"{server.host}/app:1", base, {"b": b"1"})
    push(host, f"{server.host}/app:2", base, {"b": b"2"})
    other = make_host(tmp_path / "other")
    other.ok("pull", f"{server.host}/app:1")
    with door(server) as between:
        text = other.ok("pull", f"{between.host}/app:2")
    assert text.count("Already exists") == 1
    assert len(between.blobs_asked()) == 2, "the configuration, and the layer that was not here"


@pytest.mark.parametrize("end", ["kill", "interrupt", "registry"])
def test_a_pull_that_was_cut_off_goes_on_with_what_is_missing(
    host: Host, server: Registry, tmp_path: Path, end: str
) -> None:
    push(host, f"{server.host}/app:1", {"small": os.urandom(50_000)}, {"large": os.urandom(4_000_000)})
    other = make_host(tmp_path / "other")
    with door(server) as between:
        name = f"{between.host}/app:1"
        between.hold_after(2_000_000)
        with other.start("pull", name) as pulling:
            children = psutil.Process(pulling.pid)
            assert between.held.wait(PATIENCE_S)
            assert pulling.stdout is not None
            assert any("Download complete" in line for line in iter(pulling.stdout.readline, ""))
            working = [psutil.Process(child.pid) for child in children.children(recursive=True)]
            assert working
            if end == "kill":
                pulling.kill()
            elif end == "interrupt":
                pulling.send_signal(2)
            else:
                between.break_off()
            _, error = pulling.communicate(timeout=PATIENCE_S)
            assert pulling.returncode != 0
            if end == "registry":
                assert error.startswith(f"shipkeeper: cannot pull {name}: ")
                assert error.count("\n") == 1
        psutil.wait_procs(working, PATIENCE_S)
        assert not any(process.is_running() for process in working), "skopeo does not outlive the command"
        assert other.ok("images", "-q") == "", "half an image is none"
        between.broken = False
        between.open()
        first = between.blobs_asked()
        other.ok("pull", name)
        assert len(set(first)) == 3
        later = between.blobs_asked()[len(first) :]
        assert len(later) == 1, "only the layer that did not come whole is fetched again"
    other.ok("image", "prune", "-f")
    assert other.files() == []


def test_an_account_is_asked_for_and_used(host: Host, tmp_path: Path) -> None:
    with registry(tmp_path / "registry", account=True) as server:
        name = f"{server.host}/app:1"
        archive(host.base / "app.tar", {"a": b"1"}, name=name)
        host.ok("load", "-i", "app.tar")
        for verb in ("push", "pull"):
            refused = host.run(verb, name)
            assert refused.returncode == 1
            assert f"`shipkeeper login {server.host}` first" in refused.stderr
        wrong = host.run("login", "-u", ACCOUNT[0], "--password-stdin", server.host, stdin="wrong\n")
        assert wrong.returncode == 1
        assert f"cannot log in to {server.host}: " in wrong.stderr
        host.ok("login", "-u", ACCOUNT[0], "--password-stdin", server.host, stdin=f"{ACCOUNT[1]}\n")
        host.ok("push", name)
        host.ok("rmi", name)
        host.ok("pull", name)
        host.ok("logout", server.host)
        assert host.run("pull", name).returncode == 1


def test_an_index_gives_the_image_of_this_host_or_says_what_there_is(host: Host, server: Registry) -> None:
    name = f"{server.host}/app"
    digest = push(host, f"{name}:amd", {"a": b"1"})
    raw = server.get(f"app/manifests/{digest}", MANIFEST)

    def index(*platforms: dict[str, str]) -> bytes:
        rows = [{"mediaType": MANIFEST, "digest": digest, "size": len(raw), "platform": p} for p in platforms]
        return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": rows}).encode()

    arm = {"os": "linux", "architecture": "arm", "variant": "v7"}
    text = index(arm, {"os": "linux", "architecture": "amd64"})
    server.put("app/manifests/both", INDEX, text)
    host.ok("rmi", f"{name}:amd")
    assert f"Digest: {digest_of(text)}" in host.ok("pull", f"{name}:both")
    (view,) = json.loads(host.ok("image", "inspect", f"{name}@{digest_of(text)}"))
    assert view["RepoTags"] == [f"{name}:both"]
    server.put("app/manifests/arm", INDEX, index(arm, {"os": "unknown", "architecture": "unknown"}))
    refused = host.run("pull", f"{name}:arm")
    assert refused.returncode == 1
    assert "it has no image for linux/amd64, only for linux/arm/v7" in refused.stderr
    host.ok("pull", "--platform", "linux/arm/v7", f"{name}:arm")


def test_no_registry_is_said_at_once(host: Host) -> None:
    for name, why in (
        ("127.0.0.1:1/app", "connection refused"),
        ("registry.invalid/app", "no such host"),
    ):
        refused = host.run("pull", name)
        assert refused.returncode == 1
        assert refused.stderr.startswith(f"shipkeeper: cannot pull {name}:latest: ")
        assert why in refused.stderr
        assert "Traceback" not in refused.stderr


class _Lying(http.server.BaseHTTPRequestHandler):
    """A registry of fixed answers."""

    answers: dict[str, tuple[str, bytes]]

    def do_GET(self) -> None:
        kind, body = self.answers.get(self.path, ("text/plain", b""))
        self.send_response(200 if self.path in self.answers or self.path == "/v2/" else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass


@pytest.mark.parametrize("lie", ["content", "size", "config", "manifest", "layers", "archive"])
def test_a_registry_that_lies_gets_nothing_into_the_store(host: Host, lie: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as layer:
        member = tarfile.TarInfo("../../escaped" if lie == "archive" else "a")
        layer.addfile(member)
    blob = out.getvalue()
    ids = [digest_of(blob)] * (2 if lie == "layers" else 1)
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}
    ).encode()
    size = len(blob) - 512 if lie == "size" else len(blob)
    rows = {
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest_of(config),
            "size": len(config),
        },
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest_of(blob), "size": size}
        ],
    }  # fmt: skip
    manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, **rows}).encode()
    asked = digest_of(b"another" if lie == "manifest" else manifest)
    served = {
        f"/v2/app/blobs/{digest_of(blob)}": (
            "application/octet-stream", b"x" * len(blob) if lie == "content" else blob
        ),
        f"/v2/app/blobs/{digest_of(config)}": (
            "application/octet-stream", config.replace(b"amd64", b"arm64") if lie == "config" else config
        ),
        **{f"/v2/app/manifests/{each}": (MANIFEST, manifest) for each in (asked, digest_of(manifest))},
    }  # fmt: skip
    handler = type("Handler", (_Lying,), {"answers": served})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            refused = host.run("pull", f"127.0.0.1:{server.server_address[1]}/app@{asked}")
        finally:
            server.shutdown()
            thread.join()
    assert refused.returncode == 1, refused.stdout
    assert "cannot pull" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert host.ok("images", "-q") == ""
    assert host.files() == []
    assert not list(host.base.rglob("escaped"))
