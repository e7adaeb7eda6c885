"""Instances that no Compose file made (`run`, `create`): made, named, and removed when they have ended.

They are instances like others, of the project "" and of a service with their own name, so that storing,
adopting and the policies at boot are the same. One that is to be removed at its end says so in its stored
definition: an end that came while no daemon lived is seen by `sweep`.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace

from supervisor.core.labels import has_label
from supervisor.core.model import Project, ServiceSpec, Volume
from supervisor.core.state import Resting
from supervisor.daemon.engine import Engine, Entry, Published
from supervisor.daemon.images import Images
from supervisor.daemon.making import new_instance
from supervisor.daemon.outcomes import is_down
from supervisor.daemon.projects import Projects
from supervisor.daemon.state import Stored
from supervisor.launcher.protocol import LogCounted
from supervisor.runtime.rootfs import PrepareError
from supervisor.runtime.translate import PlanError
from supervisor.runtime.volumes import VolumeError

NO_PROJECT = ""
_DRAIN_S = 0.002

# moby, daemon/names: RestrictedNameChars
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")

_ADJECTIVES = (
    "able", "agile", "amber", "ample", "brave", "brisk", "calm", "candid", "clear", "clever", "cosy", "crisp",
    "deft", "eager", "exact", "fair", "fleet", "fond", "frank", "gentle", "glad", "grand", "handy", "hardy",
    "keen", "kind", "lively", "lucid", "mellow", "merry", "modest", "neat", "nimble", "noble", "patient",
    "placid", "plain", "polite", "prompt", "proud", "quick", "quiet", "ready", "robust", "serene", "sharp",
    "silent", "smooth", "sober", "solid", "stable", "steady", "sturdy", "sunny", "tidy", "trusty", "vivid",
)  # fmt: skip
_SURNAMES = (
    "abel", "ampere", "archimedes", "babbage", "bell", "bohr", "boole", "borg", "brahe", "carson", "cauchy",
    "curie", "dijkstra", "dirac", "einstein", "elion", "euler", "faraday", "fermat", "fermi", "feynman",
    "franklin", "galileo", "galois", "gauss", "germain", "hamilton", "hertz", "hilbert", "hopper", "huygens",
    "joule", "kepler", "knuth", "lamarr", "laplace", "liskov", "lovelace", "maxwell", "meitner", "newton",
    "noether", "ohm", "pascal", "planck", "ritchie", "shannon", "tesla", "turing", "volta", "wozniak",
)  # fmt: skip


class NameTakenError(PlanError):
    """Another instance has that name."""


class Containers:
    """See the module."""

    def __init__(
        self,
        engine: Engine,
        projects: Projects,
        images: Images,
        report: Callable[[str], None],
        log_counts: Callable[[], Awaitable[LogCounted | None]],
    ) -> None:
        self._engine = engine
        self._projects = projects
        self._images = images
        self._report = report
        self._log_counts = log_counts
        self.readers: dict[str, list[Callable[[], object]]] = {}
        """By instance: what opens the log of one for a reader, so that its removal takes nothing away."""
        self._tasks: set[asyncio.Task[None]] = set()
        engine.subscribers.add(self._on_event)

    async def create(
        self, spec: ServiceSpec, name: str, volumes: tuple[Volume, ...] = (), *, publish_all: bool = False
    ) -> Entry:
        """A new instance, not started. name: "" for one at random; `spec.name` is of no account.

        volumes: what is to be known of those that its mounts name, where they are made with it. publish_all:
        what the image exposes, too.

        Raises NameTakenError, NoImageError, PlanError.
        """
        if name:
            _check_name(name)
        spec = replace(spec, name=name or self._random_name())
        if spec.rootfs.kind == "image":
            spec = await asyncio.to_thread(self._images.resolve_one, spec, publish_all=publish_all)
        self._check_free(spec.name)
        return self._engine.add(new_instance(Project(NO_PROJECT, "/", volumes=volumes), spec, spec.name))

    def rename(self, entry: Entry, name: str) -> None:
        """Call one by another name; one that runs, too, which keeps its hostname. Raises PlanError.

        NameTakenError: also where a Compose file says the name.
        """
        _check_name(name)
        if entry.stored.project != NO_PROJECT:
            raise NameTakenError(
                f"cannot rename {entry.stored.name}: it belongs to the project {entry.stored.project}; write"
                " container_name in its Compose file"
            )
        self._check_free(name)
        self._engine.rename(entry, name)

    async def prune(self, labels: tuple[str, ...] = ()) -> list[str]:
        """Remove those that are down; ids of what went. Raises PrepareError."""
        removed = []
        for entry in list(self._engine.entries.values()):
            if not _is_own(entry):
                continue
            if is_down(entry.instance) and _has(entry, labels):
                removed.append(entry.instance.id)
                await self._projects.remove(entry)
        return removed

    def _check_free(self, name: str) -> None:
        for entry in self._engine.entries.values():
            if entry.stored.name == name:
                raise NameTakenError(
                    f'Conflict. The container name "/{name}" is already in use by container'
                    f' "{entry.instance.id}"; remove that one, or use another name'
                )

    async def drained(self, entry: Entry) -> None:
        """Wait until the log has all output of a run that has ended."""
        while True:
            counted = await self._log_counts()
            if counted is None or entry.instance.id not in counted.attached:
                return
            await asyncio.sleep(_DRAIN_S)

    def sweep(self) -> None:
        """Remove what has ended and was to be removed then, while no daemon lived."""
        for entry in list(self._engine.entries.values()):
            self._remove_ended(entry)

    def _on_event(self, event: Published) -> None:
        entry = self._engine.entries.get(event.instance)
        if event.action == "die" and entry is not None:
            # Not from within the step that ended it: that is still being carried out.
            asyncio.get_running_loop().call_soon(self._remove_ended, entry)

    def _remove_ended(self, entry: Entry) -> None:
        if not entry.stored.spec.auto_remove or not isinstance(entry.instance.phase, Resting):
            return
        if self._engine.entries.get(entry.instance.id) is not entry:
            return
        task = asyncio.get_running_loop().create_task(self._remove(entry))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _remove(self, entry: Entry) -> None:
        await self.drained(entry)
        if self._engine.entries.get(entry.instance.id) is not entry or not is_down(entry.instance):
            return  # somebody was quicker, or has started it again
        for look in self.readers.get(entry.instance.id, ()):
            look()
        try:
            await self._projects.remove(entry, volumes=True)
        except (PrepareError, VolumeError) as error:
            self._report(f"cannot remove what {entry.stored.name} left: {error}")

    def _random_name(self) -> str:
        taken = {entry.stored.name for entry in self._engine.entries.values()}
        while True:
            name = f"{secrets.choice(_ADJECTIVES)}_{secrets.choice(_SURNAMES)}"
            if name in taken:
                name += str(secrets.randbelow(10_000))
            if name not in taken:
                return name


def beside(stored: Stored, spec: ServiceSpec) -> Stored:
    """One of no project that has the volumes of a service's, as a hook of it has. Raises PlanError."""
    return new_instance(Project(NO_PROJECT, stored.working_dir, volumes=stored.volumes), spec, spec.name)


def _is_own(entry: Entry) -> bool:
    """It belongs to no project and to no service."""
    return entry.stored.project == NO_PROJECT and not entry.stored.spec.hook_of


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise PlanError(
            f"cannot use the name {name}: Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are"
            " allowed"
        )


def _has(entry: Entry, labels: tuple[str, ...]) -> bool:
    """All of these labels: NAME or NAME=VALUE."""
    own = dict(entry.stored.spec.labels)
    return all(has_label(own, label) for label in labels)
