"""What a service shares with the host or has alone: `ipc`, `pid`, `uts`, `userns_mode`, `cgroup`; `platform`,
`runtime` and `isolation`, which have one value here.
"""

from __future__ import annotations

import os

from supervisor.compose.context import Context
from supervisor.compose.tree import Node, quote

# key -> (values that are what every service has, what to say of the others)
FIXED = {
    "cgroup": (("private",), "a service sees no cgroup but its own"),
    "ipc": (("private", "shareable"), "every service has an IPC namespace of its own"),
    "isolation": (("default",), "other isolations are Windows' own"),
    "pid": (("private",), "every service has a PID namespace of its own, by which all of it is ended"),
    "runtime": (
        ("runc", "io.containerd.runc.v2"),
        "there is one way to start a service",
    ),
    "userns_mode": (("host",), "services have no user namespace"),
    "uts": (("private",), "every service has a host name of its own; use `hostname`"),
}
_MACHINES = {
    "x86_64": ("amd64", "x86_64"),
    "aarch64": ("arm64", "aarch64", "arm64/v8"),
    "armv7l": ("arm/v7", "arm", "armhf"),
    "ppc64le": ("ppc64le",),
    "s390x": ("s390x",),
    "riscv64": ("riscv64",),
}


def fixed(context: Context, key: str, node: Node, path: str) -> str | None:
    """A key of which only some values can be kept; those are what holds without it."""
    allowed, why = FIXED[key]
    if key == "pid" and node.value is None:
        return None
    text = context.reader.string(node, path, allowed[0])
    if key == "cgroup" and text is not None and text not in ("host", "private"):
        context.reader.choice(node, path, ("private", "host"))
        return None
    if text and text not in allowed:
        context.reader.bad(
            node, path, f"not supported: {key} {quote(text)}", f"{why}; write {allowed[0]}, or remove the key"
        )
        return None
    return text or None


def platform(context: Context, node: Node, path: str) -> str | None:
    """`platform`: this host's."""
    text = context.reader.string(node, path, "linux/amd64")
    if not text:
        return None
    machine = os.uname().machine
    names = _MACHINES.get(machine, (machine,))
    system, slash, architecture = text.partition("/")
    if (system, architecture) == ("linux", "") or (slash and system == "linux" and architecture in names):
        return text
    if not slash and text in names:
        return text
    context.reader.bad(
        node,
        path,
        f"not supported: the platform {quote(text)} on a host that is linux/{names[0]}",
        "there is no emulation; use an image for this platform",
    )
    return None
