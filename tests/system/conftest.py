"""Fixtures of the system tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from supervising import Supervisor, supervising


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    """A running supervisor; afterwards its services, processes and files are gone."""
    with supervising() as made:
        yield made
