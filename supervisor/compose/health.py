"""`healthcheck` and `x-shipkeeper.probe` of a service -> `core.healthcheck`."""

from __future__ import annotations

from typing import Any

from supervisor.compose import keys, shellwords, units
from supervisor.compose.context import Context
from supervisor.compose.tree import Node, quote
from supervisor.core.healthcheck import Healthcheck, Probe

Document = dict[str, Any]
_TEST = 'curl -f http://localhost, or ["CMD", "curl", "-f", "http://localhost"]'
_PROBE = "{http: http://localhost:8080/health}, or {tcp: 5432}"
_TIMES = ("interval", "timeout", "start_period", "start_interval")


def healthcheck(context: Context, node: Node, path: str) -> tuple[Healthcheck, Document]:
    """`healthcheck` with its canonical form; what is left out stays the image's, or the default."""
    reader = context.reader
    entries = reader.mapping(node, path, keys.HEALTHCHECK, "{test: curl -f http://localhost}") or {}
    document: Document = {}
    fields: dict[str, Any] = {}
    if "test" in entries:
        argv = _test(context, entries["test"], f"{path}.test")
        if argv:
            document["test"] = list(argv)
            if argv[:1] == ("NONE",):
                fields["disabled"] = True
            else:
                command = ("/bin/sh", "-c", *argv[1:]) if argv[0] == "CMD-SHELL" else argv[1:]
                fields["probe"] = Probe("command", command)
    for key in _TIMES:
        if key in entries and (ns := reader.duration_ns(entries[key], f"{path}.{key}")) is not None:
            if 0 < ns < 1_000_000:
                reader.bad(entries[key], f"{path}.{key}", "it is below 1ms", "write 30s")
            document[key] = units.duration_text(ns)
            # Docker's 0 is "inherit", and so is ours, but for the start period, whose default it is.
            fields[f"{key}_s"] = ns / 1e9 if ns or key == "start_period" else None
    if "retries" in entries:
        retries = reader.integer(entries["retries"], f"{path}.retries", "3", 0, 10**6)
        if retries is not None:
            document["retries"] = retries
            fields["retries"] = retries or None
    if "disable" in entries and reader.boolean(entries["disable"], f"{path}.disable"):
        document["disable"] = True
        fields["disabled"] = True
        fields.pop("probe", None)
    return Healthcheck(**fields), document | context.extensions(node)


def _test(context: Context, node: Node, path: str) -> tuple[str, ...] | None:
    reader = context.reader
    if isinstance(node.value, str):
        text = reader.string(node, path, _TEST)
        return None if text is None else ("CMD-SHELL", text)
    found = reader.strings(node, path, _TEST)
    if found is None:
        return None
    if found and found[0] not in ("CMD", "CMD-SHELL", "NONE"):
        reader.bad(
            node,
            path,
            f"{quote(found[0])} is not one of CMD, CMD-SHELL, NONE",
            f"write {_TEST}",
        )
        return None
    if found and found[0] != "NONE" and len(found) == 1:
        reader.bad(node, path, f"{found[0]} has no command behind it", f"write {_TEST}")
        return None
    if found and found[0] == "CMD-SHELL" and len(found) > 2:
        reader.bad(node, path, "CMD-SHELL takes one string", f"write {_TEST}")
        return None
    return tuple(found)


def probe(context: Context, node: Node, path: str) -> tuple[Probe | None, Document]:
    """`x-shipkeeper.probe`: `http:` an URL, or a port with a path; `tcp:` a port; `command:` an argv."""
    reader = context.reader
    entries = reader.mapping(node, path, keys.PROBE, _PROBE)
    if entries is None:
        return None, {}
    kinds = sorted({"http", "tcp", "command"} & entries.keys())
    if len(kinds) != 1:
        reader.bad(node, path, "it needs one of http, tcp and command", f"write {_PROBE}")
        return None, {}
    value, where = entries[kinds[0]], f"{path}.{kinds[0]}"
    match kinds[0]:
        case "tcp":
            port = reader.integer(value, where, "5432", 1, 65535)
            return (None, {}) if port is None else (Probe("tcp", port=port), {"tcp": port})
        case "http":
            return _http(context, value, where)
        case _:
            if isinstance(value.value, str):
                try:
                    argv, _ = shellwords.split(value.value)
                except shellwords.SplitError as error:
                    reader.bad(value, where, str(error), "write a list")
                    return None, {}
            else:
                argv = reader.strings(value, where, '["pg_isready"]') or []
            return (Probe("command", tuple(argv)), {"command": argv}) if argv else (None, {})


def _http(context: Context, node: Node, path: str) -> tuple[Probe | None, Document]:
    """`http://localhost:8080/health`, `:8080/health`, `8080/health` or 8080."""
    reader = context.reader
    if isinstance(node.value, int) and not isinstance(node.value, bool):
        text = str(node.value)
    else:
        found = reader.string(node, path, "http://localhost:8080/health")
        if found is None:
            return None, {}
        text = found
    hint = "write http://localhost:8080/health, or 8080/health"
    if text.startswith("https://"):
        reader.bad(node, path, "a probe speaks plain http", hint)
        return None, {}
    rest = text.removeprefix("http://")
    head, slash, tail = rest.partition("/")
    host, _, port_text = head.rpartition(":")
    if text.startswith("http://") and not host and not head.startswith(":"):
        host, port_text = head, "80"
    host = host.removeprefix("[").removesuffix("]")
    port = int(port_text) if port_text.isdecimal() and port_text.isascii() and len(port_text) < 6 else 0
    if not 0 < port < 65536 or any(char.isspace() for char in text):
        reader.bad(node, path, f"{quote(text)} names no port to ask", hint)
        return None, {}
    host = "127.0.0.1" if host in ("", "localhost") else host
    where = slash + tail or "/"
    return Probe("http", port=port, path=where, host=host), {"http": text}
