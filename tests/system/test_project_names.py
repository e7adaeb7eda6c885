"""Services of a Compose file find each other by name, on the networks that both are in."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from networking import FETCH, PYTHON, Networked, fetched, free_port, look_up, networked
from supervising import Supervisor

from supervisor.kernel import bpf
from supervisor.kernel.hierarchies import detect

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SLEEP = "command: sleep 1000, stop_signal: SIGKILL"
SHOP = f"""
name: shop
services:
  web:
    {{{SLEEP}, networks: {{front: , back: }}, links: ['db:database'], hostname: shopfront,
     extra_hosts: ['me:host-gateway', 'far=192.0.2.7'], dns_search: [corp.example], domainname: corp.example}}
  db: {{{SLEEP}, networks: {{back: {{aliases: [postgres], ipv4_address: 10.254.77.9}}}}}}
  other:
    {{{SLEEP}, container_name: mine, networks: {{front: {{link_local_ips: [169.254.8.8], interface_name: lan,
     driver_opts: {{com.docker.network.endpoint.sysctls: net.ipv4.conf.IFNAME.log_martians=1}}}}}}}}
  side: {{{SLEEP}, network_mode: 'service:web', depends_on: [web]}}
networks:
  front:
  back:
    internal: true
    enable_ipv6: true
    ipam: {{config: [{{subnet: 10.254.77.0/24}}, {{subnet: 'fd77:77::/64'}}]}}
"""


@pytest.fixture
def net() -> Iterator[Networked]:
    with networked() as made:
        yield made


def found(supervisor: Supervisor, service: str, name: str, database: str = "ahostsv4") -> set[str]:
    """The addresses that the C library of a service finds for a name."""
    result = supervisor.run("exec", service, "getent", database, name)
    return {line.split()[0] for line in result.stdout.splitlines()}


def test_what_is_run_once_is_found_by_its_own_name_only(net: Networked) -> None:
    """It finds the others, has no port of the service, and not its fixed address."""
    supervisor = net.supervisor
    supervisor.compose(SHOP)
    supervisor.ok("up", "-d")
    supervisor.ok("compose", "run", "-d", "--name", "once", "db", "sleep", "1000")
    supervisor.ok("compose", "run", "-d", "--name", "twice", "--use-aliases", "db", "sleep", "1000")
    db = "10.254.77.9"
    once, twice = (found(supervisor, "web", name) for name in ("once", "twice"))
    assert len(once | twice | {db}) == 3
    assert found(supervisor, "web", "db") == {db} | twice
    assert found(supervisor, "web", "postgres") == {db} | twice
    result = supervisor.run("exec", "once", "getent", "ahostsv4", "web")
    assert net.address("web", "shop_back") in result.stdout
    supervisor.ok("down")
    assert supervisor.rows() == []


def test_names_are_known_in_the_networks_that_both_are_in(net: Networked) -> None:
    """Service, container, alias, host name and link; and nothing of a network that one is not in."""
    supervisor = net.supervisor
    supervisor.compose(SHOP)
    supervisor.ok("up", "-d")
    db, web = "10.254.77.9", net.address("web", "shop_back")
    for asker in ("web", "side"):
        for name in ("db", "DB", "shop-db-1", "postgres", "db.shop_back", "database"):
            assert found(supervisor, asker, name) == {db}, (asker, name)
    assert found(supervisor, "web", "db", "ahostsv6") == {net.address("db", "shop_back", v6=True)}
    assert found(supervisor, "other", "db") == set()
    assert found(supervisor, "db", "database") == set(), "a link is a name for one service alone"
    assert found(supervisor, "db", "mine") == found(supervisor, "db", "other") == set()
    for name in ("web", "shop-web-1", "shopfront"):
        assert found(supervisor, "db", name) == {web}
        assert found(supervisor, "other", name) == {net.address("web", "shop_front")}
    assert found(supervisor, "web", "mine") == {net.address("other", "shop_front")}
    names = supervisor.ok("exec", "web", "getent", "hosts", db).split()
    assert names == [db, "shop-db-1.shop_back"]
    assert found(supervisor, "web", "far") == {"192.0.2.7"}
    assert len(found(supervisor, "web", "me")) == 1
    text = supervisor.ok("exec", "web", "cat", "/etc/resolv.conf")
    assert text.splitlines()[:2] == ["nameserver 127.0.0.11", "search corp.example"]
    assert supervisor.ok("exec", "web", "cat", "/proc/sys/kernel/domainname").strip() == "corp.example"
    assert "inet 169.254.8.8/16 " in supervisor.ok("exec", "other", "ip", "address", "show", "lan")
    assert supervisor.ok("exec", "other", "cat", "/proc/sys/net/ipv4/conf/lan/log_martians") == "1\n"
    assert supervisor.ok("exec", "web", "hostname", "-f").strip() == "shopfront.corp.example"


def test_a_name_is_there_while_its_service_is(net: Networked) -> None:
    """Gone with a stop, there with the next start under the same address, and through kills of the daemon."""
    supervisor = net.supervisor
    supervisor.compose(SHOP)
    supervisor.ok("up", "-d")
    supervisor.ok("stop", "db")
    assert found(supervisor, "web", "db") == set()
    supervisor.ok("start", "db")
    assert found(supervisor, "web", "db") == {"10.254.77.9"}
    netns = f"{supervisor.base}/run/netns/{net.inspect('web')['Id']}"
    supervisor.kill()
    assert look_up(netns, "db") == {"10.254.77.9"}
    supervisor.start()
    assert found(supervisor, "web", "db") == {"10.254.77.9"}
    supervisor.ok("rm", "--force", "db")
    assert found(supervisor, "web", "db") == set()
    supervisor.ok("up", "-d")
    assert found(supervisor, "web", "db") == {"10.254.77.9"}


SERVER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 53))
print("ready", flush=True)
while True:
    q, peer = s.recvfrom(512)
    s.sendto(q[:2] + b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0" + q[12:12 + q[12:].index(b"\\0") + 5]
             + b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\1\\0\\4\\xc6\\x33\\x64\\x07", peer)
"""


