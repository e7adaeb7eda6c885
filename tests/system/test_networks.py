"""Networks and ports on the real kernel, with other hosts as network namespaces beside this one."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest
from networking import BOTH, PYTHON, Networked, another_host, ask, echo, free_port, networked, published
from supervising import until

from supervisor.cli.errors import ApiError, UnreachableError
from supervisor.core.model import Project
from supervisor.core.network import Attachment, Network, Pool, Port

pytestmark = [pytest.mark.system, pytest.mark.kernel]


@pytest.fixture
def net() -> Iterator[Networked]:
    with networked() as made:
        yield made


def test_ports_are_reached_from_everywhere_and_the_source_is_kept(net: Networked) -> None:
    """From another host (v4, v6, tcp, udp), the host's loopback, a neighbour, and the service itself."""
    port = free_port()
    net.up(echo(ports=(published(port), published(port, protocol="udp"))), echo("other"))
    with another_host("out") as out:
        for kind in ("tcp", "udp"):
            assert ask(out["here"], port, kind, netns=out["netns"]) == out["there"]
            assert ask(out["here6"], port, kind, netns=out["netns"]) == out["there6"]
            pools = net.client.call("GET", f"/networks/{BOTH.name}")["IPAM"]["Config"]
            gateway, gateway6 = (pool["Gateway"] for pool in pools)
            assert ask("127.0.0.1", port, kind) == gateway
            assert ask("::1", port, kind) == gateway6
            assert ask(out["here"], port, kind) == out["here"], "the host by its own address"
            assert net.inside("other", out["here"], port, kind) == gateway, "a neighbour, by the host"
            assert net.inside("web", out["here"], port, kind) == gateway, "itself, by the host"
            assert net.inside("other", net.address("web"), 80, kind) == net.address("other")
            assert net.inside("other", net.address("web", v6=True), 80, kind) == net.address("other", v6=True)
        # Another host that knows the way is still no neighbour.
        assert ask(net.address("web"), 80, netns=out["netns"], patience_s=0.5) == "timeout"


def test_services_of_other_networks_are_strangers(net: Networked) -> None:
    """Isolation between networks, `internal`, and a service in two networks that reaches both."""
    inner = Network("inner", "net_inner", internal=True)
    third = Network("third", "net_third")
    net.up(
        echo("a"),
        echo("b", networks=(Attachment(third.name),)),
        echo("c", networks=(Attachment(inner.name),)),
        echo("d", networks=(Attachment(inner.name, priority=1), Attachment(third.name))),
        networks=(BOTH, inner, third),
    )
    with another_host("out") as out:
        served = subprocess.Popen(["ip", "netns", "exec", out["netns"], "python3", "-c", _SERVE])
        try:
            until(lambda: ask(out["there"], 99) == out["here"], "the other host listens")
            assert net.inside("a", out["there"], 99) == out["here"], "what goes out has the host's address"
            assert net.inside("c", out["there"], 99, patience_s=0.5) in _NO, "internal: no way out"
            assert net.inside("d", out["there"], 99) == out["here"], "by its other network"
        finally:
            served.kill()
            served.wait()
    assert net.inside("a", net.address("b", third.name), 80, patience_s=0.5) == "timeout"
    assert net.inside("b", net.address("a"), 80, patience_s=0.5) == "timeout"
    assert net.inside("b", net.address("c", inner.name), 80, patience_s=0.5) == "timeout"
    assert net.inside("d", net.address("c", inner.name), 80) == net.address("d", inner.name)
    assert net.inside("d", net.address("b", third.name), 80) == net.address("d", third.name)
    # The host's loopback is the host's, though an answer may come from there.
    assert net.inside("a", "127.0.0.1", 80) == "127.0.0.1", "its own"
    assert net.supervisor.ok("exec", "d", "ls", "/sys/class/net").split() == ["eth0", "eth1", "lo"]


_NO = ("timeout", "Network is unreachable")
_SERVE = """
import socket
s = socket.create_server(("", 99))
while True:
    c, peer = s.accept(); c.sendall(peer[0].encode()); c.close()
"""


def test_addresses_stay_over_every_kind_of_restart(net: Networked) -> None:
    """A death, a restart, a killed daemon, a removed neighbour; and static ones are what was asked for."""
    fixed = Network("fixed", "net_fixed", pools=(Pool("10.199.7.0/24", "10.199.7.254"),))
    static = Attachment("net_fixed", ipv4_address="10.199.7.77", mac_address="02:00:00:00:00:77")
    port = free_port()
    net.up(
        echo("a"),
        echo("b", networks=(static, Attachment(BOTH.name)), ports=(published(port),)),
        networks=(BOTH, fixed),
    )
    place = net.inspect("b")["NetworkSettings"]["Networks"]["net_fixed"]
    assert (place["IPAddress"], place["MacAddress"], place["Gateway"]) == (
        "10.199.7.77",
        "02:00:00:00:00:77",
        "10.199.7.254",
    )
    inside = net.supervisor.ok("exec", "b", "cat", "/sys/class/net/eth0/address", "/etc/hosts")
    assert "02:00:00:00:00:77" in inside
    assert "10.199.7.77\t" in inside
    before, links = net.address("b"), net.links()
    net.supervisor.ok("rm", "--force", "a")
    links = net.links()
    net.supervisor.ok("restart", "b")
    net.ready("b")
    assert net.address("b") == before
    assert net.links() == links, "no new pair"
    net.supervisor.kill()
    assert ask("127.0.0.1", port) != "timeout", "it serves while no daemon lives"
    net.supervisor.start()
    assert net.address("b") == before
    assert (
        ask("127.0.0.1", port)
        == net.client.call("GET", "/networks/net_default")["IPAM"]["Config"][0]["Gateway"]
        or ask("127.0.0.1", port) == "10.199.7.254"
    )
    assert net.links() == links


