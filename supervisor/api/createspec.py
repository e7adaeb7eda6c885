"""Docker's document of a container to a service definition. Pure. What is not built is refused.

Source: the Engine API's ContainerCreate. Docker's clients send every field, most of them at its zero value:
only a value that asks for something is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from supervisor.api.createnet import RefusedError, network_of, ports_of, resolver_of
from supervisor.core import model
from supervisor.core.cpuset import CPUSET
from supervisor.core.healthcheck import Healthcheck, Probe
from supervisor.core.model import CONSISTENCIES, PROPAGATIONS

_STREAMS = {"AttachStdin", "AttachStdout", "AttachStderr", "OpenStdin", "StdinOnce", "Tty"}
_BUILT = _STREAMS | {
    "Image", "Cmd", "Entrypoint", "Env", "WorkingDir", "User", "Labels", "StopSignal", "StopTimeout",
    "Hostname", "HostConfig", "NetworkingConfig", "Domainname", "OnBuild", "Volumes", "Healthcheck",
    "ExposedPorts", "MacAddress",
}  # fmt: skip
_HOST_BUILT = {
    "Binds", "Tmpfs", "RestartPolicy", "Memory", "MemorySwap", "MemoryReservation", "NanoCpus", "CpuShares",
    "PidsLimit", "ReadonlyRootfs", "CapAdd", "CapDrop", "Privileged", "SecurityOpt", "NetworkMode",
    "AutoRemove", "Init", "Ulimits", "OomScoreAdj", "Devices", "Sysctls", "GroupAdd", "Mounts", "ShmSize",
    "PortBindings", "PublishAllPorts", "ExtraHosts", "Dns", "DnsSearch", "DnsOptions",
    "CpusetCpus", "BlkioWeight", "BlkioWeightDevice", "BlkioDeviceReadBps", "BlkioDeviceWriteBps",
    "BlkioDeviceReadIOps", "BlkioDeviceWriteIOps",
    "ConsoleSize",  # a client that has a terminal resizes at the start, too
}  # fmt: skip
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "LogConfig": ({"Type": "", "Config": {}}, {"Type": "", "Config": None}),
    "MemorySwappiness": (-1,),
    "CgroupnsMode": ("private",),
    "IpcMode": ("private",),
}


def read_spec(document: Any) -> model.ServiceSpec:
    """The definition. Raises RefusedError."""
    if not isinstance(document, dict):
        raise RefusedError("cannot create a container: the request is no JSON object")
    host = document.get("HostConfig") or {}
    _refuse(document, _BUILT, "")
    _refuse(host, _HOST_BUILT, "HostConfig.")
    image = document.get("Image")
    if not isinstance(image, str) or not image:
        raise RefusedError("cannot create a container: Image is missing")
    try:
        return _spec(document, host, image)
    except (TypeError, AttributeError, KeyError, ValueError) as error:
        raise RefusedError(f"cannot create a container: a field has the wrong form: {error}") from error


def _refuse(fields: dict[str, Any], built: set[str], where: str) -> None:
    for name, value in fields.items():
        if name not in built and value and value not in _NEUTRAL.get(name, ()):
            raise RefusedError(f"cannot create a container: {where}{name} is not built; leave it out")


def _spec(document: dict[str, Any], host: dict[str, Any], image: str) -> model.ServiceSpec:
    mounts = [_bind(text) for text in host.get("Binds") or ()]
    mounts += [
        model.Mount("tmpfs", target, tmpfs_options=(options,) if options else ())
        for target, options in (host.get("Tmpfs") or {}).items()
    ]
    mounts += [_mount(fields) for fields in host.get("Mounts") or ()]
    taken = {mount.target for mount in mounts}
    if host.get("ShmSize") and "/dev/shm" not in taken:  # noqa: S108 - a mount point
        mounts.append(_tmpfs("/dev/shm", int(host["ShmSize"]), 0o1777))  # noqa: S108
    mounts += [model.Mount("volume", path) for path in document.get("Volumes") or {} if path not in taken]
    stop_s = document.get("StopTimeout")
    mode, networks = network_of(document, host)
    ports, expose = ports_of(document, host)
    return model.ServiceSpec(
        name="",
        command=_words(document.get("Cmd")),
        entrypoint=_words(document.get("Entrypoint")),
        environment=tuple(sorted(_pairs(document.get("Env")).items())),
        working_dir=document.get("WorkingDir") or None,
        user=document.get("User") or None,
        group_add=tuple(host.get("GroupAdd") or ()),
        hostname=document.get("Hostname") or None,
        init=bool(host.get("Init")),
        tty=bool(document.get("Tty")),
        stdin_open=bool(document.get("OpenStdin")),
        stdin_once=bool(document.get("StdinOnce")),
        read_only=bool(host.get("ReadonlyRootfs")),
        privileged=bool(host.get("Privileged")),
        rootfs=model.Rootfs("image", image),
        mounts=tuple(mounts),
        devices=tuple(
            model.Device(d["PathOnHost"], d["PathInContainer"], d.get("CgroupPermissions") or "rwm")
            for d in host.get("Devices") or ()
        ),
        restart=_restart(host),
        limits=_limits(host),
        ulimits=tuple(model.Ulimit(u["Name"], u["Soft"], u["Hard"]) for u in host.get("Ulimits") or ()),
        oom_score_adj=host.get("OomScoreAdj") or None,
        cap_add=tuple(host.get("CapAdd") or ()),
        cap_drop=tuple(host.get("CapDrop") or ()),
        security=_security(host.get("SecurityOpt") or ()),
        sysctls=tuple(sorted((host.get("Sysctls") or {}).items())),
        stop_signal=document.get("StopSignal") or None,
        stop_grace_s=10.0 if stop_s is None else float(stop_s),
        labels=tuple(sorted((document.get("Labels") or {}).items())),
        healthcheck=_healthcheck(document.get("Healthcheck") or {}),
        network_mode=mode,
        networks=networks,
        ports=ports,
        expose=expose,
        resolver=resolver_of(document, host),
        auto_remove=bool(host.get("AutoRemove")),
    )


_HEALTH_TIMES = ("Interval", "Timeout", "StartPeriod", "StartInterval")


def _healthcheck(fields: dict[str, Any]) -> Healthcheck | None:
    """Docker's fields, and OnUnhealthy, which is ours: "restart" or "ignore"."""
    if not any(fields.values()):
        return None
    for name, value in fields.items():
        if name not in (*_HEALTH_TIMES, "Test", "Retries", "OnUnhealthy") and value:
            raise RefusedError(f"cannot create a container: Healthcheck.{name} is not built; leave it out")
        if name in _HEALTH_TIMES and value and value < 1_000_000:  # moby, daemon/container.go
            raise RefusedError(f"{name} in Healthcheck cannot be less than 1ms")
    if (fields.get("Retries") or 0) < 0:
        raise RefusedError("Retries in Healthcheck cannot be negative")
    on_unhealthy: Any = fields.get("OnUnhealthy") or "ignore"
    if on_unhealthy not in ("ignore", "restart"):
        raise RefusedError(f"cannot use Healthcheck.OnUnhealthy {on_unhealthy!r}: it is ignore or restart")
    test = list(fields.get("Test") or ())
    match test:
        case [] | ["NONE"]:
            probe = None
        case ["CMD", *words] if words:
            probe = Probe("command", tuple(words))
        case ["CMD-SHELL", *words] if words:
            probe = Probe("command", ("/bin/sh", "-c", *words))
        case _:
            raise RefusedError(
                f"cannot use Healthcheck.Test {test}: it is NONE, or CMD or CMD-SHELL with a command"
            )
    times = [value / 1e9 if (value := fields.get(name)) else None for name in _HEALTH_TIMES]
    return Healthcheck(
        probe,
        test == ["NONE"],
        interval_s=times[0],
        timeout_s=times[1],
        retries=fields.get("Retries") or None,
        start_period_s=times[2],
        start_interval_s=times[3],
        on_unhealthy=on_unhealthy,
    )


