"""Images as other builders make them of the same Dockerfile and base: buildah's and dockerd's, file by file.

Known differences are taken out where they are listed, each with its reason; everything else is the same.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from dockers import PrivateDockerd

from supervisor.core.reference import parse_reference
from supervisor.image.layerstack import LayerStack
from supervisor.image.load import load_archive
from supervisor.image.save import save_archive
from supervisor.image.store import Image, ImageStore

sys.path.append(str(Path(__file__).parents[1] / "kernel"))
from building import BUSYBOX, Bench, root_archive

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(BUSYBOX is None, reason="no busybox on this machine; apt-get install busybox-static"),
]

# Other builders leave what they mount for a step; with these in the base there is nothing to leave.
STUBS = dict.fromkeys(
    ("etc__hosts", "etc__hostname", "etc__resolv.conf", "dev__x", "proc__x", "sys__x", "run__x"), ""
)

DOCKERFILES = {
    "copies": r"""
COPY a /a
COPY d /d
COPY d/x* /globbed/
COPY a d /both/
COPY --chown=app:staff a /mine
COPY --chown=11:12 d /ids
COPY link /followed
""",
    "commands": r"""
CMD old
ENTRYPOINT ["e"]
CMD ["c", "d"]
SHELL ["/bin/sh", "-ec"]
ENV A=b C="d e"
ENV F g h
STOPSIGNAL SIGUSR1
USER app:staff
EXPOSE 80 53/udp
VOLUME /v1 /v2
LABEL x=y z='q r'
""",
    "health": r"""
HEALTHCHECK --interval=7s --timeout=2s --retries=5 CMD test -f /x
ONBUILD RUN true
""",
    "shell form": r"""
ENTRYPOINT exec thing
CMD with args
""",
    "directories": r"""
WORKDIR /w
WORKDIR sub
RUN pwd > where
COPY a .
COPY a ../up/
ENV D=/other
WORKDIR $D
""",
    "writes": r"""
RUN mkdir -p /n/m && echo x > /n/m/f && chmod 4750 /n/m/f && chown app:staff /n/m && ln -s f /n/m/l
RUN rm -r /n/m && mkdir /n/m && touch /n/m/g
RUN rm /etc/group && mv /n /moved && ln /moved/m/g /hard
""",
    "variables": r"""
ARG ONE=1
ARG TWO
ENV T=${ONE:-x}${TWO:+set}${NONE:-none} U=$ONE
ENV ONE=env
RUN echo "$ONE $T $U" > /v
COPY ${U:+a} /from-$U
LABEL l="$T" m='$T'
""",
    "archives": r"""
ADD x.tar.gz /t/
COPY x.tar.gz /raw
ADD a /a
""",
    "links": r"""
RUN mkdir /real && ln -s real /via && ln -s /real /abs
COPY a /via/1
COPY d /abs/
""",
    "stages": r"""
RUN echo one > /one && chown app /one
FROM base:1
COPY --from=0 /one /etc/passwd /got/
USER 7
RUN id > /tmp/id
""",
    "users": r"""
USER app
RUN id > /tmp/id; umask > /tmp/umask
USER 50:50
RUN id > /tmp/id2
""",
    "environment": r"""
