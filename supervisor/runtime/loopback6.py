"""Published ports at ::1, which no rule of netfilter can bring to a service.

Linux has no `route_localnet` for IPv6: what is sent to a service with ::1 as its source does not find back.
So the way is changed before there is a packet: a program on the root cgroup looks at each connect(2) to ::1
in the host's network, and puts the service's own address in its place where a port is published; an IPv4
address in the form ::ffff:a.b.c.d, for which the kernel makes an IPv4 connection. Nothing of ours is in
the way of what is sent then.

The program and its map stay when the daemon ends, as rules do. The next daemon puts its own in their place.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Mapping

from supervisor.core.loopback import Way
from supervisor.kernel import bpf

NAME_PREFIX = "sk_lo6_"
"""How programs are called; the tag of their supervisor follows."""

_MOST = 4096
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h, since Linux 5.14

# struct bpf_sock_addr
_ADDRESS, _PORT, _PROTOCOL = 8, 24, 36
# Codes of instructions: linux/bpf_common.h, linux/bpf.h.
_LOAD, _STORE, _LOAD_64, _MOVE, _MOVE_NUMBER, _ADD = 0x61, 0x63, 0x18, 0xBF, 0xB7, 0x07
_IF_NOT, _IF_NOT_REGISTER, _IF, _CALL, _EXIT = 0x55, 0x5D, 0x15, 0x85, 0x95
_LOOKUP, _NETNS_COOKIE = 1, 122
_PSEUDO_MAP = 1


class Loopback6:
    """Of one supervisor. All methods block and belong to one thread."""

    def __init__(self, tag: str) -> None:
        self._name = f"{NAME_PREFIX}{tag[:8]}"
        self._map = -1
        self._there: dict[bytes, bytes] = {}

    def set(self, ways: Mapping[tuple[str, int], Way], cgroup: str) -> None:
        """Have exactly these in force: by (protocol, port of the host). cgroup: the root of v2.

        Raises OSError where this kernel cannot; then ::1 is refused.
        """
        if not ways:
            self.clear(cgroup)
            return
        wanted = {
            struct.pack("=II", socket.htons(port), _PROTOCOLS[protocol]): _packed(way)
            for (protocol, port), way in ways.items()
            if protocol in _PROTOCOLS
        }
        fresh = self._map < 0
        if fresh:
            self._map = bpf.create_hash(8, 20, _MOST)
        for key in self._there.keys() - wanted.keys():
            bpf.drop(self._map, key)
        for key, value in wanted.items():
            if self._there.get(key) != value:
                bpf.put(self._map, key, value)
        self._there = wanted
        if fresh:
            try:
                self._attach(cgroup)
            except BaseException:
                self.close()
                raise

    def _attach(self, cgroup: str) -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as here:
            cookie = struct.unpack("=Q", here.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8))[0]
        program = bpf.load(self._name, _program(self._map, cookie))
        before = -1
        try:
            before = bpf.attached(cgroup, self._name)
            bpf.attach(cgroup, program, before)
        finally:
            for descriptor in (program, before):
                if descriptor >= 0:
                    os.close(descriptor)

    def clear(self, cgroup: str) -> None:
        """Take it out of the kernel. Raises OSError."""
        self.close()
        program = bpf.attached(cgroup, self._name)
        if program >= 0:
            try:
                bpf.detach(cgroup, program)
            finally:
                os.close(program)

    def close(self) -> None:
        """Let go; what is in force stays so."""
        if self._map >= 0:
            os.close(self._map)
        self._map, self._there = -1, {}


def _packed(way: Way) -> bytes:
    text = way.address if ":" in way.address else f"::ffff:{way.address}"
    return socket.inet_pton(socket.AF_INET6, text) + struct.pack("=I", socket.htons(way.port))


def _program(map_fd: int, cookie: int) -> list[bpf.Instruction]:
    """Registers: 6 is the context, 10 the stack; a call takes 1 and 2, answers in 0, and loses 1 to 5."""
    last = int.from_bytes(b"\0\0\0\1", sys.byteorder)
    out = "out"
    code: list[tuple[int, int, int, int | str, int]] = [(_MOVE, 6, 1, 0, 0)]
    for number, word in enumerate((0, 0, 0, last)):
        code += [(_LOAD, 2, 6, _ADDRESS + 4 * number, 0), (_IF_NOT, 2, 0, out, word)]
    code += [
        (_MOVE, 1, 6, 0, 0),
        (_CALL, 0, 0, 0, _NETNS_COOKIE),
        (_LOAD_64, 2, 0, 0, cookie & 0xFFFF_FFFF),
        (0, 0, 0, 0, cookie >> 32),
        (_IF_NOT_REGISTER, 0, 2, out, 0),
        # The key, on the stack: port, protocol.
        (_LOAD, 2, 6, _PORT, 0),
        (_STORE, 10, 2, -8, 0),
        (_LOAD, 2, 6, _PROTOCOL, 0),
        (_STORE, 10, 2, -4, 0),
        (_LOAD_64, 1, _PSEUDO_MAP, 0, map_fd),
        (0, 0, 0, 0, 0),
        (_MOVE, 2, 10, 0, 0),
        (_ADD, 2, 0, 0, -8 & 0xFFFF_FFFF),
        (_CALL, 0, 0, 0, _LOOKUP),
        (_IF, 0, 0, out, 0),
    ]
    for number in range(4):
        code += [(_LOAD, 2, 0, 4 * number, 0), (_STORE, 6, 2, _ADDRESS + 4 * number, 0)]
    code += [(_LOAD, 2, 0, 16, 0), (_STORE, 6, 2, _PORT, 0)]
    end = len(code)
    code += [(_MOVE_NUMBER, 0, 0, 0, 1), (_EXIT, 0, 0, 0, 0)]  # 1: let it connect
    return [
        (op, dst, src, end - at - 1 if isinstance(off, str) else off, number)
        for at, (op, dst, src, off, number) in enumerate(code)
    ]
