"""`network ...`, `port`, the options of `run` for networks, and Docker's own client doing the same."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from networking import Networked, free_port, look_up, networked
from supervising import until
from test_images import root_archive

pytestmark = [
    pytest.mark.system,
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox on this machine"),
]
SERVE = ("box", "/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/")


@pytest.fixture(scope="module")
def net() -> Iterator[Networked]:
    with networked() as made:
        (made.supervisor.base / "root.tgz").write_bytes(root_archive("1"))
        made.supervisor.ok("import", "root.tgz", "box")
        yield made


def status(where: str, port: int) -> int:
    """What a web server answers to a request for nothing that is there; 0 where none answers."""
    asked = http.client.HTTPConnection(where, port, timeout=3)
    try:
        asked.request("GET", "/none")
        return asked.getresponse().status
    except OSError:
        return 0
    finally:
        asked.close()


def test_run_publishes_ports(net: Networked) -> None:
    """-p, random ports, `port`, `ps`, and that what nobody publishes stays in the host's network."""
    run = net.supervisor.ok
    port = free_port()
    run("run", "-d", "--name", "web", "-p", f"{port}:80", "-p", "127.0.0.1::80", *SERVE)
    until(lambda: status("127.0.0.1", port) == 404, "it serves")
    assert run("port", "web", "80").splitlines()[:2] == [f"0.0.0.0:{port}", f"[::]:{port}"]
    random = int(run("port", "web", "80").splitlines()[2].removeprefix("127.0.0.1:"))
    assert status("127.0.0.1", random) == 404
    assert f"*:{port}->80/tcp" in run("ps")
    gone = net.supervisor.run("port", "web", "81")
    assert (gone.returncode, "no public port" in gone.stderr) == (1, True)
    run("rm", "--force", "web")
    assert status("127.0.0.1", port) == 0
    run("run", "-d", "--name", "plain", *SERVE[:-4], "-p", str(port), "-h", "/")
    assert net.inspect("plain")["HostConfig"]["NetworkMode"] == "host"
    run("rm", "--force", "plain")
    run("network", "rm", "bridge")


def test_networks_by_the_command(net: Networked) -> None:
    """Made with all that can be said, listed, used by `run`, connected to, pruned."""
    run = net.supervisor.ok
    made = run(
        "network", "create", "--subnet", "10.198.3.0/24", "--gateway", "10.198.3.9", "--ip-range",
        "10.198.3.128/25", "--aux-address", "x=10.198.3.129", "-o", "com.docker.network.bridge.name=sktestbr",
        "-o", "com.docker.network.driver.mtu=1400", "--ipv6", "--label", "a=b", "mine",
    ).strip()  # fmt: skip
    (view,) = json.loads(run("network", "inspect", "mine"))
    assert (view["Id"], view["Bridge"], view["EnableIPv6"], view["Labels"]) == (
        made, "sktestbr", True, {"a": "b"},
    )  # fmt: skip
    assert Path("/sys/class/net/sktestbr/mtu").read_text().strip() == "1400"
    run(
        "run", "-d", "--name", "in", "--network", "mine", "--network-alias", "also", "--hostname", "inner",
        "--add-host", "far:192.0.2.9", "--add-host", "me:host-gateway", "--dns", "192.0.2.53", "--dns-search",
        "example.org", *SERVE,
    )  # fmt: skip
    place = net.inspect("in")["NetworkSettings"]["Networks"]["mine"]
    assert place["IPAddress"] == "10.198.3.128"
    assert {"also", "in"} <= set(place["Aliases"])
    hosts = run("exec", "in", "/bin/cat", "/etc/hosts")
    assert "10.198.3.128\tinner\n" in hosts
    assert "192.0.2.9\tfar\n" in hosts
    assert "10.198.3.9\tme\n" in hosts
    resolving = run("exec", "in", "/bin/cat", "/etc/resolv.conf")
    assert "nameserver 127.0.0.11" in resolving
    assert "192.0.2.53" in Path(f"{net.supervisor.base}/run/names.json").read_text(), (
        "it is asked by the resolver"
    )
    assert "search example.org" in resolving
    run("run", "-d", "--name", "fixed", "--network", "mine", "--ip", "10.198.3.50", *SERVE)
    assert net.inspect("fixed")["NetworkSettings"]["IPAddress"] == "10.198.3.50"
    taken = net.supervisor.run(
        "run", "-d", "--name", "also", "--network", "mine", "--ip", "10.198.3.50", *SERVE
    )
    assert taken.returncode == 125
    assert "10.198.3.50: Address already in use" in taken.stderr
    used = net.supervisor.run("network", "rm", "mine")
    assert (used.returncode, "fixed, in" in used.stderr) == (1, True), used.stderr
    run("network", "create", "second")
    run("network", "connect", "--alias", "there", "second", "in")
    assert "there" in net.inspect("in")["NetworkSettings"]["Networks"]["second"]["Aliases"]
    run("network", "disconnect", "second", "in")
    assert run("network", "prune", "-f").split() == ["second"]
    assert re.search(r"mine +bridge +10\.198\.3\.0/24, fd", run("network", "ls"))
    run("rm", "--force", "in", "fixed", "also")
    run("network", "rm", "mine")
    assert not os.path.exists("/sys/class/net/sktestbr")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("network", "create", "--subnet", "10.1.2.0/33", "x"), "10.1.2.0/33"),
        (("network", "create", "-o", "no=thing", "x"), "driver option no"),
        (("network", "create", "-d", "overlay", "x"), "driver 'overlay'"),
        (("network", "rm", "nothing"), "network nothing not found"),
        (("run", "--network", "nothing", *SERVE), "network nothing not found"),
        (("run", "--network", "host", "-p", "1:1", *SERVE), "leave -p out"),
        (("run", "-p", "1-3:1-2", *SERVE), "different lengths"),
        (("run", "-p", "99999:80", *SERVE), "99999 is no port"),
        (("run", "--network", "container:none", *SERVE), "there is no such container"),
    ],
)
def test_what_cannot_be_is_said(net: Networked, words: tuple[str, ...], said: str) -> None:
    ran = net.supervisor.run(*words)
    assert ran.returncode != 0
    assert said in ran.stdout + ran.stderr
    net.supervisor.clear()


