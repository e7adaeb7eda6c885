"""The options of `run` and `create`, and Docker's document that they make."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from supervisor.cli import publishing
from supervisor.cli.detachkeys import DEFAULT, parse_keys
from supervisor.cli.pairs import pair


def _keys(_ctx: click.Context, _parameter: click.Parameter, text: str) -> bytes:
    try:
        return parse_keys(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


_ATTACH = (
    click.option(
        "--detach-keys",
        default=DEFAULT,
        show_default=True,
        callback=_keys,
        help="What to type to leave its terminal and let it run on.",
    ),
    click.option(
        "--sig-proxy",
        type=bool,
        default=True,
        show_default=True,
        metavar="BOOL",
        help="Pass signals on to it; false: they end this command only.",
    ),
)
# option -> (Docker's field, what its value is called there, what it does)
_DEVICE_LIMITS = {
    "blkio-weight-device": ("BlkioWeightDevice", "Weight", "Weight at one block device: /dev/sda:300."),
    "device-read-bps": ("BlkioDeviceReadBps", "Rate", "Most bytes a second that it reads: /dev/sda:10m."),
    "device-write-bps": ("BlkioDeviceWriteBps", "Rate", "Most bytes a second that it writes."),
    "device-read-iops": ("BlkioDeviceReadIOps", "Rate", "Most reads a second: /dev/sda:100."),
    "device-write-iops": ("BlkioDeviceWriteIOps", "Rate", "Most writes a second."),
}
_OPTIONS = (
    click.option("--name", default="", help="Name of the container; one at random without."),
    click.option(
        "--pull",
        type=click.Choice(["always", "missing", "never"]),
        default="missing",
        show_default=True,
        help="When to ask the registry of the image, or its recipe.",
    ),
    click.option("--rm", is_flag=True, help="Remove it, with what it wrote, when it has ended."),
    click.option("-i", "--interactive", is_flag=True, help="It has a stdin."),
    click.option("-t", "--tty", is_flag=True, help="It has a terminal."),
    click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="A variable; or your own value."),
    click.option("--env-file", multiple=True, type=click.Path(), help="Lines of NAME=VALUE."),
    click.option(
        "-v",
        "--volume",
        multiple=True,
        metavar="[SOURCE:]TARGET[:OPTIONS]",
        help="SOURCE: a path, or the name of a volume. OPTIONS: ro, nocopy, z, Z, or a propagation (rslave).",
    ),
    click.option(
        "--tmpfs", multiple=True, metavar="TARGET[:OPTIONS]", help="An empty file system in memory."
    ),
    click.option(
        "--mount",
        multiple=True,
        metavar="type=TYPE,target=TARGET[,...]",
        help="bind, volume, tmpfs or image, with source=, readonly, volume-nocopy, volume-subpath=,"
        " volume-opt=,"
        " volume-label=, bind-propagation=, bind-recursive=, bind-create-src, tmpfs-size=, tmpfs-mode=,"
        " image-subpath=. A bind's source has to exist without bind-create-src.",
    ),
    click.option("--shm-size", help="Size of /dev/shm: 256m (default: 64m)."),
    click.option("-w", "--workdir", help="Directory that it begins in."),
    click.option("-u", "--user", help="USER[:GROUP]."),
    click.option("--group-add", multiple=True, help="A further group."),
    click.option("--entrypoint", help="Program instead of the image's ENTRYPOINT and CMD."),
    click.option("--restart", default="no", help="no, always, unless-stopped, on-failure[:N]."),
    click.option("-m", "--memory", help="Limit of memory: 512m."),
    click.option("--memory-swap", help="Of memory and swap together; -1 for no limit."),
    click.option("--cpus", type=float, help="Limit of processors: 1.5."),
    click.option("--cpuset-cpus", default="", metavar="LIST", help="CPUs that it may run on: 0,2-3."),
    click.option(
        "--blkio-weight",
        type=int,
        default=0,
        metavar="WEIGHT",
        help="Its share of a block device's time, 10 to 1000 (0: as all others).",
    ),
    *(
        click.option(f"--{name}", multiple=True, metavar="DEVICE:VALUE", help=text)
        for name, (_, _, text) in _DEVICE_LIMITS.items()
    ),
    click.option("--pids-limit", type=int, help="Limit of processes."),
    click.option("--read-only", is_flag=True, help="The root cannot be written."),
    click.option("--cap-add", multiple=True, help="A further capability."),
    click.option("--cap-drop", multiple=True, help="A capability less."),
    click.option("--privileged", is_flag=True, help="All capabilities, no system call filter."),
    click.option("--security-opt", multiple=True, help="no-new-privileges[=BOOL], seccomp=unconfined."),
    *publishing.OPTIONS,
    click.option("--hostname", help="Name of the host as seen inside."),
    click.option("--init", is_flag=True, help="A process that reaps as pid 1."),
    click.option("--ulimit", multiple=True, metavar="NAME=SOFT[:HARD]"),
    click.option("-l", "--label", multiple=True, metavar="NAME[=VALUE]"),
    click.option("--health-cmd", help="Command of the healthcheck, for the shell of the container."),
    click.option("--health-interval", metavar="DURATION", help="Between two probes (30s)."),
    click.option("--health-timeout", metavar="DURATION", help="For one probe (30s)."),
    click.option("--health-retries", type=int, help="Failures in a row that make it unhealthy (3)."),
    click.option("--health-start-period", metavar="DURATION", help="In which no failure counts (0s)."),
    click.option("--health-start-interval", metavar="DURATION", help="Between probes in that time (5s)."),
    click.option(
        "--health-on-failure",
        type=click.Choice(["none", "restart"]),
        default="none",
        show_default=True,
        help="What to do with an unhealthy one.",
    ),
    click.option("--no-healthcheck", is_flag=True, help="None, also not the image's."),
    click.option("--stop-signal", help="Instead of the image's STOPSIGNAL."),
    click.option("--stop-timeout", type=int, help="Seconds of grace before SIGKILL."),
    click.option("--device", multiple=True, metavar="SOURCE[:TARGET[:rwm]]"),
    click.option("--sysctl", multiple=True, metavar="NAME=VALUE"),
    click.option("--cidfile", type=click.Path(), help="Write the id to this file, which must not exist."),
)


def attach_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """How one is attached to."""
    for option in reversed(_ATTACH):
        command = option(command)
    return command


def container_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """All of them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def document(given: dict[str, Any], image: str, command: tuple[str, ...]) -> dict[str, Any]:
    """Docker's document. Raises ValueError, OSError: what was given makes no sense, or cannot be read."""
    policy, _, count = given["restart"].partition(":")
    volumes = [_volume(text) for text in given["volume"]]
    networks, host_networks = publishing.networks(given)
    return {
        **networks,
        "Image": image,
        "Cmd": list(command),
        "Entrypoint": [given["entrypoint"]] if given["entrypoint"] else None,
        "Env": [line for path in given["env_file"] for line in env_file_lines(path)]
        + [line for variable in given["env"] for line in _variable(variable)],
        "WorkingDir": given["workdir"],
        "User": given["user"],
        "Hostname": given["hostname"],
        "Labels": dict(pair(text) for text in given["label"]),
        "Tty": given["tty"],
        "OpenStdin": given["interactive"],
        "StdinOnce": given.get("stdin_once", False),
        "Healthcheck": _healthcheck(given),
        "StopSignal": given["stop_signal"],
        "StopTimeout": given["stop_timeout"],
        "Volumes": {text: {} for text in volumes if ":" not in text},
        "HostConfig": {
            **host_networks,
            "AutoRemove": given["rm"],
            "Binds": [text for text in volumes if ":" in text],
            "Tmpfs": dict(pair(text, ":") for text in given["tmpfs"]),
            "Mounts": [_mount(text) for text in given["mount"]],
            "ShmSize": _size(given["shm_size"]),
            "RestartPolicy": {"Name": policy, "MaximumRetryCount": int(count or 0)},
            "Memory": _size(given["memory"]),
            "MemorySwap": _size(given["memory_swap"]),
            "NanoCpus": round((given["cpus"] or 0) * 1e9),
            "CpusetCpus": given["cpuset_cpus"],
            "BlkioWeight": given["blkio_weight"],
            **{
                key: [_device_limit(name, field, text) for text in given[name.replace("-", "_")]]
                for name, (key, field, _) in _DEVICE_LIMITS.items()
            },
            "PidsLimit": given["pids_limit"],
            "ReadonlyRootfs": given["read_only"],
            "CapAdd": given["cap_add"],
            "CapDrop": given["cap_drop"],
            "Privileged": given["privileged"],
            "SecurityOpt": given["security_opt"],
            "Init": given["init"],
            "GroupAdd": given["group_add"],
            "Ulimits": [_ulimit(text) for text in given["ulimit"]],
            "Devices": [_device(text) for text in given["device"]],
            "Sysctls": dict(pair(text) for text in given["sysctl"]),
        },
    }


