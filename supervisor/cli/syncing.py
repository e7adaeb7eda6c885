"""What `watch` does to running services by the API: files in and away, restarts, commands."""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

from supervisor.cli.client import Client
from supervisor.cli.terminal import copy_frames


class Syncing:
    """The running instances of the services of one project. All methods raise ApiError, UnreachableError."""

    def __init__(self, client: Client, project: str) -> None:
        self._client = client
        self._project = project

    def sync(self, service: str, files: Mapping[str, str]) -> None:
        """Copy files of this host to their places in every instance, as its user's; remove there what is not
        here any more. Raises OSError."""
        gone = [target for path, target in files.items() if not os.path.lexists(path)]
        here = {path: target for path, target in files.items() if os.path.lexists(path)}
        with tempfile.TemporaryFile() as archive:
            write_files(archive, here)
            for instance in self._instances(service):
                address = f"/containers/{instance}/archive"
                if gone:
                    self._client.call("DELETE", address, {"path": gone})
                if here:
                    archive.seek(0)
                    self._client.upload(address, {"path": "/", "copyUIDGID": 1}, archive)

    def restart(self, service: str) -> Iterator[str]:
        """Restart every instance, and nothing else; what came of it."""
        names = self._instances(service)
        body = json.dumps({"names": names, "project": self._project, "alone": True}).encode()
        for line in self._client.stream("POST", "/services/restart", body=body) if names else ():
            if "waiting_s" not in line:
                yield f"{line['name']}: {line['error']}" if "error" in line else f"{line['name']}: restarted"

    def run(self, service: str, hook: Mapping[str, Any]) -> int:
        """Run the command of a hook in every instance, its output here; the worst exit code."""
        environment = hook.get("environment") or {}
        document = {
            "Cmd": list(hook["command"]),
            "Env": [f"{name}={value or ''}" for name, value in environment.items()],
            "User": hook.get("user"),
            "WorkingDir": hook.get("working_dir"),
            "Privileged": bool(hook.get("privileged")),
            "AttachStdin": False,
        }
        worst = 0
        for instance in self._instances(service):
            made = self._client.call(
                "POST", f"/containers/{instance}/exec", body=json.dumps(document).encode()
            )
            copy_frames(self._client.hijack(f"/exec/{made['Id']}/start", b"{}"))
            worst = max(worst, self._client.call("GET", f"/exec/{made['Id']}/json")["ExitCode"] or 0)
        return worst

    def _instances(self, service: str) -> list[str]:
        views = self._client.call("GET", "/containers/json", {"project": self._project})
        return [
            view["Name"]
            for view in views
            if view["Service"] == service and view["State"]["Running"] and not view["OneOff"]
        ]


def write_files(out: IO[bytes], files: Mapping[str, str]) -> None:
    """A tar archive of files of this host under their places in a service, without what goes meanwhile."""
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, target in sorted(files.items(), key=lambda each: each[1]):
            try:
                info = archive.gettarinfo(path, target.lstrip("/"))
                if info is None or not (info.isreg() or info.isdir() or info.issym() or info.islnk()):
                    continue
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                if info.islnk():  # a second name of a file before it, which is no other file here
                    info.type, info.linkname, info.size = tarfile.REGTYPE, "", os.lstat(path).st_size
                if info.isreg():
                    with open(path, "rb") as content:  # noqa: PTH123
                        info.size = os.fstat(content.fileno()).st_size
                        archive.addfile(info, content)
                else:
                    archive.addfile(info)
            except FileNotFoundError:
                continue
