"""A project with networks, names, a published port and an order, over the end of the host."""

from __future__ import annotations

import json

import pytest
from inside import await_running, await_supervisor, project
from machine import VirtualMachine

pytestmark = pytest.mark.timeout(600)

PORT = 8080
SERVICES = ("db", "api", "web")


def service(name: str, port: int, needs: str = "", networks: tuple[str, ...] = ()) -> dict[str, object]:
    """A web server that writes down when it starts and stops, and whom it finds then by the name `needs`."""
    script = (
        f"echo $(cat /proc/sys/kernel/random/boot_id) start {name}"
        f" $(getent ahostsv4 {needs or name} | head -n 1 | cut -d' ' -f1) >> /log/list;"
        f" python3 -m http.server {port} & child=$!;"
        f" trap 'echo stop {name} >> /log/list; kill $$child; exit 0' TERM; wait"
    )
    made: dict[str, object] = {
        "command": ["/bin/sh", "-c", script],
        "restart": "always",
        "working_dir": "/log",
        "volumes": ["/srv/networks:/log"],
        "networks": list(networks),
        # From inside its own network; a process for each probe would cost more than the server here.
        "healthcheck": {"interval": "2s", "start_interval": "500ms", "start_period": "2m"},
        "x-shipkeeper": {"probe": {"tcp": port}},
    }
    if needs:
        made["depends_on"] = {needs: {"condition": "service_healthy"}}
    return made


MODEL: dict[str, object] = {
    "services": {
        "web": {**service("web", 80, "api", ("front",)), "ports": [f"{PORT}:80"]},
        "api": service("api", 9000, "postgres", ("front", "back"))
        | {"depends_on": {"db": {"condition": "service_healthy"}}},
        "db": service("db", 5432, "", ()) | {"networks": {"back": {"aliases": ["postgres"]}}},
    },
    "networks": {"front": {}, "back": {"internal": True}},
}


def addresses(machine: VirtualMachine, name: str) -> dict[str, dict[str, tuple[str, str]]]:
    """Of each service by network: its IPv4 address, and its MAC address."""
    found = {}
    for each in SERVICES:
        (view,) = json.loads(machine.output(f"shipkeeper inspect {name}-{each}-1"))
        found[each] = {
            network: (place["IPAddress"], place["MacAddress"])
            for network, place in view["NetworkSettings"]["Networks"].items()
        }
    return found


def resolved(machine: VirtualMachine, name: str, asker: str, host: str) -> set[str]:
    """What the C library of a service finds for a name."""
    words = f"shipkeeper -p {name} exec -T {asker} getent ahostsv4 {host}"
    return {
        line.split()[0] for line in machine.run(words, check=False).output.splitlines() if "STREAM" in line
    }


def fetched(machine: VirtualMachine, url: str, prefix: str = "") -> int:
    """The exit code of a request for a page, from the host or by a command before it."""
    code = f'import urllib.request; urllib.request.urlopen("{url}", timeout=10).read()'
    return machine.run(f"{prefix} python3 -c '{code}'", check=False).exit_code


def check_reachable(machine: VirtualMachine, name: str, where: dict[str, dict[str, tuple[str, str]]]) -> None:
    """Names between services and no further, and the port from this host and from another one."""
    front, back = f"{name}_front", f"{name}_back"
    assert resolved(machine, name, "web", "api") == {where["api"][front][0]}
    assert resolved(machine, name, "api", "postgres") == {where["db"][back][0]}
    assert resolved(machine, name, "web", "db") == set(), "it is in no network of web's"
    inside = f"shipkeeper -p {name} exec -T"
    assert fetched(machine, "http://api:9000/", f"{inside} web") == 0
    assert fetched(machine, "http://db:5432/", f"{inside} api") == 0
    assert fetched(machine, f"http://127.0.0.1:{PORT}/") == 0
    machine.run(
        "ip netns add beside && ip link add beside type veth peer name eth0 netns beside"
        " && ip addr add 198.18.0.1/24 dev beside && ip link set beside up"
        " && ip -n beside addr add 198.18.0.2/24 dev eth0 && ip -n beside link set eth0 up"
    )
    try:
        other = "ip netns exec beside"
        assert fetched(machine, f"http://198.18.0.1:{PORT}/", other) == 0
    finally:
        machine.run("ip netns del beside")


@pytest.mark.parametrize("kind", ["orderly", "power off"])
def test_a_project_comes_back_with_its_networks_names_ports_and_order(
    installed: VirtualMachine, kind: str
) -> None:
    """The same addresses, in the same order, by what the services themselves saw before anybody asked."""
    name = "net" + kind[:5]
    installed.run("rm -rf /srv/networks; mkdir -p /srv/networks")
    with project(installed, name, MODEL):
        await_running(installed, name)
        before = addresses(installed, name)
        check_reachable(installed, name, before)
        installed.run(": > /srv/networks/list; sync /srv/networks/list")
        if kind == "orderly":
            installed.reboot()
        else:
            installed.power_cut()
        await_supervisor(installed)
        await_running(installed, name)
        assert addresses(installed, name) == before
        check_reachable(installed, name, before)
        lines = installed.output("cat /srv/networks/list").splitlines()
    front, back = f"{name}_front", f"{name}_back"
    boot = installed.boot_id
    starts = [
        f"{boot} start db {before['db'][back][0]}",
        f"{boot} start api {before['db'][back][0]}",
        f"{boot} start web {before['api'][front][0]}",
    ]
    stops = ["stop web", "stop api", "stop db"] if kind == "orderly" else []
    assert lines == stops + starts
