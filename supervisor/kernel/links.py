"""Links, addresses and routes by netlink. pyroute2 is imported with this module, which takes 4 MB.

All functions act in the network namespace of the calling thread. What is asked for and is there already is no
error. Raise OSError.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import secrets
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple


def _without_the_rest() -> None:
    """Have the package there without its `__init__`, which imports all of it: 4 MB that nobody here uses."""
    found = importlib.util.find_spec("pyroute2")
    if found is not None and found.submodule_search_locations and "pyroute2" not in sys.modules:
        bare = ModuleType("pyroute2")
        bare.__path__ = list(found.submodule_search_locations)
        bare.__spec__ = found
        sys.modules["pyroute2"] = bare


_without_the_rest()
from pyroute2.iproute.linux import IPRoute  # noqa: E402
from pyroute2.netlink.exceptions import NetlinkError  # noqa: E402

_NODAD = 0x02  # IFA_F_NODAD: such an address may be used at once
_SIOCGIFINDEX = 0x8933
_IFREQ = struct.Struct("16si20x")
LOOPBACK = 1
"""The index of the loopback device in every namespace."""


class Link(NamedTuple):
    """A link as it is. number: its index; master: that of its bridge, or 0. kind: "bridge", "veth", ..."""

    number: int
    name: str
    kind: str
    alias: str
    up: bool
    mtu: int
    master: int
    mac: str


class Links:
    """A netlink socket of the namespace in which it was opened."""

    def __init__(self) -> None:
        self._netlink: Any = IPRoute()
        self._other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def close(self) -> None:
        """Close it."""
        self._netlink.close()
        self._other.close()

    def number(self, name: str) -> int:
        """The index of a link; 0 if there is none. A hundredth of what `get` costs."""
        try:
            answer = fcntl.ioctl(self._other, _SIOCGIFINDEX, _IFREQ.pack(name.encode()[:15], 0))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return 0
            raise
        return int(_IFREQ.unpack(answer)[1])

    def all(self) -> dict[str, Link]:
        """By name."""
        return {link.name: link for link in map(_link, self._netlink.get_links())}

    def get(self, name: str) -> Link | None:
        """One link, without looking at all of them."""
        try:
            found = self._netlink.link("get", ifname=name)
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise
        return next(map(_link, found), None)

    def _made(self, name: str) -> int:
        number = self.number(name)
        if not number:
            raise OSError(errno.ENODEV, f"cannot find the link {name} that was just made")
        return number

    def routes(self) -> list[str]:
        """Destinations of the main table, CIDR; not the default routes."""
        found = []
        for message in self._netlink.get_routes(table=254):
            destination = message.get_attr("RTA_DST")
            if destination and message["dst_len"]:
                found.append(f"{destination}/{message['dst_len']}")
        return found

    def addresses(self, index: int) -> set[str]:
        """With prefix lengths; those of the link-local kind are not counted."""
        found = set()
        for message in self._netlink.get_addr(index=index):
            if message["scope"] != 253:  # RT_SCOPE_LINK
                found.add(f"{message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}")
        return found

    def add_bridge(self, name: str, alias: str, mtu: int) -> int:
        """A bridge; its index. What has that name already must be one."""
        link = self.get(name)
        if link is None:
            with _told(f"cannot make the bridge {name}"):
                self._netlink.link("add", ifname=name, kind="bridge")
        elif link.kind != "bridge":
            raise OSError(errno.EEXIST, f"cannot make the bridge {name}: there is a link of that name")
        number = self._made(name)
        with _told(f"cannot set up the bridge {name}"):
            self._netlink.link("set", index=number, IFLA_IFALIAS=alias, **({"mtu": mtu} if mtu else {}))
        return number

    def up(self, index: int) -> None:
        """Switch it on."""
        with _told(f"cannot switch on link {index}"):
            self._netlink.link("set", index=index, state="up")

    def add_veth(
        self, name: str, alias: str, master: int, inner: str, mac: str, mtu: int, namespace: int
    ) -> None:
        """A pair: `name` here, in the bridge with the index `master`; `inner` in the other namespace."""
        peer = {"ifname": inner, "net_ns_fd": namespace, "address": mac}
        both = {"mtu": mtu} if mtu else {}
        with _told(f"cannot make the link {name}"):
            self._netlink.link(
                "add", ifname=name, kind="veth", master=master, state="up", peer={**peer, **both}, **both
            )
        index = self._made(name)
        with _told(f"cannot put the link {name} into its bridge"):
            self._netlink.link("set", index=index, IFLA_IFALIAS=alias)
            self._answer_itself(index)

    def enslave(self, index: int, master: int) -> None:
        """Put it into a bridge, and on."""
        with _told(f"cannot put link {index} into its bridge"):
            self._netlink.link("set", index=index, master=master, state="up")
            self._answer_itself(index)

    def _answer_itself(self, index: int) -> None:
        """What it sends may come back to it: with br_netfilter, one that calls itself by a port of the host
        does so within the bridge.
        """
        self._netlink.brport("set", index=index, mode=1)

    def add_address(self, index: int, address: str) -> None:
        """address: with its prefix length."""
        text, _, length = address.partition("/")
        flags = {"flags": _NODAD} if ":" in text else {}
        with _told(f"cannot add the address {address}"):
            self._netlink.addr("add", index=index, address=text, prefixlen=int(length), **flags)

    def remove_address(self, index: int, address: str) -> None:
        """The opposite."""
        text, _, length = address.partition("/")
        with _told(f"cannot remove the address {address}"):
            self._netlink.addr("del", index=index, address=text, prefixlen=int(length))

    def default_route(self, index: int, gateway: str) -> None:
        """By that gateway; in the place of another one of the same version."""
        everything = "::/0" if ":" in gateway else "0.0.0.0/0"
        with _told(f"cannot route by {gateway}"):
            self._netlink.route("replace", dst=everything, gateway=gateway, oif=index)

    def delete(self, names: Iterable[str]) -> None:
        """Remove links. One that is not there is no error.

        Several go as a group, for which the kernel waits once, and not once for each of them (20 to 50 ms on
        a host that works). Nobody else uses its number, which is drawn for this.
        """
        numbers = [number for name in names if (number := self.number(name))]
        if len(numbers) == 1:
            with _told("cannot remove a link", errno.ENODEV):
                self._netlink.link("del", index=numbers[0])
        elif numbers:
            group = secrets.randbits(31) | 1 << 31  # never 0, in which all others are
            for number in numbers:
                with _told("cannot remove a link", errno.ENODEV):
                    self._netlink.link("set", index=number, group=group)
            with _told("cannot remove links", errno.ENODEV):
                self._netlink.link("del", group=group)


@contextlib.contextmanager
def links() -> Iterator[Links]:
    """For the namespace that this thread is in."""
    opened = Links()
    try:
        yield opened
    finally:
        opened.close()


@contextlib.contextmanager
def _told(what: str, *forgiven: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code in (errno.EEXIST, *forgiven):
            return
        raise OSError(error.code, f"{what}: {error.args[1] if len(error.args) > 1 else error}") from error


def _link(message: Any) -> Link:
    information = message.get_attr("IFLA_LINKINFO")
    kind = information.get_attr("IFLA_INFO_KIND") if information is not None else None
    return Link(
        message["index"],
        message.get_attr("IFLA_IFNAME"),
        kind or "",
        message.get_attr("IFLA_IFALIAS") or "",
        bool(message["flags"] & 1),
        message.get_attr("IFLA_MTU") or 0,
        message.get_attr("IFLA_MASTER") or 0,
        message.get_attr("IFLA_ADDRESS") or "",
    )
