"""Links of the kernel, in a network namespace of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from supervisor.kernel import netns
from supervisor.kernel.links import Links

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[ThreadPoolExecutor]:
    """A thread in a namespace of its own, which is gone with it."""
    path = str(tmp_path / "netns")
    with ThreadPoolExecutor(1) as thread:
        thread.submit(netns.create, path).result()
        thread.submit(netns.enter, path).result()
        try:
            yield thread
        finally:
            netns.remove(path)


def shown(*words: str) -> list[dict[str, Any]]:
    said = subprocess.run(["ip", "-j", *words], check=True, capture_output=True, text=True).stdout
    found: list[dict[str, Any]] = json.loads(said or "[]")
    return [row for row in found if row]


def test_links_that_go_together_take_no_other_along(host: ThreadPoolExecutor) -> None:
    """One in another group and those in the default group stay; a missing one does not matter."""

    def work() -> tuple[set[str], set[str]]:
        for number in range(4):
            subprocess.run(["ip", "link", "add", f"v{number}", "type", "veth"], check=True)
        subprocess.run(["ip", "link", "set", "v3", "group", "77"], check=True)
        links = Links()
        try:
            links.delete(["v0", "v1", "nobody"])
            several = links.all().keys() & {"v0", "v1", "v2", "v3"}
            links.delete(["v2"])
            links.delete(["nobody"])
            return set(several), links.all().keys() & {"v2", "v3", "lo"}
        finally:
            links.close()

    assert host.submit(work).result() == ({"v2", "v3"}, {"v3", "lo"})


def test_a_link_is_made_in_its_bridge(host: ThreadPoolExecutor, tmp_path: Path) -> None:
    inner = str(tmp_path / "inner")

    def work() -> tuple[dict[str, Any], dict[str, Any], int, int]:
        netns.create(inner)
        links = Links()
        try:
            bridge = links.add_bridge("br", "ours", 1400)
            assert links.add_bridge("br", "ours", 1400) == bridge
            links.up(bridge)
            with netns.entered(inner) as namespace:
                # The numbers are the host's wherever the thread is.
                links.add_veth("host0", "the alias", bridge, "eth0", "02:42:00:00:00:05", 1400, namespace)
                (there,) = shown("link", "show", "eth0")
                number = links.number("host0")
            (here,) = shown("-d", "link", "show", "host0")
            return here, there, number, links.number("eth0")
        finally:
            links.close()
            netns.remove(inner)

    here, there, number, stranger = host.submit(work).result()
    assert (here["master"], here["ifalias"], here["mtu"], here["ifindex"]) == (
        "br",
        "the alias",
        1400,
        number,
    )
    assert "UP" in here["flags"]
    assert here["linkinfo"]["info_slave_data"]["hairpin"] is True
    assert (there["address"], there["mtu"]) == ("02:42:00:00:00:05", 1400)
    assert stranger == 0