def _none_there(net: Networked) -> bool:
    words = ("exec", "two", "/bin/busybox", "wget", "-q", "-O", "-", "http://127.0.0.1/none")
    return "404" in net.supervisor.run(*words).stderr


def test_a_container_shares_the_network_of_another(net: Networked) -> None:
    run = net.supervisor.ok
    run("run", "-d", "--name", "one", "--network", "bridge", *SERVE)
    run("run", "-d", "--name", "two", "--network", "container:one", "box", "/bin/sleep", "1000")
    until(lambda: _none_there(net), "the server of one is on the loopback of two")
    run("rm", "--force", "one", "two")
    run("network", "rm", "bridge")


def test_dockers_own_client(net: Networked) -> None:
    """network create, run -p with an alias and a static address, port, ps, connect, rm."""
    client = shutil.which("docker")
    if client is None:
        pytest.skip("no docker client on this machine (docker.io, docker-cli)")

    def docker(*words: str) -> str:
        ran = subprocess.run(
            [client, "-H", f"unix://{net.supervisor.base}/run/shipkeeper.sock", *words],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    port = free_port()
    docker("network", "create", "--subnet", "10.198.4.0/24", "dn")
    options = ("--network-alias", "da", "--ip", "10.198.4.40", "-p", f"{port}:80")
    docker("run", "-d", "--name", "dw", "--network", "dn", *options, *SERVE)
    until(lambda: status("127.0.0.1", port) == 404, "it serves")
    assert f"0.0.0.0:{port}" in docker("port", "dw", "80")
    assert f":{port}->80/tcp" in docker("ps")
    assert docker("inspect", "-f", "{{.NetworkSettings.Networks.dn.IPAddress}}", "dw") == "10.198.4.40\n"
    docker("network", "create", "dm")
    docker("network", "connect", "dm", "dw")
    assert "dw" in docker("network", "inspect", "dm")
    docker("network", "disconnect", "dm", "dw")
    docker("rm", "-f", "dw")
    docker("network", "rm", "dn", "dm")
    assert docker("network", "ls", "-q") == ""


def dig(net: Networked, name: str) -> set[str]:
    """What the service `asker` is answered."""
    netns = f"{net.supervisor.base}/run/netns/{net.inspect('asker')['Id']}"
    return look_up(netns, name)


def test_names_and_hosts_follow_a_change_of_networks_and_a_rename(net: Networked) -> None:
    """Of services that run: `network connect`, `disconnect` and `rename`."""
    supervisor = net.supervisor
    supervisor.ok("network", "create", "one")
    supervisor.ok("network", "create", "two")
    for name, network in (("asker", "two"), ("asked", "one")):
        supervisor.ok("run", "-d", "--name", name, "--network", network, *SERVE)
    first = net.address("asked", "one")
    assert dig(net, "asked") == set()
    supervisor.ok("network", "connect", "two", "asked")
    second = net.address("asked", "two")
    until(lambda: dig(net, "asked") == {second}, "it is found in the new network")
    hosts = supervisor.ok("exec", "asked", "/bin/busybox", "cat", "/etc/hosts")
    assert {first, second} <= {line.split()[0] for line in hosts.splitlines()}
    supervisor.ok("network", "disconnect", "one", "asked")
    hosts = supervisor.ok("exec", "asked", "/bin/busybox", "cat", "/etc/hosts")
    assert first not in hosts
    assert second in hosts
    net.client.call("POST", "/containers/asked/rename", {"name": "renamed"})
    assert dig(net, "renamed") == {second}
    assert dig(net, "asked") == set()
    supervisor.ok("network", "disconnect", "two", "renamed")
    until(lambda: dig(net, "renamed") == set(), "it has left")
    supervisor.ok("rm", "--force", "asker", "renamed")
    supervisor.ok("network", "rm", "one", "two")
