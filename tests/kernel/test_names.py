"""Names in networks, asked from inside of them: by C libraries, and by programs that ask 127.0.0.11."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dnslib
import pytest
from naming import Namespace, Resolving, beyond, member, namespace, of

from supervisor.core.network import Resolver
from supervisor.resolver.forward import MOST_OF_ONE
from supervisor.runtime.names import Member, Membership
from supervisor.runtime.resolvconf import resolv_conf

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="no ip: apt-get install iproute2"),
]


@pytest.fixture
def db() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


def shop(web: Namespace, db: Namespace) -> tuple[Member, Member]:
    return (
        member(web, "shop-web-1", "web", "10.0.0.2"),
        member(db, "shop-db-1", "db", "10.0.0.3", "fd00::3", aliases=("store",)),
    )


def with_upstream(one: Member, *servers: str) -> Member:
    """As `dns` of a service."""
    return replace(one, resolver=Resolver(servers=servers))


@pytest.fixture
def any_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers of these tests are on the loopback, which a service may not name."""
    monkeypatch.setattr("supervisor.runtime.names.check_servers", lambda *_: None)


def test_names_and_aliases_resolve_for_programs_of_glibc(
    resolver: Resolving, web: Namespace, db: Namespace
) -> None:
    resolver.tell(*shop(web, db))
    code = "import socket,sys; print(sorted({i[4][0] for i in socket.getaddrinfo(sys.argv[1], 80)}))"
    text = resolv_conf(Resolver(), "networks", "", None)
    for name in ("db", "shop-db-1", "store", "DB", "db.", "db.shop_default"):
        found = web.run(sys.executable, "-c", code, name, resolv_conf=text)
        assert found == "['10.0.0.3', 'fd00::3']\n", name
    assert web.run(sys.executable, "-c", code, "web", resolv_conf=text) == "['10.0.0.2']\n"
    reverse = "import socket; print(socket.gethostbyaddr('10.0.0.3')[0], socket.gethostbyaddr('fd00::3')[0])"
    called = "shop-db-1.shop_default"
    assert web.run(sys.executable, "-c", reverse, resolv_conf=text) == f"{called} {called}\n"


@pytest.mark.skipif(shutil.which("musl-gcc") is None, reason="no musl-gcc: apt-get install musl-tools")
def test_names_resolve_for_programs_of_musl(
    resolver: Resolving, web: Namespace, db: Namespace, tmp_path: Path
) -> None:
    """It asks for A and AAAA at once, and gives a name up that does not exist for one of them."""
    source = Path(__file__).with_name("resolve.c")
    subprocess.run(["musl-gcc", "-static", "-o", tmp_path / "resolve", source], check=True)
    resolver.tell(*shop(web, db))
    text = resolv_conf(Resolver(), "networks", "", None)
    assert web.run(str(tmp_path / "resolve"), "web", resolv_conf=text) == "10.0.0.2\n"
    assert sorted(web.run(str(tmp_path / "resolve"), "db", resolv_conf=text).split()) == [
        "10.0.0.3",
        "fd00::3",
    ]


@pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox: apt-get install busybox-static")
def test_names_resolve_for_nslookup_of_busybox(resolver: Resolving, web: Namespace, db: Namespace) -> None:
    resolver.tell(*shop(web, db))
    assert "10.0.0.3" in web.run("busybox", "nslookup", "db", "127.0.0.11")


def test_a_family_that_a_name_has_not_is_empty_and_not_an_error(
    resolver: Resolving, web: Namespace, db: Namespace
) -> None:
    resolver.tell(*shop(web, db))
    for kind in ("AAAA", "MX", "TXT", "HTTPS", "SRV"):
        found = web.ask("web", kind)
        assert (found.header.get_rcode(), found.rr, found.header.ra) == (0, [], 1), kind
    assert {str(record.rdata) for record in web.ask("db", "ANY").rr} == {"10.0.0.3", "fd00::3"}


def test_all_replicas_come_in_any_order(resolver: Resolving, web: Namespace, db: Namespace) -> None:
    one, other = shop(web, db)
    with contextlib.ExitStack() as stack:
        spaces = [stack.enter_context(namespace()) for _ in range(3)]
        resolver.tell(
            one, other, *(member(at, f"api-{n}", "api", f"10.0.2.{n}") for n, at in enumerate(spaces))
        )
        seen = [tuple(web.addresses("api")) for _ in range(60)]
        assert {tuple(sorted(found)) for found in seen} == {("10.0.2.0", "10.0.2.1", "10.0.2.2")}
        assert len({found[0] for found in seen}) == 3, "each of them is the first at some time"