def _healthcheck(given: dict[str, Any]) -> dict[str, Any] | None:
    times = {
        "Interval": given["health_interval"],
        "Timeout": given["health_timeout"],
        "StartPeriod": given["health_start_period"],
        "StartInterval": given["health_start_interval"],
    }
    wanted: dict[str, Any] = {name: _nanoseconds(text) for name, text in times.items() if text}
    if given["health_cmd"]:
        wanted["Test"] = ["CMD-SHELL", given["health_cmd"]]
    if given["health_retries"]:
        wanted["Retries"] = given["health_retries"]
    if given["health_on_failure"] == "restart":
        wanted["OnUnhealthy"] = "restart"
    if not given["no_healthcheck"]:
        return wanted or None
    if wanted:
        raise ValueError("--no-healthcheck conflicts with the other --health-* options")
    return {"Test": ["NONE"]}


def _nanoseconds(text: str) -> int:
    from supervisor.compose.units import duration_ns

    return duration_ns(text)


def _variable(text: str) -> list[str]:
    """A name alone takes the caller's value, and is nothing where there is none (Docker)."""
    if "=" in text:
        return [text]
    return [f"{text}={os.environ[text]}"] if text in os.environ else []


def env_file_lines(path: str) -> list[str]:
    """NAME=VALUE of each line of an --env-file. Raises OSError."""
    with Path(path).open(encoding="utf-8-sig") as lines:
        kept = [line.lstrip().rstrip("\n") for line in lines]
    return [found for line in kept if line and not line.startswith("#") for found in _variable(line)]


