"""Names for anonymous volumes: each gets one when its instance is made, or has that of the instance before.

Docker's rule for Compose: what is recreated keeps its anonymous volumes, by their mount points. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from supervisor.core.model import ServiceSpec

ANONYMOUS_LABEL = "com.docker.volume.anonymous"


def name_anonymous(spec: ServiceSpec, before: ServiceSpec | None, new_name: Callable[[], str]) -> ServiceSpec:
    """A definition in which every volume has a name. before: that of the instance which is replaced, if any.

    new_name: a name that no volume has (Docker's are 64 hexadecimal digits).
    """
    kept = {mount.target: mount.source for mount in before.mounts if mount.anonymous} if before else {}
    mounts = tuple(
        replace(mount, source=kept.get(mount.target) or new_name(), anonymous=True)
        if mount.type == "volume" and mount.source is None
        else mount
        for mount in spec.mounts
    )
    return replace(spec, mounts=mounts)