def test_a_service_can_have_servers_of_its_own(net: Networked) -> None:
    """`dns` names a server that the host reaches: here another service, which serves names itself."""
    supervisor = net.supervisor
    (supervisor.base / "server.py").write_text(SERVER)
    supervisor.compose(
        "name: own\nservices:\n"
        "  names: {command: python3 /server.py, stop_signal: SIGKILL, expose: [53],\n"
        "    volumes: ['./server.py:/server.py:ro'], networks: {default: {ipv4_address: 10.254.78.5}},\n"
        "    healthcheck: {test: 'grep -q :0035 /proc/net/udp', interval: 100ms}}\n"
        f"  web: {{{SLEEP}, dns: 10.254.78.5, depends_on: {{names: {{condition: service_healthy}}}}}}\n"
        "networks: {default: {ipam: {config: [{subnet: 10.254.78.0/24}]}}}\n"
    )
    supervisor.ok("up", "-d")
    assert found(supervisor, "web", "beyond.example.com") == {"198.51.100.7"}
    assert found(supervisor, "web", "names") == {"10.254.78.5"}


def test_servers_that_cannot_be_asked_are_the_reason_of_a_failed_start(net: Networked) -> None:
    net.supervisor.compose(f"name: own\nservices:\n  web: {{{SLEEP}, dns: 127.0.0.1}}\n")
    result = net.supervisor.run("up", "-d", "--wait")
    assert result.returncode == 3
    assert "cannot use 127.0.0.1 as dns of service web" in result.stdout + result.stderr
    assert net.supervisor.ok("down")


def is_led(net: Networked) -> bool:
    """Whether a program of ours looks at connections to ::1."""
    root = detect().unified
    if root is None:
        return False
    program = bpf.attached(root, f"sk_lo6_{net.tag}")
    if program < 0:
        return False
    os.close(program)
    return True


def test_ports_of_a_compose_file_lead_to_its_services(net: Networked) -> None:
    """And a second project that wants the same one is told who has it."""
    port = free_port()
    text = (
        "name: {name}\nservices:\n  web:\n    command: python3 -m http.server 80\n    stop_signal: SIGKILL\n"
        f"    ports: ['{port}:80']\n"
        "    healthcheck: {{test: 'grep -q :0050 /proc/net/tcp', interval: 100ms}}\n"
    )
    supervisor = net.supervisor
    supervisor.compose(text.format(name="one"))
    supervisor.ok("up", "-d", "--wait")
    for where in ("127.0.0.1", "[::1]"):
        assert fetched(where, port)
    assert is_led(net)
    supervisor.kill()
    assert fetched("[::1]", port), "without a daemon, too"
    supervisor.start()
    assert fetched("[::1]", port), "and with its next one"
    inside = supervisor.run("exec", "web", PYTHON, "-c", FETCH, f"http://[::1]:{port}/")
    assert "refused" in inside.stderr, "a service has a ::1 of its own"
    assert supervisor.ok("port", "web", "80").split() == [f"0.0.0.0:{port}", f"[::]:{port}"]
    supervisor.compose(text.format(name="two"))
    result = supervisor.run("up", "-d", "--wait")
    assert result.returncode == 3
    assert f"{port}" in result.stdout + result.stderr
    assert "one-web-1" in result.stdout + result.stderr, "who has it is named"
    supervisor.ok("-p", "two", "down")
    supervisor.ok("-p", "one", "down")
    assert not fetched("[::1]", port)
    assert not is_led(net), "the program is gone with the last port"
    assert net.links() == []
    assert net.table() == ""
    assert net.namespaces() == []