def _volume(text: str) -> str:
    source, colon, rest = text.partition(":")
    return f"{Path(source).resolve()}:{rest}" if colon and source.startswith(".") else text


_MOUNT_WORDS = {
    "type": "Type", "source": "Source", "src": "Source", "target": "Target", "dst": "Target",
    "destination": "Target",
}  # fmt: skip


def _mount(text: str) -> dict[str, Any]:
    """As Docker's client reads --mount: CSV of NAME=VALUE; a volume where no type is named."""
    import csv

    made: dict[str, Any] = {"Type": "volume"}
    for word in next(csv.reader([text])):
        name, equals, value = word.partition("=")
        match name.lower():
            case "type" | "source" | "src" | "target" | "dst" | "destination" if equals:
                made[_MOUNT_WORDS[name.lower()]] = value
            case "readonly" | "ro":
                made["ReadOnly"] = _truth(value, word) if equals else True
            case "volume-nocopy":
                made.setdefault("VolumeOptions", {})["NoCopy"] = _truth(value, word) if equals else True
            case "volume-subpath" if equals:
                made.setdefault("VolumeOptions", {})["Subpath"] = value
            case "image-subpath" if equals:
                made.setdefault("ImageOptions", {})["Subpath"] = value
            case "volume-driver" if equals:
                _driver(made)["Name"] = value
            case "volume-opt" if equals:
                key, setting = pair(value)
                _driver(made).setdefault("Options", {})[key] = setting
            case "volume-label" if equals:
                key, setting = pair(value)
                made.setdefault("VolumeOptions", {}).setdefault("Labels", {})[key] = setting
            case "bind-propagation" if equals:
                made.setdefault("BindOptions", {})["Propagation"] = value
            case "bind-recursive" if equals:
                made.setdefault("BindOptions", {}).update(_recursion(value, word))
            case "bind-nonrecursive":
                made.setdefault("BindOptions", {})["NonRecursive"] = _truth(value, word) if equals else True
            case "bind-create-src":
                made.setdefault("BindOptions", {})["CreateMountpoint"] = (
                    _truth(value, word) if equals else True
                )
            case "tmpfs-size" if equals:
                made.setdefault("TmpfsOptions", {})["SizeBytes"] = _size(value)
            case "tmpfs-mode" if equals:
                made.setdefault("TmpfsOptions", {})["Mode"] = int(value, 8)
            case _:
                raise ValueError(f"--mount {text}: {word!r} is not built; see --help")
    if not made.get("Target"):
        raise ValueError(f"--mount {text}: target= is missing")
    if made["Type"] == "bind" and made.get("Source"):
        made["Source"] = os.path.abspath(made["Source"])  # noqa: PTH100 - links stay as they were written
    return made


def _driver(made: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = made.setdefault("VolumeOptions", {})
    driver: dict[str, Any] = options.setdefault("DriverConfig", {})
    return driver


def _recursion(value: str, word: str) -> dict[str, bool]:
    """docker/cli opts/mount.go."""
    match value:
        case "enabled":
            return {}
        case "disabled":
            return {"NonRecursive": True}
        case "writable":
            return {"ReadOnlyNonRecursive": True}
        case "readonly":
            return {"ReadOnlyForceRecursive": True}
        case _:
            raise ValueError(f"{word!r} is none of enabled, disabled, writable and readonly")


def _truth(value: str, word: str) -> bool:
    if value.lower() in ("1", "t", "true"):
        return True
    if value.lower() in ("0", "f", "false"):
        return False
    raise ValueError(f"{word!r} is neither true nor false")


def _size(text: str | None) -> int:
    from supervisor.compose.units import size_bytes

    if text == "-1":
        return -1
    return size_bytes(text) if text else 0


def _device_limit(name: str, field: str, text: str) -> dict[str, Any]:
    path, colon, value = text.rpartition(":")
    if not colon or not path.startswith("/"):
        raise ValueError(f"--{name} {text}: write DEVICE:VALUE, as in /dev/sda:100")
    return {"Path": path, field: _size(value)}


def _ulimit(text: str) -> dict[str, Any]:
    name, value = pair(text)
    soft, _, hard = value.partition(":")
    return {"Name": name, "Soft": int(soft), "Hard": int(hard or soft)}


def _device(text: str) -> dict[str, str]:
    source, _, rest = text.partition(":")
    target, _, permissions = rest.partition(":")
    return {
        "PathOnHost": source,
        "PathInContainer": target or source,
        "CgroupPermissions": permissions or "rwm",
    }
