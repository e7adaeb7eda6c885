"""What a rebuild takes from the cache, and what makes it build anew: one test for each rule."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import BUSYBOX, Bench

from supervisor.image.builder import digests
from supervisor.image.builder.cache import StepCache
from supervisor.image.builder.request import Secret

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(BUSYBOX is None, reason="no busybox on this machine; apt-get install busybox-static"),
]

DOCKERFILE = """FROM base:1
ARG ONE=1
LABEL a=1
WORKDIR /app
COPY f .
RUN echo a > /a
ENV VALUE=1
RUN echo $VALUE > /b
"""
ALL = ["WORKDIR /app", "COPY f .", "RUN echo a > /a", "RUN echo $VALUE > /b"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(str(tmp_path / "b"))
    made.add_base()
    made.file("f", "content")
    yield made
    assert made.leftovers() == []


def rebuilt(bench: Bench, dockerfile: str = DOCKERFILE, **request: object) -> list[str]:
    """The steps that were carried out."""
    return bench.build(dockerfile, **request).ran


def test_nothing_changed_nothing_is_built(bench: Bench) -> None:
    """And the image is the same one."""
    first = bench.build(DOCKERFILE)
    second = bench.build(DOCKERFILE)
    assert (first.ran, second.ran) == (ALL, [])
    assert first.image.id == second.image.id


def test_times_inodes_and_owners_of_the_context_do_not_count(bench: Bench) -> None:
    first = bench.build(DOCKERFILE)
    os.utime(bench.context / "f", (1, 1))
    assert rebuilt(bench) == []
    (bench.context / "f").unlink()
    os.chown(bench.file("f", "content"), 12, 34)
    second = bench.build(DOCKERFILE)
    assert second.ran == []
    assert second.image.id == first.image.id


def test_content_counts_from_that_line_on(bench: Bench) -> None:
    bench.build(DOCKERFILE)
    bench.file("f", "CONTENT")
    assert rebuilt(bench) == ALL[1:]
    bench.file("f", "content")
    assert rebuilt(bench) == []


def test_modes_attributes_and_names_count(bench: Bench) -> None:
    dockerfile = "FROM base:1\nCOPY . /d/"
    bench.build(dockerfile)
    (bench.context / "f").chmod(0o755)
    assert rebuilt(bench, dockerfile) == ["COPY . /d/"]
    (bench.context / "f").chmod(0o644)
    assert rebuilt(bench, dockerfile) == []
    os.setxattr(bench.context / "f", "user.x", b"1")
    assert rebuilt(bench, dockerfile) == ["COPY . /d/"]
    os.removexattr(bench.context / "f", "user.x")
    (bench.context / "f").rename(bench.context / "g")
    assert rebuilt(bench, dockerfile) == ["COPY . /d/"]


def test_what_is_not_copied_does_not_count(bench: Bench) -> None:
    bench.build(DOCKERFILE)
    bench.file("other", "x")
    assert rebuilt(bench) == []
    whole = "FROM base:1\nCOPY . /d/"
    bench.build(whole, ignore="other\n")
    bench.file("other", "y")
    assert rebuilt(bench, whole, ignore="other\n") == []


def test_the_text_of_a_run_counts(bench: Bench) -> None:
    bench.build(DOCKERFILE)
    assert rebuilt(bench, DOCKERFILE.replace("echo a >", "echo  a >")) == ["RUN echo a > /a"]


def test_an_environment_counts_for_runs_behind_it(bench: Bench) -> None:
    bench.build(DOCKERFILE)
    assert rebuilt(bench, DOCKERFILE.replace("VALUE=1", "VALUE=2")) == [ALL[3]]
    assert rebuilt(bench, DOCKERFILE.replace("WORKDIR /app", "ENV X=y\nWORKDIR /app")) == ALL[2:]


def test_labels_and_commands_change_the_image_and_no_layer(bench: Bench) -> None:
    first = bench.build(DOCKERFILE)
    second = bench.build(DOCKERFILE.replace("a=1", "a=2") + 'CMD ["x"]\nEXPOSE 80\n')
    assert second.ran == []
    assert second.image.diff_ids == first.image.diff_ids
    assert second.image.id != first.image.id


def test_an_argument_counts_for_runs_behind_its_line(bench: Bench) -> None:
    """Not for COPY, as in BuildKit; and one that no ARG names counts for nothing."""
    bench.build(DOCKERFILE)
    assert rebuilt(bench, args=(("ONE", "2"),)) == ALL[2:]
    assert rebuilt(bench, args=(("HTTP_PROXY", "http://p"),)) == []
    assert rebuilt(bench, args=(("UNKNOWN", "x"),)) == []


def test_the_user_and_the_working_directory_count_for_runs(bench: Bench) -> None:
    dockerfile = "FROM base:1\nUSER root\nRUN pwd > /x"
    bench.build(dockerfile)
    assert rebuilt(bench, dockerfile.replace("root", "0:0")) == ["RUN pwd > /x"]
    assert rebuilt(bench, dockerfile.replace("RUN", "WORKDIR /etc\nRUN"))[-1] == "RUN pwd > /x"


def test_the_flags_of_a_copy_count(bench: Bench) -> None:
    bench.build("FROM base:1\nCOPY f /f")
    assert rebuilt(bench, "FROM base:1\nCOPY --chmod=600 f /f") != []
    assert rebuilt(bench, "FROM base:1\nCOPY --chown=app f /f") != []
    assert rebuilt(bench, "FROM base:1\nCOPY f /g") != []


def test_another_base_builds_everything(bench: Bench) -> None:
    bench.build(DOCKERFILE)
    from building import root_archive

    bench.add_base("base:1", root_archive(etc__new="x"))
    assert rebuilt(bench) == ALL
    # The same root under another name is the same.
    bench.add_base("same:1", root_archive(etc__new="x"))
    assert rebuilt(bench, DOCKERFILE.replace("base:1", "same:1")) == []


def test_a_stage_that_comes_out_the_same_builds_nothing_more(bench: Bench) -> None:
    """What is copied from a stage counts, not how the stage came about."""
    dockerfile = (
        "FROM base:1 AS s\nRUN echo x > /x\nFROM base:1\nCOPY --from=s /x /\n"
        "RUN --mount=from=s,target=/m cat /m/x\n"
    )
    bench.build(dockerfile)
    assert rebuilt(bench, dockerfile) == []
    changed = dockerfile.replace("> /x\n", "> /x; echo y > /y\n")
    assert rebuilt(bench, changed) == [
        "RUN echo x > /x; echo y > /y",
        "RUN --mount=from=s,target=/m cat /m/x",
    ]
    assert rebuilt(bench, changed) == []


def test_bind_mounts_count_and_caches_and_secrets_do_not(bench: Bench, tmp_path: Path) -> None:
    secret = tmp_path / "s"
    secret.write_text("1")
    dockerfile = (
        "FROM base:1\nRUN --mount=target=/src,source=f cat /src\n"
        "RUN --mount=type=cache,target=/c --mount=type=secret,id=s echo >> /c/x; cat /run/secrets/s\n"
    )
    bench.build(dockerfile, secrets=(Secret("s", str(secret)),))
    secret.write_text("2")
    assert rebuilt(bench, dockerfile, secrets=(Secret("s", str(secret)),)) == []
    assert rebuilt(bench, dockerfile) == []
    bench.file("f", "other")
    assert len(rebuilt(bench, dockerfile)) == 1


def test_no_cache_for_all_and_for_one_stage(bench: Bench) -> None:
    bench.build(DOCKERFILE)
    assert rebuilt(bench, no_cache=True) == ALL
    two = "FROM base:1 AS one\nRUN echo 1 > /1\nFROM base:1\nRUN echo 2 > /2\nCOPY --from=one /1 /\n"
    bench.build(two)
    assert rebuilt(bench, two, no_cache_stages=("one",)) == ["RUN echo 1 > /1"]


def test_another_epoch_is_another_build(bench: Bench) -> None:
    """Files have that time, so they are others."""
    bench.build(DOCKERFILE)
    result = bench.build(DOCKERFILE, epoch_s=1_000_000_000)
    assert result.ran == ALL
    assert result.image.config.created == "2001-09-09T01:46:40Z"
    assert rebuilt(bench, args=(("SOURCE_DATE_EPOCH", "1000000000"),)) == []


def test_layers_that_are_gone_are_forgotten(bench: Bench) -> None:
    """Whoever removed them."""
    result = bench.build(DOCKERFILE)
    shutil.rmtree(Path(bench.store.layers.directory(result.image.diff_ids[-1])).parent)
    assert rebuilt(bench) == [ALL[3]]


def test_prune_keeps_what_the_cache_stands_on_unless_it_is_forgotten(bench: Bench) -> None:
    result = bench.build(DOCKERFILE)
    bench.store.untag(result.image.names[0])
    cache = StepCache(bench.store.root, bench.store.layers)
    bench.store.prune(dangling=True, used=lambda _: False, kept_layers=cache.kept_layers())
    assert rebuilt(bench) == []
    bench.store.untag(result.image.names[0])
    assert cache.forget() > 0
    bench.store.prune(dangling=True, used=lambda _: False, kept_layers=cache.kept_layers())
    assert rebuilt(bench) == ALL


def test_a_damaged_cache_is_no_cache(bench: Bench) -> None:
    bench.build(DOCKERFILE)
    steps = Path(bench.store.root, "build", "steps")
    for path in steps.iterdir():
        path.write_text("rubbish")
    Path(bench.store.root, "build", "files").write_bytes(b"rubbish")
    assert rebuilt(bench) == ALL
    assert rebuilt(bench) == []


def test_a_cached_rebuild_reads_no_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        path = bench.file(f"many/{number}", str(number))
    read: list[bytes] = []
    real = digests.FileDigests._read

    def counting(self: digests.FileDigests, fd: int) -> bytes:
        read.append(real(self, fd))
        return read[-1]

    monkeypatch.setattr(digests.FileDigests, "_read", counting)
    while time.time_ns() - path.stat().st_ctime_ns <= digests._SETTLED_NS:
        pass  # a file that has just been written could change again within one tick
    dockerfile = "FROM base:1\nCOPY many /many"
    bench.build(dockerfile)
    assert len(read) == 50
    read.clear()
    assert rebuilt(bench, dockerfile) == []
    assert read == []
