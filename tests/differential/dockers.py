"""A real dockerd as the judge of the restart tables: one that DOCKER_HOST names, and one of the test's own.

What DOCKER_HOST names is only asked to run containers. Starts and crashes of an engine are done to a private
one, with directories, socket and containerd of its own, and neither bridge nor iptables.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import socket
import subprocess
import tarfile
from pathlib import Path

import docker
import psutil
from docker.errors import APIError
from docker.types import Mount
from restart_play import PATIENCE_S, Seen, until
from restart_tables import Service

from supervisor.core.model import Policy

IMAGE = "shipkeeper-restart-tables:1"


def busybox_archive(busybox: str) -> bytes:
    """A root file system of one static program and its names, as `docker import` takes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(os.path.realpath(busybox), "bin/busybox")
        for name in ("sh", "sleep", "dd", "kill"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return buffer.getvalue()


class Docker:
    """`restart_play.Engine` over Docker's API. `close` removes the image."""

    def __init__(self, address: str, archive: bytes) -> None:
        self.api = docker.APIClient(base_url=address, timeout=int(PATIENCE_S))
        repository, _, tag = IMAGE.partition(":")
        self.api.import_image_from_data(archive, repository=repository, tag=tag)

    def version(self) -> str:
        return str(self.api.version()["Version"])

    def create(self, name: str, service: Service, policy: Policy, ctl: Path, *, start: bool) -> None:
        memory = f"{service.memory_mb}m" if service.memory_mb else None
        host = self.api.create_host_config(
            mounts=[Mount("/ctl", str(ctl), type="bind")],
            restart_policy={"Name": policy.value, "MaximumRetryCount": service.max_attempts or 0},
            mem_limit=memory,
            memswap_limit=memory,
            network_mode="none",
        )
        command = ["/no/such/program"] if service.missing else ["/bin/sh", "-c", service.script]
        signame = f"SIG{service.stop_signal}" if service.stop_signal else None
        self.api.create_container(IMAGE, command, name=name, host_config=host, stop_signal=signame)
        if start:
            try:
                self.api.start(name)
            except APIError:
                if not service.missing:
                    raise

    def look(self, name: str) -> Seen:
        found = self.api.inspect_container(name)
        state = found["State"]
        return Seen(state["Status"], state["Pid"], state["ExitCode"], found["RestartCount"])

    def stop(self, name: str, grace_s: int | None) -> None:
        self.api.stop(name, timeout=grace_s)

    def kill(self, name: str, signame: str) -> None:
        self.api.kill(name, signame)

    def restart(self, name: str) -> None:
        self.api.restart(name)

    def pause(self, name: str, paused: bool) -> None:
        (self.api.pause if paused else self.api.unpause)(name)

    def remove(self, name: str) -> None:
        self.api.remove_container(name, force=True)

    def close(self) -> None:
        with contextlib.suppress(APIError):
            self.api.remove_image(IMAGE, force=True)
        self.api.close()


class PrivateDockerd:
    """An engine that may be stopped and killed. `close` leaves nothing of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.address = f"unix://{directory}/docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, live_restore: bool) -> None:
        where = self._directory
        command = [
            "dockerd",
            f"--data-root={where}/data",
            f"--exec-root={where}/exec",
            f"--host={self.address}",
            f"--pidfile={where}/pid",
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            "--storage-driver=vfs",
            f"--live-restore={str(live_restore).lower()}",
        ]
        with (where / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until(self._answers, bool, f"dockerd answers (its messages are in {where}/log)")

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._directory / "log").read_text()[-2000:]
        with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(OSError):
            sock.settimeout(PATIENCE_S)
            sock.connect(self.address.removeprefix("unix://"))
            sock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b" 200 " in sock.recv(64)
        return False

    def stop(self) -> None:
        """In order, its containers with it if live-restore is off."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(PATIENCE_S)

    def crash(self) -> None:
        """The engine alone, with its containerd; shims and containers live on."""
        self._kill([])

    def power_cut(self, containers: list[int]) -> None:
        """Everything of it at once."""
        self._kill([*self._shims(), *containers])

    def _kill(self, more: list[int]) -> None:
        assert self._process is not None
        children = [child.pid for child in psutil.Process(self._process.pid).children(recursive=True)]
        self._process.kill()
        self._process.wait(PATIENCE_S)
        kill_and_wait([*children, *more])

    def _shims(self) -> list[int]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if words and "containerd-shim" in words[0] and any(str(self._directory) in w for w in words):
                    found.append(process.pid)
        return found

    def close(self) -> None:
        """Stop it with all it runs, and unmount what it left."""
        if self._process is not None and self._process.poll() is None:
            self.stop()
        kill_and_wait(self._shims())
        with open("/proc/self/mounts") as mounts:
            places = [line.split()[1] for line in mounts if f" {self._directory}/" in line]
        for place in sorted(places, reverse=True):
            subprocess.run(["umount", "-l", place], check=False)
        shutil.rmtree(self._directory, ignore_errors=True)


def kill_and_wait(pids: list[int]) -> None:
    """SIGKILL to all, then until init has reaped them: dockerd takes a zombie for a containerd that lives."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            _thaw(pid)
            os.kill(pid, signal.SIGKILL)
    for pid in pids:
        until(lambda pid=pid: os.path.exists(f"/proc/{pid}"), lambda there: not there, f"{pid} is gone")  # type: ignore[misc]


def _thaw(pid: int) -> None:
    """A container that is paused by the freezer of v1 cannot be killed."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "freezer":
                Path(f"/sys/fs/cgroup/freezer{path}/freezer.state").write_text("THAWED")
