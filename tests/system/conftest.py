"""Fixtures of the system tests."""

from __future__ import annotations

from collections.abc import Iterator

import leaks
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
    """The module's, from which a test's instances go afterwards, with all that was theirs."""
    yield host
    host.clear()
    leaks.none_left(lambda: leaks.of_instances(host.base))
