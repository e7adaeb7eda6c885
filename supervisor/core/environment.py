"""Variables that are there without anybody having said so."""

from __future__ import annotations

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of a process whose image and definition name none (moby, oci.DefaultPathEnv)."""

PROXIES = tuple(
    spelled
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for spelled in (name, name.lower())
)
"""Usable by RUN without an ARG, and then no part of the cache's key or the history (BuildKit)."""
