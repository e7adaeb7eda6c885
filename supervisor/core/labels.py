"""Filters by label, as Docker writes them: NAME, or NAME=VALUE."""

from __future__ import annotations

from collections.abc import Mapping


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """Whether a label is there, with that value where `wanted` says one."""
    name, equals, value = wanted.partition("=")
    return labels.get(name) == value if equals else name in labels
