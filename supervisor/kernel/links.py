"""Links, addresses and routes by netlink. pyroute2 is imported with this module, which takes 4 MB.

All functions act in the network namespace of the calling thread. What is asked for and is there already is no
error. Raise OSError.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import sys
from collections.abc import Iterator
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

    def close(self) -> None:
        """Close it."""
        self._netlink.close()

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

    def _got(self, name: str) -> Link:
        link = self.get(name)
        if link is None:
            raise OSError(errno.ENODEV, f"cannot find the link {name} that was just made")
        return link

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

    def add_bridge(self, name: str, alias: str, mtu: int) -> Link:
        """A bridge, up. What has that name already must be one."""
        link = self.get(name)
        if link is None:
            with _told(f"cannot make the bridge {name}"):
                self._netlink.link("add", ifname=name, kind="bridge")
            link = self._got(name)
        elif link.kind != "bridge":
            raise OSError(errno.EEXIST, f"cannot make the bridge {name}: there is a link of that name")
        with _told(f"cannot set up the bridge {name}"):
            self._netlink.link("set", index=link.number, IFLA_IFALIAS=alias, **({"mtu": mtu} if mtu else {}))
        return link

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
            self._netlink.link("add", ifname=name, kind="veth", peer={**peer, **both}, **both)
        index = self._got(name).number
        with _told(f"cannot put the link {name} into its bridge"):
            self._netlink.link("set", index=index, IFLA_IFALIAS=alias)
        self.enslave(index, master)

    def enslave(self, index: int, master: int) -> None:
        """Put it into a bridge, and on.

        What it sends may come back to it: with br_netfilter, one that calls itself by a port of the host does
        so within the bridge.
        """
        with _told(f"cannot put link {index} into its bridge"):
            self._netlink.link("set", index=index, master=master, state="up")
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

    def delete(self, name: str) -> None:
        """Remove a link. One that is not there is no error."""
        link = self.get(name)
        if link is not None:
            with _told(f"cannot remove the link {name}", errno.ENODEV):
                self._netlink.link("del", index=link.number)


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
