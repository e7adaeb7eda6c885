"""A writable layer as an image: on the image that it lies on, with other words about how it runs.

Source of the rules: moby, daemon/commit.go; instructions: builder/dockerfile/dispatchers.go
(validCommitCommands).
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from supervisor.core.reference import Reference
from supervisor.image import config as oci
from supervisor.image.builder.progress import BuildError
from supervisor.image.builder.scope import global_scope
from supervisor.image.builder.steps import Compiler
from supervisor.image.dockerfile import instructions as ins
from supervisor.image.dockerfile.parse import parse_dockerfile
from supervisor.image.layertar import write_layer
from supervisor.image.load import add_layer
from supervisor.image.store import Image, ImageStore, StoreError

_ALLOWED = (
    ins.Cmd, ins.Entrypoint, ins.Healthcheck, ins.Env, ins.Expose, ins.Label, ins.Onbuild, ins.Stopsignal,
    ins.User, ins.Volume, ins.Workdir,
)  # fmt: skip


class ChangeError(StoreError):
    """An instruction that cannot be used here. The text is for the user."""


@dataclass(frozen=True, slots=True)
class Told:
    """What is said about a commit. created_by: for the history."""

    author: str = ""
    comment: str = ""
    created_by: str = ""


def apply_changes(process: oci.Process, changes: Sequence[str]) -> oci.Process:
    """A configuration after instructions of a Dockerfile, that touch no file. Raises ChangeError. Pure."""
    text = "\n".join(["FROM scratch", *changes, ""])
    dockerfile, problems = parse_dockerfile(text.encode(), "--change")
    if problems:
        raise ChangeError("; ".join(str(problem) for problem in problems))
    compiler = Compiler.of_base(global_scope(dockerfile, (), {}), process, "none")
    compiler.config = msgspec.structs.replace(compiler.config, on_build=process.on_build)
    (stage,) = dockerfile.stages
    for instruction in stage.steps:
        if not isinstance(instruction, _ALLOWED):
            word = type(instruction).__name__.upper()
            raise ChangeError(f"cannot apply {word} to an image that is there; write a Dockerfile for it")
        try:
            compiler.step(instruction, "")
        except BuildError as error:
            raise ChangeError(str(error)) from error
    return compiler.config


def commit_layer(
    store: ImageStore,
    base: Image,
    directory: str,
    process: oci.Process,
    told: Told,
    name: Reference | None = None,
) -> Image:
    """Make an image of the overlayfs upper `directory` over `base`. Blocks.

    What changes meanwhile can be an error. Raises StoreError, TarError, BlobError, ArchiveError, OSError.
    """
    path = f"{store.blobs.ingest}/{secrets.token_hex(8)}"
    with store.working():
        try:
            digest = hashlib.sha256()
            with open(path, "xb") as file:

                def write(data: bytes) -> None:
                    digest.update(data)
                    file.write(data)

                write_layer(directory, write)
            layer = add_layer(store, path, f"sha256:{digest.hexdigest()}", "what the service wrote")
        finally:
            os.unlink(path)
        created = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        entry = oci.History(created, told.created_by, told.author, told.comment)
        config = msgspec.structs.replace(
            base.config,
            config=process,
            rootfs=oci.RootFs(diff_ids=[*base.diff_ids, layer.diff_id]),
            history=[*base.config.history, entry],
            created=created,
            author=told.author,
        )
        return store.add(oci.encode(config), name)
