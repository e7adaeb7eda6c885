"""After a power cut a project is what it was: networks, addresses, names, ports, the order of its start."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from networking import Networked, fetched, free_port, networked
from supervising import until

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SHOP = """
name: shop
services:
  web:
    command: python3 -m http.server 80
    stop_signal: SIGKILL
    restart: always
    networks: [front, back]
    ports: ['{port}:80', '80']
    depends_on: {{db: {{condition: service_healthy}}}}
    healthcheck: {{test: 'grep -q :0050 /proc/net/tcp', interval: 100ms}}
  db:
    command: sh -c 'rm -f /srv/ready; sleep 0.5; touch /srv/ready; exec sleep 1000'
    stop_signal: SIGKILL
    restart: unless-stopped
    networks: {{back: {{aliases: [postgres]}}}}
    healthcheck: {{test: 'test -e /srv/ready', interval: 100ms, retries: 600}}
  side: {{command: sleep 1000, stop_signal: SIGKILL, restart: always, network_mode: 'service:web'}}
  once: {{command: sleep 1000, stop_signal: SIGKILL, networks: [back]}}
  off: {{command: sleep 1000, stop_signal: SIGKILL, restart: unless-stopped, networks: [front]}}
networks:
  front: {{enable_ipv6: true}}
  back: {{internal: true, ipam: {{config: [{{subnet: 10.254.79.0/24}}]}}}}
"""


@pytest.fixture
def net() -> Iterator[Networked]:
    with networked() as made:
        yield made


def found(net: Networked, service: str, name: str) -> str:
    result = net.supervisor.run("exec", service, "getent", "ahostsv4", name)
    return next(iter(result.stdout.split()), "")


def places(net: Networked, service: str) -> dict[str, tuple[str, str, str]]:
    document = net.inspect(service)["NetworkSettings"]["Networks"]
    return {
        name: (one["IPAddress"], one["GlobalIPv6Address"], one["MacAddress"])
        for name, one in document.items()
    }


def began(net: Networked, service: str) -> datetime:
    return datetime.fromisoformat(net.inspect(service)["State"]["StartedAt"])


def is_up(net: Networked) -> bool:
    rows = {row["Service"]: (row["State"], row["Health"]) for row in net.supervisor.rows()}
    return rows["web"] == ("running", "healthy") and rows["side"][0] == "running"


def test_a_project_is_the_same_after_a_power_cut(net: Networked) -> None:
    """Who is not started by its policy has its addresses kept; the order is that of the conditions."""
    supervisor, port = net.supervisor, free_port()
    supervisor.compose(SHOP.format(port=port))
    supervisor.ok("up", "-d", "--wait")
    supervisor.ok("stop", "off")
    networks = {view["Name"]: (view["Id"], view["IPAM"]) for view in net.client.call("GET", "/networks")}
    before = {service: places(net, service) for service in ("web", "db", "off")}
    ports = net.inspect("web")["NetworkSettings"]["Ports"]
    assert len({one["HostPort"] for one in ports["80/tcp"]}) == 2, "one of them was chosen"
    supervisor.power_cut()
    until(lambda: is_up(net), "all is up again")
    assert {row["Service"]: row["State"] for row in supervisor.rows()} == {
        "db": "running",
        "off": "exited",
        "once": "exited",
        "side": "running",
        "web": "running",
    }
    assert began(net, "web") - began(net, "db") > timedelta(seconds=0.5), "db is ready half a second later"
    now = {view["Name"]: (view["Id"], view["IPAM"]) for view in net.client.call("GET", "/networks")}
    assert now == networks
    assert {service: places(net, service) for service in ("web", "db")} == {
        service: before[service] for service in ("web", "db")
    }
    assert net.inspect("web")["NetworkSettings"]["Ports"] == ports
    db = before["db"]["shop_back"][0]
    assert {found(net, asker, name) for asker in ("web", "side") for name in ("db", "postgres")} == {db}
    assert found(net, "web", "off") == "", "it is down"
    assert fetched("127.0.0.1", port)
    supervisor.ok("start", "off", "once")
    assert places(net, "off") == before["off"]
    assert found(net, "web", "off") == before["off"]["shop_front"][0]
    supervisor.ok("down")
    assert (net.links(), net.table(), net.namespaces()) == ([], "", [])


def test_a_boot_after_another_boot_that_was_cut_off(net: Networked) -> None:
    """The power fails again while the first boot is being done; the second one does all of it."""
    supervisor, port = net.supervisor, free_port()
    supervisor.compose(SHOP.format(port=port))
    supervisor.ok("up", "-d", "--wait")
    web = places(net, "web")
    supervisor.power_cut()
    supervisor.power_cut()
    until(lambda: is_up(net), "all is up again")
    assert places(net, "web") == web
    assert found(net, "side", "db") == places(net, "db")["shop_back"][0]
