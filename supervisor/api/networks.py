"""Docker's /networks resource."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from aiohttp import web

from supervisor.api.createnet import RefusedError, attachment_of
from supervisor.api.lookup import body, filters, find
from supervisor.api.netviews import network_view
from supervisor.core.endpoints import NetworkRecord
from supervisor.core.labels import has_label
from supervisor.core.network import Attachment, Network, Pool
from supervisor.daemon.app import Daemon
from supervisor.daemon.engine import Entry
from supervisor.daemon.networks import NetworkInUseError, NoNetworkError, attachments_of
from supervisor.runtime.translate import PlanError


def routes(daemon: Daemon) -> list[web.RouteDef]:
    """List, inspect, create, remove, connect, disconnect, prune."""
    handlers = _Handlers(daemon)
    return [
        web.get("/networks", handlers.index),
        web.post("/networks/create", handlers.create),
        web.post("/networks/prune", handlers.prune),
        web.get("/networks/{name}", handlers.inspect),
        web.delete("/networks/{name}", handlers.remove),
        web.post("/networks/{name}/connect", handlers.connect),
        web.post("/networks/{name}/disconnect", handlers.disconnect),
    ]


class _Handlers:
    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._networks = daemon.networks

    async def index(self, request: web.Request) -> web.Response:
        """?filters: name, id, label, driver, scope, type, dangling."""
        wanted = _filters(request)
        views = [self._view(record) for record in self._sorted()]
        return web.json_response([view for view in views if _passes(view, wanted)])

    async def inspect(self, request: web.Request) -> web.Response:
        return web.json_response(self._view(self._find(request)))

    async def create(self, request: web.Request) -> web.Response:
        """Docker's document; 201 with the id, 409 where there is one of that name."""
        document = await body(request)
        try:
            network = _network(document)
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            raise web.HTTPBadRequest(text=f"cannot make a network: {error}") from error
        if network.name in self._networks.records:
            raise web.HTTPConflict(text=f"network with name {network.name} already exists")
        try:
            record = await self._networks.create(network)
        except PlanError as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        return web.json_response({"Id": record.id, "Warning": ""}, status=201)

    async def remove(self, request: web.Request) -> web.Response:
        try:
            await self._networks.remove(self._find(request).name)
        except NetworkInUseError as error:
            raise web.HTTPForbidden(text=str(error)) from error
        return web.Response(status=204)

    async def prune(self, request: web.Request) -> web.Response:
        """Those that nobody is in; ?filters: label, until is not built."""
        wanted = _filters(request)
        gone = []
        for record in self._sorted():
            chosen = _passes(self._view(record), wanted)
            if chosen and not self._networks.users(record.name) and not self._asked_for(record.name):
                await self._networks.remove(record.name)
                gone.append(record.name)
        return web.json_response({"NetworksDeleted": gone})

    async def connect(self, request: web.Request) -> web.Response:
        """{Container, EndpointConfig}: at once, also while it runs."""
        document = await body(request)
        record = self._find(request)
        entry = find(self._daemon.engine, str(document.get("Container", "")), None)
        try:
            wanted = attachment_of(record.name, document.get("EndpointConfig") or {})
        except (RefusedError, TypeError, AttributeError, ValueError) as error:
            raise web.HTTPBadRequest(text=f"cannot connect {entry.stored.name}: {error}") from error
        await self._change(entry, lambda there: _added(entry, there, wanted))
        return web.Response(status=200)

    async def disconnect(self, request: web.Request) -> web.Response:
        """{Container, Force}."""
        document = await body(request)
        record = self._find(request)
        entry = find(self._daemon.engine, str(document.get("Container", "")), None)

        def without(there: tuple[Attachment, ...]) -> tuple[Attachment, ...]:
            left = tuple(each for each in there if each.network != record.name)
            if len(left) == len(there):
                raise web.HTTPForbidden(
                    text=f"container {entry.stored.name} is not connected to network {record.name}"
                )
            return left

        await self._change(entry, without)
        return web.Response(status=200)

    async def _change(
        self, entry: Entry, change: Callable[[tuple[Attachment, ...]], tuple[Attachment, ...]]
    ) -> None:
        spec = entry.stored.spec
        if spec.network_mode in ("host", "none") or ":" in spec.network_mode:
            raise web.HTTPForbidden(
                text=f"cannot change the networks of {entry.stored.name}: its network_mode is"
                f" {spec.network_mode}; create it in a network"
            )
        attachments = change(attachments_of(spec))
        mode = "bridge" if attachments else "none"
        before = entry.stored
        self._daemon.engine.redefine(entry, replace(spec, networks=attachments, network_mode=mode))
        try:
            await self._networks.reconnect(entry.stored)
        except PlanError as error:
            self._daemon.engine.redefine(entry, before.spec)
            raise web.HTTPBadRequest(text=str(error)) from error

    def _asked_for(self, name: str) -> bool:
        """Whether an instance that never ran wants it."""
        return any(
            attachment.network == name
            for entry in self._daemon.engine.entries.values()
            for attachment in attachments_of(entry.stored.spec)
        )

    def _find(self, request: web.Request) -> NetworkRecord:
        try:
            return self._networks.find(request.match_info["name"])
        except NoNetworkError as error:
            raise web.HTTPNotFound(text=str(error)) from error

    def _sorted(self) -> list[NetworkRecord]:
        return sorted(self._networks.records.values(), key=lambda record: record.name)

    def _view(self, record: NetworkRecord) -> dict[str, Any]:
        return network_view(record, list(self._networks.endpoints.values()))