def _words(value: Any) -> tuple[str, ...] | None:
    """None: the image's. An empty list is Docker's way of saying the same."""
    if isinstance(value, str):
        return (value,) if value else None
    return tuple(value) if value else None


def _pairs(variables: list[str] | None) -> dict[str, str]:
    return {name: value for name, equals, value in (v.partition("=") for v in variables or ()) if equals}


def _bind(text: str) -> model.Mount:
    source, _, rest = text.partition(":")
    target, _, words = rest.partition(":")
    if not target:
        raise RefusedError(f"cannot mount {text!r}: write SOURCE:TARGET[:ro]")
    options = set(words.split(",")) - {"", "rw", "z", "Z", *CONSISTENCIES}
    propagation = options & set(PROPAGATIONS)
    bind = source.startswith("/")
    if unknown := options - {"ro", "nocopy", *PROPAGATIONS}:
        raise RefusedError(
            f"cannot mount {text!r}: there is no option {', '.join(sorted(unknown))}; ro, rw, z, Z, nocopy"
            " or a propagation"
        )
    if len(propagation) > 1 or (propagation and not bind) or ("nocopy" in options and bind):
        raise RefusedError(
            f"cannot mount {text!r}: invalid mode; a propagation is of a path, and nocopy of a volume"
        )
    return model.Mount(
        "bind" if bind else "volume",
        target,
        source,
        read_only="ro" in options,
        nocopy="nocopy" in options,
        propagation=next(iter(propagation), None),
    )


