"""Subnets, addresses, ports and rules: pure decisions of networks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.cli.publishing import publication
from supervisor.core.addresses import (
    AddressError,
    choose_address,
    choose_subnet,
    mac_of,
    plan_subnets,
    read_pool,
    unique_local_pool,
)
from supervisor.core.attaching import bridge_name, plan_interfaces, plan_network, veth_name
from supervisor.core.endpoints import (
    IFNAME,
    SYSCTLS,
    Binding,
    Endpoint,
    Interface,
    NetworkRecord,
    Place,
    Subnet,
)
from supervisor.core.netrules import delete_script, script
from supervisor.core.network import Attachment, Network, Pool, Port, Resolver
from supervisor.core.portplan import PortError, plan_bindings, same_place
from supervisor.daemon.settings import SettingsError, load_settings
from supervisor.runtime import doctor_network
from supervisor.runtime.etcfiles import named_hosts
from supervisor.runtime.imagespec import exposed_ports
from supervisor.runtime.resolvconf import resolv_conf

POOLS = ("10.0.0.0/22:24", "192.168.0.0/23:24")


def made(name: str, *pools: Pool, **fields: object) -> NetworkRecord:
    """A network, as it is made first on an empty host."""
    network = replace(Network(name, name, pools=pools), **fields)  # type: ignore[arg-type]
    pool = (*POOLS, unique_local_pool(b"x"))
    return plan_network(network, "0123abcd", (), (), pool, created_wall=1.0, project="p", unique=name)


def test_a_subnet_is_the_first_that_overlaps_nothing() -> None:
    assert choose_subnet(POOLS, (), 4) == "10.0.0.0/24"
    assert choose_subnet(POOLS, ("10.0.0.128/25", "10.0.1.1/32"), 4) == "10.0.2.0/24"
    assert choose_subnet(POOLS, ("10.0.0.0/8",), 4) == "192.168.0.0/24"
    with pytest.raises(AddressError, match="network_pools"):
        choose_subnet(POOLS, ("10.0.0.0/8", "192.168.0.0/16"), 4)
    ula = choose_subnet((unique_local_pool(b"host"),), (), 6)
    assert ip_network(ula).prefixlen == 64
    assert ula.startswith("fd")


@given(st.lists(st.tuples(st.integers(0, 2**10 - 1), st.integers(24, 32)), max_size=12))
def test_a_chosen_subnet_never_overlaps(taken: list[tuple[int, int]]) -> None:
    nets = [ip_network((0x0A000000 + at, length), strict=False) for at, length in taken]
    try:
        chosen = ip_network(choose_subnet(("10.0.0.0/22:26",), map(str, nets), 4))
    except AddressError:
        parts = ip_network("10.0.0.0/22").subnets(new_prefix=26)
        assert all(any(part.overlaps(net) for net in nets) for part in parts), "none was free"
    else:
        assert not any(chosen.overlaps(net) for net in nets)


@given(st.sets(st.integers(1, 14), max_size=13))
def test_addresses_are_given_once(taken: set[int]) -> None:
    subnet = Subnet("10.0.0.0/28", "10.0.0.1")
    used = [f"10.0.0.{number}" for number in taken]
    try:
        chosen = ip_interface(choose_address(subnet, used))
    except AddressError:
        assert taken | {1} == set(range(1, 15))
    else:
        assert str(chosen.ip) not in {*used, "10.0.0.1", "10.0.0.0", "10.0.0.15"}
        assert chosen.network.prefixlen == 28


def test_addresses_that_are_asked_for() -> None:
    subnet = Subnet("10.0.0.0/24", "10.0.0.1", "10.0.0.64/26", ("10.0.0.64",))
    assert choose_address(subnet, ()) == "10.0.0.65/24", "of the range, and not the auxiliary one"
    assert choose_address(subnet, (), "10.0.0.9") == "10.0.0.9/24", "also outside of the range"
    for wrong in ("10.0.0.1", "10.0.0.255", "10.0.1.4", "x"):
        with pytest.raises(AddressError, match="cannot use the address"):
            choose_address(subnet, (), wrong)


@pytest.mark.parametrize("text", ["10.0.0.0/16", "10.0.0.0/24:16", "10.0.0.0/24:32", "x:24"])
def test_a_pool_that_is_none(text: str) -> None:
    with pytest.raises(AddressError):
        read_pool(text)


def test_subnets_by_ipam() -> None:
    own = Network("n", "n", pools=(Pool("10.9.0.0/16", "10.9.0.7"),), ipv6=True)
    v4, v6 = plan_subnets(own, (unique_local_pool(b"x"),), ())
    assert (v4.gateway, v6.is_v6) == ("10.9.0.7", True)
    strange = Pool("10.9.0.0/24", "10.8.0.1"), Pool("10.9.0.0/24", None, "10.8.0.0/25")
    for pool in (Pool("10.9.0.0/31"), *strange):
        with pytest.raises(AddressError):
            plan_subnets(Network("n", "n", pools=(pool,)), (), ())


def test_names_of_links_fit_and_differ() -> None:
    names = {bridge_name("0123abcd", "a"), bridge_name("0123abcd", "b"), veth_name("0123abcd", "a", "b")}
    assert len(names) == 3
    assert all(len(name) <= 15 and name.startswith("sk0123") for name in names)


def test_networks_that_cannot_be() -> None:
    first = made("a", Pool("10.5.0.0/16"))
    same = (("com.docker.network.bridge.name", first.bridge),)
    for network, why in (
        (Network("a", "a"), "already exists"),
        (Network("b", "b", pools=(Pool("10.5.9.0/24"),)), "overlaps with other one"),
        (Network("b", "host"), "network name"),
        (Network("b", "b", driver="macvlan"), "macvlan"),
        (Network("b", "b", driver_opts=(("com.docker.network.driver.mtu", "1"),)), "mtu"),
        (Network("b", "b", driver_opts=same), "another network"),
        (Network("b", "b", ipv4=False), "without addresses"),
    ):
        with pytest.raises(AddressError, match=why):
            plan_network(network, "0123abcd", [first], (), POOLS, created_wall=1.0, project="", unique="x")


def test_interfaces_are_ordered_and_routed() -> None:
    planned_networks = (
        made("a", Pool("10.1.0.0/24")),
        made("b", Pool("10.2.0.0/24")),
        made("c", Pool("10.3.0.0/24"), internal=True),
    )
    records = {record.name: record for record in planned_networks}
    attachments = (Attachment("a"), Attachment("b", gw_priority=5), Attachment("c", priority=9))
    planned = plan_interfaces("0123abcd", "i", attachments, records, (), names=("web",))
    assert [(each.network, each.name, each.gateway4) for each in planned] == [
        ("c", "eth0", ""),
        ("a", "eth1", ""),
        ("b", "eth2", "10.2.0.1"),
    ]
    other = Endpoint("j", "j", "j", "", "j", planned)
    again = plan_interfaces("0123abcd", "k", attachments, records, (other,), names=("k",))
    assert {e.ipv4 for e in again}.isdisjoint({e.ipv4 for e in planned})
    kept = plan_interfaces("0123abcd", "k", attachments[:2], records, (), names=("k",), before=again)
    assert [e.ipv4 for e in kept] == [e.ipv4 for e in again[1:]], "what it has it keeps"
    with pytest.raises(AddressError, match="not found"):
        plan_interfaces("0123abcd", "k", (Attachment("x"),), records, (), names=())
    assert mac_of("10.1.0.2/24") == "02:42:0a:01:00:02"


def test_options_of_a_place_in_a_network() -> None:
    """Docker's two, further addresses, and a word about any other."""
    records = {"a": made("a")}

    def place(**options: Any) -> Interface:
        (planned,) = plan_interfaces("0123abcd", "i", (Attachment("a", **options),), records, (), names=())
        return planned

    sysctls = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=2"
    one = place(driver_opts=((IFNAME, "lan"), (SYSCTLS, sysctls)), link_local_ips=("169.254.1.1", "fe80::7"))
    assert (one.name, one.extra) == ("lan", ("169.254.1.1/16", "fe80::7/64"))
    assert one.sysctls == (("ipv4/conf/lan/log_martians", "1"), ("ipv6/conf/lan/accept_ra", "2"))
    for options in (
        (("mtu", "9000"),),
        ((SYSCTLS, "kernel.panic=1"),),
        ((SYSCTLS, "net.ipv4.conf.eth0.x=1"),),
    ):
        with pytest.raises(AddressError, match="cannot use"):
            place(driver_opts=options)


