"""Docker's local volume driver: a volume that is a mount of its own, by `type`, `o` and `device`.

The options go to mount(8), which knows what each file system wants and calls its helper (mount.nfs). Docker
takes them for mount(2): an NFS volume is `device: ":/export"` with the server as `addr=` in `o`, which is
put together here. Source: moby volume/local (local.go, local_unix.go) and mount(8).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping

from supervisor.kernel import syscalls as sc

Options = Mapping[str, str]

_KNOWN = ("type", "o", "device")
_NETWORK = ("nfs", "nfs4", "cifs")
_PACKAGES = {"nfs": "nfs-common", "nfs4": "nfs-common", "cifs": "cifs-utils"}
_PATIENCE_S = 60.0
_SEARCHED = "/sbin:/usr/sbin:/bin:/usr/bin"


class LocalDriverError(Exception):
    """Options that make no mount, or a mount that failed. The text is for the user."""


def check_options(name: str, options: Options) -> None:
    """Refuse what can never be mounted. Raises LocalDriverError."""
    for option in options:
        if option == "size":
            raise LocalDriverError(
                f"cannot create volume {name}: a quota (size) is not built; for a tmpfs write o: size=64m"
            )
        if option not in _KNOWN:
            raise LocalDriverError(
                f'cannot create volume {name}: invalid option: "{option}"; one of {", ".join(_KNOWN)}'
            )
    for option in ("type", "device") if options else ():
        if not options.get(option):
            raise LocalDriverError(
                f'cannot create volume {name}: missing required option: "{option}" ({_text(options)})'
            )


def mount_local(name: str, options: Options, place: str) -> None:
    """Mount a volume at a place. Raises LocalDriverError, which names the volume and its options."""
    kind, device = options["type"], options["device"]
    words = [word for word in options.get("o", "").split(",") if word]
    if kind in _NETWORK:
        device, words = _network(name, options, words)
    elif "bind" in words and not device.startswith("/"):
        raise _error(name, options, "device is no absolute path")
    elif "rbind" in words:
        # What is mounted below the source would outlive the volume in the launcher's mount namespace.
        raise _error(name, options, "rbind is not built; write bind, or a bind mount in the service")
    command = ["mount", "-t", kind, *(["-o", ",".join(words)] if words else []), "--", device, place]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
            env={**os.environ, "PATH": _SEARCHED, "LC_ALL": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired:
        raise _error(name, options, f"no answer within {_PATIENCE_S:g} s; is the server up?") from None
    except OSError as error:
        raise _error(name, options, f"mount(8): {error.strerror}") from error
    if done.returncode:
        raise _error(name, options, _said(done.stderr, place))
    # It has arrived in the launcher's namespace; what happens to it later does not concern its source.
    sc.mount("none", place, None, sc.MS_PRIVATE)


def _network(name: str, options: Options, words: list[str]) -> tuple[str, list[str]]:
    """Device and options of a network file system as its helper wants them."""
    kind, device = options["type"], options["device"]
    helper = f"mount.{kind}"
    if shutil.which(helper, path=_SEARCHED) is None:
        raise _error(name, options, f"there is no {helper}; `apt install {_PACKAGES[kind]}`")
    if kind == "cifs":
        return device, words
    server = next((word.removeprefix("addr=") for word in words if word.startswith("addr=")), "")
    if device.startswith(":"):
        if not server:
            raise _error(name, options, "no server; write addr=HOST in o, or device: HOST:/export")
        device = f"[{server}]{device}" if ":" in server else f"{server}{device}"
    elif ":" not in device:
        raise _error(name, options, "device is no export; write HOST:/export")
    words = [word for word in words if not word.startswith("addr=")]
    if not any(word.startswith("retry=") for word in words):
        words.append(
            "retry=0"
        )  # minutes that mount.nfs tries on; a start that fails is tried again by policy
    return device, words


def _said(text: str, place: str) -> str:
    """mount(8)'s first line, without its own name and the place, which says nothing to the user."""
    first = next((line for line in text.splitlines() if line.strip()), "mount(8) failed")
    return first.removeprefix("mount: ").removeprefix(f"{place}: ").strip().rstrip(".")


def _error(name: str, options: Options, why: str) -> LocalDriverError:
    return LocalDriverError(f"cannot mount volume {name} ({_text(options)}): {why}")


def _text(options: Options) -> str:
    return ", ".join(f"{key}: {options[key]}" for key in _KNOWN if options.get(key)) or "no options"