_OF_MOUNTS = {
    "": {"Type", "Source", "Target", "ReadOnly", "Consistency"},
    "BindOptions": {
        "Propagation",
        "CreateMountpoint",
        "NonRecursive",
        "ReadOnlyNonRecursive",
        "ReadOnlyForceRecursive",
    },
    "VolumeOptions": {"NoCopy", "Subpath", "Labels", "DriverConfig"},
    "TmpfsOptions": {"SizeBytes", "Mode"},
    "ImageOptions": {"Subpath"},
}


def _mount(fields: dict[str, Any]) -> model.Mount:
    """One of HostConfig.Mounts. As there, the source of a bind has to exist if nothing else is said."""
    options = {name: fields.get(name) or {} for name in _OF_MOUNTS if name}
    for where, given in {"": {k: v for k, v in fields.items() if k not in options}, **options}.items():
        for name, value in given.items():
            if value and name not in _OF_MOUNTS[where]:
                raise RefusedError(
                    f"cannot mount {fields.get('Target')}: {where or name} {name} is not built"
                )
    target, source = fields["Target"], fields.get("Source") or None
    read_only = bool(fields.get("ReadOnly"))
    match fields.get("Type"):
        case "bind":
            if not source or not source.startswith("/"):
                raise RefusedError(
                    f"cannot mount {source!r} at {target}: the source of a bind is a whole path"
                )
            bind = options["BindOptions"]
            return model.Mount(
                "bind",
                target,
                source,
                read_only=read_only,
                create_host_path=bool(bind.get("CreateMountpoint")),
                propagation=_propagation(bind.get("Propagation"), target),
                recursive=_recursive(bind, read_only=read_only, target=target),
            )
        case "volume":
            volume = options["VolumeOptions"]
            return model.Mount(
                "volume",
                target,
                source,
                read_only=read_only,
                nocopy=bool(volume.get("NoCopy")),
                subpath=volume.get("Subpath") or None,
            )
        case "tmpfs":
            tmpfs = options["TmpfsOptions"]
            made = _tmpfs(target, tmpfs.get("SizeBytes") or None, tmpfs.get("Mode") or None)
            return replace(made, read_only=read_only)
        case "image":
            if not source:
                raise RefusedError(f"cannot mount at {target}: an image mount needs the name of an image")
            subpath = options["ImageOptions"].get("Subpath") or None
            return model.Mount("image", target, source, read_only=True, subpath=subpath)
        case kind:
            raise RefusedError(
                f"cannot mount {target}: there are bind, volume, tmpfs and image, and not {kind!r}"
            )


def _propagation(word: str | None, target: str) -> str | None:
    if word and word not in PROPAGATIONS:
        raise RefusedError(
            f"cannot mount at {target}: invalid propagation mode: {word}; {', '.join(PROPAGATIONS)}"
        )
    return word or None


def _recursive(
    bind: dict[str, Any], *, read_only: bool, target: str
) -> Literal["enabled", "disabled", "writable", "readonly"]:
    if bind.get("NonRecursive"):
        return "disabled"
    if bind.get("ReadOnlyNonRecursive"):
        return "writable"
    if bind.get("ReadOnlyForceRecursive"):
        if not read_only:
            raise RefusedError(f"cannot mount at {target}: recursive read-only needs a read-only mount")
        return "readonly"
    return "enabled"


