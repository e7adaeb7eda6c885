"""The verb `watch`: carry changes of the sources into the services, by `develop.watch` of the Compose files.

What a change means is decided in `watchrules`. A batch of changes is worked off as a whole, in the order of
Compose: builds, files, restarts, commands. What fails is told, and the next change is waited for.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import click

from supervisor.cli import output
from supervisor.cli.bringing import Asked, bring_up, make_ready, went_well
from supervisor.cli.context import FAILED, NAMES, USAGE, Context, fail, project_options
from supervisor.cli.errors import ApiError, UnreachableError
from supervisor.cli.syncing import Syncing
from supervisor.cli.watchrules import Rule, Work, rules_of, work_of
from supervisor.core.reconcile import Options

if TYPE_CHECKING:
    from supervisor.compose import Loaded

Say = Callable[[str], None]
_QUIET_MS, _AT_MOST_MS = 50, 1000
"""A batch ends when nothing has changed for so long, or after so long."""


@click.command()
@click.option("--no-up", is_flag=True, help="Do not build and start the services first.")
@click.option(
    "--prune/--no-prune", default=True, show_default=True, help="Remove images that a build replaced."
)
@click.option("--quiet", is_flag=True, help="Do not show builds.")
@project_options
@NAMES
@click.pass_obj
def watch(context: Context, no_up: bool, prune: bool, quiet: bool, names: tuple[str, ...]) -> None:
    """Carry changes of the sources into the services that have `develop.watch`, or into NAMES, until Ctrl-C.

    \b
    sync          changed files are copied into the service, and removed there when they are removed here
    rebuild       the image is built, and the service recreated
    restart       the service is restarted
    sync+restart  files, then a restart
    sync+exec     files, then a command inside the service

    Patterns of `ignore` and `include` are those of .dockerignore, which itself counts for a build's context.
    """
    work = watching(context, names, prune=prune, quiet=quiet)
    if not no_up:
        chosen = tuple(sorted(work.services)) if names else ()
        ready = make_ready(context, Asked(chosen, rebuild=True, quiet_build=quiet))
        if ready is None or not bring_up(context.client, ready, None, context.progress):
            sys.exit(FAILED)
    with contextlib.suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        work(click.echo)
        sys.exit(FAILED)  # it has said why it cannot go on


def watching(context: Context, names: Sequence[str], *, prune: bool = True, quiet: bool = True) -> Watching:
    """The work of `watch` for these services, or for all that have rules. Ends the command where none has."""
    from supervisor.image.builder.ignore import PatternError
    from supervisor.image.sources import SourceError

    loaded = context.load(tuple(names))
    rules: list[Rule] = []
    wanted = names or [spec.name for spec in loaded.project.services]
    try:
        for name in wanted:
            rules += rules_of(name, loaded.documents["services"][name], _context_of(loaded, name))
    except (PatternError, SourceError) as error:
        fail(USAGE, f"cannot watch {name}: {error}")
    if not rules:
        what = "none of the services has" if not names else f"{', '.join(names)} has no"
        fail(
            USAGE,
            f"cannot watch: {what} `develop.watch`; write develop: {{watch: [{{path, action, target}}]}}",
        )
    for rule in rules:
        _check(loaded, rule)
    return Watching(context, loaded, rules, prune=prune, quiet=quiet)


def _context_of(loaded: Loaded, service: str) -> tuple[str, Any] | None:
    from supervisor.image.builder.contexts import read_ignore

    source = loaded.sources.get(service)
    if source is None or source.build is None or not source.build.context.startswith("/"):
        return None
    directory = source.build.context
    return directory, read_ignore(directory, os.path.join(directory, source.build.dockerfile))  # noqa: PTH118


def _check(loaded: Loaded, rule: Rule) -> None:
    source = loaded.sources.get(rule.service)
    if rule.action == "rebuild" and (source is None or source.build is None):
        fail(USAGE, f"cannot watch {rule.service}: it is to be rebuilt, and has no `build`; add it, or sync")
    if not Path(rule.path).exists():
        fail(USAGE, f"cannot watch {rule.service}: {rule.path}: no such file or directory; create it first")
    spec = loaded.project.service(rule.service)
    for mount in spec.mounts if rule.syncs else ():
        if mount.type == "bind" and mount.source == rule.path:
            output.print_error(
                f"warning: {rule.service}: {rule.path} is mounted there, too: a copy would go onto itself"
            )


class Watching:
    """What `watch` does; called with what it may say, it goes on until the process ends."""

    def __init__(
        self, context: Context, loaded: Loaded, rules: list[Rule], *, prune: bool, quiet: bool
    ) -> None:
        self._context = context
        self._loaded = loaded
        self._rules = rules
        self._prune = prune
        self._quiet = quiet
        self._syncing = Syncing(context.client, loaded.project.name)
        self._batches: SimpleQueue[set[str] | Exception] = SimpleQueue()

    @property
    def services(self) -> set[str]:
        """Those that have rules."""
        return {rule.service for rule in self._rules}

    def __call__(self, say: Say) -> None:
        """Until the process ends; or until nothing can be watched any more, which it says."""
        self._listen()
        for rule in self._rules:
            if rule.initial_sync and rule.syncs:
                files = {path: target for path in below(rule, rule.path) if (target := rule.target_of(path))}
                self._tried(say, lambda r=rule, f=files: self._sync(say, r.service, f))  # type: ignore[misc]
        say("watch enabled")
        while True:
            batch = self._batches.get()
            if isinstance(batch, Exception):
                say(f"cannot watch any more: {batch}")
                return
            while not self._batches.empty():
                more = self._batches.get()
                batch |= more if isinstance(more, set) else set()
            self._work_off(work_of(self._rules, self._files(batch)), say)

    # --- being told ------------------------------------------------------------------------------
    def _listen(self) -> None:
        """A directory is watched with all in it; of a file its directory, as editors replace files."""
        import watchfiles

        trees = {rule.path for rule in self._rules if Path(rule.path).is_dir()}
        singles = {str(Path(rule.path).parent) for rule in self._rules if rule.path not in trees}

        def listen(places: set[str], *, recursive: bool) -> None:
            try:
                for changes in watchfiles.watch(
                    *places,
                    watch_filter=None,
                    debounce=_AT_MOST_MS,
                    step=_QUIET_MS,
                    recursive=recursive,
                    raise_interrupt=False,
                    ignore_permission_denied=True,
                ):
                    self._batches.put({path for _, path in changes})
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told by whoever waits
                self._batches.put(error)

        for places, recursive in ((trees, True), (singles, False)):
            if places:
                threading.Thread(
                    target=listen, args=(places,), kwargs={"recursive": recursive}, daemon=True
                ).start()

    def _files(self, paths: Iterable[str]) -> Iterator[str]:
        """What changed; of a directory that came as a whole all that is in it."""
        for path in paths:
            yield path
            if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
                for rule in self._rules:
                    yield from below(rule, path)

    # --- working ---------------------------------------------------------------------------------
    def _work_off(self, work: Work, say: Say) -> None:
        for service in sorted(work.rebuild):
            self._tried(say, lambda s=service: self._rebuild(say, s))  # type: ignore[misc]
        for service, files in sorted(work.syncs.items()):
            self._tried(say, lambda s=service, f=files: self._sync(say, s, f))  # type: ignore[misc]
        for service in sorted(work.restart):
            self._tried(say, lambda s=service: self._restart(say, s))  # type: ignore[misc]
        for rule in work.execs:
            self._tried(say, lambda r=rule: self._exec(say, r))  # type: ignore[misc]

    @staticmethod
    def _tried(say: Say, work: Callable[[], None]) -> None:
        try:
            work()
        except (ApiError, UnreachableError, OSError) as error:
            say(f"watch: {error}")

    def _sync(self, say: Say, service: str, files: dict[str, str]) -> None:
        count = len(files)
        say(f"{service}: syncing after {count} change{'s were' if count != 1 else ' was'} detected")
        self._syncing.sync(service, files)

    def _restart(self, say: Say, service: str) -> None:
        for outcome in self._syncing.restart(service):
            say(outcome)

    def _exec(self, say: Say, rule: Rule) -> None:
        code = self._syncing.run(rule.service, rule.exec or {})
        if code:
            say(f"{rule.service}: its command ended with exit code {code}")

    def _rebuild(self, say: Say, service: str) -> None:
        """In a process of its own: a build takes signals and memory, and may be ended by itself."""
        say(f"{service}: rebuilding after changes were detected")
        before = self._image(service)
        done = subprocess.run(
            [sys.executable, "-m", "supervisor.cli.main", *self._options(), "build", "--service", service]
            + (["--quiet"] if self._quiet else []),
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        if done.returncode != 0:
            say(f"{service}: the build failed; what runs runs on")
            return
        ready = make_ready(
            self._context,
            Asked((service,), dependencies=False, build=False, options=Options(orphans="ignore")),
        )
        assert ready is not None
        client = self._context.client
        for line in client.stream("POST", f"{ready.base}/up", None, ready.body()):
            if not went_well(line) or line.get("verb") not in ("keep", "orphan"):
                say(line["error"] if "error" in line else f"{line['name']}: {line['outcome']}")
        after = self._image(service)
        if self._prune and before and after != before:
            self._forget(before)

    def _options(self) -> list[str]:
        """This command's, for another one."""
        context = self._context
        settings = context.settings.paths
        words = ["--state-dir", settings.state_dir, "--run-dir", settings.run_dir, "--project-name"]
        words += [self._loaded.project.name]
        for flag, values in (
            ("--file", context.files),
            ("--profile", context.profiles),
            ("--env-file", context.env_files),
            ("--project-directory", (context.directory,) if context.directory else ()),
        ):
            words += [word for value in values for word in (flag, value)]
        return words

    def _image(self, service: str) -> str:
        """The id of the image of a service, "" where there is none."""
        from supervisor.image.store import ImageStore, StoreError

        with contextlib.suppress(StoreError, OSError):
            return (
                ImageStore(self._context.settings.paths.images).find(self._loaded.sources[service].image).id
            )
        return ""

    def _forget(self, image_id: str) -> None:
        """Remove an image that has no name any more, and that nobody uses."""
        from supervisor.cli.images import prune_images
        from supervisor.image.store import ImageStore, StoreError

        with contextlib.suppress(StoreError, OSError):
            store = ImageStore(self._context.settings.paths.images)
            prune_images(self._context, store, everything=False, fits=lambda image: image.id == image_id)


def below(rule: Rule, path: str) -> Iterator[str]:
    """Files below a path that a rule may mean; the path itself where it is a file."""
    if not os.path.isdir(path):  # noqa: PTH112
        yield path
        return
    for directory, names, files in os.walk(path):
        names[:] = [name for name in sorted(names) if not rule.leaves_out(f"{directory}/{name}")]
        for name in sorted(files):
            yield f"{directory}/{name}"
