"""Extended attributes that belong to a file's content: its capabilities and the user's own.

Not the kernel's (security.selinux), and not overlayfs': trusted.overlay.* in a layer would be orders to it.
"""

from __future__ import annotations

import os


def is_kept(name: str) -> bool:
    """Whether images and archives keep an attribute of this name."""
    return name == "security.capability" or name.startswith("user.")


def attributes(path: str | bytes) -> list[tuple[str, bytes]]:
    """Those that a file has, by name; of a link its own. Raises OSError."""
    names = os.listxattr(path, follow_symlinks=False)
    return [(name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names) if is_kept(name)]