def mount_volumes(document: Any) -> tuple[model.Volume, ...]:
    """The volumes that a document's mounts describe (`DriverConfig`, `Labels`). Raises RefusedError."""
    found = []
    for fields in (document.get("HostConfig") or {}).get("Mounts") or ():
        options = fields.get("VolumeOptions") or {}
        driver = options.get("DriverConfig") or {}
        if fields.get("Type") != "volume" or not (driver or options.get("Labels")):
            continue
        if (driver.get("Name") or "local") != "local":
            raise RefusedError(
                f"cannot mount at {fields.get('Target')}: there is no volume driver {driver['Name']!r}, only"
                " local"
            )
        name = fields.get("Source")
        if not name:
            raise RefusedError(
                f"cannot mount at {fields.get('Target')}: a volume with options or labels needs a source, its"
                " name"
            )
        labels = tuple(sorted((options.get("Labels") or {}).items()))
        opts = tuple(sorted((driver.get("Options") or {}).items()))
        found.append(model.Volume(name, name, labels=labels, driver_opts=opts))
    return tuple(found)


def _tmpfs(target: str, size_bytes: int | None, mode: int | None) -> model.Mount:
    return model.Mount("tmpfs", target, tmpfs_size_bytes=size_bytes, tmpfs_mode=mode)


def _restart(host: dict[str, Any]) -> model.RestartRules:
    wanted = host.get("RestartPolicy") or {}
    policy = model.Policy(wanted.get("Name") or "no")
    count = wanted.get("MaximumRetryCount") or 0
    if host.get("AutoRemove") and policy is not model.Policy.NO:
        raise RefusedError(
            "cannot create a container: can't create 'AutoRemove' container with restart policy"
        )
    if count and policy is not model.Policy.ON_FAILURE:
        raise RefusedError(
            "cannot create a container: maximum retry count can only be used with 'on-failure'"
        )
    return model.RestartRules(policy, max_attempts=count or None)


def _limits(host: dict[str, Any]) -> model.Limits:
    weight = host.get("BlkioWeight") or 0
    if weight and not 10 <= weight <= 1000:
        raise RefusedError("cannot create a container: range of blkio weight is from 10 to 1000")
    cpus = host.get("CpusetCpus") or ""
    if cpus and not CPUSET.fullmatch(cpus):
        raise RefusedError(f"cannot create a container: {cpus!r} is no list of CPUs; write 0,2-3")
    return model.Limits(
        memory_bytes=host.get("Memory") or None,
        memory_swap_bytes=host.get("MemorySwap") or None,
        memory_reservation_bytes=host.get("MemoryReservation") or None,
        cpus=host["NanoCpus"] / 1e9 if host.get("NanoCpus") else None,
        cpu_shares=host.get("CpuShares") or None,
        pids=host.get("PidsLimit") or None,
        cpuset=cpus or None,
        blkio_weight=weight or None,
        blkio_devices=tuple(_device_limits(host)),
    )


_DEVICE_LIMITS: dict[
    str, tuple[Literal["weight", "read_bps", "write_bps", "read_iops", "write_iops"], str]
] = {
    "BlkioWeightDevice": ("weight", "Weight"),
    "BlkioDeviceReadBps": ("read_bps", "Rate"),
    "BlkioDeviceWriteBps": ("write_bps", "Rate"),
    "BlkioDeviceReadIOps": ("read_iops", "Rate"),
    "BlkioDeviceWriteIOps": ("write_iops", "Rate"),
}


def _device_limits(host: dict[str, Any]) -> Iterator[model.DeviceLimit]:
    for name, (kind, field) in _DEVICE_LIMITS.items():
        for each in host.get(name) or ():
            yield model.DeviceLimit(kind, each["Path"], each[field])


def _security(options: list[str] | tuple[str, ...]) -> model.SecurityOptions:
    """As `security_opt` of Compose files here, no-new-privileges holds unless it is taken away."""
    no_new, seccomp = True, "default"
    for option in options:
        match option.replace("=", ":", 1).partition(":"):
            case ("no-new-privileges", _, "" | "true"):
                no_new = True
            case ("no-new-privileges", _, "false"):
                no_new = False
            case ("seccomp", _, "unconfined"):
                seccomp = "unconfined"
            case _:
                raise RefusedError(
                    f"cannot use security option {option!r}:"
                    " there are no-new-privileges and seccomp=unconfined"
                )
    return model.SecurityOptions(no_new, seccomp)
