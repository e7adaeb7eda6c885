"""COPY and ADD: every flag, what may replace what, archives, and sources that are hostile."""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import os
import shutil
import socketserver
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import BUSYBOX, Bench

from supervisor.image.builder.progress import BuildError

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(BUSYBOX is None, reason="no busybox on this machine; apt-get install busybox-static"),
]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(str(tmp_path / "b"))
    made.add_base()
    yield made
    assert made.leftovers() == []


def archive(*members: tuple[str, str | None], uid: int = 0) -> bytes:
    """A tar; None is a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, text in members:
            member = tarfile.TarInfo(name)
            member.uid, member.mtime = uid, 1000
            member.mode = 0o755 if text is None else 0o640
            if text is None:
                member.type = tarfile.DIRTYPE
            else:
                member.size = len(text)
            tar.addfile(member, io.BytesIO((text or "").encode()))
    return out.getvalue()


def test_files_and_directories(bench: Bench) -> None:
    """A directory's content is copied, a file into a directory keeps its name, what is missing is made."""
    bench.file("a", "a")
    bench.file("d/x/y", "y")
    bench.file("d/z", "z", 0o600)
    result = bench.build(
        "FROM base:1\nCOPY a /file\nCOPY a /dir/\nCOPY a d /both/\nCOPY d /tree\nCOPY a /etc"
    )
    assert result.text("/file") == "a"
    assert result.text("/dir/a") == "a"
    assert result.stack.names("/both") == ["a", "x", "z"]
    assert result.text("/tree/x/y") == "y"
    assert result.mode("/tree/z") == "0600 0:0"
    assert result.mode("/tree") == "0755 0:0"
    assert result.text("/etc/a") == "a"
    assert result.text("/etc/passwd").startswith("root")


def test_relative_targets_are_below_the_workdir(bench: Bench) -> None:
    bench.file("a", "a")
    result = bench.build("FROM base:1\nWORKDIR /w\nCOPY a .\nCOPY a b/\nCOPY a ../up")
    assert result.stack.names("/w") == ["a", "b"]
    assert result.text("/up") == "a"


def test_context_owners_do_not_count_and_stage_owners_do(bench: Bench) -> None:
    os.chown(bench.file("a", "a"), 1234, 5678)
    result = bench.build(
        "FROM base:1 AS one\nRUN touch /f && chown app:staff /f && chmod 4711 /f\nFROM base:1\n"
        "COPY a /a\nCOPY --from=one /f /f"
    )
    assert result.mode("/a") == "0644 0:0"
    assert result.mode("/f") == "4711 7:50"


@pytest.mark.parametrize(
    ("flag", "wanted"),
    [
        ("app", "7:8"),
        ("app:staff", "7:50"),
        ("11", "11:11"),
        ("11:12", "11:12"),
        ("app:77", "7:77"),
        (":", "7:8"),
    ],
)
def test_chown(bench: Bench, flag: str, wanted: str) -> None:
    """Names are those of the image; directories that are made belong to the same."""
    bench.file("d/a")
    if flag == ":":
        flag = "$WHO"
    result = bench.build(f"FROM base:1\nENV WHO=app\nCOPY --chown={flag} d /new/d")
    for path in ("/new", "/new/d", "/new/d/a"):
        assert result.mode(path).split()[1] == wanted


@pytest.mark.parametrize(
    ("flag", "file", "directory"),
    [
        ("640", "0640", "0640"),
        ("0755", "0755", "0755"),
        ("u=rwX,go=rX", "0644", "0755"),
        ("go-r,+x", "0711", "0711"),
    ],
)
def test_chmod(bench: Bench, flag: str, file: str, directory: str) -> None:
    bench.file("d/s/a")
    result = bench.build(f"FROM base:1\nCOPY --chmod={flag} d /t")
    assert result.mode("/t/s/a").split()[0] == file
    assert result.mode("/t/s").split()[0] == directory
    assert result.mode("/t").split()[0] == "0755"


