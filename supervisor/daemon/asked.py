"""What was asked of projects and has not come to its end: a daemon that is killed leaves it to the next one.

A file for each project, `<state_dir>/asked/<project>.json`, from before the first change until the last
one. So a kill in the middle of `up` or `down` ends in what was asked for, never in a part of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from supervisor.core.model import Project
from supervisor.core.paths import Paths
from supervisor.core.reconcile import Options
from supervisor.kernel.files import remove_cut_off, replace_file
from supervisor.runtime.translate import PlanError


class UpAsked(msgspec.Struct, frozen=True, tag="up"):
    """To bring up a resolved project, the contents of whose configs and secrets are kept."""

    project: Project
    options: Options

    def again(self) -> Options:
        """For the daemon that goes on with it: what was recreated before is not recreated once more."""
        options = self.options
        recreate = "changed" if options.recreate == "always" else options.recreate
        needed = "changed" if options.recreate_needed == "always" else options.recreate_needed
        return replace(options, recreate=recreate, recreate_needed=needed)


class DownAsked(msgspec.Struct, frozen=True, tag="down"):
    """To take down a project, or these services of it."""

    services: tuple[str, ...] = ()
    volumes: bool = False
    grace_s: float | None = None


class AskedFiles:
    """See the module. What writes blocks; from any thread, one call for a project at a time."""

    def __init__(self, paths: Paths, report: Callable[[str], None]) -> None:
        self._directory = paths.asked
        self._report = report
        self._noted: dict[str, object] = {}
        self._kept = False

    def load(self) -> dict[str, UpAsked | DownAsked]:
        """What an earlier daemon did not come to the end of, by project. An unreadable one is reported."""
        found: dict[str, UpAsked | DownAsked] = {}
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(Path(self._directory).iterdir()):
                project = path.stem
                if path.suffix != ".json":
                    continue
                try:
                    found[project] = msgspec.json.decode(path.read_bytes(), type=UpAsked | DownAsked)
                except (OSError, msgspec.MsgspecError) as error:
                    self._report(f"cannot go on with what was asked of {project}: {path}: {error}")
        return found

    def is_newer(self, project: str) -> bool:
        """Whether anything was asked of a project since the start of this daemon."""
        return project in self._noted

    def note(self, project: str, what: UpAsked | DownAsked | None) -> object:
        """On the disk when this returns; what `done` is to be given. None: nothing has to be done for it.

        Raises PlanError.
        """
        path = self._path(project)
        self._noted[project] = token = object()
        if what is None:
            _unlink(path)
            return token
        try:
            Path(self._directory).mkdir(0o700, exist_ok=True)
            remove_cut_off(path)
            replace_file(path, msgspec.json.encode(what), 0o600)
        except OSError as error:
            raise PlanError(f"cannot write {path}: {error.strerror}; is the disk full?") from error
        return token

    def done(self, project: str, token: object) -> None:
        """It has come to its end, unless something newer was asked since."""
        if not self._kept and token is not None and self._noted.get(project) is token:
            _unlink(self._path(project))

    def keep(self) -> None:
        """This daemon ends: what ends from now on is only cut off, and the next one goes on with it."""
        self._kept = True

    def _path(self, project: str) -> str:
        return f"{self._directory}/{project}.json"


def _unlink(path: str) -> None:
    Path(path).unlink(missing_ok=True)
