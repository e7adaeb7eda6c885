"""Fixtures of the tests of names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from naming import Namespace, Resolving, namespace, resolving


@pytest.fixture
def resolver() -> Iterator[Resolving]:
    """A resolver, with the daemon's part in this process."""
    with resolving() as made:
        yield made


@pytest.fixture
def web() -> Iterator[Namespace]:
    """A network namespace that asks it."""
    with namespace() as made:
        yield made
