"""Where the images come from that a build stands on or copies from: FROM, COPY --from, RUN --mount from=."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from supervisor.core.reference import Reference
from supervisor.image.builder.progress import BuildError
from supervisor.image.store import Image, ImageStore, NotFoundError


class Base(msgspec.Struct, frozen=True):
    """An image that is in the store. source: where it came from, for people: `local store`."""

    image: Image
    source: str


class Bases(Protocol):
    """Finds images by name. The store is held against `prune` (`working`) by the caller."""

    async def resolve(
        self, reference: Reference, *, pull: bool, platform: str, tell: Callable[[str], None]
    ) -> Base:
        """The image of a name, fetched or made if need be.

        pull: ask its source even where the store has it. platform: `OS/ARCH[/VARIANT]`, "" for the host's.
        tell: of what takes time, a line each. Raises BuildError.
        """
        ...


class LocalBases(msgspec.Struct, frozen=True):
    """What the store has, and nothing else."""

    store: ImageStore

    async def resolve(
        self,
        reference: Reference,
        *,
        pull: bool,  # noqa: ARG002 - there is nowhere to ask
        platform: str,  # noqa: ARG002 - the name says which image it is
        tell: Callable[[str], None],  # noqa: ARG002 - it takes no time
    ) -> Base:
        """See Bases; only the name counts."""
        try:
            image = await asyncio.to_thread(self.store.find, str(reference))
        except NotFoundError as error:
            raise BuildError(f"cannot use base image {reference.familiar}: {error}") from error
        return Base(image, "local store")