def test_globs_and_dockerignore(bench: Bench) -> None:
    for name in ("a1.txt", "a2.txt", "b.md", "sub/a3.txt", ".hidden.txt"):
        bench.file(name, name)
    result = bench.build(
        "FROM scratch\nCOPY a*.txt [b].m? /g/\nCOPY . /all\nCOPY none* /none/", ignore="a2*\nsub\n"
    )
    assert result.stack.names("/g") == ["a1.txt", "b.md"]
    assert result.stack.names("/all") == [".hidden.txt", "a1.txt", "b.md"]
    with pytest.raises(BuildError, match=r"excluded by \.dockerignore"):
        bench.build("FROM scratch\nCOPY sub/a3.txt /", ignore="sub\n")
    kept = bench.build("FROM scratch\nCOPY . /", ignore="*\n!sub/a3.txt\n")
    assert kept.layer_names() == ["sub", "sub/a3.txt"]


def test_several_files_need_a_directory(bench: Bench) -> None:
    bench.file("a1")
    bench.file("a2")
    with pytest.raises(BuildError, match=r"cannot copy 2 files to /x: it is no directory; write /x/"):
        bench.build("FROM scratch\nCOPY a* /x")
    with pytest.raises(BuildError, match="the destination must be a directory and end with a /"):
        bench.build("FROM scratch\nCOPY a1 a2 /x")


def test_exclude_and_parents(bench: Bench) -> None:
    for name in ("src/a/x.c", "src/a/x.o", "src/b/y.c", "top.c"):
        bench.file(name, name)
    result = bench.build(
        "FROM scratch\nCOPY --exclude=**/*.o --exclude=b src /e\nCOPY --parents src/*/*.c top.c /p/\n"
        "COPY --parents src/./a/x.c /q\nCOPY --parents src/**/*.o /r/"
    )
    assert [name for name in result.layer_names(0) if name.endswith((".c", ".o"))] == ["e/a/x.c"]
    assert result.stack.names("/e") == ["a"]
    assert [n for n in result.layer_names(1) if n.endswith(".c")] == ["p/src/a/x.c", "p/src/b/y.c", "p/top.c"]
    assert result.layer_names(2) == ["q", "q/a", "q/a/x.c"]
    assert result.layer_names(3) == ["r", "r/src", "r/src/a", "r/src/a/x.o"]


def test_link_makes_a_layer_that_knows_nothing_below(bench: Bench) -> None:
    """Links of the base are not followed, and the layer stays when the base changes."""
    bench.file("a", "a")
    result = bench.build(
        "FROM base:1 AS l\nRUN mkdir /real && ln -s /real /via\nFROM l\nCOPY a /via/1\n"
        "COPY --link a /linked/2"
    )
    assert result.layer_names(-2) == ["real", "real/1"]
    again = bench.build("FROM base:1\nRUN touch /changed\nCOPY --link a /linked/2")
    assert again.ran == ["RUN touch /changed"]
    assert again.image.diff_ids[-1] == result.image.diff_ids[-1]


def test_heredocs_become_files(bench: Bench) -> None:
    result = bench.build(
        'FROM base:1\nENV A=b\nCOPY --chmod=700 --chown=app <<one <<"two" /d/\n'
        "$A \"quoted\" 'x' ${A:-c}\none\n$A\ntwo\n"
        "COPY <<-EOF /tabs\n\t\ttext\n\tEOF\n"
    )
    assert result.text("/d/one") == "b \"quoted\" 'x' b\n"
    assert result.text("/d/two") == "$A\n"
    assert result.mode("/d/one") == "0700 7:8"
    assert result.text("/tabs") == "text\n"


def test_links_inside_a_directory_stay_and_a_named_one_is_followed(bench: Bench) -> None:
    bench.file("real/f", "f")
    (bench.context / "real" / "link").symlink_to("f")
    (bench.context / "real" / "dangling").symlink_to("/nowhere")
    (bench.context / "named").symlink_to("real/f")
    (bench.context / "dir").symlink_to("real")
    result = bench.build("FROM scratch\nCOPY real /r/\nCOPY named /\nCOPY dir /d/")
    entry = result.entry("/r/link")
    assert entry is not None
    assert os.readlink(entry.path) == "f"
    assert result.text("/named") == "f"
    assert result.stack.names("/d") == ["dangling", "f", "link"]


