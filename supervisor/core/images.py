"""The images that a service needs: its root, what it mounts, and those of its pre_start hooks."""

from __future__ import annotations

from supervisor.core.model import Rootfs, ServiceSpec


def used_images(spec: ServiceSpec) -> tuple[str, ...]:
    """Their names, each once."""
    root = [spec.rootfs.path or ""] if spec.rootfs.kind == "image" else []
    return tuple(dict.fromkeys([*root, *further_images(spec)]))


def further_images(spec: ServiceSpec) -> tuple[str, ...]:
    """Names of the images that are mounted into it, and of those of its hooks."""
    mounted = [mount.source or "" for mount in spec.mounts if mount.type == "image"]
    return (*mounted, *(hook.image for hook in spec.hooks.pre_start if hook.image is not None))


def held_further(spec: ServiceSpec) -> tuple[Rootfs, ...]:
    """Which images those are; they stay in the store as long as the service is there."""
    mounted = [mount.image for mount in spec.mounts if mount.image is not None]
    hooks = [
        Rootfs("image", hook.image, hook.image_id, hook.layers)
        for hook in spec.hooks.pre_start
        if hook.image is not None
    ]
    return (*mounted, *hooks)
