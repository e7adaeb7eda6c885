"""Names in networks, as far as nothing but thought is needed: the table, the answers, /etc/resolv.conf."""

from __future__ import annotations

from typing import Any

import dnslib
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.network import Resolver
from supervisor.resolver.answer import TTL_S, Code, Query, answer, failure, read, refusal
from supervisor.resolver.table import Directory, Endpoint, Place, Table, key_of
from supervisor.resolver.upstream import Upstreams, server, servers_of
from supervisor.runtime.names import Member, Membership, NamesError, names_table
from supervisor.runtime.namesockets import redirection
from supervisor.runtime.resolvconf import resolv_conf

WEB = Endpoint(
    "web1", "/n/web1", (Place("a", ("10.0.0.2",), ("a-web-1", "web")), Place("b.c", ("10.1.0.2",), ()))
)
DB = Endpoint("db1", "/n/db1", (Place("b.c", ("10.1.0.3", "fd00::3"), ("c-db-1", "db", "x.y")),))
TABLE = Table(7, (WEB, DB))
DIRECTORY = Directory(TABLE)


def asked(name: str, kind: str = "A", instance: str = "web1", *, edns: int = 0, tcp: bool = False) -> Any:
    question = dnslib.DNSRecord.question(name, kind)
    if edns:
        question.add_ar(dnslib.EDNS0(udp_len=edns))
    query = read(bytes(question.pack()))
    assert isinstance(query, Query)
    found = answer(DIRECTORY, instance, query, tcp=tcp)
    return None if found is None else dnslib.DNSRecord.parse(found)


def data(record: Any) -> list[str]:
    return [str(one.rdata) for one in record.rr]


def test_a_table_is_the_same_after_a_file() -> None:
    assert Table.decode(msgspec.json.encode(TABLE)) == TABLE


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"serial": 1, "endpoints": [{}]}', b"\xff"])
def test_a_table_that_is_none_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Table.decode(text)


@pytest.mark.parametrize("name", ["db", "DB", "db.", "c-db-1", "x.y", "db.b.c", "X.y.B.c", "c-db-1.b.c."])
def test_a_name_is_found_with_and_without_its_network(name: str) -> None:
    assert data(asked(name)) == ["10.1.0.3"]
    assert data(asked(name, "AAAA")) == ["fd00::3"]


@pytest.mark.parametrize("name", ["nobody", "db.a", "db.c", "x", "y", "web.b.c", "", "b.c"])
def test_what_is_in_no_network_of_the_asker_is_not_ours(name: str) -> None:
    assert asked(name) is None


def test_who_shares_no_network_sees_nothing() -> None:
    assert asked("web", instance="db1") is None
    assert asked("2.0.0.10.in-addr.arpa", "PTR", instance="db1") is None
    assert asked("web", instance="unheard-of") is None


def test_the_first_network_that_has_an_answer_gives_it() -> None:
    """As in Docker: an alias that two networks have is that of the asker's first one."""
    places = tuple(
        Place(name, (address,), ("x",)) for name, address in (("n", "10.0.0.1"), ("m", "10.0.1.1"))
    )
    six = Endpoint("six", "", (Place("m", ("fd00::1",), ("x",)),))
    asker = Endpoint("asker", "", (Place("n"), Place("m")))
    directory = Directory(Table(0, (asker, Endpoint("one", "", places), six)))
    found = directory.find("asker", b"x", v6=False)
    assert found == [bytes((10, 0, 0, 1))]
    assert directory.find("asker", b"x", v6=True) == [bytes((0xFD, *(0,) * 14, 1))]


@pytest.mark.parametrize("kind", ["MX", "TXT", "SRV", "HTTPS", "PTR", "AAAA"])
def test_other_types_of_a_name_that_is_ours_are_empty(kind: str) -> None:
    found = asked("web", kind)
    assert (found.header.get_rcode(), found.rr, found.header.aa) == (0, [], 1)


def test_an_address_is_called_by_container_and_network() -> None:
    assert data(asked("3.0.1.10.in-addr.arpa", "PTR")) == ["c-db-1.b.c."]
    assert data(asked("3.0.1.10.IN-ADDR.arpa", "PTR")) == ["c-db-1.b.c."]
    assert data(asked(f"3.{'0.' * 27}0.0.d.f.ip6.arpa", "PTR")) == ["c-db-1.b.c."]
    for unknown in (
        "9.0.1.10.in-addr.arpa",
        "300.0.1.10.in-addr.arpa",
        "x.0.1.10.in-addr.arpa",
        "10.in-addr.arpa",
    ):
        assert asked(unknown, "PTR") is None, unknown


