"""One service: its merged tree -> `ServiceSpec`, and its canonical form as in `docker compose config`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

from supervisor.compose import (
    keys,
    mounts,
    restart,
)
from supervisor.compose import limits as limit_rules
from supervisor.compose.context import Context
from supervisor.compose.networks import DEFAULT, attachments, mac_address
from supervisor.compose.problems import Mark
from supervisor.compose.servicekeys import READERS, EnvFile, ServiceKeys
from supervisor.compose.tree import Node
from supervisor.compose.values import COMMAND_EXAMPLE
from supervisor.core.build import ImageSource
from supervisor.core.healthcheck import Healthcheck
from supervisor.core.model import Dependency, Rootfs, SecurityOptions, ServiceSpec, Update
from supervisor.core.network import PROJECT_NETWORKS

Document = dict[str, Any]


class Draft(NamedTuple):
    """A service before its env files are read.

    spec: complete but for `environment`, which has what is written in the file.
    environment: None is a name without a value.
    source: of its image. volumes_from: services with whether their volumes are read-only, and the place.
    implied: places of dependencies that `depends_on` does not name.
    """

    spec: ServiceSpec
    node: Node
    document: Document
    environment: Mapping[str, str | None]
    env_files: tuple[EnvFile, ...]
    source: ImageSource | None = None
    volumes_from: tuple[tuple[str, bool, Node], ...] = ()
    label_files: tuple[EnvFile, ...] = ()
    implied: Mapping[str, tuple[Mark, str]] = MappingProxyType({})


class _Builder(ServiceKeys):
    """Reads a service; `finish` puts together what depends on several keys."""

    def mounts_together(self) -> None:
        """tmpfs, then volumes; a target once."""
        found = []
        taken: set[str] = set()
        if "tmpfs" in self.entries:
            pairs = mounts.tmpfs(self.context, self.entries["tmpfs"], f"{self.path}.tmpfs")
            found += [mount for mount, _ in pairs]
            self.document["tmpfs"] = [text for _, text in pairs]
            taken = {mount.target for mount in found}
        if "volumes" in self.entries:
            node, where = self.entries["volumes"], f"{self.path}.volumes"
            volumes = mounts.volumes(self.context, node, where)
            for mount, _ in volumes:
                if mount.target in taken:
                    self.context.reader.bad(
                        node,
                        where,
                        f"target {mount.target} already mounted as tmpfs",
                        "remove one of the two",
                    )
            found += [mount for mount, _ in volumes]
            self.document["volumes"] = [document for _, document in volumes]
        self.fields["mounts"] = tuple(found)

    def places_in_networks(self) -> None:
        """`networks`, or what a service is in that says nothing."""
        context, node = self.context, self.entries.get("networks")
        if "network_mode" in self.entries:
            if node is not None and node.value:
                context.reader.bad(
                    node,
                    f"{self.path}.networks",
                    "network_mode and networks exclude each other",
                    "remove one of the two",
                )
            if self.fields.get("network_mode") != PROJECT_NETWORKS:
                return
        written = (
            node
            if node is not None and node.value
            else Node({DEFAULT: Node(None, self.node.mark)}, self.node.mark)
        )
        places, document = attachments(context, written, f"{self.path}.networks", context.networks)
        self.fields["network_mode"] = PROJECT_NETWORKS
        if "network_mode" not in self.entries:
            self.document["networks"] = document
        if "mac_address" in self.entries:
            mac = mac_address(context, self.entries["mac_address"], f"{self.path}.mac_address")
            if mac:
                self.document["mac_address"] = mac
                places = tuple(
                    replace(place, mac_address=mac) if not at and place.mac_address is None else place
                    for at, place in enumerate(places)
                )
        self.fields["networks"] = places

    def counted(self) -> None:
        """`scale` and `deploy.replicas` are one; `x-shipkeeper.update` and what `deploy` says of updates."""
        deployed, scale = self.deployment.replicas, self.fields.get("replicas")
        if deployed is not None and scale is not None and deployed != scale:
            self.context.reader.bad(
                self.entries["scale"],
                f"{self.path}.scale",
                "can't set distinct values on 'scale' and 'deploy.replicas'",
                "remove one of the two",
            )
        if scale is None and deployed is not None:
            self.fields["replicas"] = deployed
        elif scale is not None and "deploy" in self.document:
            self.document["deploy"]["replicas"] = scale
        update = self.deployment.update
        if self.extension.update:
            # Replaced one after the other, unless the file says how many at a time.
            update = replace(update or Update(parallelism=1), order=self.extension.update)
        if update is not None:
            self.fields["update"] = update
        if self.fields.get("replicas", 1) > 1 and "container_name" in self.fields:
            self.context.reader.bad(
                self.entries["container_name"],
                f"{self.path}.container_name",
                "several instances cannot have one name",
                "remove it, or run one instance",
            )

    def health_together(self) -> None:
        """`healthcheck`, and what `x-shipkeeper` changes of it."""
        extension = self.extension
        check: Healthcheck | None = self.fields.get("healthcheck")
        if extension.ready is not None:
            self.fields["ready"] = extension.ready
        if extension.probe is None and extension.on_unhealthy == "ignore":
            return
        check = check or Healthcheck()
        if extension.probe is not None:
            check = replace(check, probe=extension.probe, disabled=False)
        self.fields["healthcheck"] = replace(check, on_unhealthy=extension.on_unhealthy)

    def dependencies_together(self) -> None:
        """`depends_on`, and what other keys imply."""
        found = {need.service: need for need in self.fields.get("depends_on", ())}
        document = dict(self.document.get("depends_on") or {})
        for name, (again, _, _) in self.implications.items():
            if name not in found:
                found[name] = Dependency(name, restart=again)
                document[name] = {"condition": "service_started", "required": True} | (
                    {"restart": True} if again else {}
                )
        if found:
            self.fields["depends_on"] = tuple(found[name] for name in sorted(found))
            self.document["depends_on"] = dict(sorted(document.items()))

    def finish(self) -> Draft:
        """What depends on several keys."""
        self.mounts_together()
        limits, document, resources = limit_rules.limits(
            self.context, self.entries, self.deployment.resources, self.path
        )
        self.document |= document
        if resources:
            self.document["deploy"]["resources"] = resources
        rules = restart.combine(self.written, self.deployment.rules, self.extension)
        if self.fields.get("privileged"):
            security = self.fields.get("security", SecurityOptions())
            self.fields["security"] = replace(security, no_new_privileges=False)
        if self.build is not None and "rootfs" not in self.fields:
            self.name_of_build()
        sound = (
            len(self.context.reader.findings.errors) == self.errors_before and "extends" not in self.entries
        )
        if self.named_root is not None:
            self.fields["rootfs"] = self.named_root  # it replaces the image's files, and what the image says
        commanded = self.fields.get("command") or self.fields.get("entrypoint") or self._has_image()
        if sound and not commanded:
            # Only for a service that has no other mistake: `comand` is one, not two.
            self.context.reader.findings.error(
                self.node.mark,
                self.path,
                f'service "{self.name}" has neither a command nor an entrypoint, and no image has one',
                f"add `command: {COMMAND_EXAMPLE}`",
            )
        self.document.setdefault("command", None)
        self.document.setdefault("entrypoint", None)
        self.places_in_networks()
        self.counted()
        self.health_together()
        self.dependencies_together()
        spec = ServiceSpec(self.name, restart=rules, limits=limits, **self.fields)
        kept = {key: value for key, value in self.document.items() if value not in ([], {})}
        for key in ("command", "entrypoint"):
            kept[key] = self.document[key]
        files = tuple(self.env_files)
        return Draft(
            spec,
            self.node,
            kept | self.context.extensions(self.node),
            self.environment,
            files,
            self.source(),
            tuple(self.volumes_from),
            tuple(self.label_files),
            {name: (mark, path) for name, (_, mark, path) in self.implications.items()},
        )

    def _has_image(self) -> bool:
        rootfs = self.fields.get("rootfs")
        return isinstance(rootfs, Rootfs) and rootfs.kind == "image"


def read_service(context: Context, name: str, node: Node) -> Draft | None:
    """One service. None if its tree is no mapping; every other mistake is noted and worked around."""
    path = f"services.{name}"
    errors_before = len(context.reader.findings.errors)
    entries = context.reader.mapping(node, path, keys.SERVICE, '{command: ["sleep", "60"]}')
    if entries is None:
        return None
    builder = _Builder(context, name, node, path, entries)
    builder.errors_before = errors_before
    for key, value in entries.items():
        if key not in limit_rules.LIMIT_KEYS and key != "extends":
            READERS[key](builder, key, value, f"{path}.{key}")
    return builder.finish()
