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


@pytest.fixture(scope="module")
def host() -> Iterator[Supervisor]:
    """One for all tests of a module."""
    with supervising() as made:
        yield made


@pytest.fixture
def clean(host: Supervisor) -> Iterator[Supervisor]:
    """The module's, from which a test's instances go afterwards."""
    yield host
    host.clear()
