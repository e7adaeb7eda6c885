"""Probes without a process: a connection, or a GET, from inside a service's network.

`http` sends one HTTP/1.1 request and reads the head of the answer: 200 to 399 is a success, as in Kubernetes.
A redirect is not followed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket

from supervisor.core.health import FAILED_TO_RUN, OUTPUT_BYTES
from supervisor.core.healthcheck import Probe
from supervisor.kernel.netsocket import stream_socket_of

_HEAD_BYTES = 16384


async def ask(probe: Probe, pidfd: int | None) -> tuple[int, str]:
    """(0 for a success, what there is to say). pidfd: of the process whose network it is; None is ours.

    The caller bounds its time. Never raises OSError: what the network says is the result.
    """
    try:
        address = ipaddress.ip_address("127.0.0.1" if probe.host == "localhost" else probe.host)
    except ValueError:
        return FAILED_TO_RUN, f"cannot probe {probe.host}: write an IP address, or localhost"
    where = f"[{address}]:{probe.port}" if address.version == 6 else f"{address}:{probe.port}"
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        if pidfd is None:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        else:
            sock = stream_socket_of(pidfd, family)
    except OSError as error:
        return FAILED_TO_RUN, f"cannot make a socket in the service's network: {error.strerror}"
    loop = asyncio.get_running_loop()
    with sock:
        try:
            await loop.sock_connect(sock, (str(address), probe.port))
            if probe.kind == "tcp":
                return 0, f"connected to {where}"
            return await _get(loop, sock, probe.path, where)
        except OSError as error:
            return 1, f"cannot connect to {where}: {os.strerror(error.errno) if error.errno else error}"


async def _get(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, path: str, where: str
) -> tuple[int, str]:
    request = f"GET {path} HTTP/1.1\r\nHost: {where}\r\nUser-Agent: shipkeeper\r\nConnection: close\r\n\r\n"
    await loop.sock_sendall(sock, request.encode())
    data = bytearray()
    while b"\n\r\n" not in data and b"\n\n" not in data and len(data) < _HEAD_BYTES:
        part = await loop.sock_recv(sock, _HEAD_BYTES - len(data))
        if not part:
            break
        data += part
    line, _, rest = bytes(data).partition(b"\n")
    said = line.strip().decode("latin-1")
    match said.split(" ", 2):
        case [version, code, *_] if version.startswith("HTTP/1.") and code.isascii() and code.isdigit():
            body = rest.partition(b"\r\n\r\n")[2].decode("utf-8", "replace")
            return int(not 200 <= int(code) < 400), f"{said}\n{body}"[:OUTPUT_BYTES]
        case _:
            return 1, f"no HTTP answer from http://{where}{path}: {said[:80]!r}"
