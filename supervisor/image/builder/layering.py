"""The steps that change files: looked up in the cache, else carried out, into a layer of the store.

What a step's result depends on is gathered first, into a key; only when there is no layer of that key is
anything copied or run. A step that takes from layers has a key by what they are, and one by the contents, so
that a stage that came out otherwise but for these files changes nothing. Times: what is newer than the
build's time becomes that time.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec

from supervisor.image.builder.cache import StepCache, step_key
from supervisor.image.builder.digests import FileDigests
from supervisor.image.builder.flight import alone
from supervisor.image.builder.progress import BuildError
from supervisor.image.builder.remote import fetch_remote, is_remote
from supervisor.image.builder.request import BuildRequest
from supervisor.image.builder.runner import Runner
from supervisor.image.builder.scope import Platform, at
from supervisor.image.builder.selecting import Taken, digest, excluding, select
from supervisor.image.builder.session import Session, Vertex
from supervisor.image.builder.steps import CopyOp, Step, WorkdirOp
from supervisor.image.builder.trees import LayersTree, Tree
from supervisor.image.builder.writing import LayerWriter, Owner, owner_of
from supervisor.image.layerstack import LayerStack, without_repeats
from supervisor.image.store import ImageStore


class Source(msgspec.Struct, frozen=True):
    """Where a step takes files from. identity: of layers, by what they are; "" for a directory."""

    tree: Tree
    lowers: tuple[str, ...] = ()
    identity: str = ""


Find = Callable[[str], Awaitable[Source]]
"""The source of a `--from` name ("": the context), awaited because it may be a stage under way."""


class Place(msgspec.Struct, frozen=True):
    """Where a step stands. diff_ids: the layers below it. look: a layer that is there already is taken."""

    step: Step
    diff_ids: tuple[str, ...]
    vertex: Vertex
    find: Find
    look: bool

    @property
    def where(self) -> str:
        """FILE:LINE."""
        return at(self.step.mark)


class Layering(msgspec.Struct, frozen=True):
    """What all steps of one build share. cache: None neither looks nor keeps."""

    session: Session
    store: ImageStore
    cache: StepCache | None
    digests: FileDigests
    runner: Runner
    request: BuildRequest
    platform: Platform
    epoch_s: int

    # --- the cache ------------------------------------------------------------------------------
    def key(self, diff_ids: Sequence[str], operation: str, contents: Sequence[str]) -> str:
        """See `step_key`."""
        return step_key(diff_ids, operation, contents, str(self.platform), self.epoch_s)

    def known(self, place: Place, key: str) -> str | None:
        """The layer of a key, "" for none, or None if it is to be made."""
        found = self.cache.find(key) if self.cache is not None and place.look else None
        place.vertex.cached = found is not None
        return found

    @contextlib.asynccontextmanager
    async def making(self, place: Place, key: str) -> AsyncIterator[str | None]:
        """Make the step of a key while no other build does. Gives what another made meanwhile, as `known`.

        A build that neither looks nor keeps waits for nobody.
        """
        if self.cache is None or not place.look:
            yield None
            return
        async with alone(f"{self.store.root}/build/making", key, place.vertex.note):
            yield self.known(place, key)

    def keep(self, keys: Sequence[str], diff_id: str) -> str:
        """Note what was made."""
        if self.cache is not None:
            for key in keys:
                self.cache.keep(key, diff_id)
        return diff_id

    # --- layers ---------------------------------------------------------------------------------
    def lowers(self, diff_ids: Sequence[str]) -> tuple[str, ...]:
        """Directories of layers, topmost first."""
        return without_repeats(self.store.layers.directory(diff_id) for diff_id in reversed(diff_ids))

    async def adopt(self, upper: str) -> str:
        """Make a layer of what was written."""
        layer = await self.session.thread(lambda: self.store.layers.adopt(upper, newest_s=self.epoch_s))
        return layer.diff_id

    def writer(self, lowers: tuple[str, ...], where: str) -> LayerWriter:
        """For a new layer."""
        upper = self.session.directory()
        return LayerWriter(upper, lowers, self.epoch_s, self.session.stopped, where)

    # --- WORKDIR --------------------------------------------------------------------------------
    async def workdir(self, place: Place, operation: WorkdirOp) -> str:
        """The layer of a WORKDIR; "" where the directory is there."""
        lowers = self.lowers(place.diff_ids)
        key = self.key(place.diff_ids, operation.key, [])
        if (found := self.known(place, key)) is not None:
            return found
        writer = self.writer(lowers, place.where)

        def make() -> bool:
            path = writer.resolve(operation.path)
            if writer.exists(path):
                if not writer.is_directory(path):
                    raise BuildError(f"{place.where}: cannot use {operation.path} as WORKDIR: it is a file")
                return False
            writer.directory(path, owner(operation.user, lowers, place.where) if operation.user else (0, 0))
            writer.finish()
            return True

        async with self.making(place, key) as found:
            if found is not None:
                return found
            made = await self.session.thread(make)
            return self.keep([key], await self.adopt(writer.upper) if made else "")

    # --- COPY and ADD ---------------------------------------------------------------------------
    async def copy(self, place: Place, operation: CopyOp) -> str:
        """The layer of a COPY or ADD."""
        lowers = self.lowers(place.diff_ids)
        below = () if operation.link else place.diff_ids
        whose = owner(operation.chown, lowers, place.where) if operation.chown else None
        marks = [str(whose), operation.checksum]
        remote = [text for text in operation.sources if operation.add and is_remote(text)]
        local = [text for text in operation.sources if text not in remote]
        source = await place.find(operation.origin) if local or operation.origin else None
        keys = []
        if source is not None and source.identity:
            keys.append(self.key(below, operation.key, [*marks, "layers", source.identity]))
            if (found := self.known(place, keys[0])) is not None:
                return found
        with contextlib.ExitStack() as stack:
            taken: list[Taken] = []
            if source is not None:
                tree = source.tree
                taken.append(
                    await self.session.thread(lambda: self._take(tree, local, operation, place.where))
                )
            for text in remote:
                fetched = await fetch_remote(
                    text,
                    self.session,
                    place.vertex.note,
                    place.where,
                    checksum=operation.checksum,
                    keep_git_dir=operation.keep_git_dir,
                )
                stack.callback(fetched.tree.close)
                taken.append(self._take(fetched.tree, [fetched.path], operation, place.where, remote=True))
            contents = await self.session.thread(
                lambda: [digest(one.tree, one.selected, self.digests) for one in taken]
            )
            keys.append(self.key(below, operation.key, [*marks, *contents]))
            if (found := self.known(place, keys[-1])) is not None:
                return self.keep(keys[:-1], found)
            async with self.making(place, keys[-1]) as found:
                if found is not None:
                    return self.keep(keys[:-1], found)
                from supervisor.image.builder.copying import (
                    Copier,  # tar and all compressions: a cached build has no use
                )

                writer = self.writer(() if operation.link else lowers, place.where)
                copier = Copier(operation, writer, self.digests, whose, self.session.directory())
                await self.session.thread(lambda: copier.run(taken))
                return self.keep(keys, await self.adopt(writer.upper))

    @staticmethod
    def _take(
        tree: Tree, sources: Sequence[str], operation: CopyOp, where: str, *, remote: bool = False
    ) -> Taken:
        exclude = excluding(operation.excludes, where)
        found = select(tree, sources, where, parents=operation.parents, exclude=exclude)
        return Taken(tree, tuple(found), remote)


def owner(text: str, lowers: tuple[str, ...], where: str) -> Owner:
    """Whose files are, by the image's own /etc/passwd and /etc/group. Raises BuildError."""
    stack = LayerStack(lowers)

    def read(path: str) -> str:
        entry = stack.entry(stack.resolve(path)) if lowers else None
        if entry is None or entry.is_dir:
            return ""
        with open(entry.path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()

    try:
        return owner_of(text, read)
    except ValueError as error:
        raise BuildError(f"{where}: cannot use owner {text!r}: {error}") from error


def layers_source(lowers: tuple[str, ...], identity: str) -> Source:
    """A stage or an image."""
    return Source(LayersTree(lowers), lowers, identity)
