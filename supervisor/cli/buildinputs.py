"""What a build is made from, on this host: its context, its Dockerfile, its named contexts."""

from __future__ import annotations

import asyncio
import io
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from supervisor.cli.buildview import Part
from supervisor.image.builder.contexts import Recipe, read_ignore, read_recipe
from supervisor.image.builder.request import BuildRequest
from supervisor.image.fetching import Fetched, fetch, read_all
from supervisor.image.sources import Directory, Source, SourceError, Stdin, parse_source


@dataclass(frozen=True, slots=True)
class Job:
    """One image to make. request: complete but for context, Dockerfile and named contexts.

    file: the Dockerfile as the user names it ("-": on stdin), None for the usual one; relative to `base`.
    inline: the Dockerfile itself. contexts: name and source of each named context, as written.
    """

    source: Source
    request: BuildRequest
    file: str | None = None
    inline: bytes | None = None
    base: str = ""
    contexts: tuple[tuple[str, str], ...] = ()
    verify: bool = False


async def gather_inputs(job: Job, place: str, part: Part) -> tuple[BuildRequest, Recipe]:
    """The request, whole: everything that it names is on this host."""
    if job.file == "-" and isinstance(job.source, Stdin):
        raise SourceError("cannot read both the context and the Dockerfile from stdin; name one of them")
    fetched = await _fetched(job.source, f"{place}/main", part)
    text = job.inline
    if job.file == "-":
        buffer = io.BytesIO()
        await read_all(0, buffer)
        text = buffer.getvalue()
    if fetched.dockerfile is not None:
        text = fetched.dockerfile
    if text is not None:
        recipe = Recipe(text, "Dockerfile", read_ignore(fetched.directory, local=fetched.local))
    elif job.file is not None and job.file.startswith(("http://", "https://")):
        remote = await _fetched(parse_source(job.file), f"{place}/file", part)
        if remote.dockerfile is None:
            raise SourceError(f"cannot use {job.file} as the Dockerfile: it is an archive")
        recipe = Recipe(remote.dockerfile, job.file, read_ignore(fetched.directory, local=fetched.local))
    else:
        recipe = read_recipe(
            fetched.directory, job.file, local=fetched.local, base=job.base or str(Path.cwd())
        )
    contexts = []
    for number, (name, source) in enumerate(job.contexts):
        contexts.append((name, await _named(source, f"{place}/context-{number}", part)))
    request = msgspec.structs.replace(
        job.request,
        context=fetched.directory,
        dockerfile=recipe.text,
        dockerfile_name=recipe.name,
        ignore=recipe.ignore,
        contexts=tuple(contexts),
    )
    return request, recipe


async def _named(text: str, place: str, part: Part) -> str:
    """A named context as the builder takes it: a directory, or `docker-image://NAME`."""
    if text.startswith("docker-image://"):
        return text
    if text.startswith(("oci-layout://", "target:", "service:")):
        raise SourceError(
            f"cannot use the context {text}: only directories, git, archives and docker-image://"
        )
    fetched = await _fetched(parse_source(text), place, part)
    if not fetched.directory:
        raise SourceError(f"cannot use the context {text}: it is no archive")
    return fetched.directory


async def _fetched(source: Source, place: str, part: Part) -> Fetched:
    """A source on this host; what takes time is shown as steps of their own, before those of the builder."""
    if isinstance(source, Directory):
        return await fetch(source, place, 0, lambda *_: None)
    await asyncio.to_thread(os.mkdir, place, 0o700)
    with part.step("[internal] load remote build context") as tell:
        return await fetch(source, place, 0, tell)
