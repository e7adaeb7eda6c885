"""The images that the services of a project stand on, had before the project goes to the daemon.

As Docker Compose does: by `pull_policy`, or --pull for all; services that are built are not for here.
"""

from __future__ import annotations

import time

from supervisor.cli import output
from supervisor.cli.context import FAILED, Context, fail
from supervisor.compose import Loaded
from supervisor.core.images import further_images
from supervisor.core.reference import parse_reference
from supervisor.image.blobs import BlobError
from supervisor.image.config import ConfigError
from supervisor.image.store import ImageStore, NotFoundError, StoreError


def pull_first(context: Context, loaded: Loaded, *, policy: str | None, only_tell: bool, form: str) -> bool:
    """What `up` has to get: images that are not there, or all. Ends the command on a failure.

    policy: always, missing or never, instead of what the files say. form: text, json, or quiet.
    only_tell: print what would be pulled. False: the plan is not known before that is done.
    """
    try:
        wanted = _wanted(context, loaded, policy)
    except PermissionError:
        return True  # the daemon will say what is missing
    except (StoreError, BlobError, ConfigError, OSError) as error:
        fail(FAILED, str(error))
        return True
    if wanted and not only_tell:
        import asyncio  # like what builds and pulls, 60 ms that an `up` with nothing to get does without

        if not asyncio.run(bring(context, wanted, form)):
            raise SystemExit(FAILED)
    elif only_tell:
        for name in wanted:
            image = parse_reference(name).familiar
            if form == "json":
                output.print_json({"verb": "pull", "name": image, "cause": "by its pull policy"})
            else:
                print(f"pull     {image}: by its pull policy")
    return not (wanted and only_tell)


def _wanted(context: Context, loaded: Loaded, policy: str | None) -> dict[str, bool]:
    """Whole names of images, and whether their registry is to be asked though the store has them."""
    found: dict[str, bool] = {}
    there: dict[str, bool] = {}
    store = None
    for spec in loaded.project.services:
        for name in further_images(spec) if policy != "never" else ():
            store = store or ImageStore(context.settings.paths.images)
            if not _is_there(store, name):
                found.setdefault(name, False)
        source = loaded.sources.get(spec.name)
        if source is None or source.build is not None or spec.rootfs.kind != "image":
            continue
        match policy or source.policy or "missing":
            case "always":
                found[source.image] = True
            case "every":
                store = store or ImageStore(context.settings.paths.images)
                pulled_s = store.pulled_s(parse_reference(source.image))
                if pulled_s is None or not 0 <= time.time() - pulled_s < source.every_s:
                    found[source.image] = True
            case "missing":
                store = store or ImageStore(context.settings.paths.images)
                if source.image not in there:
                    there[source.image] = _is_there(store, source.image)
                if not there[source.image]:
                    found.setdefault(source.image, False)
            case _:
                pass  # never, and build without a `build`: the daemon says what is missing
    return dict(sorted(found.items()))


def _is_there(store: ImageStore, name: str) -> bool:
    try:
        store.find(name)
    except NotFoundError:
        return False
    return True


async def bring(context: Context, wanted: dict[str, bool], form: str) -> bool:
    """Get images, all at once, and say of each what cannot be had; whether all are there.

    wanted: as `_wanted`. Raises StoreError, OSError where there can be no store.
    """
    import asyncio

    from supervisor.cli.building import tools
    from supervisor.image.builder.progress import BuildError

    async with tools(context) as shared:

        async def one(name: str, pull: bool) -> None:
            reference = parse_reference(name)

            def tell(text: str) -> None:
                if form == "json":
                    output.print_json({"verb": "pull", "name": reference.familiar, "status": text})
                elif form != "quiet":
                    output.print_error(f"{reference.familiar}: {text}")

            with shared.store.working():
                base = await shared.bases.resolve(reference, pull=pull, platform="", tell=tell)
            tell(f"{base.image.id[7:19]} from {base.source}")

        ended = await asyncio.gather(
            *(one(name, pull) for name, pull in wanted.items()), return_exceptions=True
        )
    failed = [each for each in ended if isinstance(each, BaseException)]
    for error in failed:
        if not isinstance(error, (BuildError, StoreError, OSError)):
            raise error
        output.print_error(str(error))
    return not failed
