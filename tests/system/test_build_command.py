"""`shipkeeper build` as a user meets it: every kind of context, failures, Ctrl-C, secrets, a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import http.server
import io
import json
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from supervising import PATIENCE_S, Supervisor
from test_images import root_archive

from supervisor.cli.buildstate import clean

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox on this machine"),
]
WITH_GIT = pytest.mark.skipif(shutil.which("git") is None, reason="no git on this machine")

DOCKERFILE = "FROM base\nENV PATH=/bin\nARG WHO=nobody\nRUN echo hello $WHO > /who\nCOPY a /a\n"


@pytest.fixture
def place() -> Iterator[Supervisor]:
    """Directories of a supervisor that never runs, with an image `base` and a context in `ctx`."""
    with tempfile.TemporaryDirectory(prefix="shipkeeper-") as directory:
        made = Supervisor(Path(directory))
        (made.base / "shipkeeper.yaml").write_text(f"projects_dir: {made.base}/projects\n")
        (made.base / "root.tgz").write_bytes(root_archive("1"))
        made.ok("import", "root.tgz", "base")
        context(made.base / "ctx")
        yield made


def context(directory: Path) -> Path:
    directory.mkdir()
    (directory / "Dockerfile").write_text(DOCKERFILE)
    (directory / "a").write_text("content\n")
    return directory


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "supervisor.cli.main", *arguments]


def build(place: Supervisor, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command("build", *arguments),
        env=place.environment,
        cwd=place.base,
        input=stdin,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )


def built(place: Supervisor, *arguments: str, stdin: bytes = b"") -> str:
    """The id of an image that is built without a word."""
    result = build(place, "-q", *arguments, stdin=stdin)
    assert result.returncode == 0, result.stderr.decode()
    assert result.stderr == b""
    return result.stdout.decode().strip()


def files(place: Supervisor, name: str) -> dict[str, bytes]:
    """What is in an image: by path, from its saved archive."""
    place.ok("save", "-o", "image.tar", name)
    found: dict[str, bytes] = {}
    with tarfile.open(place.base / "image.tar") as archive:
        manifest = json.load(archive.extractfile("manifest.json") or io.BytesIO())
        for layer in manifest[0]["Layers"]:
            with tarfile.open(fileobj=archive.extractfile(layer)) as inner:
                for member in inner:
                    if member.isfile():
                        content = inner.extractfile(member)
                        found[member.name] = content.read() if content else b""
    return found


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[str]:
    """A web server of a directory, on loopback; its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(directory))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def packed(directory: Path, mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        archive.add(directory, ".")
    return out.getvalue()


def repository(directory: Path) -> str:
    """A git repository with a context in `sub` on the branch `topic`; the commit."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-C", str(directory), *arguments],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip

    directory.mkdir()
    git("init", "-q", "-b", "main")
    (directory / "Dockerfile").write_text("FROM base\nCOPY . /all\n")
    git("add", ".")
    git("commit", "-q", "-m", "one")
    git("checkout", "-q", "-b", "topic")
    context(directory / "sub")
    (directory / "out").symlink_to("/etc")
    git("add", ".")
    git("commit", "-q", "-m", "two")
    commit = git("rev-parse", "HEAD")
    git("checkout", "-q", "main")
    git("update-server-info")
    return commit


@pytest.mark.parametrize("option", ["--iidfile", "--metadata-file"])
def test_a_file_about_the_image_that_cannot_be_written_is_one_line(place: Supervisor, option: str) -> None:
    result = build(place, "-t", "app:1", option, "no/such/file", "--progress", "quiet", "ctx")
    assert result.returncode == 1
    lines = result.stderr.decode().splitlines()
    assert lines == ["shipkeeper: cannot write no/such/file: No such file or directory; the image was built"]
    assert json.loads(place.ok("image", "inspect", "app:1"))[0]["Id"] == result.stdout.decode().strip()


def test_builds_a_directory_and_says_what_came_of_it(place: Supervisor) -> None:
    result = build(
        place, "-t", "app:1", "-t", "registry.example/app", "--build-arg", "WHO=you", "--label", "l=1",
        "--iidfile", "id", "--metadata-file", "meta.json", "--progress", "plain", "ctx",
    )  # fmt: skip
    told = result.stderr.decode()
    assert result.returncode == 0, told
    assert result.stdout == b"", "what is shown is not what a build gives"
    assert re.search(r"(?m)^#\d+ \[2/3\] RUN echo hello \$WHO > /who$", told)
    assert re.search(r"(?m)^#\d+ DONE \d+\.\ds$", told)
    image_id = (place.base / "id").read_text()
    (view,) = json.loads(place.ok("image", "inspect", "app:1"))
    assert view["Id"] == image_id
    assert view["RepoTags"] == ["app:1", "registry.example/app:latest"]
    assert view["Config"]["Labels"]["l"] == "1"
    metadata = json.loads((place.base / "meta.json").read_text())
    assert metadata["containerimage.config.digest"] == image_id
    assert metadata["containerimage.digest"] == view["Descriptor"]["digest"]
    found = files(place, "app:1")
    assert found["who"] == b"hello you\n"
    assert found["a"] == b"content\n"
    again = build(place, "--build-arg", "WHO=you", "--label", "l=1", "--progress", "plain", "ctx")
    assert again.stderr.decode().count("CACHED") >= 3
    assert "DONE" in again.stderr.decode()
    assert built(place, "--build-arg", "WHO=you", "--label", "l=1", "ctx") == image_id


def test_takes_a_build_argument_from_the_environment(
    place: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHO", "me")
    built(place, "-t", "app", "--build-arg", "WHO", "--build-arg", "NOT_SET", "ctx")
    assert files(place, "app")["who"] == b"hello me\n"
    result = build(place, "--build-arg", "NOPE=1", "ctx")
    assert b"[Warning] One or more build-args [NOPE] were not consumed" in result.stderr


def test_every_source_gives_the_same_image(place: Supervisor) -> None:
    """A directory, an archive on stdin (plain or compressed), an archive behind an URL."""
    wanted = built(place, "ctx")
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        assert built(place, "-", stdin=packed(place.base / "ctx", mode)) == wanted, mode
    (place.base / "web").mkdir()
    (place.base / "web/context.tar.gz").write_bytes(packed(place.base / "ctx"))
    (place.base / "web/Dockerfile").write_text('FROM base\nCMD ["true"]\n')
    with serving(place.base / "web") as url:
        assert built(place, f"{url}/context.tar.gz") == wanted
        alone = built(place, f"{url}/Dockerfile")
        missing = build(place, f"{url}/nothing")
        assert built(place, "-f", f"{url}/Dockerfile", "ctx") == alone
    assert built(place, "-", stdin=b'FROM base\nCMD ["true"]\n') == alone
    assert missing.returncode == 2
    assert b"the server answers 404" in missing.stderr


@WITH_GIT
def test_builds_from_a_repository(place: Supervisor) -> None:
    """By branch and directory, by commit, over file and http; nothing of git is in the context."""
    wanted = built(place, "ctx")
    commit = repository(place.base / "repo.git")
    local = f"file://{place.base}/repo.git"
    assert built(place, f"{local}#topic:sub") == wanted
    assert built(place, f"{local}#{commit}:sub") == wanted
    assert built(place, f"{local}?branch=topic&subdir=sub&commit={commit}") == wanted
    built(place, "-t", "all", local)
    assert sorted(name for name in files(place, "all") if name.startswith("all/")) == ["all/Dockerfile"]
    (place.base / "srv").mkdir()
    subprocess.run(
        ["git", "clone", "-q", "--mirror", str(place.base / "repo.git"), str(place.base / "srv/repo.git")],
        check=True,
    )
    subprocess.run(["git", "-C", str(place.base / "srv/repo.git"), "update-server-info"], check=True)
    with serving(place.base / "srv") as url:
        assert built(place, f"{url}/repo.git#topic:sub") == wanted, "a server of plain files, not shallow"
        assert built(place, f"{url}/repo.git#{commit[:12]}:sub") == wanted
        gone = build(place, f"{url}/none.git")
    assert gone.returncode == 2
    assert b"cannot clone" in gone.stderr
    for bad, said in (
        ("#nowhere", "nowhere"),
        ("#topic:none", "no directory"),
        ("#topic:out", "leaves the repository"),
        ("#topic:../..", "leaves the repository"),
        ("#--upload-pack=x", "does not begin with -"),
        ("?branch=topic&subdir=sub&commit=0123", "not 0123"),
    ):
        result = build(place, f"{local}{bad}")
        assert (result.returncode, said in result.stderr.decode()) == (2, True), result.stderr.decode()


def test_the_dockerfile_may_be_anywhere(place: Supervisor) -> None:
    """Outside of the context, on stdin, in another place of an archive; its own ignore file comes first."""
    wanted = built(place, "ctx")
    (place.base / "elsewhere").mkdir()
    (place.base / "elsewhere/My.df").write_text(DOCKERFILE)
    assert built(place, "-f", "elsewhere/My.df", "ctx") == wanted
    assert built(place, "-f", "-", "ctx", stdin=DOCKERFILE.encode()) == wanted
    (place.base / "ctx/deep").mkdir()
    (place.base / "ctx/Dockerfile").rename(place.base / "ctx/deep/D")
    assert built(place, "-f", "deep/D", "-", stdin=packed(place.base / "ctx")) == wanted
    (place.base / "ctx/dockerfile").write_text(DOCKERFILE)
    assert built(place, "ctx") == wanted, "the lower-case name is found"

    (place.base / "ctx/dockerfile").write_text("FROM base\nCOPY . /all\n")
    (place.base / "ctx/.dockerignore").write_text("a\ndeep\n")
    built(place, "-t", "one", "ctx")
    assert sorted(name for name in files(place, "one") if name.startswith("all/")) == [
        "all/.dockerignore",
        "all/dockerfile",
    ]
    (place.base / "elsewhere/All.df").write_text("FROM base\nCOPY . /all\n")
    (place.base / "elsewhere/All.df.dockerignore").write_text("*\n!a\n")
    built(place, "-t", "two", "-f", "elsewhere/All.df", "ctx")
    assert sorted(name for name in files(place, "two") if name.startswith("all/")) == ["all/a"]


def test_an_archive_cannot_make_its_dockerfile_a_file_of_the_host(place: Supervisor) -> None:
    (place.base / "ctx/Dockerfile").unlink()
    (place.base / "ctx/Dockerfile").symlink_to("/etc/passwd")
    result = build(place, "-", stdin=packed(place.base / "ctx"))
    assert result.returncode == 2
    assert b"leads out of the context" in result.stderr
    assert b"root:" not in result.stderr


def test_named_contexts(place: Supervisor) -> None:
    (place.base / "other").mkdir()
    (place.base / "other/file").write_text("other\n")
    (place.base / "ctx/Dockerfile").write_text(
        "FROM base\nCOPY --from=named file /file\nCOPY --from=image /etc/version /version\n"
    )
    sources = ("--build-context", "named=other", "--build-context", "image=docker-image://base")
    built(place, "-t", "app", *sources, "ctx")
    found = files(place, "app")
    assert (found["file"], found["version"]) == (b"other\n", b"1")


def test_a_step_that_fails_is_shown_with_its_place(place: Supervisor) -> None:
    (place.base / "ctx/Dockerfile").write_text(
        "FROM base\nENV PATH=/bin\nRUN echo kept > /kept\nRUN echo one; \\\n    echo two >&2; exit 3\n"
        "COPY a /a\n"
    )
    result = build(place, "--progress", "plain", "ctx")
    told = result.stderr.decode()
    assert result.returncode == 1
    block = told[told.index("------\n") :]
    lines = block.splitlines()
    assert lines[1] == " > [3/4] RUN echo one; echo two >&2; exit 3:"
    assert [re.sub(r"^\d+\.\d+ ", "", line) for line in lines[2:4]] == ["one", "two"]
    assert lines[4:-1] == [
        "------",
        "ctx/Dockerfile:4",
        "--------------------",
        "   2 |     ENV PATH=/bin",
        "   3 |     RUN echo kept > /kept",
        "   4 | >>> RUN echo one; \\",
        "   5 | >>>     echo two >&2; exit 3",
        "   6 |     COPY a /a",
        "--------------------",
    ]
    assert lines[-1].startswith("shipkeeper: ctx/Dockerfile:4: ")
    assert lines[-1].endswith("exit code: 3")
    again = build(place, "--progress", "plain", "ctx").stderr.decode()
    assert re.search(r"(?m)^(#\d+) \[2/4\] RUN echo kept > /kept\n\1 CACHED$", again)
    events = [json.loads(line) for line in build(place, "--progress", "json", "ctx").stderr.splitlines()]
    assert events[-1]["event"] == "failed"
    assert (events[-1]["line"], events[-1]["exit_code"]) == (4, 3)
    assert {event["event"] for event in events} >= {"planned", "started", "output", "ended"}


def test_no_line_of_a_step_is_lost(place: Supervisor) -> None:
    """More than what the logs of a service keep in one file."""
    loop = (
        "i=0; while [ $i -lt 200000 ]; do echo line $i is longer than it would have to be; i=$((i+1)); done"
    )
    (place.base / "ctx/Dockerfile").write_text(f"FROM base\nENV PATH=/bin\nRUN {loop}\n")
    result = build(place, "--progress", "plain", "ctx")
    assert result.returncode == 0
    numbers = re.findall(
        rb"(?m)^#\d+ \d+\.\d{3} line (\d+) is longer than it would have to be$", result.stderr
    )
    assert [int(number) for number in numbers] == list(range(200_000))


def test_ctrl_c_leaves_nothing(place: Supervisor) -> None:
    (place.base / "ctx/Dockerfile").write_text(
        'FROM base\nRUN ["/bin/sh", "-c", "echo begun; /bin/sleep 12345 & /bin/sleep 12345"]\n'
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen(
            command("build", "--progress", "plain", "ctx"),
            env={**place.environment, "TMPDIR": str(place.base)},
            cwd=place.base,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stderr is not None
            told = b""
            while b"begun\n" not in told:
                line = process.stderr.readline()
                assert line, told.decode()
                told += line if b"RUN" not in line else b""
            process.send_signal(number)
            rest = process.stderr.read()
            assert process.wait(PATIENCE_S) == 128 + number
        assert b"cancelled" in rest
        left = [
            found for found in psutil.process_iter(["cmdline"]) if "12345" in (found.info["cmdline"] or [])
        ]
        assert left == []
        run_dir = str(place.base / "run")
        assert not any(run_dir in line for line in Path("/proc/self/mounts").read_text().splitlines())
        helpers = [
            found
            for found in psutil.process_iter(["cmdline"])
            if any(word.startswith(run_dir) for word in found.info["cmdline"] or [])
        ]
        assert helpers == [], "the build's own launcher has ended"
        assert not list(place.base.glob("shipkeeper-build-*"))
    (place.base / "ctx/Dockerfile").write_text(DOCKERFILE)
    built(place, "ctx")


@WITH_GIT
def test_ctrl_c_ends_a_clone_from_a_server_that_says_nothing(place: Supervisor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"git://127.0.0.1:{silent.getsockname()[1]}/repo"
        with subprocess.Popen(
            command("build", url),
            env={**place.environment, "TMPDIR": str(place.base)},
            cwd=place.base,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        ) as process:
            connection, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            assert b"cancelled" in process.stderr.read()
            assert process.wait(PATIENCE_S) == 130
        with connection:
            connection.settimeout(PATIENCE_S)
            with contextlib.suppress(ConnectionResetError):
                while connection.recv(4096):
                    pass  # to its end: git has closed it, so git is gone
    assert not list(place.base.glob("shipkeeper-build-*"))


def test_secrets_are_in_no_layer_and_no_history(place: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "sesame-of-the-environment")
    (place.base / "secret.txt").write_text("sesame-of-a-file")
    (place.base / "ctx/Dockerfile").write_text(
        "FROM base\nENV PATH=/bin\n"
        "RUN --mount=type=secret,id=token --mount=type=secret,id=file,target=/here"
        " cat /run/secrets/token /here; cat /here | busybox wc -c > /length\n"
    )
    given = ("--secret", "id=token,env=TOKEN", "--secret", "id=file,src=secret.txt")
    result = build(place, "-t", "app", "--progress", "plain", *given, "ctx")
    assert result.returncode == 0, result.stderr.decode()
    assert b"sesame-of-the-environmentsesame-of-a-file" in result.stderr, "the step can read them"
    assert files(place, "app")["length"].strip() == b"16"
    assert b"sesame" not in (place.base / "image.tar").read_bytes()
    assert "sesame" not in place.ok("history", "--no-trunc", "app")
    for path in (place.base / "state").rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert b"sesame" not in path.read_bytes(), path
    missing = build(place, "--secret", "id=x,env=NO_SUCH_VARIABLE", "ctx")
    assert missing.returncode == 2
    assert b"NO_SUCH_VARIABLE is not set" in missing.stderr


def test_check_tells_what_is_doubtful_and_builds_nothing(place: Supervisor) -> None:
    (place.base / "ctx/Dockerfile").write_text("FROM base as b\nCMD run it\n")
    before = place.ok("images", "-q")
    result = build(place, "--check", "ctx")
    text = result.stdout.decode()
    assert result.returncode == 1
    assert text.startswith("Check complete, 2 warnings have been found!\n")
    assert "WARNING: FromAsCasing - https://docs.docker.com/go/dockerfile/rule/from-as-casing/" in text
    assert "   1 | >>> FROM base as b" in text
    rows = [
        json.loads(line) for line in build(place, "--check", "--format", "json", "ctx").stdout.splitlines()
    ]
    assert [(row["ruleName"], row["line"]) for row in rows] == [
        ("FromAsCasing", 1),
        ("JSONArgsRecommended", 2),
    ]
    assert place.ok("images", "-q") == before
    told = build(place, "ctx")
    assert told.returncode == 0
    assert b" 2 warnings found (--check explains):\n - FromAsCasing: " in told.stderr
    (place.base / "ctx/Dockerfile").write_text("# check=error=true\nFROM base as b\n")
    failed = build(place, "ctx")
    assert failed.returncode == 1
    assert b"ctx/Dockerfile:2: lint violation found for rules: FromAsCasing" in failed.stderr
    (place.base / "ctx/Dockerfile").write_text("FROM base AS b\n")
    fine = build(place, "--check", "ctx")
    assert (fine.returncode, fine.stdout) == (0, b"Check complete, no warnings found.\n")


def test_verify_tells_what_is_not_reproducible(place: Supervisor) -> None:
    result = build(place, "--verify", "ctx")
    assert result.returncode == 0, result.stderr.decode()
    assert (
        result.stderr.decode()
        .splitlines()[-1]
        .startswith("shipkeeper: reproducible: both builds are sha256:")
    )
    (place.base / "ctx/Dockerfile").write_text(
        "FROM base\nENV PATH=/bin\nRUN echo always > /same; cat /proc/sys/kernel/random/uuid > /random\n"
    )
    result = build(place, "--verify", "ctx")
    told = result.stderr.decode().splitlines()[-1]
    assert result.returncode == 1
    assert told.startswith("shipkeeper: not reproducible: /random: ")
    assert "echo always" in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere",), "there is no such directory"),
        (("ctx/a",), "it is no directory"),
        (("-f", "nothing", "ctx"), "cannot read the Dockerfile nothing"),
        (("-f", "x", "-f", "y", "ctx"), "one Dockerfile"),
        (("-f", "-", "-"), "both the context and the Dockerfile"),
        (("-t", "Bad", "ctx"), "must be lowercase"),
        (("--platform", "linux/s390x", "ctx"), "cannot build for linux/s390x"),
        (("--secret", "src=x", "ctx"), "it has no id"),
        (("--ssh", "=x", "ctx"), "write default"),
        (("--build-arg", "=x", "ctx"), "it has no name"),
        (("--build-context", "x=", "ctx"), "has no source"),
        (("--build-context", "x=oci-layout://y", "ctx"), "docker-image://"),
        (("--service", "x", "ctx"), "leave CONTEXT away"),
        (("-f", "ctx/Dockerfile"), "write `shipkeeper build -f ctx/Dockerfile .`"),
    ],
)
def test_wrong_usage_is_one_line(place: Supervisor, arguments: tuple[str, ...], said: str) -> None:
    result = build(place, *arguments)
    told = result.stderr.decode()
    assert result.returncode == 2, told
    assert said in told
    assert told.startswith("shipkeeper: ")
    assert told.count("\n") == 1


def test_a_dockerfile_that_cannot_be_read_is_told_in_whole(place: Supervisor) -> None:
    (place.base / "ctx/Dockerfile").write_text("FROM base\nRUNN x\nCOPY a\n")
    result = build(place, "ctx")
    told = result.stderr.decode()
    assert result.returncode != 0
    assert "ctx/Dockerfile:2" in told
    assert "ctx/Dockerfile:3" in told
    assert "did you mean RUN?" in told
    assert "Traceback" not in told


def on_a_terminal(
    place: Supervisor, *arguments: str, columns: int = 60, **environment: str
) -> tuple[int, str]:
    """(exit status, everything that a terminal gets)."""
    primary, secondary = pty.openpty()
    fcntl.ioctl(primary, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        command("build", *arguments),
        env={**place.environment, "TERM": "xterm", **environment},
        cwd=place.base,
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
    )
    os.close(secondary)
    told = b""
    with contextlib.suppress(OSError):  # EIO: the other side is closed
        while data := os.read(primary, 65536):
            told += data
    os.close(primary)
    return process.wait(PATIENCE_S), told.decode()


def test_a_terminal_shows_the_build_live(place: Supervisor) -> None:
    status, told = on_a_terminal(place, "ctx")
    assert status == 0
    assert told.count("\x1b[?25l") >= 1
    assert told.rindex("\x1b[?25h") > told.rindex("\x1b[?25l"), "the cursor is given back"
    last = told[told.rindex("[+] Building") :]
    lines = [clean(line).rstrip() for line in last.split("\r\n")]
    assert re.fullmatch(r"\[\+\] Building \d+\.\ds \((\d+)/\1\) FINISHED", lines[0])
    assert any(re.fullmatch(r" => \[2/3\] RUN echo hello \$WHO > /who +\d+\.\ds", line) for line in lines)
    assert all(len(line) <= 60 for line in lines)
    assert "\x1b[34m" in told
    status, plain = on_a_terminal(place, "ctx", NO_COLOR="1")
    assert "\x1b[34m" not in plain
    assert " => CACHED [2/3] RUN" in plain
    status, dumb = on_a_terminal(place, "ctx", TERM="dumb")
    assert "\x1b" not in dumb
    (place.base / "ctx/Dockerfile").write_text('FROM base\nRUN ["/bin/sh", "-c", "exit 4"]\n')
    status, failed = on_a_terminal(place, "ctx")
    assert status == 1
    assert " => ERROR [2/2] RUN" in failed
    assert failed.index("\x1b[?25h") < failed.index("------"), "the failure is told below the last frame"


def test_a_dockerfile_takes_no_privileges_that_nobody_gave_it(place: Supervisor) -> None:
    """`RUN --security=insecure` has all of the host: refused, from the cache too, unless it is allowed."""
    capabilities = "cat /proc/self/status >/status"
    dockerfile = f"FROM base\nRUN --security=insecure {capabilities}\n".encode()
    for _ in range(2):
        refused = build(place, "--progress=plain", "-", stdin=dockerfile)
        assert refused.returncode == 1
        assert "cannot run with --security=insecure" in refused.stderr.decode()
        assert "--allow security.insecure" in refused.stderr.decode()
        built(place, "--allow", "security.insecure", "-t", "trusted", "-", stdin=dockerfile)
    built(place, "-t", "confined", "-", stdin=f"FROM base\nRUN {capabilities}\n".encode())
    seccomp = {name: files(place, name)["status"].decode() for name in ("trusted", "confined")}
    assert "Seccomp:\t0" in seccomp["trusted"]
    assert "Seccomp:\t2" in seccomp["confined"]