def test_an_answer_repeats_the_question_and_says_for_how_long() -> None:
    found = asked("dB", edns=1400)
    assert str(found.q.qname) == "dB."
    assert [record.ttl for record in found.rr] == [TTL_S]
    assert (found.header.qr, found.header.ra, found.header.rd, found.header.tc) == (1, 1, 1, 0)
    assert [record.rtype for record in found.ar] == [41]
    assert asked("db").ar == [], "an option only where there was one"


def test_an_answer_is_no_larger_than_it_may_be() -> None:
    many = tuple(f"10.2.{n // 250}.{n % 250}" for n in range(1000))
    directory = Directory(Table(0, (Endpoint("e", "", (Place("n", many, ("many",)),)),)))
    for size in (0, 512, 513, 1232, 4096):
        question = dnslib.DNSRecord.question("many")
        if size:
            question.add_ar(dnslib.EDNS0(udp_len=size))
        query = read(bytes(question.pack()))
        assert isinstance(query, Query)
        found = answer(directory, "e", query, tcp=False)
        assert found is not None
        assert max(512, size) - 16 < len(found) <= max(512, size)
        assert dnslib.DNSRecord.parse(found).header.tc == 1
        whole = answer(directory, "e", query, tcp=True)
        assert whole is not None
        assert len(dnslib.DNSRecord.parse(whole).rr) == 1000


def test_a_version_of_edns_that_nobody_knows_is_told() -> None:
    question = dnslib.DNSRecord.question("web")
    question.add_ar(dnslib.EDNS0(version=3))
    query = read(bytes(question.pack()))
    assert isinstance(query, Query)
    found = answer(DIRECTORY, "web1", query, tcp=False)
    assert found is not None
    parsed = dnslib.DNSRecord.parse(found)
    assert (parsed.ar[0].ttl >> 24) << 4 | parsed.header.get_rcode() == Code.BAD_VERSION


def test_what_is_no_question_is_not_answered_as_one() -> None:
    question = bytes(dnslib.DNSRecord.question("web").pack())
    assert read(b"") is None
    assert read(question[:11]) is None
    assert read(question[:2] + b"\x81" + question[3:]) is None, "an answer"
    assert read(question[:2] + b"\x11" + question[3:]) is Code.NOT_IMPLEMENTED
    assert read(question[:5] + b"\2" + question[6:]) is Code.FORMAT, "two questions"
    assert read(question[:-1]) is Code.FORMAT
    assert read(question[:12] + b"\xc0\x0c" + question[-4:]) is Code.FORMAT, "a name that is itself"


_HEADS = st.sampled_from([b"\1\2\1\0\0\1\0\0\0\0\0\0", b"\1\2\1\0\0\1\0\0\0\0\0\1"])


@given(
    st.one_of(
        st.binary(max_size=600), st.builds(lambda head, rest: head + rest, _HEADS, st.binary(max_size=600))
    )
)
def test_any_bytes_are_read_and_answered_or_refused(wire: bytes) -> None:
    query = read(wire)
    if query is None:
        return
    if isinstance(query, Code):
        made: bytes | None = failure(wire, query)
    else:
        made = answer(DIRECTORY, "web1", query, tcp=False) or refusal(query, Code.SERVER_FAILURE)
    assert made is not None
    assert made[:2] == wire[:2]
    assert made[2] & 0x80
    dnslib.DNSHeader.parse(dnslib.DNSBuffer(made))


_LABELS = st.lists(st.text("abcXYZ019-", min_size=1, max_size=20), min_size=1, max_size=4)


@given(_LABELS, _LABELS)
def test_every_name_is_found_in_any_case_and_with_its_network(name: list[str], network: list[str]) -> None:
    called, where = ".".join(name), ".".join(network)
    one = Endpoint("e", "", (Place(where, ("10.0.0.1",), (called,)),))
    directory = Directory(Table(0, (one,)))
    for text in (called.upper(), f"{called.lower()}.", f"{called}.{where.upper()}"):
        assert directory.find("e", key_of(text), v6=False) == [b"\x0a\0\0\1"]
        assert directory.find("e", key_of(text), v6=True) == []


