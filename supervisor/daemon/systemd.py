"""systemd, where it is what started the daemon: what we tell it, and what we ask it.

Told by sd_notify(3): ready, alive, stopping, and that a stop takes longer. Asked through systemctl, which
uses systemd's own socket and so works when there is no bus any more: where the cgroup of the unit with the
services is, and whether that unit is being stopped, which tells a shutdown of the host from a restart of the
daemon. deploy/README.md says what both units expect.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping

_START_S = 60.0
_ASK_S = 5.0
_EXTEND_S = 30.0
_EXTEND_EVERY_S = 5.0


class SystemdError(Exception):
    """systemd did not do or say what was asked of it. The text is for the operator."""


# --- telling -----------------------------------------------------------------------------------------
def notify(*words: str) -> None:
    """Tell systemd, if it asked to be told. A loss is no error: it has its own timeouts."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto("\n".join(words).encode(), address)


def watchdog_s(env: Mapping[str, str], pid: int) -> float | None:
    """How often WATCHDOG=1 is to be sent: half of what systemd waits; None if it does not."""
    if env.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = env.get("WATCHDOG_USEC", "")
    return int(text) / 2e6 if text.isdigit() and int(text) > 0 else None


@contextlib.asynccontextmanager
async def patience(status: Callable[[], str]) -> AsyncIterator[None]:
    """While this lasts systemd gives the stop more time again and again, and shows `status`.

    The bound is the caller's: each message is good for half a minute only, so a daemon that hangs is ended.
    """

    async def ask() -> None:
        while True:
            notify(
                f"EXTEND_TIMEOUT_USEC={int(_EXTEND_S * 1e6)}",
                "WATCHDOG=1",
                f"STATUS={status()}",
            )
            await asyncio.sleep(_EXTEND_EVERY_S)

    asking = asyncio.get_running_loop().create_task(ask())
    try:
        yield
    finally:
        asking.cancel()


# --- asking ------------------------------------------------------------------------------------------
async def services_cgroup(unit: str) -> str:
    """Path of the cgroup of a unit below the hierarchies' mount points; the unit is started for it.

    A unit without processes has ended and has no cgroup, so this is asked before each start of a launcher.
    Raises SystemdError.
    """
    path = await _control_group(unit)
    if not path:
        code, text = await _systemctl(_START_S, "start", unit)
        if code != 0:
            raise SystemdError(f"cannot start {unit}: {text or f'systemctl ended with {code}'}")
        path = await _control_group(unit)
    if not path.strip("/"):
        # Never the root of the hierarchy instead: that is everybody's.
        raise SystemdError(f"cannot use {unit}: it has no cgroup; see `systemctl status {unit}`")
    return path.strip("/")


async def _control_group(unit: str) -> str:
    """The cgroup of a unit that is active; empty for one that is not."""
    code, text = await _systemctl(
        _ASK_S, "show", "--property=LoadState", "--property=ActiveState", "--property=ControlGroup", unit
    )
    fields = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if code != 0 or "ActiveState" not in fields:
        raise SystemdError(f"cannot ask systemd for {unit}: {text or f'systemctl ended with {code}'}")
    if fields.get("LoadState") != "loaded":
        raise SystemdError(
            f"cannot use {unit}: systemd says {fields.get('LoadState')}; run `make install` again, or unset"
            " SHIPKEEPER_SERVICES_UNIT"
        )
    return fields.get("ControlGroup", "") if fields["ActiveState"] == "active" else ""


async def is_ending(unit: str) -> bool:
    """Whether a unit is to be stopped now. Raises SystemdError where that cannot be known within seconds."""
    code, text = await _systemctl(_ASK_S, "list-jobs", "--no-legend", unit)
    if code != 0:
        raise SystemdError(f"cannot ask systemd for its jobs: {text or f'systemctl ended with {code}'}")
    return has_stop_job(text, unit)


def has_stop_job(listed: str, unit: str) -> bool:
    """Whether the text of `systemctl list-jobs` has a job that ends a unit. A restart is one, too."""
    jobs = [line.split() for line in listed.splitlines()]
    return any(job[1:2] == [unit] and job[2:3] in (["stop"], ["restart"]) for job in jobs)


async def _systemctl(timeout_s: float, *arguments: str) -> tuple[int, str]:
    """Exit code and output, both streams in one. Raises SystemdError."""
    try:
        process = await asyncio.create_subprocess_exec(
            "systemctl",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise SystemdError(f"cannot run systemctl: {error.strerror}") from error
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        raise SystemdError(f"systemctl {arguments[0]} gave no answer within {timeout_s:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace").strip()
