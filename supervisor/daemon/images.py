"""Images for services: from the name in a definition to the layers that its root stands on. Blocks."""

from __future__ import annotations

from dataclasses import replace

from supervisor.core.healthcheck import Hook
from supervisor.core.images import used_images
from supervisor.core.model import Mount, Project, Rootfs, ServiceSpec
from supervisor.core.paths import Paths
from supervisor.image.blobs import BlobError
from supervisor.image.config import ConfigError
from supervisor.image.store import ImageStore, NotFoundError, StoreError
from supervisor.runtime.imagespec import apply_image, exposed_ports
from supervisor.runtime.translate import PlanError


class NoImageError(PlanError):
    """The store has no image of that name."""


class Images:
    """The images of one state directory."""

    def __init__(self, paths: Paths) -> None:
        self._root = paths.images

    def resolve(self, project: Project) -> Project:
        """A project whose services stand on certain images. Raises PlanError, all that is missing in one."""
        if not any(used_images(spec) or spec.hooks.pre_start for spec in project.services):
            return project
        problems: list[str] = []
        services = []
        try:
            store = ImageStore(self._root)
        except OSError as error:
            raise PlanError(f"cannot use the images at {self._root}: {error.strerror}") from error
        for spec in project.services:
            try:
                services.append(self._resolve(spec, store))
            except PlanError as error:
                problems.append(str(error))
        if problems:
            raise PlanError("; ".join(problems))
        return replace(project, services=tuple(services))

    def resolve_one(self, spec: ServiceSpec, *, publish_all: bool = False) -> ServiceSpec:
        """The same for what belongs to no project. Raises NoImageError, PlanError.

        publish_all: what the image exposes is published at any free port of the host.
        """
        try:
            store = ImageStore(self._root)
            exposed = store.find(spec.rootfs.path or "").config.config.exposed_ports or {}
        except NotFoundError as error:
            raise NoImageError(f"No such image: {spec.rootfs.path}") from error
        except (StoreError, BlobError, OSError) as error:
            raise PlanError(f"cannot create {spec.name}: {error}") from error
        if publish_all:
            spec = replace(spec, ports=(*spec.ports, *exposed_ports(exposed, spec.ports)))
        return self._resolve(spec, store)

    def _resolve(self, spec: ServiceSpec, store: ImageStore) -> ServiceSpec:
        try:
            mounts = tuple(_mount(each, store) if each.type == "image" else each for each in spec.mounts)
            hooks = tuple(_hook(spec, each, store) for each in spec.hooks.pre_start)
            spec = replace(spec, mounts=mounts, hooks=replace(spec.hooks, pre_start=hooks))
            if spec.rootfs.kind != "image":
                return spec
            image = store.find(spec.rootfs.path or "")
            made = apply_image(spec, image.id, image.config)
        except (StoreError, BlobError, ConfigError, OSError) as error:
            raise PlanError(f"cannot create service {spec.name}: {error}") from error
        if not made.argv():
            raise PlanError(
                f"cannot create service {spec.name}: neither it nor its image has a command; write `command:`"
            )
        return made


def _mount(mount: Mount, store: ImageStore) -> Mount:
    image = store.find(mount.source or "")
    root = Rootfs("image", mount.source, image.id, tuple(image.config.rootfs.diff_ids))
    return replace(mount, image=root)


def _hook(spec: ServiceSpec, hook: Hook, store: ImageStore) -> Hook:
    """A pre_start hook, whole: what it leaves open is the service's, and then its image's (Compose)."""
    rootfs = spec.rootfs if hook.image is None else Rootfs("image", hook.image)
    made = replace(
        spec,
        rootfs=rootfs,
        command=hook.command,
        environment=tuple(sorted({**dict(spec.environment), **dict(hook.environment)}.items())),
        user=hook.user or spec.user,
        working_dir=hook.working_dir or spec.working_dir,
    )
    if rootfs.kind == "image":
        image = store.find(rootfs.path or "")
        made = apply_image(made, image.id, image.config)
    resolved = replace(
        hook,
        command=made.argv(),
        environment=made.environment,
        user=made.user,
        working_dir=made.working_dir,
    )
    if hook.image is None:
        return resolved
    return replace(resolved, image_id=made.rootfs.image_id, layers=made.rootfs.layers)
