"""From the name of an image to the image: what the store has, then its registry, then a recipe of this host.

Children (skopeo, mmdebstrap) are those of the process that asks: the command or a worker, never the daemon.
What cannot be found anywhere is one message with what each of the three said.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from supervisor.core.reference import InvalidReferenceError, Reference, parse_reference
from supervisor.image import config as oci
from supervisor.image.blobs import BlobError
from supervisor.image.builder.bases import Base, Bases
from supervisor.image.builder.progress import BuildError, Built
from supervisor.image.builder.request import BuildRequest
from supervisor.image.load import parse_platform
from supervisor.image.recipes import Prepared, Recipe, RecipeError, prepared, read_recipe
from supervisor.image.registry.pull import Pulled, pull
from supervisor.image.registry.skopeo import Access, Progress, RegistryError, Skopeo
from supervisor.image.store import Image, ImageStore, NotFoundError, StoreError

RECIPE_LABEL = "io.shipkeeper.recipe"
RECIPE_DIGEST_LABEL = "io.shipkeeper.recipe.digest"

Tell = Callable[[str], None]
Build = Callable[[BuildRequest, Bases, Tell], Awaitable[Built]]
"""Builds a recipe; the bases are those that its own FROM is looked up in."""


class UnresolvedError(BuildError):
    """No image of that name can be had."""


def recipe_names(settings: Mapping[str, str]) -> dict[str, str]:
    """Directories of recipes by whole name, as `Resolver` wants them. Raises StoreError."""
    found = {}
    for text, directory in settings.items():
        try:
            name = str(parse_reference(text))
        except InvalidReferenceError as error:
            raise StoreError(f"cannot use image_recipes: {text!r}: {error}") from error
        if directory and not os.path.isabs(directory):
            raise StoreError(f"cannot use image_recipes: {text}: write an absolute path, not {directory!r}")
        found[name] = directory
    return found


@dataclass(slots=True)
class Resolver:
    """See the module; a `Bases`. recipes: directory by whole name. build: None: nothing is built."""

    store: ImageStore
    access: Access
    recipes: Mapping[str, str]
    build: Build | None = None
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    async def resolve(self, reference: Reference, *, pull: bool, platform: str, tell: Tell) -> Base:
        """See Bases. With `pull` the store counts only after registry and recipe were asked."""
        lock = self._locks.setdefault(f"{reference} {platform}", asyncio.Lock())
        async with lock:
            try:
                wanted = parse_platform(platform) if platform else None
                here = await asyncio.to_thread(self._here, reference, wanted)
                if here is not None and not pull:
                    return Base(here, "local store")
                return await self._elsewhere(reference, wanted, tell)
            except (StoreError, BlobError, oci.ConfigError, OSError) as error:
                raise BuildError(f"cannot use image {reference.familiar}: {error}") from error

    def _here(self, reference: Reference, platform: tuple[str, ...] | None) -> Image | None:
        try:
            found = self.store.find(str(reference))
        except NotFoundError:
            return None
        there = (found.config.os, found.config.architecture, found.config.variant)
        return found if platform is None or there[: len(platform)] == platform else None

    async def _elsewhere(self, reference: Reference, platform: tuple[str, ...] | None, tell: Tell) -> Base:
        try:
            pulled = await self._pull(reference, platform, tell)
            return Base(pulled.image, f"registry {reference.domain}, {pulled.digest}")
        except RegistryError as error:
            unreachable = str(error).removeprefix(f"cannot pull {reference.familiar}: ")
        directory = self.recipes.get(str(reference))
        if directory is None:
            without = "image_recipes has no recipe of that name"
        elif self.build is None:
            without = f"{directory} is there, and nothing may be built"
        else:
            tell(f"registry: {unreachable}; making it of the recipe {directory}")
            try:
                return Base(await self._make(reference, directory, tell), f"recipe {directory}")
            except (RecipeError, BuildError) as error:
                without = f"{directory}: {error}"
        raise UnresolvedError(
            f"cannot find image {reference.familiar}: store: it is not there; registry: {unreachable};"
            f" recipe: {without}; `shipkeeper load` an archive of it, name a mirror in registries.conf,"
            " or add a recipe to image_recipes"
        )

    async def _pull(self, reference: Reference, platform: tuple[str, ...] | None, tell: Tell) -> Pulled:
        skopeo = Skopeo(self.access)
        loop = asyncio.get_running_loop()
        told: set[tuple[str, str]] = set()

        def heard(progress: Progress) -> None:
            if progress.what in ("downloaded", "unpacking") and (progress.digest, progress.what) not in told:
                told.add((progress.digest, progress.what))
                loop.call_soon_threadsafe(tell, f"{progress.digest[7:19]}: {progress.what}")

        thread = asyncio.create_task(asyncio.to_thread(pull, self.store, reference, skopeo, heard, platform))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            skopeo.cancel()
            with contextlib.suppress(Exception):
                await thread
            raise

    async def _make(self, reference: Reference, directory: str, tell: Tell) -> Image:
        assert self.build is not None
        recipe = await asyncio.to_thread(read_recipe, directory)
        with self.store.working():
            async with prepared(recipe, self.store.blobs.ingest, os.environ, tell) as ready:
                built = await self.build(_request(reference, recipe, ready), self, tell)
        return await asyncio.to_thread(self.store.find, built.id)


def _request(reference: Reference, recipe: Recipe, ready: Prepared) -> BuildRequest:
    return BuildRequest(
        dockerfile=recipe.dockerfile,
        context=ready.context,
        names=(reference,),
        labels=(
            (RECIPE_LABEL, reference.familiar),
            (RECIPE_DIGEST_LABEL, ready.digest),
        ),
        epoch_s=ready.epoch_s,
    )
