"""`doctor` finds what a supervisor left that was killed and not started again, and removes that alone."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import leaks
import psutil
import pytest
from networking import ask, echo, free_port, networked, published
from supervising import Supervisor, supervising

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SHOP = """
name: shop
services:
  web: {command: sleep 1000, restart: always, networks: [front], volumes: ['data:/data', 'fast:/fast'],
    ports: ['80']}
  db: {command: sleep 1000, restart: always}
networks: {front: {driver_opts: {com.docker.network.bridge.name: BRIDGE}}}
volumes: {data: , fast: {driver_opts: {type: tmpfs, device: tmpfs}}}
"""
_STALE = ("file ", "directory ")


@pytest.fixture
def dead() -> Iterator[Supervisor]:
    """A supervisor all of whose processes were killed but the resolver, in the middle of its work."""
    with supervising() as made:
        made.compose(SHOP.replace("BRIDGE", f"skt{os.getpid()}"))
        made.ok("up", "-d")
        made.kill_all(but="resolver")
        yield made


def in_kernel(base: Path) -> list[str]:
    """What it has there; files of /run and data are no harm."""
    return [each for each in leaks.of_supervisor(base) if not each.startswith(_STALE)]


def lines(supervisor: Supervisor, *words: str) -> list[dict[str, str]]:
    said = supervisor.run("doctor", "--format", "json", *words).stdout
    return [json.loads(line) for line in said.splitlines()]


def fix(*of: Supervisor) -> tuple[str, ...]:
    """Of these alone: other tests on this host may be about to start theirs again."""
    whose = [word for each in of for word in (leaks.tag_of(each.base), f"{each.base}/run")]
    return ("--fix", *(word for each in whose for word in ("--only", each)))


def test_what_a_dead_one_left_is_found_and_removed_by_another(dead: Supervisor) -> None:
    """Seen by a supervisor of other directories, whose own services never notice."""
    left = in_kernel(dead.base)
    kinds = {each.split()[0] for each in left}
    assert kinds == {"link", "network", "table", "cgroup", "mount", "process"}, left
    with networked() as net:
        port = free_port()
        net.up(echo(ports=(published(port),)), echo("other"))
        checks = {line["name"]: line for line in lines(net.supervisor)}
        tagged = checks[f"dead supervisor {leaks.tag_of(dead.base)}"]
        assert tagged["status"] == "warn"
        assert "doctor --fix" in tagged["remedy"]
        tag = leaks.tag_of(dead.base)
        assert f"table shipkeeper_{tag}; program sk_lo6_{tag}; link " in tagged["detail"]
        assert "process" in checks[f"dead supervisor {dead.base}/run"]["detail"]
        assert f"dead supervisor {leaks.tag_of(net.supervisor.base)}" not in checks
        assert in_kernel(dead.base) == left, "looking changes nothing"
        own = in_kernel(net.supervisor.base)
        removed = [line for line in lines(net.supervisor, *fix(dead, net.supervisor)) if "removed" in line]
        kinds = {"process", "table", "program", "link", "mount", "cgroup"}
        assert {line["removed"] for line in removed} >= kinds
        assert [line for line in removed if line["problem"]] == []
        assert in_kernel(dead.base) == []
        assert not Path(f"/sys/class/net/skt{os.getpid()}").exists(), "its bridge by a name of its own, too"
        assert in_kernel(net.supervisor.base) == own
        assert ask("127.0.0.1", port) not in ("timeout", "Connection refused")
        again = lines(net.supervisor, *fix(dead, net.supervisor))
        assert not [line for line in again if "removed" in line]
    data = dead.base / "state" / "volumes" / "shop_data" / "_data"
    assert data.is_dir(), "what services wrote is nobody's to remove"
    dead.start()
    assert sorted(row["State"] for row in dead.rows()) == ["running", "running"]


def test_it_mends_its_own_when_it_is_not_running(dead: Supervisor) -> None:
    """The same directories: told by name, and gone."""
    assert in_kernel(dead.base)
    text = dead.run("doctor", *fix(dead)).stdout
    assert f"removed link skt{os.getpid()} of {leaks.tag_of(dead.base)}" in text
    assert in_kernel(dead.base) == []


def test_survivors_of_a_dead_daemon_are_left_alone() -> None:
    """The daemon, and then the launcher as well, was killed: services live, so nothing is a leftover."""
    with networked() as net:
        port = free_port()
        net.up(echo(ports=(published(port),)))
        own = in_kernel(net.supervisor.base)
        net.supervisor.kill()
        net.supervisor.run("doctor", *fix(net.supervisor))
        for process in leaks.processes(net.supervisor.base):
            with contextlib.suppress(psutil.NoSuchProcess):
                if "supervisor.resolver" not in " ".join(process.cmdline()):
                    process.kill()
                    process.wait()
        net.supervisor.run("doctor", *fix(net.supervisor))
        after = [each for each in in_kernel(net.supervisor.base) if not each.startswith("process")]
        assert after == [each for each in own if not each.startswith("process")]
        assert ask("127.0.0.1", port) not in ("timeout", "Connection refused")


def test_links_of_others_are_none_of_ours(dead: Supervisor) -> None:
    """A link that only looks like ours, without the word of ours in it."""
    name = f"sk{leaks.tag_of(dead.base)[:4]}bffffff"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    try:
        dead.run("doctor", *fix(dead))
        assert Path(f"/sys/class/net/{name}").exists()
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)
