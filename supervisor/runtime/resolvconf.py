"""/etc/resolv.conf of an instance. Pure; `etcfiles` writes it."""

from __future__ import annotations

from typing import Literal, assert_never

from supervisor.core.network import Resolver
from supervisor.resolver.upstream import OWN_ADDRESS

_STUB_RESOLVER = "127.0.0.53"


def resolv_conf(
    resolver: Resolver, where: Literal["host", "networks", "none"], host: str, upstream: str | None
) -> str:
    """The text. where: in the host's network, in networks with names, or in no network.

    host: the host's own file. upstream: systemd-resolved's list of the real servers, if there is one.
    """
    match where:
        case "host":
            return _replaced(resolver, host)
        case "networks":
            return _with_names(resolver, host)
        case "none":
            return _replaced(resolver, _reachable(host, upstream))
        case _:
            assert_never(where)


def _reachable(host: str, upstream: str | None) -> str:
    """Without resolvers on the host's loopback."""
    if _STUB_RESOLVER in host and upstream is not None:
        return upstream
    kept = [line for line in host.splitlines() if not _is_loopback_server(line)]
    return "\n".join(kept) + "\n" if kept else ""


def _replaced(resolver: Resolver, text: str) -> str:
    """A service's `dns`, `dns_search` and `dns_opt`, each instead of what `text` says."""
    if not (resolver.servers or resolver.search or resolver.options):
        return text
    replaced = {
        "nameserver": bool(resolver.servers),
        "search": bool(resolver.search),
        "domain": bool(resolver.search),
        "options": bool(resolver.options),
    }
    kept = [line for line in text.splitlines() if not replaced.get((line.split() or [""])[0], False)]
    kept += [f"nameserver {server}" for server in resolver.servers]
    if resolver.search and resolver.search != (".",):
        kept.append(f"search {' '.join(resolver.search)}")
    if resolver.options:
        kept.append(f"options {' '.join(resolver.options)}")
    return "\n".join(kept) + "\n"


def _with_names(resolver: Resolver, host: str) -> str:
    """Our address, its own search list and options.

    The host's search list and options count where the service says nothing. `ndots:0`, as
    Docker has it, unless there is an ndots: so a plain service name is asked for as it is first. A search
    list of `.` alone is none (as for `docker run --dns-search=.`).
    """
    search, options = _host_words(host)
    if resolver.search:
        search = [] if resolver.search == (".",) else list(resolver.search)
    if resolver.options:
        options = list(resolver.options)
    if not any(option.startswith("ndots:") for option in options):
        options.append("ndots:0")
    lines = [f"nameserver {OWN_ADDRESS}"]
    if search:
        lines.append(f"search {' '.join(search)}")
    lines.append(f"options {' '.join(options)}")
    return "\n".join([*lines, ""])


def _host_words(text: str) -> tuple[list[str], list[str]]:
    """The search list (the last line of its kind counts) and all options of a resolv.conf(5)."""
    search: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if words and words[0] in ("search", "domain"):
            search = [word for word in words[1:] if word != "."]
        elif words and words[0] == "options":
            options += words[1:]
    return search, options


def _is_loopback_server(line: str) -> bool:
    words = line.split()
    return len(words) > 1 and words[0] == "nameserver" and (words[1].startswith("127.") or words[1] == "::1")
