"""The same inputs give the same image, to the last byte, whatever else is different."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from building import BUSYBOX, Bench

from supervisor.core.reference import parse_reference
from supervisor.image.builder.bases import LocalBases
from supervisor.image.builder.request import BuildRequest
from supervisor.image.builder.verify import Verified, verify
from supervisor.runtime.buildrun import LauncherRunner

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(BUSYBOX is None, reason="no busybox on this machine; apt-get install busybox-static"),
]

DOCKERFILE = """FROM base:1 AS one
RUN mkdir -p /made/here && echo one > /made/here/f && touch /etc/new && rm -r /root
FROM base:1
WORKDIR /app/deep
COPY tree ./tree
COPY --from=one /made /made
ADD --chown=app tree/a /b/
RUN --mount=type=cache,target=/cache umask > mask; find tree > /order
RUN ls -l /etc/passwd > /times; touch /etc/x
RUN --mount=target=/src ls -lR /src > /mounted; env | sort > /env; rm /app/deep/tree/b
COPY --link <<EOF /here
text
EOF
VOLUME /v
CMD ["sh"]
"""
NAMES = ("a", "b", "c/d", "c/e")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(str(tmp_path / "b"))
    made.add_base()
    yield made
    assert made.leftovers() == []


def fill(bench: Bench, names: tuple[str, ...], time_s: int, owner: int) -> None:
    for name in names:
        path = bench.file(f"tree/{name}", f"content of {name}")
        os.chown(path, owner, owner)
        os.utime(path, (time_s, time_s))
    for directory in ("tree", "tree/c"):
        (bench.context / directory).chmod(0o755)
        os.utime(bench.context / directory, (time_s, time_s))


def next_second() -> None:
    """Times in a layer are whole seconds: two builds within one would prove nothing."""
    now = int(time.time())
    while int(time.time()) == now:
        time.sleep(0.01)


def test_other_clocks_paths_umasks_users_and_orders(bench: Bench, tmp_path: Path) -> None:
    """Another store on another path, too, so nothing is taken from a cache."""
    fill(bench, NAMES, 1_700_000_000, 0)
    first = bench.build(DOCKERFILE)
    next_second()
    other = Bench(str(tmp_path / "q"))
    other.add_base()
    umask = os.umask(0o077)
    try:
        fill(other, tuple(reversed(NAMES)), 1_200_000_000, 1000)
        second = other.build(DOCKERFILE)
    finally:
        os.umask(umask)
    assert second.image.diff_ids == first.image.diff_ids
    assert (second.image.id, second.image.manifest_digest) == (first.image.id, first.image.manifest_digest)


def test_with_and_without_the_cache(bench: Bench) -> None:
    fill(bench, NAMES, 1_700_000_000, 0)
    first = bench.build(DOCKERFILE)
    next_second()
    assert bench.build(DOCKERFILE, no_cache=True).image.id == first.image.id
    (bench.context / "tree" / "b").write_text("changed")
    assert bench.build(DOCKERFILE).image.id != first.image.id
    fill(bench, NAMES, 1_800_000_000, 0)
    assert bench.build(DOCKERFILE).image.id == first.image.id


def test_nothing_of_the_machine_is_in_the_image(bench: Bench) -> None:
    fill(bench, NAMES, 1_700_000_000, 0)
    result = bench.build(DOCKERFILE)
    config = str(result.image.config)
    for text in (os.uname().nodename, bench.base, str(time.gmtime().tm_year)):
        assert text not in config
        assert text not in result.text("/env")


def test_times_are_of_the_base_or_as_told(bench: Bench) -> None:
    """And a step learns of it, so that what it writes can be of that time, too."""
    result = bench.build("FROM base:1\nRUN touch /f && echo $SOURCE_DATE_EPOCH > /e")
    assert result.text("/e") == "315619200\n"
    assert result.image.config.created == "1980-01-02T00:00:00Z"
    told = bench.build(
        "FROM base:1\nRUN touch /f && mkdir /d && touch -t 200001010000.00 /old", epoch_s=1_500_000_000
    )
    for path, wanted in (("/f", 1_500_000_000), ("/d", 1_500_000_000), ("/old", 946_684_800)):
        entry = told.entry(path)
        assert entry is not None
        assert entry.status.st_mtime == wanted
    ours = {row.created for row in told.image.config.history if row.comment == "shipkeeper"}
    assert ours == {"2017-07-14T02:40:00Z"}


# --- verify ----------------------------------------------------------------------------------------------
def verified(bench: Bench, dockerfile: str) -> Verified:
    async def run() -> Verified:
        request = BuildRequest(
            dockerfile.encode(), context=str(bench.context), names=(parse_reference("verified:1"),)
        )
        runner = LauncherRunner(bench.paths)
        try:
            return await verify(request, bench.store, LocalBases(bench.store), runner, lambda _: None)
        finally:
            await runner.close()

    return asyncio.run(run())


def test_verify_says_that_both_are_the_same(bench: Bench) -> None:
    fill(bench, NAMES, 1_700_000_000, 0)
    found = verified(bench, DOCKERFILE)
    assert found.same
    assert bench.store.find("verified:1").id == found.first.id == found.second.id


@pytest.mark.parametrize(
    ("step", "path", "difference"),
    [
        ("RUN echo fine > /a; date +%s > /now; echo > /z", "/now", "content differs from byte"),
        ("RUN cat /proc/sys/kernel/random/uuid > /u", "/u", "content differs from byte"),
        ("RUN mkdir /d && touch /d/$(cat /proc/sys/kernel/random/uuid)", "/d/", "only in the"),
        ("RUN ln -s $(cat /proc/sys/kernel/random/uuid) /link", "/link", "it leads to"),
    ],
)
def test_verify_names_the_file_and_the_step(bench: Bench, step: str, path: str, difference: str) -> None:
    found = verified(bench, f"FROM base:1\nRUN echo same > /same\n{step}\nRUN date > /later\n")
    assert not found.same
    assert found.path.startswith(path)
    assert difference in found.difference
    assert step.removeprefix("RUN ") in found.step
    assert [image.id for image in bench.store.images() if image.id == found.second.id] == []
