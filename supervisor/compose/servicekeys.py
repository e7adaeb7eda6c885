"""The keys of a service, one after the other: each puts its part into the model and into the canonical form.

What depends on several keys is put together at the end, in `service`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from supervisor.compose import (
    grants,
    hooks,
    keys,
    mounts,
    namespaces,
    resolving,
    restart,
    scalars,
    units,
)
from supervisor.compose import limits as limit_rules
from supervisor.compose.build import read_build, read_policy
from supervisor.compose.context import Context
from supervisor.compose.deploy import Deploy, deploy
from supervisor.compose.names import CAPABILITIES, sysctl_problem
from supervisor.compose.problems import Mark, nearest
from supervisor.compose.simplekeys import SIMPLE
from supervisor.compose.tree import Node, quote
from supervisor.compose.values import TEXTS, plain_text, security_option, string_pairs, words
from supervisor.core.build import BuildSpec, ImageSource, PullPolicy
from supervisor.core.healthcheck import Hooks
from supervisor.core.model import Dependency, Logging, RestartRules, Rootfs, SecurityOptions
from supervisor.core.network import PROJECT_NETWORKS, Resolver
from supervisor.core.reference import InvalidReferenceError, parse_reference
from supervisor.core.signals import SIGNAL_NAMES, signal_number

Document = dict[str, Any]
_CONDITIONS = ("service_started", "service_healthy", "service_completed_successfully")


class EnvFile(NamedTuple):
    """One entry of `env_file`, not read yet."""

    path: str
    required: bool
    raw: bool
    node: Node


class ServiceKeys:
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
        fields, document = SIMPLE[key](self.context, node, path)
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
        network = PROJECT_NETWORKS if mode is None else str(mode.value)
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


READERS: dict[str, Callable[[ServiceKeys, str, Node, str], None]] = {
    "build": ServiceKeys.building,
    "cap_add": ServiceKeys.capabilities,
    "cap_drop": ServiceKeys.capabilities,
    "command": ServiceKeys.command,
    "container_name": ServiceKeys.text,
    "depends_on": ServiceKeys.depends,
    "deploy": ServiceKeys.deploy,
    "devices": ServiceKeys.devices,
    "entrypoint": ServiceKeys.command,
    "env_file": ServiceKeys.files,
    "environment": ServiceKeys.environ,
    "group_add": ServiceKeys.groups,
    "hostname": ServiceKeys.text,
    "image": ServiceKeys.from_image,
    "init": ServiceKeys.flag,
    "labels": ServiceKeys.labels,
    "logging": ServiceKeys.logging,
    "network_mode": ServiceKeys.network,
    "oom_score_adj": ServiceKeys.oom_score,
    "privileged": ServiceKeys.flag,
    "profiles": ServiceKeys.profiles,
    "pull_policy": ServiceKeys.pulling,
    "read_only": ServiceKeys.flag,
    "restart": ServiceKeys.restarting,
    "security_opt": ServiceKeys.security,
    "stdin_open": ServiceKeys.flag,
    "stop_grace_period": ServiceKeys.grace,
    "stop_signal": ServiceKeys.stop_signal,
    "sysctls": ServiceKeys.sysctls,
    "tmpfs": ServiceKeys.mounted,
    "tty": ServiceKeys.flag,
    "ulimits": ServiceKeys.ulimits,
    "user": ServiceKeys.text,
    "volumes": ServiceKeys.mounted,
    "working_dir": ServiceKeys.text,
    **dict.fromkeys(SIMPLE, ServiceKeys.simple),
    **dict.fromkeys(
        ("cgroup", "ipc", "isolation", "pid", "runtime", "userns_mode", "uts"), ServiceKeys.fixed
    ),
    **dict.fromkeys(
        ("dns", "dns_search", "dns_opt", "domainname", "extra_hosts", "links", "external_links"),
        ServiceKeys.resolver,
    ),
    **dict.fromkeys(("configs", "secrets"), ServiceKeys.grant),
    **dict.fromkeys(("post_start", "pre_start", "pre_stop"), ServiceKeys.hooked),
    **dict.fromkeys(("networks", "mac_address"), ServiceKeys.networked),
    "label_file": ServiceKeys.label_file,
    "pull_refresh_after": ServiceKeys.refreshed,
    "scale": ServiceKeys.scale,
    "volumes_from": ServiceKeys.share_volumes,
    "x-shipkeeper": ServiceKeys.tuning,
}
