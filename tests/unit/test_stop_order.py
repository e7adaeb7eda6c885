"""The order in which stored instances are stopped, and how long that may take."""

from __future__ import annotations

from supervisor.core.lifecycle import KILL_AGAIN_S
from supervisor.core.model import Dependency, ServiceSpec
from supervisor.core.state import Instance
from supervisor.daemon.engine import Entry
from supervisor.daemon.shutdown import longest_chain_s
from supervisor.daemon.state import Stored
from supervisor.daemon.stopping import in_waves


def entry(name: str, *needs: str, grace_s: float = 10.0) -> Entry:
    """An instance of project p."""
    spec = ServiceSpec(name, depends_on=tuple(Dependency(need) for need in needs))
    return Entry(Stored(Instance(name, stop_grace_s=grace_s), spec, "p", 1, name, 0.0, "", "/"))


def test_what_each_depends_on_is_in_an_earlier_group() -> None:
    """Also beside something that depends on what is not among them."""
    web, db, job = entry("web", "db"), entry("db", grace_s=3.0), entry("job", "gone", grace_s=5.0)
    assert in_waves([web, db, job]) == [[db, job], [web]]
    assert longest_chain_s([web, db, job]) == 5.0 + 10.0 + 2 * 3 * KILL_AGAIN_S


def test_a_circle_of_several_versions_of_a_file_is_one_group() -> None:
    """Nobody's fault, and no reason not to come down."""
    web, db = entry("web", "db"), entry("db", "web", grace_s=3.0)
    assert in_waves([web, db]) == [[web, db]]
    assert longest_chain_s([web, db]) == 10.0 + 3 * KILL_AGAIN_S
