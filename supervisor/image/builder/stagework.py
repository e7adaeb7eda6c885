"""What is known of a stage while it is built: its layers, and the history that goes into the image. Pure."""

from __future__ import annotations

import msgspec

from supervisor.image.builder.bases import Base
from supervisor.image.builder.changes import changed
from supervisor.image.config import History, ImageConfig, Process, RootFs


class Made(msgspec.Struct, frozen=True):
    """A stage, or a part of it. base: the image at its bottom, or None. args: inherited."""

    config: Process
    diff_ids: tuple[str, ...] = ()
    history: tuple[History, ...] = ()
    architecture: str = ""
    os: str = "linux"
    variant: str = ""
    author: str = ""
    base: Base | None = None
    base_name: str = ""
    args: tuple[tuple[str, str], ...] = ()

    @classmethod
    def on_image(cls, base: Base, name: str) -> Made:
        """What an image is."""
        config = base.image.config
        return cls(
            config.config,
            tuple(config.rootfs.diff_ids),
            tuple(config.history),
            config.architecture,
            config.os,
            config.variant,
            config.author,
            base,
            name,
        )

    def with_step(
        self, config: Process, created_by: str, created: str, *, diff_id: str = "", author: str = ""
    ) -> Made:
        """One more step. diff_id: the layer that it made, "" for none."""
        row = History(created=created, created_by=created_by, comment="shipkeeper", empty_layer=not diff_id)
        return msgspec.structs.replace(
            self,
            config=config,
            history=(*self.history, row),
            diff_ids=(*self.diff_ids, diff_id) if diff_id else self.diff_ids,
            author=author or self.author,
        )


def image_config(made: Made, created: str, origin: dict[str, str], labels: dict[str, str]) -> ImageConfig:
    """The configuration of an image that is this stage.

    origin: labels that tell of the base, over what the base's own base was; labels: the caller's, over all.
    """
    own = made.config.labels or {}
    inherited = (made.base.image.config.config.labels or {}) if made.base is not None else {}
    set_here = {name: value for name, value in own.items() if inherited.get(name) != value}
    merged = dict(sorted({**own, **origin, **set_here, **labels}.items()))
    return ImageConfig(
        architecture=made.architecture,
        os=made.os,
        rootfs=RootFs(diff_ids=list(made.diff_ids)),
        config=changed(made.config, labels=merged or None),
        history=list(made.history),
        created=created,
        author=made.author,
        variant=made.variant,
    )