@pytest.mark.parametrize(
    "source", ["../outside", "/../outside", "sub/../../outside", "out", "outdir/outside", "abs"]
)
def test_nothing_outside_of_the_context_is_copied(bench: Bench, source: str) -> None:
    """`..` ends at the context's root, and links lead within it only."""
    outside = bench.context.parent / "outside"
    outside.write_text("SECRET")
    (bench.context / "out").symlink_to("../outside")
    (bench.context / "outdir").symlink_to("..")
    (bench.context / "abs").symlink_to(outside)
    with pytest.raises(BuildError, match="not found"):
        bench.build(f"FROM scratch\nCOPY {source} /x")
    whole = bench.build("FROM scratch\nCOPY . /")
    assert all(
        "SECRET" not in whole.text(f"/{name}")
        for name in whole.layer_names()
        if not (whole.entry(f"/{name}").is_link)
    )  # type: ignore[union-attr]
    assert whole.stack.names("/") == ["abs", "out", "outdir"]


def test_links_of_the_image_do_not_lead_out_of_it(bench: Bench, tmp_path: Path) -> None:
    bench.file("a", "evil")
    victim = tmp_path / "victim"
    victim.mkdir()
    result = bench.build(
        f"FROM base:1\nRUN ln -s {victim} /way && ln -s ../../../../..{victim} /way2\n"
        f"COPY a /way/a\nCOPY a /way2/b"
    )
    assert list(victim.iterdir()) == []
    assert result.text(f"{victim}/a") == "evil"


def test_what_may_replace_what(bench: Bench) -> None:
    bench.file("f", "new")
    bench.file("d/in", "in")
    result = bench.build(
        "FROM base:1\nRUN touch /f && mkdir /d && touch /d/old && chmod 700 /d && ln -s /f /l\n"
        "COPY f /f\nCOPY f /l\nCOPY d /d"
    )
    assert result.text("/f") == "new"
    assert result.entry("/l") is not None
    assert not result.entry("/l").is_link  # type: ignore[union-attr]
    assert result.stack.names("/d") == ["in", "old"]
    assert result.mode("/d") == "0700 0:0"
    bench.file("tree/etc/passwd/x")
    with pytest.raises(BuildError, match="cannot copy to non-directory: /etc/passwd"):
        bench.build("FROM base:1\nCOPY tree /")
    bench.file("tree2/etc")
    with pytest.raises(BuildError, match="cannot copy file over the directory /etc"):
        bench.build("FROM base:1\nCOPY tree2 /")


def test_attributes_and_hard_links(bench: Bench) -> None:
    capability = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    os.setxattr(bench.file("prog"), "security.capability", capability)
    result = bench.build(
        "FROM base:1 AS one\nRUN echo x > /h1 && ln /h1 /h2 && mkdir /h && mv /h1 /h2 /h\n"
        "FROM scratch\nCOPY prog /\nCOPY --from=one /h /h"
    )
    entry = result.entry("/prog")
    assert entry is not None
    assert os.getxattr(entry.path, "security.capability") == capability
    one, two = result.entry("/h/h1"), result.entry("/h/h2")
    assert one is not None and two is not None
    assert one.status.st_ino == two.status.st_ino


def test_a_file_that_changes_while_it_is_read_is_noticed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the cache would hold one content under the other's key."""
    path = bench.file("f", "first")
    from supervisor.image.builder import copying

    class Sly(copying.Copier):
        def run(self, taken: object) -> None:  # type: ignore[override]
            path.write_text("other")
            os.utime(path, ns=(0, 0))
            super().run(taken)  # type: ignore[arg-type]

    monkeypatch.setattr(copying, "Copier", Sly)
    with pytest.raises(BuildError, match="changed while the build was reading it"):
        bench.build("FROM scratch\nCOPY f /f")


# --- ADD -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "named.otherwise"])
def test_local_archives_are_unpacked_by_content(bench: Bench, kind: str) -> None:
    plain = archive(("d", None), ("d/f", "text"), uid=7)
    data = {
        "tar.gz": lambda: gzip.compress(plain),
        "tar.bz2": lambda: __import__("bz2").compress(plain),
        "tar.xz": lambda: __import__("lzma").compress(plain),
        "tar.zst": lambda: __import__("zstandard").compress(plain),
    }.get(kind, lambda: plain)()
    bench.file(f"x.{kind}", data)
    result = bench.build(
        f"FROM base:1\nADD x.{kind} /t\nADD --unpack=false x.{kind} /raw\nCOPY x.{kind} /copied"
    )
    assert result.text("/t/d/f") == "text"
    assert result.mode("/t/d/f") == "0640 7:0"
    assert Path(result.entry("/raw").path).read_bytes() == data  # type: ignore[union-attr]
    assert Path(result.entry("/copied").path).read_bytes() == data  # type: ignore[union-attr]