def test_ports_take_the_first_that_is_free() -> None:
    busy = {8000}

    def take(wanted: Binding) -> Binding:
        if wanted.host_port in busy:
            raise PortError(f"process 1 (x) has {wanted}")
        return wanted if wanted.host_port else replace(wanted, host_port=40000)

    held = {"service a": (Binding("tcp", "127.0.0.1", 8001, 80),)}
    ports = (Port(80, published=(8000, 8005)), Port(81, "udp", (8000, 8001)), Port(82))
    assert plan_bindings(ports, held, take) == (
        Binding("tcp", "", 8002, 80),
        Binding("udp", "", 8001, 81),
        Binding("tcp", "", 40000, 82),
    )
    before = (Binding("tcp", "", 8004, 80),)
    assert plan_bindings(ports[:1], held, take, before)[0].host_port == 8004
    with pytest.raises(PortError, match=r"service a has \*:8001/tcp; stop that one"):
        plan_bindings((Port(80, published=(8001, 8001)),), held, take)
    with pytest.raises(PortError, match=r"process 1 \(x\)"):
        plan_bindings((Port(80, published=(8000, 8000)),), held, take)
    with pytest.raises(PortError, match="this service itself"):
        plan_bindings((Port(1, published=(9, 9)), Port(2, published=(9, 9))), {}, take)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("", "127.0.0.1", True), ("::", "0.0.0.0", False), ("127.0.0.1", "127.0.0.2", False), ("", "::1", True)],
)
def test_places_that_are_the_same(one: str, other: str, same: bool) -> None:
    assert same_place(Binding("tcp", one, 1, 1), Binding("tcp", other, 1, 2)) is same
    assert not same_place(Binding("udp", one, 1, 1), Binding("tcp", other, 1, 2))


