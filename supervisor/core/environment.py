"""Variables that mean something to everybody: those that are there unsaid, and the time of a build."""

from __future__ import annotations

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of a process whose image and definition name none (moby, oci.DefaultPathEnv)."""

PROXIES = tuple(
    spelled
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for spelled in (name, name.lower())
)
"""Usable by RUN without an ARG, and then no part of the cache's key or the history (BuildKit)."""


def parse_epoch(text: str) -> int | None:
    """SOURCE_DATE_EPOCH, a time in seconds; None where it is empty. Raises ValueError, for the user.

    reproducible-builds.org, "SOURCE_DATE_EPOCH specification".
    """
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"cannot use SOURCE_DATE_EPOCH {text!r}: it is no number of seconds since 1970")
    return int(text)