def test_what_somebody_removes_is_put_right(net: Networked) -> None:
    """A flushed ruleset of ours, a removed bridge, a removed link: without anybody asking."""
    port = free_port()
    net.up(echo(ports=(published(port),)))
    table = f"shipkeeper_{net.tag}"
    good = net.table()
    assert good
    subprocess.run(["nft", "delete", "table", "inet", table], check=True)
    until(lambda: net.table() == good, "the table is there again")
    subprocess.run(["nft", "flush", "table", "inet", table], check=True)
    until(lambda: net.table() == good, "its rules are there again")
    for link in [link for link in net.links() if link[6] == "v"] + _bridges(net):
        links = net.links()
        subprocess.run(["ip", "link", "del", link], check=True)
        until(lambda links=links: net.links() == links, f"{link} is there again")
        until(lambda: ask("127.0.0.1", port, patience_s=1) not in ("timeout", "No route to host"), "served")


def _bridges(net: Networked) -> list[str]:
    return [link for link in net.links() if link[6] == "b"]


def test_what_a_killed_daemon_left_is_mended_or_removed(net: Networked) -> None:
    """Links and rules of nobody, and missing ones, at the next start."""
    port = free_port()
    net.up(echo(ports=(published(port),)))
    links = net.links()
    net.supervisor.kill()
    stray = f"sk{net.tag[:4]}b0000000"
    subprocess.run(["ip", "link", "add", stray, "type", "bridge"], check=True)
    subprocess.run(["nft", "delete", "table", "inet", f"shipkeeper_{net.tag}"], check=True)
    subprocess.run(["ip", "link", "del", next(link for link in links if link[6] == "v")], check=True)
    net.supervisor.start()
    assert net.links() == links
    assert ask("127.0.0.1", port) not in ("timeout", "Connection refused")


def test_a_taken_port_says_who_has_it(net: Networked) -> None:
    """A process of the host, or a service of ours; a range finds the next, a stopped one holds none."""
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        (line,) = net.up(echo(ports=(published(port),)))
        assert f"process {os.getpid()} " in line["outcome"], line
        assert f"*:{port}/tcp" in line["outcome"]
    net.down()
    net.up(echo("a", ports=(published(port),)))
    lines = net.up(echo("a", ports=(published(port),)), echo("b", ports=(published(port),)))
    said = next(line["outcome"] for line in lines if line["service"] == "b")
    assert "service net-a-1 has" in said, said
    with pytest.raises(OSError, match="Address already in use"):
        socket.create_server(("", port))
    net.supervisor.ok("stop", "a")
    net.supervisor.ok("start", "b")
    net.ready("b")
    assert net.inspect("b")["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"] == str(port)
    assert net.inspect("a")["NetworkSettings"]["Ports"] == {}


def test_down_leaves_nothing(net: Networked) -> None:
    """Networks go with their project, an external one stays until it is removed."""
    net.client.call("POST", "/networks/create", None, b'{"Name": "outer"}')
    outer = Network("outer", "outer", external=True)
    net.up(echo(networks=(Attachment(BOTH.name), Attachment("outer"))), networks=(BOTH, outer))
    assert len(net.links()) == 4
    gone = net.down()
    assert f"network {BOTH.name}" in gone
    assert "network outer" not in gone
    assert [view["Name"] for view in net.client.call("GET", "/networks")] == ["outer"]
    assert len(net.links()) == 1
    net.client.call("DELETE", "/networks/outer")
    assert net.links() == []
    assert net.table() == ""


def test_a_network_can_be_shared_and_left(net: Networked) -> None:
    """network_mode service:X, and connect and disconnect while it runs."""
    side = echo("side", networks=())
    watcher = replace(side, command=("sleep", "1000"), network_mode="service:web")
    net.up(echo(), watcher)
    assert net.inside("side", "127.0.0.1", 80) == "127.0.0.1", "one loopback"
    assert net.address("web") in net.supervisor.ok("exec", "side", "cat", "/etc/hosts")
    net.client.call("POST", "/networks/create", None, b'{"Name": "more"}')
    net.client.call("POST", "/networks/more/connect", None, b'{"Container": "net-web-1"}')
    assert net.supervisor.ok("exec", "side", "ls", "/sys/class/net").split() == ["eth0", "eth1", "lo"]
    assert set(net.inspect("web")["NetworkSettings"]["Networks"]) == {BOTH.name, "more"}
    net.client.call("POST", "/networks/more/disconnect", None, b'{"Container": "net-web-1"}')
    assert net.supervisor.ok("exec", "web", "ls", "/sys/class/net").split() == ["eth0", "lo"]
    net.client.call("DELETE", "/networks/more")


