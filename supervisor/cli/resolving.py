"""Images by name for the command: from the store, a registry, or a recipe that is built here."""

from __future__ import annotations

from collections.abc import Callable

from supervisor.cli.context import Context
from supervisor.image.builder.bases import Bases
from supervisor.image.builder.build import build
from supervisor.image.builder.progress import Built, Ended, Event, Note, Output, Planned, Started
from supervisor.image.builder.request import BuildRequest
from supervisor.image.builder.runner import Runner
from supervisor.image.recipes import shipped_recipes
from supervisor.image.registry.skopeo import Access
from supervisor.image.resolve import Resolver, recipe_names
from supervisor.image.store import ImageStore


def access(context: Context) -> Access:
    """How the settings say that registries are reached."""
    return Access(context.settings.registries)


def make_resolver(context: Context, store: ImageStore, runner: Runner) -> Resolver:
    """What `FROM` and `image:` are looked up by. The runner stays the caller's. Raises StoreError."""

    async def build_recipe(request: BuildRequest, bases: Bases, tell: Callable[[str], None]) -> Built:
        return await build(request, store, bases, runner, lambda event: _tell(event, tell))

    recipes = {**recipe_names(shipped_recipes()), **recipe_names(dict(context.settings.image_recipes))}
    # An empty directory takes a shipped recipe away.
    return Resolver(store, access(context), {k: v for k, v in recipes.items() if v}, build_recipe)


def _tell(event: Event, tell: Callable[[str], None]) -> None:
    """The steps of a recipe as lines of the step that wants it."""
    match event:
        case Started(_, name):
            tell(name)
        case Note(_, text) if text:
            tell(text)
        case Planned() | Output() | Ended() | Note():
            pass
