"""One service: its merged tree -> `ServiceSpec`, and its canonical form as in `docker compose config`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

from supervisor.compose import (
    grants,
    health,
    hooks,
    keys,
    mounts,
    namespaces,
    ports,
    resolving,
    restart,
    scalars,
    units,
)
from supervisor.compose import limits as limit_rules
from supervisor.compose.build import read_build, read_policy
from supervisor.compose.context import Context
from supervisor.compose.deploy import Deploy, deploy
from supervisor.compose.develop import develop
from supervisor.compose.names import CAPABILITIES, sysctl_problem
from supervisor.compose.networks import DEFAULT, attachments, mac_address
from supervisor.compose.problems import Mark, nearest
from supervisor.compose.tree import Node, quote
from supervisor.compose.values import COMMAND_EXAMPLE, TEXTS, plain_text, security_option, string_pairs, words
from supervisor.core.build import BuildSpec, ImageSource, PullPolicy
from supervisor.core.healthcheck import Healthcheck, Hooks
from supervisor.core.model import Dependency, Logging, RestartRules, Rootfs, SecurityOptions, ServiceSpec
from supervisor.core.network import PROJECT_NETWORKS, Resolver
from supervisor.core.reference import InvalidReferenceError, parse_reference
from supervisor.core.signals import SIGNAL_NAMES, signal_number

Document = dict[str, Any]
_Simple = Callable[[Context, Node, str], tuple[Document, object]]
_CONDITIONS = ("service_started", "service_healthy", "service_completed_successfully")


class EnvFile(NamedTuple):
    """One entry of `env_file`, not read yet."""

    path: str
    required: bool
    raw: bool
    node: Node


class Draft(NamedTuple):
    """A service before its env files are read.

    spec: complete but for `environment`, which has what is written in the file.
    environment: None is a name without a value. network_named: the file says which network.
    source: of its image. volumes_from: services with whether their volumes are read-only, and the place.
    implied: places of dependencies that `depends_on` does not name.
    """

    spec: ServiceSpec
    node: Node
    document: Document
    environment: Mapping[str, str | None]
    env_files: tuple[EnvFile, ...]
    network_named: bool
    source: ImageSource | None = None
    volumes_from: tuple[tuple[str, bool, Node], ...] = ()
    label_files: tuple[EnvFile, ...] = ()
    implied: Mapping[str, tuple[Mark, str]] = MappingProxyType({})


class _Builder:
    """Reads key after key; `fields` are those of the spec, `document` their canonical forms."""

    def __init__(
        self, context: Context, name: str, node: Node, path: str, entries: Mapping[str, Node]
    ) -> None:
        self.context = context
        self.name = name
        self.node = node
        self.path = path
        self.entries = entries
        self.fields: dict[str, Any] = {}
        self.document: Document = {}
        self.environment: dict[str, str | None] = {}
        self.env_files: list[EnvFile] = []
        self.written: RestartRules | None = None
        self.extension = restart.Extension()
        self.deployment = Deploy({})
        self.implications: dict[str, tuple[bool, Mark, str]] = {}
        self.volumes_from: list[tuple[str, bool, Node]] = []
        self.label_files: list[EnvFile] = []
        self.refresh_s: int | None = None
        self.named_root: Rootfs | None = None
        self.build: BuildSpec | None = None
        self.policy: PullPolicy = ""
        self.every_s = 0
        self.errors_before = 0

    # --- process -------------------------------------------------------------------------------

    def command(self, key: str, node: Node, path: str) -> None:
        found = words(self.context, node, path)
        self.fields[key] = found
        self.document[key] = list(found) if found is not None else None

    def environ(self, _key: str, node: Node, path: str) -> None:
        entries = self.context.reader.entries(node, path, "{NAME: value} or [NAME=value]") or {}
        for name, value in entries.items():
            text = plain_text(self.context, value, f"{path}.{name}")
            if not name or name != name.strip() or "=" in name or "\0" in name:
                self.context.reader.findings.error(
                    node.key_mark(name), path, f"{quote(name)} is no name of a variable", "write NAME=value"
                )
            elif text is not None or value.value is None:
                self.environment[name] = text
        self.document["environment"] = dict(self.environment)

    def files(self, _key: str, node: Node, path: str) -> None:
        reader = self.context.reader

        def read(item: Node, where: str) -> None:
            parts = reader.mapping(item, where, keys.ENV_FILE, "./service.env, or {path: ./service.env}")
            if parts is None:
                return
            if "path" not in parts:
                reader.bad(item, where, "path is missing", "add `path: ./service.env`")
                return
            name = reader.string(parts["path"], f"{where}.path", "./service.env")
            required = reader.boolean(parts["required"], f"{where}.required") if "required" in parts else True
            kind = reader.choice(parts["format"], f"{where}.format", ("raw",)) if "format" in parts else None
            if name is None or required is None:
                return
            if not name:
                reader.bad(parts["path"], f"{where}.path", "it is empty", "write ./service.env")
                return
            full = self.context.absolute(name)
            self.env_files = [file for file in self.env_files if file.path != full]
            self.env_files.append(EnvFile(full, required, kind == "raw", parts["path"]))

        reader.each(node, path, "./service.env or a list of files", read)
        self.document["env_file"] = [
            {"path": file.path}
            | ({} if file.required else {"required": False})
            | ({"format": "raw"} if file.raw else {})
            for file in self.env_files
        ]

    def label_file(self, key: str, node: Node, path: str) -> None:
        names = list(dict.fromkeys(self.context.reader.strings(node, path, "[./service.labels]") or []))
        items = node.value if isinstance(node.value, list) else []
        full = {self.context.absolute(name): item for name, item in zip(names, items, strict=False)}
        self.label_files = [EnvFile(file, True, False, item) for file, item in full.items()]
        self.document[key] = [self.context.absolute(name) for name in names]

    def simple(self, key: str, node: Node, path: str) -> None:
        """Keys with a reader of their own, which gives a value and its canonical form."""
        fields, document = _SIMPLE[key](self.context, node, path)
        self.fields |= fields
        if document not in (None, ""):
            self.document[key] = document

    def fixed(self, key: str, node: Node, path: str) -> None:
        text = namespaces.fixed(self.context, key, node, path)
        if text:
            self.document[key] = text

    def grant(self, key: str, node: Node, path: str) -> None:
        kind: Any = key.removesuffix("s")
        sources = self.context.configs if kind == "config" else self.context.secrets
        found = grants.grants(self.context, node, path, kind, sources)
        self.fields["grants"] = (*self.fields.get("grants", ()), *(grant for grant, _ in found))
        self.document[key] = [document for _, document in found]

    def resolver(self, key: str, node: Node, path: str) -> None:
        context = self.context
        resolver = self.fields.get("resolver", Resolver())
        document: object
        match key:
            case "dns":
                resolver = replace(resolver, servers=resolving.servers(context, node, path))
                document = list(resolver.servers)
            case "dns_search":
                resolver = replace(resolver, search=resolving.domains(context, node, path))
                document = list(resolver.search)
            case "dns_opt":
                resolver = replace(resolver, options=resolving.options(context, node, path))
                document = list(resolver.options)
            case "domainname":
                resolver = replace(resolver, domainname=resolving.domainname(context, node, path))
                document = resolver.domainname or []
            case "extra_hosts":
                resolver = replace(resolver, extra_hosts=resolving.extra_hosts(context, node, path))
                document = sorted(f"{name}={address}" for name, address in resolver.extra_hosts)
            case _:
                found = resolving.links(context, node, path)
                if key == "links":
                    for name, _ in found:
                        self.implied(name, node, path, restart=True)
                resolver = replace(resolver, links=(*resolver.links, *found))
                document = resolving.written(found, node)
        self.fields["resolver"] = resolver
        self.document[key] = document

    def implied(self, service: str, node: Node, path: str, *, restart: bool) -> None:
        """A dependency that another key brings with it."""
        self.implications.setdefault(service, (restart, node.mark, path))

    def share_volumes(self, key: str, node: Node, path: str) -> None:
        reader = self.context.reader
        texts = reader.strings(node, path, "[db, db:ro]") or []
        for text, item in zip(texts, node.value if isinstance(node.value, list) else [], strict=False):
            parts = text.split(":")
            if parts[0] == "container":
                reader.bad(
                    item,
                    path,
                    "not supported: volumes of a container outside of the project",
                    "name a service",
                )
                continue
            if len(parts) > 2 or not parts[0] or (len(parts) == 2 and parts[1] not in ("ro", "rw")):
                reader.bad(item, path, f"{quote(text)} is no service with a mode", "write db, or db:ro")
                continue
            self.implied(parts[0], item, path, restart=False)
            self.volumes_from.append((parts[0], parts[1:] == ["ro"], item))
        self.document[key] = list(dict.fromkeys(texts))

    def networked(self, _key: str, _node: Node, _path: str) -> None:
        """`networks` and `mac_address` are read at the end."""

    def refreshed(self, key: str, node: Node, path: str) -> None:
        ns = self.context.reader.duration_ns(node, path, "24h")
        if ns is not None:
            self.refresh_s = ns // 10**9
            self.document[key] = node.value

    def hooked(self, key: str, node: Node, path: str) -> None:
        found, self.document[key] = hooks.hooks(self.context, key, node, path)
        self.fields["hooks"] = replace(self.fields.get("hooks", Hooks()), **{key: found})

    def scale(self, key: str, node: Node, path: str) -> None:
        count = self.context.reader.integer(node, path, "2", 0, 10_000)
        if count is not None:
            self.fields["replicas"] = self.document[key] = count

    def text(self, key: str, node: Node, path: str) -> None:
        example, check, hint = TEXTS[key]
        text = self.context.reader.string(node, path, example)
        if text is None or text == "":
            return
        problem = check(text)
        if problem:
            self.context.reader.bad(node, path, problem, hint)
            return
        self.fields[key] = self.document[key] = text

    def groups(self, _key: str, node: Node, path: str) -> None:
        names = self.context.reader.strings(node, path, "[audio, 1000]", numbers=True) or []
        self.fields["group_add"] = tuple(dict.fromkeys(names))
        self.document["group_add"] = list(self.fields["group_add"])

    def flag(self, key: str, node: Node, path: str) -> None:
        value = self.context.reader.boolean(node, path)
        self.fields[key] = bool(value)
        if value or key == "init":
            self.document[key] = value

    # --- limits and security -------------------------------------------------------------------

    def ulimits(self, _key: str, node: Node, path: str) -> None:
        self.fields["ulimits"], self.document["ulimits"] = limit_rules.ulimits(self.context, node, path)

    def oom_score(self, key: str, node: Node, path: str) -> None:
        value = self.context.reader.integer(node, path, "500", -1000, 1000)
        if value:
            self.document[key] = value
        self.fields[key] = value

    def capabilities(self, key: str, node: Node, path: str) -> None:
        found: dict[str, None] = {}

        def read(item: Node, where: str) -> None:
            text = self.context.reader.string(item, where, "NET_ADMIN")
            if text is None:
                return
            short = text.upper().removeprefix("CAP_")
            if short in CAPABILITIES:
                found[text] = None
                return
            near = nearest(short, CAPABILITIES)
            self.context.reader.bad(
                item,
                where,
                f"unknown capability {quote(text)}",
                f"did you mean {near}?" if near else "see capabilities(7)",
            )

        self.context.reader.each(node, path, "a list of capabilities: [NET_ADMIN]", read)
        self.fields[key] = tuple(found)
        self.document[key] = list(found)

    def security(self, key: str, node: Node, path: str) -> None:
        options = SecurityOptions()
        document = []

        def read(item: Node, where: str) -> None:
            nonlocal options
            text = self.context.reader.string(item, where, "no-new-privileges:true")
            if text is None:
                return
            found = security_option(self.context, text, options)
            if isinstance(found, tuple):
                self.context.reader.bad(item, where, *found)
                return
            options = found
            if text not in document:
                document.append(text)

        self.context.reader.each(node, path, "a list of options: [no-new-privileges:true]", read)
        self.fields["security"] = options
        self.document[key] = document

    def sysctls(self, key: str, node: Node, path: str) -> None:
        entries = self.context.reader.entries(node, path, "{kernel.shmmax: 68719476736}") or {}
        mode = self.entries.get("network_mode")
        network = self.context.default_mode if mode is None else str(mode.value)
        found: dict[str, str] = {}
        for name, value in entries.items():
            text = plain_text(self.context, value, f"{path}.{name}")
            problem = sysctl_problem(name, network)
            if problem:
                self.context.reader.findings.error(node.key_mark(name), f"{path}.{name}", *problem)
            elif value.value is None:
                self.context.reader.bad(value, f"{path}.{name}", "a value is missing", f"write {name}=1")
            elif text is not None:
                found[name] = text
        self.fields[key] = tuple(sorted(found.items()))
        self.document[key] = dict(sorted(found.items()))

    # --- files ---------------------------------------------------------------------------------

    def devices(self, key: str, node: Node, path: str) -> None:
        found = mounts.devices(self.context, node, path)
        self.fields[key] = tuple(device for device, _ in found)
        self.document[key] = [document for _, document in found]

    def mounted(self, _key: str, _node: Node, _path: str) -> None:
        """`volumes` and `tmpfs` are read together, at the end."""

    # --- life ----------------------------------------------------------------------------------

    def restarting(self, _key: str, node: Node, path: str) -> None:
        found = restart.restart(self.context, node, path)
        if found is not None:
            self.written, text = found
            if text:
                self.document["restart"] = text

    def deploy(self, key: str, node: Node, path: str) -> None:
        self.deployment = deploy(self.context, node, path)
        self.document[key] = dict(self.deployment.document)

    def stop_signal(self, key: str, node: Node, path: str) -> None:
        text = node.value
        if isinstance(text, int) and not isinstance(text, bool):
            text = str(text)
        if not isinstance(text, str):
            self.context.reader.wrong(node, path, "the name of a signal", "SIGTERM")
        elif text and signal_number(text) is None:
            near = nearest(text, SIGNAL_NAMES)
            self.context.reader.bad(
                node,
                path,
                f"unknown signal {quote(text)}",
                f"did you mean {near}?" if near else "write SIGTERM",
            )
        elif text:
            self.fields[key] = self.document[key] = text

    def grace(self, key: str, node: Node, path: str) -> None:
        ns = self.context.reader.duration_ns(node, path)
        if ns is not None:
            self.fields["stop_grace_s"] = ns / 1e9
            self.document[key] = units.duration_text(ns)

    def labels(self, key: str, node: Node, path: str) -> None:
        found = string_pairs(self.context, node, path)
        self.fields[key] = tuple(sorted(found.items()))
        self.document[key] = dict(sorted(found.items()))

    def depends(self, key: str, node: Node, path: str) -> None:
        reader = self.context.reader
        found: list[Dependency] = []
        document: Document = {}
        for name, value in (
            reader.entries(node, path, "[db] or {db: {condition: service_started}}") or {}
        ).items():
            where = f"{path}.{name}"
            parts = reader.mapping(value, where, keys.DEPENDENCY, "{condition: service_started}")
            if parts is None:
                continue
            if "condition" not in parts:
                reader.bad(value, where, "condition is missing", "add `condition: service_started`")
            condition: Any = "service_started"
            if "condition" in parts:
                place = f"{where}.condition"
                chosen = reader.choice(parts["condition"], place, _CONDITIONS)
                if chosen and reader.built(parts["condition"].mark, place, "depends_on", chosen, chosen):
                    condition = chosen
            required = reader.boolean(parts["required"], f"{where}.required") if "required" in parts else True
            again = reader.boolean(parts["restart"], f"{where}.restart") if "restart" in parts else False
            found.append(Dependency(name, condition, required is not False, bool(again)))
            document[name] = {"condition": condition, "required": required is not False}
            if again:
                document[name]["restart"] = True
        self.fields[key] = tuple(sorted(found, key=lambda dependency: dependency.service))
        self.document[key] = dict(sorted(document.items()))

    def network(self, key: str, node: Node, path: str) -> None:
        reader = self.context.reader
        text = reader.string(node, path, "host or none")
        if text is None:
            return
        shown = f"network mode {quote(text)}"
        if text in ("host", "none"):
            self.fields[key] = self.document[key] = text
        elif text in ("bridge", "default"):
            # Docker's shared bridge has no names; the project's own network is what is left of it here.
            if reader.built(node.mark, path, "network_mode", "bridge", shown):
                self.fields[key] = PROJECT_NETWORKS
                self.document[key] = text
        elif text.startswith(("service:", "container:")):
            kind, _, name = text.partition(":")
            if not name:
                reader.bad(node, path, f"{quote(text)} names nothing", f"write {kind}:NAME")
            elif reader.built(node.mark, path, "network_mode", f"{kind}:", shown):
                self.fields[key] = self.document[key] = text
                if kind == "service":
                    self.implied(name, node, path, restart=True)
        elif text:
            reader.choice(node, path, ("host", "none", "bridge", "service:NAME", "container:NAME"))

    def profiles(self, key: str, node: Node, path: str) -> None:
        names = self.context.reader.strings(node, path, "[debug]") or []
        self.fields[key] = tuple(dict.fromkeys(names))
        self.document[key] = list(self.fields[key])

    def logging(self, key: str, node: Node, path: str) -> None:
        reader = self.context.reader
        entries = reader.mapping(node, path, keys.LOGGING, "{options: {max-size: 10m, max-file: 3}}") or {}
        found, document = Logging(), Document()
        if "driver" in entries:
            driver = reader.string(entries["driver"], f"{path}.driver", "json-file")
            if driver not in (None, "", "json-file", "local"):
                reader.bad(
                    entries["driver"],
                    f"{path}.driver",
                    f"not supported yet: logging driver {quote(str(driver))}",
                    "write json-file or local, or remove it: output is stored and rotated by Shipkeeper",
                )
            elif driver:
                document["driver"] = driver
        if "options" in entries:
            where = f"{path}.options"
            options = reader.mapping(entries["options"], where, keys.LOG_OPTIONS, "{max-size: 10m}") or {}
            for name, value in options.items():
                document.setdefault("options", {})[name] = scalars.text_of(
                    value.value if not isinstance(value.value, dict | list) else None
                )
                if name == "max-file":
                    count = reader.integer(value, f"{where}.{name}", "3", 1, 1000)
                    found = replace(found, max_files=count or found.max_files)
                    continue
                # Docker counts these in 1000 (units.FromHumanSize), unlike memory.
                size = reader.size(value, f"{where}.{name}", "10m", base=1000)
                if size is not None and size < 4096:
                    reader.bad(value, f"{where}.{name}", "a log is bounded, from 4k on", "write 10m")
                found = replace(found, max_size_bytes=size or found.max_size_bytes)
        self.fields[key] = found
        self.document[key] = document

    def from_image(self, key: str, node: Node, path: str) -> None:
        text = self.context.reader.string(node, path, "debian:bookworm")
        if text is None:
            return
        try:
            self.fields["rootfs"] = Rootfs("image", str(parse_reference(text)))
        except InvalidReferenceError as error:
            self.context.reader.bad(node, path, str(error), "write name:tag, or registry/name:tag")
        self.document[key] = text

    def building(self, key: str, node: Node, path: str) -> None:
        self.build, self.document[key] = read_build(self.context, node, path)

    def pulling(self, key: str, node: Node, path: str) -> None:
        self.policy, self.every_s, text = read_policy(self.context, node, path)
        if text:
            self.document[key] = text

    def name_of_build(self) -> None:
        """The image of a service that is built and not named: `<project>-<service>`."""
        name = f"{self.context.project}-{self.name}"
        try:
            self.fields["rootfs"] = Rootfs("image", str(parse_reference(name)))
        except InvalidReferenceError as error:
            self.context.reader.bad(
                self.node,
                f"{self.path}.build",
                f"its image cannot be called {name}: {error}",
                "add `image: NAME`",
            )

    def source(self) -> ImageSource | None:
        """Where the image comes from; None for a service without one."""
        rootfs = self.fields.get("rootfs")
        if not isinstance(rootfs, Rootfs) or rootfs.kind != "image" or rootfs.path is None:
            return None
        every_s = self.refresh_s if self.policy == "every" and self.refresh_s else self.every_s
        return ImageSource(self.name, rootfs.path, self.policy, self.build, every_s)

    def tuning(self, key: str, node: Node, path: str) -> None:
        self.extension = restart.extension(self.context, node, path)
        if self.extension.rootfs.kind != "host":
            self.named_root = self.extension.rootfs
        self.document[key] = dict(self.extension.document)

    # --- together ------------------------------------------------------------------------------

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
        elif context.default_mode != PROJECT_NETWORKS:
            self.document["network_mode"] = context.default_mode
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
        """`scale` and `deploy.replicas` are one."""
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
        sound = len(self.context.reader.findings.errors) == self.errors_before
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
        named = "network_mode" in self.fields
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
            named or self.context.default_mode == PROJECT_NETWORKS,
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
            _READERS[key](builder, key, value, f"{path}.{key}")
    return builder.finish()


def _pairs_of(field: str) -> _Simple:
    def read(context: Context, node: Node, path: str) -> tuple[Document, object]:
        found = dict(sorted(string_pairs(context, node, path).items()))
        return {field: tuple(found.items())}, found

    return read


def _published(context: Context, node: Node, path: str) -> tuple[Document, object]:
    found = ports.ports(context, node, path)
    return {"ports": tuple(port for port, _ in found)}, [document for _, document in found]


def _exposed(context: Context, node: Node, path: str) -> tuple[Document, object]:
    found = ports.expose(context, node, path)
    return {"expose": found}, list(found)


def _healthy(context: Context, node: Node, path: str) -> tuple[Document, object]:
    found, document = health.healthcheck(context, node, path)
    return {"healthcheck": found}, document


def _shared_memory(context: Context, node: Node, path: str) -> tuple[Document, object]:
    size = context.reader.size(node, path, "64m")
    if size is not None and size < 0:
        context.reader.bad(node, path, "a size cannot be negative", "write 64m")
        return {}, None
    return ({"shm_size_bytes": size}, str(size)) if size else ({}, None)


def _attached(context: Context, node: Node, path: str) -> tuple[Document, object]:
    value = context.reader.boolean(node, path)
    return ({}, None) if value is None else ({"attach": value}, value)


def _platform(context: Context, node: Node, path: str) -> tuple[Document, object]:
    return {}, namespaces.platform(context, node, path)


def _develop(context: Context, node: Node, path: str) -> tuple[Document, object]:
    return {}, develop(context, node, path)


_SIMPLE: dict[str, _Simple] = {
    "annotations": _pairs_of("annotations"),
    "attach": _attached,
    "develop": _develop,
    "expose": _exposed,
    "healthcheck": _healthy,
    "platform": _platform,
    "ports": _published,
    "shm_size": _shared_memory,
}

_READERS: dict[str, Callable[[_Builder, str, Node, str], None]] = {
    "build": _Builder.building,
    "cap_add": _Builder.capabilities,
    "cap_drop": _Builder.capabilities,
    "command": _Builder.command,
    "container_name": _Builder.text,
    "depends_on": _Builder.depends,
    "deploy": _Builder.deploy,
    "devices": _Builder.devices,
    "entrypoint": _Builder.command,
    "env_file": _Builder.files,
    "environment": _Builder.environ,
    "group_add": _Builder.groups,
    "hostname": _Builder.text,
    "image": _Builder.from_image,
    "init": _Builder.flag,
    "labels": _Builder.labels,
    "logging": _Builder.logging,
    "network_mode": _Builder.network,
    "oom_score_adj": _Builder.oom_score,
    "privileged": _Builder.flag,
    "profiles": _Builder.profiles,
    "pull_policy": _Builder.pulling,
    "read_only": _Builder.flag,
    "restart": _Builder.restarting,
    "security_opt": _Builder.security,
    "stdin_open": _Builder.flag,
    "stop_grace_period": _Builder.grace,
    "stop_signal": _Builder.stop_signal,
    "sysctls": _Builder.sysctls,
    "tmpfs": _Builder.mounted,
    "tty": _Builder.flag,
    "ulimits": _Builder.ulimits,
    "user": _Builder.text,
    "volumes": _Builder.mounted,
    "working_dir": _Builder.text,
    **dict.fromkeys(_SIMPLE, _Builder.simple),
    **dict.fromkeys(("cgroup", "ipc", "isolation", "pid", "runtime", "userns_mode", "uts"), _Builder.fixed),
    **dict.fromkeys(
        ("dns", "dns_search", "dns_opt", "domainname", "extra_hosts", "links", "external_links"),
        _Builder.resolver,
    ),
    **dict.fromkeys(("configs", "secrets"), _Builder.grant),
    **dict.fromkeys(("post_start", "pre_start", "pre_stop"), _Builder.hooked),
    **dict.fromkeys(("networks", "mac_address"), _Builder.networked),
    "label_file": _Builder.label_file,
    "pull_refresh_after": _Builder.refreshed,
    "scale": _Builder.scale,
    "volumes_from": _Builder.share_volumes,
    "x-shipkeeper": _Builder.tuning,
}