def test_a_host_that_was_down_has_the_same_addresses(net: Networked) -> None:
    """When nothing is up the daemon leaves nothing in the kernel, as a reboot does; the next makes it."""
    net.up(echo("a"), echo("b", ports=(Port(80),)))
    net.supervisor.ok("rm", "--force", "a")
    before = net.address("b"), net.address("b", v6=True), net.inspect("b")["NetworkSettings"]["Ports"]
    links, made = net.links(), net.client.call("GET", f"/networks/{BOTH.name}")
    net.supervisor.ok("stop", "b")
    assert net.supervisor.daemon is not None
    net.supervisor.daemon.terminate()
    net.supervisor.daemon.wait(60)
    assert (net.links(), net.table(), net.namespaces()) == ([], "", [])
    net.supervisor.start()
    net.supervisor.ok("start", "b")
    net.ready("b")
    assert before == (
        net.address("b"),
        net.address("b", v6=True),
        net.inspect("b")["NetworkSettings"]["Ports"],
    )
    assert net.links() == links
    again = net.client.call("GET", f"/networks/{BOTH.name}")
    assert (again["Id"], again["IPAM"]) == (made["Id"], made["IPAM"])


def test_one_that_shares_a_network_follows_it(net: Networked) -> None:
    """Where the one whose network it is was made anew, so is the one that shares it."""
    side = replace(echo("side"), networks=(), network_mode="service:web", command=("sleep", "1000"))
    net.up(echo(), side)
    other = Network("other", "net_other")
    net.up(echo(networks=(Attachment("net_other"),)), side, networks=(BOTH, other))
    assert net.inside("side", "127.0.0.1", 80) == "127.0.0.1"
    assert net.address("web", "net_other") in net.supervisor.ok("exec", "side", "cat", "/etc/hosts")


def test_a_daemon_that_is_killed_at_work_leaves_nothing_that_stays(net: Networked) -> None:
    """Killed at any moment of `up` and `down`: the next one mends it, and nothing is left in the end."""
    port = free_port()
    services = [echo(f"s{number}", ports=(published(port + number),)) for number in range(4)]
    body = msgspec.json.encode(Project("net", "/", services=tuple(services), networks=(BOTH,)))
    for delay_s in (0.02, 0.05, 0.1, 0.2):
        for path in ("up", "down"):
            thread = threading.Thread(target=_swallowed, args=(net, path, body))
            thread.start()
            thread.join(delay_s)
            net.supervisor.kill()
            thread.join()
            net.supervisor.start()
    net.up(*services)
    for number in range(4):
        assert ask("127.0.0.1", port + number) not in ("timeout", "Connection refused")
    assert len(net.links()) == 5
    net.down()
    assert (net.links(), net.table(), net.namespaces()) == ([], "", [])


def _swallowed(net: Networked, path: str, body: bytes) -> None:
    with contextlib.suppress(UnreachableError, ApiError, OSError, http.client.HTTPException):
        for _ in net.client.stream("POST", f"/projects/net/{path}", None, body if path == "up" else None):
            pass


def test_sysctls_and_names_of_interfaces_are_inside(net: Networked) -> None:
    place = Attachment(BOTH.name, interface_name="lan7", aliases=("shop",))
    net.up(echo(networks=(place,), sysctls=(("net.core.somaxconn", "333"),)))
    files = ("/proc/sys/net/core/somaxconn", "/sys/class/net/lan7/carrier")
    inside = net.supervisor.ok("exec", "web", "cat", *files)
    assert inside.split() == ["333", "1"]
    assert "shop" in net.inspect("web")["NetworkSettings"]["Networks"][BOTH.name]["Aliases"]


def test_a_sender_of_udp_that_never_pauses_is_heard_again(net: Networked) -> None:
    """It began while the service was down, and goes on from the same port after that was started again."""
    port = free_port()
    net.up(echo(ports=(published(port, protocol="udp"),)))
    net.supervisor.ok("stop", "web")
    with another_host("udp") as out:
        words = ["ip", "netns", "exec", out["netns"], PYTHON, "-c", _SEND, out["here"], str(port)]
        sender = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            assert sender.stdout is not None
            assert sender.stdout.readline() == "refused\n", "by the host, while nobody serves"
            net.supervisor.ok("start", "web")
            assert sender.stdout.readline() == f"{out['there']}\n"
        finally:
            sender.kill()
            sender.wait()
            assert sender.stdout is not None
            sender.stdout.close()


_SEND = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.05)
s.connect((sys.argv[1], int(sys.argv[2])))
last, since = "", 0
while True:
    try: s.send(b"x"); said = s.recv(100).decode()
    except TimeoutError: continue
    except ConnectionRefusedError: said = "refused"
    if said != last: print(said, flush=True)
    last = said
    time.sleep(0.02)
"""