def _added(entry: Entry, there: tuple[Attachment, ...], wanted: Attachment) -> tuple[Attachment, ...]:
    if any(each.network == wanted.network for each in there):
        raise web.HTTPForbidden(
            text=f"endpoint with name {entry.stored.name} already exists in network {wanted.network}"
        )
    return (*there, wanted)


def _network(document: dict[str, Any]) -> Network:
    """Raises ValueError for what is not built."""
    ipam = document.get("IPAM") or {}
    if (ipam.get("Driver") or "default") != "default":
        raise ValueError(f"the IPAM driver {ipam['Driver']} is not built; leave it out")
    for name in ("ConfigOnly", "ConfigFrom", "Ingress"):
        if document.get(name):
            raise ValueError(f"{name} is not built; leave it out")
    if document.get("Scope") not in (None, "", "local"):
        raise ValueError(f"the scope {document['Scope']} is not built")
    name = str(document["Name"])
    v4 = document.get("EnableIPv4")
    return Network(
        key=name,
        name=name,
        driver=document.get("Driver") or "bridge",
        driver_opts=tuple(sorted((document.get("Options") or {}).items())),
        internal=bool(document.get("Internal")),
        attachable=bool(document.get("Attachable")),
        ipv4=v4 is None or bool(v4),
        ipv6=bool(document.get("EnableIPv6")),
        pools=tuple(
            Pool(
                each.get("Subnet") or None,
                each.get("Gateway") or None,
                each.get("IPRange") or None,
                tuple(sorted((each.get("AuxiliaryAddresses") or each.get("AuxAddress") or {}).items())),
            )
            for each in ipam.get("Config") or ()
        ),
        labels=tuple(sorted((document.get("Labels") or {}).items())),
    )


def _filters(request: web.Request) -> dict[str, list[str]]:
    found = filters(request)
    unknown = sorted(set(found) - {"name", "id", "label", "driver", "scope", "type", "dangling"})
    if unknown:
        raise web.HTTPBadRequest(text=f"invalid filter '{unknown[0]}'")
    return found


def _passes(view: dict[str, Any], wanted: dict[str, list[str]]) -> bool:
    kind = "builtin" if view["Name"] == "bridge" else "custom"
    tests: dict[str, Callable[[str], bool]] = {
        "name": lambda value: value in view["Name"],
        "id": view["Id"].startswith,
        "driver": lambda value: value == view["Driver"],
        "scope": lambda value: value == view["Scope"],
        "type": lambda value: value == kind,
        "dangling": lambda value: (value.lower() in ("1", "true")) == (not view["Containers"]),
        "label": lambda value: has_label(view["Labels"], value),
    }
    for name, values in wanted.items():
        together = all if name == "label" else any
        if values and not together(tests[name](value) for value in values):
            return False
    return True
