"""Builds for tests: a store of their own with a busybox base, and what came of a build, by what it says."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor.core.paths import Paths
from supervisor.core.reference import parse_reference
from supervisor.image import config as oci
from supervisor.image.builder import progress
from supervisor.image.builder.bases import LocalBases
from supervisor.image.builder.build import build
from supervisor.image.builder.ignore import parse_ignore
from supervisor.image.builder.request import BuildRequest
from supervisor.image.layerstack import Entry, LayerStack
from supervisor.image.load import import_layer
from supervisor.image.store import Image, ImageStore
from supervisor.kernel import hierarchies
from supervisor.runtime.buildrun import LauncherRunner

BUSYBOX = shutil.which("busybox")
TOOLS = (
    "sh",
    "cat",
    "echo",
    "id",
    "ls",
    "sleep",
    "touch",
    "env",
    "pwd",
    "mkdir",
    "stat",
    "mount",
    "hostname",
    "rm",
    "mv",
    "ln",
    "chmod",
    "chown",
    "find",
    "sort",
    "wc",
    "grep",
    "sed",
    "test",
    "true",
    "false",
    "kill",
    "date",
    "sha256sum",
    "readlink",
    "umask",
    "head",
    "tail",
    "nc",
    "df",
    "ip",
    "cp",
    "tr",
)
PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:7:8::/home/app:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
GROUP = "root:x:0:\napps:x:8:app\nstaff:x:50:\n"


def root_archive(**files: str) -> bytes:
    """A root with a static busybox in it; files: more of them, `etc__name` for /etc/name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("bin", "etc", "tmp", "root"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(directory)
        member = tarfile.TarInfo("bin/busybox")
        data = Path(os.path.realpath(BUSYBOX or "")).read_bytes()
        member.size, member.mode = len(data), 0o755
        archive.addfile(member, io.BytesIO(data))
        for tool in TOOLS:
            link = tarfile.TarInfo(f"bin/{tool}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        texts = {"etc/passwd": PASSWD, "etc/group": GROUP}
        texts |= {name.replace("__", "/"): text for name, text in files.items()}
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


@dataclass
class Result:
    """What came of a build. names: of its vertices; cached: of those that were."""

    image: Image
    built: progress.Built
    events: list[progress.Event]
    store: ImageStore
    files_read: int = 0

    @property
    def cached(self) -> list[str]:
        return [name for name, end in self._ends() if end.cached and not _is_base(name)]

    @property
    def ran(self) -> list[str]:
        """Steps that were carried out, without their numbers."""
        return [name.partition("] ")[2] for name, end in self._ends() if not end.cached and "] " in name]

    @property
    def output(self) -> str:
        return output_of(self.events)

    def _ends(self) -> list[tuple[str, progress.Ended]]:
        names = {event.vertex: event.name for event in self.events if isinstance(event, progress.Started)}
        return [(names[event.vertex], event) for event in self.events if isinstance(event, progress.Ended)]

    # --- files ----------------------------------------------------------------------------------
    @property
    def stack(self) -> LayerStack:
        return LayerStack(self.store.lowers(self.image))

    def entry(self, path: str) -> Entry | None:
        return self.stack.entry(path)

    def text(self, path: str) -> str:
        entry = self.entry(self.stack.resolve(path))
        assert entry is not None, f"no {path} in the image"
        return Path(entry.path).read_text()

    def mode(self, path: str) -> str:
        """`0755 0:0`."""
        entry = self.entry(path)
        assert entry is not None, f"no {path} in the image"
        status = entry.status
        return f"{stat.S_IMODE(status.st_mode):04o} {status.st_uid}:{status.st_gid}"

    def layer_names(self, index: int = -1) -> list[str]:
        """Every path of one layer, the last unless told."""
        root = self.store.layers.directory(self.image.diff_ids[index])
        return sorted(
            os.path.relpath(f"{directory}/{name}", root)
            for directory, names, files in os.walk(root)
            for name in (*names, *files)
        )


def output_of(events: list[progress.Event]) -> str:
    return b"".join(event.data for event in events if isinstance(event, progress.Output)).decode()


def _is_base(name: str) -> bool:
    return " FROM " in name or name.startswith("[internal]")


@dataclass
class Bench:
    """A store, a context and a runner."""

    base: str
    store: ImageStore = field(init=False)
    paths: Paths = field(init=False)
    context: Path = field(init=False)
    events: list[progress.Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.paths = Paths(f"{self.base}/state", f"{self.base}/run")
        os.makedirs(self.paths.images)
        os.makedirs(self.paths.run_dir)
        self.store = ImageStore(self.paths.images)
        self.context = Path(self.base, "context")
        self.context.mkdir()

    def add_base(self, name: str = "base:1", archive: bytes | None = None, **process: Any) -> Image:
        layer = import_layer(self.store, io.BytesIO(archive or root_archive()), "base")
        config = oci.ImageConfig(
            "amd64", "linux", oci.RootFs(diff_ids=[layer.diff_id]), config=oci.Process(**process)
        )
        return self.store.add(oci.encode(config), parse_reference(name))

    def file(self, name: str, text: str | bytes = "", mode: int = 0o644) -> Path:
        """A file of the context."""
        path = self.context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        path.chmod(mode)
        return path

    def build(self, dockerfile: str, **request: Any) -> Result:
        """Build; the image is called test:1."""
        return asyncio.run(self.start(dockerfile, **request))

    async def start(
        self,
        dockerfile: str,
        *,
        ignore: str = "",
        tell: Callable[[progress.Event], None] | None = None,
        **request: Any,
    ) -> Result:
        self.events = events = []

        def told(event: progress.Event) -> None:
            events.append(event)
            if tell is not None:
                tell(event)

        request.setdefault("context", str(self.context))
        request.setdefault("names", (parse_reference("test:1"),))
        wanted = BuildRequest(dockerfile.encode(), ignore=parse_ignore(ignore), **request)
        runner = LauncherRunner(self.paths)
        try:
            built = await build(wanted, self.store, LocalBases(self.store), runner, told)
        finally:
            await runner.close()
        return Result(self.store.find(built.id), built, events, self.store)

    def leftovers(self) -> list[str]:
        """What a build should have removed: directories, mounts, cgroups."""
        found = []
        for parent in (f"{self.paths.images}/build/underway", f"{self.paths.run_dir}/builds"):
            found += [f"{parent}/{name}" for name in os.listdir(parent)] if os.path.isdir(parent) else []
        for place in hierarchies.detect().places():
            found += [str(path) for path in Path(place).glob(f"{self.paths.own_cgroup}*")]
        found += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if self.base in line]
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                text = process.read_bytes()
            except OSError:
                continue
            if f"{self.base}/run/builds".encode() in text:
                found.append(f"process {process.parent.name}: {text!r}")
        return found