def test_what_is_no_archive_is_copied(bench: Bench) -> None:
    bench.file("x.tar", "not a tar")
    bench.file("y.gz", gzip.compress(b"only text"))
    bench.file("empty.tar", b"")
    result = bench.build("FROM scratch\nADD x.tar y.gz empty.tar /d/")
    assert result.stack.names("/d") == ["empty.tar", "x.tar", "y.gz"]


def test_a_hostile_archive_stays_inside(bench: Bench, tmp_path: Path) -> None:
    bench.file("x.tar", archive(("../../evil", "x")))
    with pytest.raises(BuildError, match="leaves the root"):
        bench.build("FROM scratch\nADD x.tar /d/")
    assert not list(tmp_path.rglob("evil"))


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(directory))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_urls_with_and_without_a_checksum(bench: Bench, tmp_path: Path) -> None:
    data = archive(("f", "remote"))
    (tmp_path / "x.tar").write_bytes(data)
    good = hashlib.sha256(data).hexdigest()
    with serving(tmp_path) as url:
        dockerfile = (
            f"FROM base:1\nADD --checksum=sha256:{good} {url}/x.tar /\n"
            f"ADD --unpack=true --chown=app {url}/x.tar /u/"
        )
        result = bench.build(dockerfile)
        assert result.mode("/x.tar") == "0600 0:0"
        assert result.text("/u/f") == "remote"
        assert len(bench.build(dockerfile).cached) == 2
        with pytest.raises(BuildError, match=f"its digest is sha256:{good}, and not sha256:0000"):
            bench.build(f"FROM base:1\nADD --checksum=sha256:{'0' * 64} {url}/x.tar /")
        with pytest.raises(BuildError, match="the server says 404"):
            bench.build(f"FROM base:1\nADD {url}/none /")


@contextlib.contextmanager
def git_server(directory: Path) -> Iterator[str]:
    """The repositories of a directory by git's own protocol, on loopback; the address."""
    command = ["git", "daemon", "--inetd", "--export-all", f"--base-path={directory}", str(directory)]

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            end = self.request.fileno()
            subprocess.run(command, stdin=end, stdout=end, stderr=subprocess.DEVNULL, check=False)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"git://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.skipif(shutil.which("git") is None, reason="no git on this machine")
def test_git_repositories(bench: Bench, tmp_path: Path) -> None:
    repository = tmp_path / "r.git"
    repository.mkdir()

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=n", "-c", "user.email=e", *arguments]
        return subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True).stdout

    git("init", "-q", "-b", "main")
    (repository / "sub").mkdir()
    (repository / "sub" / "f").write_text("one")
    git("add", ".")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD").strip()
    git("tag", "v1")
    (repository / "sub" / "f").write_text("two")
    git("commit", "-qam", "two")
    with git_server(tmp_path) as server:
        url = f"{server}/r.git"
        result = bench.build(
            f"FROM scratch\nADD {url}#v1:sub /one/\nADD --keep-git-dir {url} /two/\n"
            f"ADD --checksum={commit} {url}#v1 /c/"
        )
        assert result.text("/one/f") == "one"
        assert result.stack.names("/two") == [".git", "sub"]
        assert result.text("/two/sub/f") == "two"
        with pytest.raises(BuildError, match="its commit is"):
            bench.build(f"FROM scratch\nADD --checksum={commit} {url} /c/")


@pytest.mark.skipif(shutil.which("git") is None, reason="no git on this machine")
@pytest.mark.parametrize("scheme", ["file", "git"])
def test_a_repository_of_add_is_none_of_the_host_and_its_ref_no_option(
    bench: Bench, tmp_path: Path, scheme: str
) -> None:
    """git runs the program of `--upload-pack` on the host; ADD of file:// would copy what is not given."""
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "r.git")], check=True)
    program, mark = tmp_path / "program", tmp_path / "was-run"
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    with git_server(tmp_path) as server:
        url = f"file://{tmp_path}/r.git" if scheme == "file" else f"{server}/r.git"
        with pytest.raises(BuildError, match=r"no repository of the host|does not begin with -"):
            bench.build(f"FROM scratch\nADD {url}#--upload-pack={program} /x/")
        assert not mark.exists()
        if scheme == "file":
            with pytest.raises(BuildError, match="no repository of the host"):
                bench.build(f"FROM scratch\nADD {url} /x/")