# --- from what was asked for --------------------------------------------------------------------
def member(**changes: Any) -> Member:
    values: dict[str, Any] = {
        "instance": "i",
        "netns": "/n/i",
        "container": "p-web-1",
        "service": "web",
        "memberships": (Membership("p_default", ("10.0.0.2",), ("www", "web")),),
        **changes,
    }
    return Member(**values)


def test_names_are_those_of_docker_the_container_first() -> None:
    (one,) = names_table(3, [member(hostname="box")]).endpoints
    assert one.places == (Place("p_default", ("10.0.0.2",), ("p-web-1", "web", "www", "box")),)
    assert (one.isolated, one.port, one.upstream) == (False, 53, ())


def test_who_is_in_internal_networks_alone_is_isolated() -> None:
    inner, outer = Membership("in", ("10.0.0.2",), internal=True), Membership("out", ("10.1.0.2",))
    assert names_table(0, [member(memberships=(inner,))]).endpoints[0].isolated
    assert not names_table(0, [member(memberships=(inner, outer))]).endpoints[0].isolated


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "0.0.0.0", "example.org", "127.0.0.11"])
def test_servers_that_cannot_be_asked_are_refused(text: str) -> None:
    with pytest.raises(NamesError, match=r"^cannot use .* as dns of service web: "):
        names_table(0, [member(resolver=Resolver(servers=(text,)))])


@pytest.mark.parametrize(
    ("resolver", "host", "text"),
    [
        (Resolver(), "", "nameserver 127.0.0.11\noptions ndots:0\n"),
        (
            Resolver(),
            "nameserver 10.0.0.1\nsearch lan\n",
            "nameserver 127.0.0.11\nsearch lan\noptions ndots:0\n",
        ),
        (Resolver(), "options ndots:2 edns0\n", "nameserver 127.0.0.11\noptions ndots:2 edns0\n"),
        (
            Resolver(search=("a.b", "c")),
            "search lan\n",
            "nameserver 127.0.0.11\nsearch a.b c\noptions ndots:0\n",
        ),
        (Resolver(search=(".",)), "search lan\n", "nameserver 127.0.0.11\noptions ndots:0\n"),
        (Resolver(domainname="d.e"), "", "nameserver 127.0.0.11\noptions ndots:0\n"),
        (Resolver(options=("use-vc",)), "options x\n", "nameserver 127.0.0.11\noptions use-vc ndots:0\n"),
        (Resolver(servers=("9.9.9.9",)), "", "nameserver 127.0.0.11\noptions ndots:0\n"),
    ],
)
def test_resolv_conf(resolver: Resolver, host: str, text: str) -> None:
    assert resolv_conf(resolver, "networks", host, None) == text


def test_upstreams_are_the_hosts_and_never_ourselves(tmp_path: Any) -> None:
    file = tmp_path / "resolv.conf"
    upstreams = Upstreams(str(file))
    assert upstreams.order((), 0.0) == []
    file.write_text("# x\nnameserver 127.0.0.11\nnameserver 127.0.0.53 # stub\nnameserver fe80::1%lo\n")
    assert upstreams.order((), 0.0) == ["127.0.0.53", "fe80::1%lo"]
    upstreams.silent("127.0.0.53", 0.0)
    assert upstreams.order((), 1.0) == ["fe80::1%lo", "127.0.0.53"]
    assert upstreams.order((), 31.0) == ["127.0.0.53", "fe80::1%lo"]
    assert upstreams.order(("127.0.0.11", "9.9.9.9"), 0.0) == ["9.9.9.9"]
    assert servers_of("\n".join(f"nameserver 10.0.0.{n}" for n in range(5))) == [
        "10.0.0.0",
        "10.0.0.1",
        "10.0.0.2",
    ]
    assert server("example.org") is None
    assert server("9.9.9.9") is not None


def test_the_redirection_says_both_ports() -> None:
    text = redirection(1111, 2222)
    assert "udp dport 53 dnat to 127.0.0.11:1111" in text
    assert "tcp dport 53 dnat to 127.0.0.11:2222" in text