@pytest.mark.usefixtures("any_server")
def test_a_name_of_a_network_that_is_not_shared_is_unknown(
    resolver: Resolving, web: Namespace, db: Namespace
) -> None:
    with beyond() as server:
        one = with_upstream(member(web, "a-web-1", "web", "10.0.0.2", network="a"), server.address)
        resolver.tell(one, member(db, "b-db-1", "db", "10.1.0.3", network="b"))
        assert web.ask("db").header.get_rcode() == 3
        assert web.ask("db.b").header.get_rcode() == 3
        assert web.ask("3.0.1.10.in-addr.arpa", "PTR").header.get_rcode() == 3
        assert [name for name, _ in server.seen] == ["db", "db.b", "3.0.1.10.in-addr.arpa"]
        both = replace(one, memberships=(*one.memberships, Membership("b", ("10.1.0.2",))))
        resolver.tell(both, member(db, "b-db-1", "db", "10.1.0.3", network="b"))
        assert web.addresses("db") == ["10.1.0.3"], "as soon as it is in that network, too"


@pytest.mark.usefixtures("any_server")
def test_the_rest_is_forwarded_as_it_was_asked(resolver: Resolving, web: Namespace, db: Namespace) -> None:
    with beyond() as server:
        server.answers["example.org"] = of("192.0.2.1")
        resolver.tell(with_upstream(shop(web, db)[0], server.address), shop(web, db)[1])
        query = dnslib.DNSRecord.question("eXaMple.oRg")
        query.header.id = 0xBEEF
        found = dnslib.DNSRecord.parse(web.udp(query.pack()))
        assert (found.header.id, str(found.q.qname)) == (0xBEEF, "eXaMple.oRg.")
        assert [(str(record.rdata), record.ttl) for record in found.rr] == [("192.0.2.1", 77)]
        assert server.seen == [("eXaMple.oRg", False)]
        (over_tcp,) = web.tcp(query.pack())
        assert dnslib.DNSRecord.parse(over_tcp).header.id == 0xBEEF


@pytest.mark.usefixtures("any_server")
def test_an_answer_that_was_cut_is_fetched_over_tcp_for_who_asks_so(
    resolver: Resolving, web: Namespace, db: Namespace
) -> None:
    many = [f"192.0.2.{n}" for n in range(100)]

    def cut(query: dnslib.DNSRecord, tcp: bool) -> dnslib.DNSRecord:
        reply = of(*many)(query, tcp)
        return reply if tcp else reply.truncate()

    with beyond() as server:
        server.answers["many.example"] = cut
        resolver.tell(with_upstream(shop(web, db)[0], server.address))
        query = dnslib.DNSRecord.question("many.example").pack()
        assert dnslib.DNSRecord.parse(web.udp(query)).header.tc == 1
        assert len(dnslib.DNSRecord.parse(web.tcp(query)[0]).rr) == 100
        assert [tcp for _, tcp in server.seen] == [False, False, True]


@pytest.mark.usefixtures("any_server")
def test_the_next_server_is_asked_where_one_fails(resolver: Resolving, web: Namespace, db: Namespace) -> None:
    def fails(query: dnslib.DNSRecord, tcp: bool) -> dnslib.DNSRecord:
        reply = query.reply()
        reply.header.rcode = 2
        return reply

    with beyond() as bad, beyond() as good:
        bad.answers["example.org"] = fails
        good.answers["example.org"] = of("192.0.2.1")
        nobody = "127.53.0.1"  # nothing listens there
        resolver.tell(with_upstream(shop(web, db)[0], nobody, bad.address, good.address))
        assert web.addresses("example.org") == ["192.0.2.1"]
        resolver.tell(with_upstream(shop(web, db)[0], nobody, bad.address))
        assert web.ask("example.org").header.get_rcode() == 2, "what the last one said"
        resolver.tell(with_upstream(shop(web, db)[0], nobody))
        assert web.ask("example.org").header.get_rcode() == 2
        assert resolver.counters()["failed"] == 1


@pytest.mark.usefixtures("any_server")
def test_a_silent_server_costs_its_time_once(resolver: Resolving, web: Namespace, db: Namespace) -> None:
    with beyond() as silent, beyond() as good:
        silent.answers["one.example"] = silent.answers["two.example"] = lambda *_: None
        good.answers["one.example"] = good.answers["two.example"] = of("192.0.2.1")
        resolver.tell(with_upstream(shop(web, db)[0], silent.address, good.address))
        assert web.addresses("one.example") == ["192.0.2.1"]
        assert web.addresses("two.example") == ["192.0.2.1"]
        assert [name for name, _ in silent.seen] == ["one.example"], "then the others are asked first"


@pytest.mark.usefixtures("any_server")
def test_internal_networks_have_no_outside(resolver: Resolving, web: Namespace, db: Namespace) -> None:
    with beyond() as server:
        server.answers["example.org"] = of("192.0.2.1")
        inner = with_upstream(member(web, "in-web-1", "web", "10.0.0.2", internal=True), server.address)
        resolver.tell(inner, member(db, "in-db-1", "db", "10.0.0.3", internal=True))
        assert web.ask("example.org").header.get_rcode() == 3
        assert web.addresses("db") == ["10.0.0.3"]
        assert server.seen == []


