"""The images that a service needs: its root, and what it mounts."""

from __future__ import annotations

from supervisor.core.model import Rootfs, ServiceSpec


def used_images(spec: ServiceSpec) -> tuple[str, ...]:
    """Their names, each once."""
    root = [spec.rootfs.path or ""] if spec.rootfs.kind == "image" else []
    return tuple(dict.fromkeys([*root, *mounted_images(spec)]))


def mounted_images(spec: ServiceSpec) -> tuple[str, ...]:
    """Names of the images that are mounted into it."""
    return tuple(mount.source or "" for mount in spec.mounts if mount.type == "image")


def held_images(spec: ServiceSpec) -> tuple[Rootfs, ...]:
    """Which images those are, as far as they are resolved; they stay in the store as long as it is there."""
    root = [spec.rootfs] if spec.rootfs.kind == "image" else []
    return (*root, *(mount.image for mount in spec.mounts if mount.image is not None))