def test_rules_name_what_is_published_and_nothing_else() -> None:
    record = made("a", Pool("10.1.0.0/24"), ipv6=True)
    hidden = made("h", Pool("10.2.0.0/24"), internal=True)
    (place,) = plan_interfaces("0123abcd", "i", (Attachment("a"),), {"a": record}, (), names=())
    endpoint = Endpoint("i", "i", "i", "", "i", (place,))
    bindings: Iterable[Binding] = (Binding("tcp", "", 80, 8080), Binding("udp", "127.0.0.1", 53, 5353))
    text = script("shipkeeper_x", [record, hidden], [replace(endpoint, bindings=tuple(bindings))])
    assert text.startswith(delete_script("shipkeeper_x")), "replaced as a whole"
    assert "tcp . 80 : 10.1.0.2 . 8080" in text
    assert f"tcp . 80 : {place.ipv6.partition('/')[0]} . 8080" in text
    assert "udp . 127.0.0.1 . 53 : 10.1.0.2 . 5353" in text
    assert f'ip saddr 10.1.0.0/24 oifname != "{record.bridge}" masquerade' in text
    assert "ip saddr 10.2.0.0/24 oifname !=" not in text, "an internal network does not go out"
    plain = script("shipkeeper_x", [record], [])
    assert "elements = { tcp" not in plain


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("80", [("80/tcp", "", "")]),
        ("8080:80/udp", [("80/udp", "", "8080")]),
        ("127.0.0.1:8080:80", [("80/tcp", "127.0.0.1", "8080")]),
        ("[::1]:8080:80", [("80/tcp", "::1", "8080")]),
        ("127.0.0.1::80", [("80/tcp", "127.0.0.1", "")]),
        ("8000-8001:80-81", [("80/tcp", "", "8000"), ("81/tcp", "", "8001")]),
        ("8000-8009:80", [("80/tcp", "", "8000-8009")]),
    ],
)
def test_publications(text: str, said: list[tuple[str, str, str]]) -> None:
    assert [(port, place["HostIp"], place["HostPort"]) for port, place in publication(text)] == said


def test_what_an_image_exposes_is_published_once() -> None:
    found = exposed_ports(("80/tcp", "53/udp", "443", "x/tcp", "1/icmp"), (Port(80, published=(1, 1)),))
    assert found == [Port(53, "udp"), Port(443, "tcp")]


def test_pools_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "shipkeeper.yaml"
    file.write_text("network_pools: [10.7.0.0/16:24]\n")
    assert load_settings({"SHIPKEEPER_CONFIG": str(file)}).network_pools == ("10.7.0.0/16:24",)
    for wrong in ("10.7.0.0/16", "[10.7.0.0/16]", "[7]"):
        file.write_text(f"network_pools: {wrong}\n")
        with pytest.raises(SettingsError, match="network_pools"):
            load_settings({"SHIPKEEPER_CONFIG": str(file)})


def test_doctor_names_who_drops_what_is_forwarded() -> None:
    """iptables' own chain is one of nft's; ours is not meant, nor an `input` chain."""
    chain = {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}
    others = [{**chain, "table": "shipkeeper_x"}, {**chain, "hook": "input"}, {**chain, "policy": "accept"}]
    assert doctor_network.dropping([*others, chain, {"family": "ip", "table": "t", "name": "n"}]) == [chain]


def test_own_addresses_and_other_hosts_are_in_etc_hosts() -> None:
    (place,) = plan_interfaces(
        "0123abcd", "i", (Attachment("a"),), {"a": made("a", Pool("10.1.0.0/24"))}, (), names=()
    )
    where = Place("/x", Endpoint("i", "i", "i", "", "i", (place,)), "10.1.0.1")
    asked = Resolver(domainname="lan", extra_hosts=(("me", "host-gateway"), ("six", "fd00::9")))
    text = named_hosts("inner", asked, where, None)
    assert text.endswith("10.1.0.2\tinner.lan inner\n10.1.0.1\tme\nfd00::9\tsix\n")
    assert "127.0.0.1\tme\n" in named_hosts("h", asked, None, "127.0.0.1 localhost\n")
    with pytest.raises(ValueError, match="no way to the host"):
        named_hosts("h", asked, Place("none"), None)


def test_resolv_conf_is_replaced_line_by_line() -> None:
    host = "nameserver 192.0.2.1\nsearch old.example\noptions edns0\n"
    assert resolv_conf(Resolver(), "host", host, None) == host
    changed = resolv_conf(Resolver(("192.0.2.53",), (), ("ndots:2",)), "host", host, None)
    assert changed == "search old.example\nnameserver 192.0.2.53\noptions ndots:2\n"
    assert "search" not in resolv_conf(Resolver(search=(".",)), "host", host, None)