def test_what_is_too_large_is_cut_over_udp_and_whole_over_tcp(
    resolver: Resolving, web: Namespace, db: Namespace
) -> None:
    aliases = [member(db, "shop-db-1", "db", *(f"10.0.3.{n}" for n in range(100)))]
    resolver.tell(shop(web, db)[0], *aliases)
    query = dnslib.DNSRecord.question("db")
    wire = web.udp(query.pack())
    found = dnslib.DNSRecord.parse(wire)
    assert found.header.tc == 1
    assert len(wire) <= 512
    assert 0 < len(found.rr) < 100
    (whole,) = web.tcp(query.pack())
    assert len({str(record.rdata) for record in dnslib.DNSRecord.parse(whole).rr}) == 100
    query.add_ar(dnslib.EDNS0(udp_len=4096))
    found = dnslib.DNSRecord.parse(web.udp(query.pack()))
    assert (found.header.tc, len(found.rr), len(found.ar)) == (0, 100, 1)
    wires = [dnslib.DNSRecord.question(name).pack() for name in ("web", "db", "shop-web-1")]
    assert len(web.tcp(*wires)) == 3, "several on one connection"


@pytest.mark.usefixtures("any_server")
def test_one_that_asks_too_much_does_not_starve_another(
    resolver: Resolving, web: Namespace, db: Namespace
) -> None:
    count = 3 * MOST_OF_ONE

    def flood() -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            sock.settimeout(10)
            sock.connect(("127.0.0.11", 53))
            for number in range(count):
                sock.send(dnslib.DNSRecord.question(f"silent{number}.example").pack())
            refused = 0
            for _ in range(count - MOST_OF_ONE):
                refused += dnslib.DNSRecord.parse(sock.recv(512)).header.get_rcode() == 2
            return refused

    with beyond() as server:
        server.answers = {f"silent{n}.example": lambda *_: None for n in range(count)}
        server.answers["example.org"] = of("192.0.2.1")
        one, other = (with_upstream(each, server.address) for each in shop(web, db))
        resolver.tell(one, other)
        assert web.inside(flood) == count - MOST_OF_ONE, "refused at once"
        assert resolver.counters()["outstanding"] <= MOST_OF_ONE
        assert db.addresses("example.org") == ["192.0.2.1"]
        assert db.addresses("web") == web.addresses("web") == ["10.0.0.2"]


def test_a_service_may_serve_names_itself(resolver: Resolving, web: Namespace, db: Namespace) -> None:
    """With port 53 published or exposed, ours is another port, and packets for ours are redirected."""
    if shutil.which("nft") is None:
        pytest.skip("no nft: apt-get install nftables")
    resolver.tell(replace(shop(web, db)[0], serves_dns=True), shop(web, db)[1])

    def work() -> list[str]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind(("0.0.0.0", 53))
            tcp.bind(("0.0.0.0", 53))
            tcp.listen()
            return web.addresses("db")

    assert web.inside(work) == ["10.0.0.3"]
    (over_tcp,) = web.tcp(dnslib.DNSRecord.question("db").pack())
    assert str(dnslib.DNSRecord.parse(over_tcp).rr[0].rdata) == "10.0.0.3"


def test_garbage_ends_nothing(resolver: Resolving, web: Namespace, db: Namespace) -> None:
    resolver.tell(*shop(web, db))
    good = dnslib.DNSRecord.question("db").pack()
    packets = [good[:at] for at in range(1, len(good))]
    packets += [
        good[:at] + bytes((byte,)) + good[at + 1 :] for at in range(len(good)) for byte in (0, 192, 255)
    ]
    packets += [b"\0" * 12 + b"\xc0\x0c" * 2000, good[:5] + b"\x09" + good[6:], b"\xff" * 4000]

    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("127.0.0.11", 53))
            for packet in packets:
                sock.send(packet)
        for packet in packets[:10]:
            with socket.create_connection(("127.0.0.11", 53)) as stream:
                stream.sendall(packet)

    before = resolver.pid
    web.inside(work)
    assert web.addresses("db") == ["10.0.0.3"]
    assert resolver.pid == before
    assert resolver.said == []


def test_it_has_no_privileges(resolver: Resolving, web: Namespace, db: Namespace) -> None:
    resolver.tell(*shop(web, db))
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{resolver.pid}/status").read_text().splitlines()
        if ":\t" in line
    )
    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65534"}
    for which in ("CapEff", "CapPrm", "CapBnd", "CapAmb", "CapInh"):
        assert int(status[which], 16) == 0, which
    assert status["NoNewPrivs"] == "1"
    assert status["Groups"].strip() == ""