ENV Z=1
RUN set | grep -E '^(PATH|HOME|Z)=' > /env
""",
}
CONFIG = (
    "user", "env", "entrypoint", "cmd", "working_dir", "stop_signal", "shell", "on_build",
)  # fmt: skip


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    place = tempfile.mkdtemp(prefix="oracle-")
    made = Bench(place)
    made.add_base(archive=root_archive(**STUBS), env=["PATH=/usr/bin:/bin"], cmd=["sh"])
    made.file("a", "a")
    made.file("d/x1", "x1", 0o600)
    made.file("d/deep/y", "y", 0o755)
    (made.context / "d" / "l").symlink_to("x1")
    (made.context / "link").symlink_to("a")
    subprocess.run(["tar", "-C", str(made.context), "-czf", str(made.context / "x.tar.gz"), "d"], check=True)
    with open(f"{place}/base.tar", "wb") as out:
        base = made.store.find("base:1")
        save_archive(made.store, [(base, (parse_reference("base:1"),))], out.write)
    yield made
    shutil.rmtree(place)


def tree(store: ImageStore, image: Image) -> dict[str, tuple[Any, ...]]:
    stack = LayerStack(store.lowers(image))
    found: dict[str, tuple[Any, ...]] = {}

    def walk(path: str) -> None:
        for name in stack.names(path or "/"):
            inner = f"{path}/{name}"
            entry = stack.entry(inner)
            assert entry is not None
            status = entry.status
            content: Any = None
            if entry.is_link:
                content = os.readlink(entry.path)
            elif stat.S_ISREG(status.st_mode):
                content = Path(entry.path).read_bytes()[:200]
            mode = 0 if entry.is_link else stat.S_IMODE(status.st_mode)
            found[inner] = (stat.S_IFMT(status.st_mode), oct(mode), status.st_uid, status.st_gid, content)
            if entry.is_dir:
                walk(inner)

    walk("")
    return found


def said(image: Image) -> dict[str, Any]:
    process = image.config.config
    found: dict[str, Any] = {name: getattr(process, name) or None for name in CONFIG}
    found["ports"], found["volumes"] = sorted(process.exposed_ports or {}), sorted(process.volumes or {})
    labels = process.labels or {}
    own = ("org.opencontainers.image.base.", "io.buildah.")  # each builder's own note of what it did
    found["labels"] = {name: text for name, text in labels.items() if not name.startswith(own)}
    found["health"] = process.healthcheck
    return found


def compare(bench: Bench, name: str, archive: str) -> None:
    """Ours against the image in an archive that another builder wrote."""
    ours = bench.build(f"FROM base:1\n{DOCKERFILES[name]}")
    place = f"{bench.base}/other"
    os.mkdir(place)
    try:
        other = ImageStore(place)
        with open(archive, "rb") as stream:
            (theirs,) = load_archive(other, stream, archive, lambda _: None)
        left, right = tree(bench.store, ours.image), tree(other, theirs)
        assert {p: left[p] for p in left if left[p] != right.get(p)} == {
            p: right.get(p) for p in left if left[p] != right.get(p)
        }
        assert left.keys() == right.keys()
        assert said(ours.image) == said(theirs)
    finally:
        shutil.rmtree(place)


# --- buildah ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def buildah(bench: Bench) -> list[str]:
    if shutil.which("buildah") is None:
        pytest.skip("no buildah on this machine; apt-get install buildah")
    command = [
        "buildah",
        "--root",
        f"{bench.base}/ba",
        "--runroot",
        f"{bench.base}/bar",
        "--storage-driver",
        "vfs",
    ]
    subprocess.run(
        [*command, "pull", "-q", f"docker-archive:{bench.base}/base.tar"], check=True, capture_output=True
    )
    return command


@pytest.mark.parametrize("name", sorted(DOCKERFILES))
def test_as_buildah(bench: Bench, buildah: list[str], name: str) -> None:
    file = Path(bench.base, "Dockerfile")
    file.write_text(f"FROM base:1\n{DOCKERFILES[name]}")
    archive = f"{bench.base}/buildah.tar"
    build = ["build", "-q", "--isolation", "chroot", "--format", "docker", "-t", "out:1", "-f", str(file)]
    try:
        for arguments in (
            [*build, str(bench.context)],
            ["push", "-q", "out:1", f"docker-archive:{archive}:out:1"],
        ):
            done = subprocess.run([*buildah, *arguments], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        compare(bench, name, archive)
    finally:
        Path(archive).unlink(missing_ok=True)


# --- dockerd ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def dockerd(bench: Bench) -> Iterator[docker.APIClient]:
    if shutil.which("dockerd") is None:
        pytest.skip("no dockerd on this machine; apt-get install docker.io")
    place = Path(bench.base, "dd")
    place.mkdir()
    engine = PrivateDockerd(place)
    engine.start(live_restore=False)
    client = docker.APIClient(base_url=engine.address, timeout=120)
    try:
        list(client.load_image(Path(bench.base, "base.tar").read_bytes()))
        yield client
    finally:
        client.close()
        engine.stop()
        with contextlib.suppress(AttributeError):
            engine.close()


@pytest.mark.parametrize("name", sorted(DOCKERFILES))
def test_as_dockerd(bench: Bench, dockerd: docker.APIClient, name: str) -> None:
    Path(bench.context, "Dockerfile").write_text(f"FROM base:1\n{DOCKERFILES[name]}")
    archive = f"{bench.base}/docker.tar"
    try:
        rows = list(
            dockerd.build(path=str(bench.context), tag="out:1", network_mode="none", decode=True, rm=True)
        )
        assert not [row for row in rows if "error" in row], rows
        Path(bench.context, "Dockerfile").unlink()
        with open(archive, "wb") as out:
            out.writelines(dockerd.get_image("out:1"))
        compare(bench, name, archive)
    finally:
        Path(bench.context, "Dockerfile").unlink(missing_ok=True)
        Path(archive).unlink(missing_ok=True)
