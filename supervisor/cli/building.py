"""Builds images in this process, shown: what `shipkeeper build`, and `up` for the services of a project, do.

Nothing is left of a context that was fetched, whatever way a build ends, and no process of it either.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import TypeVar

from supervisor.cli import output
from supervisor.cli.buildcheck import report_of, show
from supervisor.cli.buildinputs import Job, gather_inputs
from supervisor.cli.buildtelling import exit_code, tell_end, tell_failure
from supervisor.cli.buildview import Mode, Part, View, progress_stream
from supervisor.cli.context import Context
from supervisor.core.paths import Paths
from supervisor.core.reference import Reference
from supervisor.image.builder.bases import Base, Bases, LocalBases
from supervisor.image.builder.build import build
from supervisor.image.builder.contexts import Recipe
from supervisor.image.builder.progress import BuildError, Built
from supervisor.image.builder.request import BuildRequest
from supervisor.image.builder.runner import Runner, RunRequest, RunResult
from supervisor.image.dockerfile.lint import LintOptionError, Report
from supervisor.image.store import ImageStore, StoreError

T = TypeVar("T")
_ERRORS = (BuildError, LintOptionError, StoreError, OSError)
CANCELLED = 130
"""Exit code of a build that Ctrl-C ended."""


@dataclass(slots=True)
class Building:
    """A build under way: where it tells, what it is made from once that is known, and what became of it."""

    part: Part
    recipe: Recipe | None = None
    report: Report | None = None
    error: Exception | None = None
    verdict: str = ""


@dataclass(frozen=True, slots=True)
class Tools:
    """What builds of one command share."""

    store: ImageStore
    bases: Bases
    runner: Runner


@dataclass(slots=True)
class _LateRunner:
    """A runner that is made, and its module imported, when the first step has to run."""

    paths: Paths
    made: Runner | None = None

    async def prepare(self) -> None:
        """See Runner. Where no build ever ran anything, or all have ended well, there is nothing to end."""
        with contextlib.suppress(FileNotFoundError):
            if os.listdir(self.paths.builds):  # noqa: PTH208 - a look, and no more
                await self._made().prepare()

    async def run(self, request: RunRequest, output: Callable[[bytes, bool], None]) -> RunResult:
        """See Runner."""
        return await self._made().run(request, output)

    def _made(self) -> Runner:
        if self.made is None:
            from supervisor.runtime.buildrun import LauncherRunner

            self.made = LauncherRunner(self.paths)
        return self.made

    async def close(self) -> None:
        """See Runner."""
        if self.made is not None:
            await self.made.close()


@dataclass(slots=True)
class _LateBases:
    """Bases that ask registries and recipes only, and import what they need for it, if the store has none."""

    context: Context
    store: ImageStore
    runner: Runner
    made: Bases | None = None

    async def resolve(
        self, reference: Reference, *, pull: bool, platform: str, tell: Callable[[str], None]
    ) -> Base:
        """See Bases."""
        if not pull and not platform:
            try:
                return await LocalBases(self.store).resolve(reference, pull=False, platform="", tell=tell)
            except BuildError:
                pass  # whoever looks elsewhere says what each place said
        if self.made is None:
            from supervisor.cli.resolving import make_resolver

            self.made = make_resolver(self.context, self.store, self.runner)
        return await self.made.resolve(reference, pull=pull, platform=platform, tell=tell)


@contextlib.asynccontextmanager
async def tools(context: Context) -> AsyncIterator[Tools]:
    """The store and what runs RUN steps, for as long as something is built. Raises StoreError, OSError."""
    store = ImageStore(context.settings.paths.images)
    runner = _LateRunner(context.settings.paths)
    try:
        yield Tools(store, _LateBases(context, store, runner), runner)
    finally:
        await asyncio.shield(runner.close())


async def build_image(context: Context, tools: Tools, job: Job, building: Building) -> Built:
    """Build one image. Cancelled, it leaves nothing running and no files.

    Raises BuildError, SourceError, LintOptionError, StoreError and OSError, kept in `building` as well.
    """
    place = tempfile.mkdtemp(prefix="shipkeeper-build-")
    try:
        request, building.recipe = await gather_inputs(job, place, building.part)
        building.report = _checked(building.recipe, request.args, context.settings.paths.images)
        if job.verify:
            return await _verified(tools, request, building)
        return await build(request, tools.store, tools.bases, tools.runner, building.part.tell)
    except Exception as error:
        building.error = error
        raise
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, place, ignore_errors=True))


async def _verified(tools: Tools, request: BuildRequest, building: Building) -> Built:
    """Build twice, and compare. Raises BuildError where the two images differ."""
    from supervisor.image.builder.verify import verify

    found = await verify(request, tools.store, tools.bases, tools.runner, building.part.tell)
    if not found.same:
        raise BuildError(str(found))
    building.verdict = str(found)
    return found.first


def _checked(recipe: Recipe, args: tuple[tuple[str, str], ...], images: str) -> Report:
    """The doubts about a Dockerfile. Raises BuildError where it says that they fail the build."""
    report = report_of(recipe, args, images)
    if report.fails:
        rules = ", ".join(sorted({finding.rule.name for finding in report.findings}))
        line = report.findings[0].line
        raise BuildError(f"{recipe.name}:{line}: lint violation found for rules: {rules}")
    return report


def build_or_exit(context: Context, job: Job, mode: Mode) -> Built:
    """Build one image, shown; where that fails, say why and end the command."""
    view = make_view(mode)
    building = Building(view.part())

    async def work() -> Built:
        with view.shown():
            async with tools(context) as shared:
                built = await build_image(context, shared, job, building)
            view.finished = True
            return built

    try:
        built = until_done(work())
    except _ERRORS as error:
        tell_failure(view, building.recipe, error)
        sys.exit(exit_code(error))
    tell_end(view, built, building.report)
    if building.verdict and mode not in ("json", "quiet"):
        output.print_error(building.verdict)
    return built


def check_or_exit(context: Context, job: Job, form: str) -> None:
    """Check one Dockerfile, print what is doubtful, and end the command accordingly."""
    view = make_view("quiet")

    async def work() -> Recipe:
        place = tempfile.mkdtemp(prefix="shipkeeper-build-")
        try:
            return (await gather_inputs(job, place, view.part()))[1]
        finally:
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, place, ignore_errors=True))

    recipe = None
    try:
        recipe = until_done(work())
        report = report_of(recipe, job.request.args, context.settings.paths.images)
    except _ERRORS as error:
        tell_failure(view, recipe, error)
        sys.exit(exit_code(error))
    show(report, recipe, form)


def make_view(mode: Mode) -> View:
    """Where a build is shown."""
    return View(mode, progress_stream())


_CANCELLED = "the build was cancelled; what its finished steps made is kept in the cache"


def until_done(work: Coroutine[object, object, T], *, cancelled: str = _CANCELLED) -> T:
    """Run to the end; SIGINT, SIGTERM and SIGHUP cancel it, and then the command ends with 128 + signal."""
    caught: list[int] = []

    async def main() -> T:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(work)

        def cancel(number: int) -> None:
            if not caught:
                task.cancel()
            caught.append(number)

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, cancel, number)
        return await task

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        output.print_error(cancelled)
        sys.exit(128 + caught[0] if caught else CANCELLED)
