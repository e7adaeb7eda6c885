"""Forgetting what the kernel remembers of UDP senders, so that new rules hold for them, too.

A client that sent to a port while it led elsewhere has an entry that each of its packets renews, and goes the
old way for ever. TCP needs nothing: its connections ended.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Collection

from supervisor.kernel import links as _links  # has pyroute2 there without all of it

from pyroute2.netlink.exceptions import NetlinkError  # isort: skip
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTAttrTuple, NFCTSocket  # isort: skip

assert _links


def forget_udp(ports: Collection[int]) -> int:
    """Drop the IPv4 entries of packets to those ports; how many there were. Raises OSError."""
    gone = 0
    with contextlib.closing(NFCTSocket()) as tracked:
        asked = NFCTAttrTuple(proto=socket.IPPROTO_UDP)
        found = [
            NFCTAttrTuple.from_netlink(socket.AF_INET, entry.get_attr("CTA_TUPLE_ORIG"))
            for entry in tracked.dump(tuple_orig=asked)
            if entry["nfgen_family"] == socket.AF_INET
        ]
        for each in found:
            if each.proto != socket.IPPROTO_UDP or each.dport not in ports:
                continue
            try:
                tracked.entry("del", tuple_orig=each)
            except NetlinkError as error:
                if error.code != errno.ENOENT:  # it has just gone by itself
                    raise OSError(error.code, f"cannot forget senders to port {each.dport}") from error
            else:
                gone += 1
    return gone
