"""The plan of `up`, by the text that it prints; and the order of services."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.graph import DependencyCycleError, waves
from supervisor.core.model import Dependency, Project, ServiceSpec
from supervisor.core.reconcile import Observed, container_name, reconcile


def spec(name: str, *needs: str, container: str | None = None) -> ServiceSpec:
    return ServiceSpec(name, depends_on=tuple(Dependency(need) for need in needs), container_name=container)


def project(*services: ServiceSpec) -> Project:
    return Project("shop", "/srv", services=tuple(sorted(services, key=lambda service: service.name)))


def there(service: str, config_hash: str = "1", *, up: bool = True) -> Observed:
    return Observed(f"id-{service}", f"shop-{service}-1", service, config_hash, up)


SHOP = project(spec("web", "api"), spec("api", "db"), spec("db"), spec("mail"))
HASHES = dict.fromkeys(("web", "api", "db", "mail"), "1")


def plan_text(*observed: Observed, wanted: Project = SHOP) -> str:
    return str(reconcile(wanted, HASHES, observed))


def test_nothing_is_there_yet() -> None:
    """Everything is created, what is needed before what needs it."""
    assert plan_text() == (
        "create   shop-db-1: it is not there yet\n"
        "create   shop-mail-1: it is not there yet\n"
        "create   shop-api-1: it is not there yet\n"
        "create   shop-web-1: it is not there yet"
    )


def test_what_has_not_changed_is_not_touched() -> None:
    """All four verbs in one plan; only the changed one is made anew, and its dependents run on."""
    assert plan_text(there("web"), there("db"), there("api", "0"), there("mail", up=False)) == (
        "keep     shop-db-1: unchanged\n"
        "start    shop-mail-1: it is down\n"
        "recreate shop-api-1: its definition has changed\n"
        "keep     shop-web-1: unchanged"
    )


def test_a_change_counts_for_what_is_down_too() -> None:
    """Not started from an old definition."""
    assert plan_text(there("mail", "0", up=False), wanted=project(spec("mail"))) == (
        "recreate shop-mail-1: its definition has changed"
    )


def test_orphans_are_named_and_left_alone() -> None:
    """A service that left the files is neither stopped nor removed; sorted, after all else."""
    assert plan_text(there("old"), there("mail"), there("cron"), wanted=project(spec("mail"))) == (
        "keep     shop-mail-1: unchanged\n"
        "orphan   shop-cron-1: no such service in the files any more; `up --remove-orphans`, `down` or `rm` removes it\n"
        "orphan   shop-old-1: no such service in the files any more; `up --remove-orphans`, `down` or `rm` removes it"
    )


def test_an_empty_project_is_an_empty_plan() -> None:
    """Nothing wanted, nothing there, nothing printed."""
    assert plan_text(wanted=project()) == ""


def test_operations_carry_the_instance_that_they_are_about() -> None:
    """A name that was chosen is used; what is to be created has no id yet."""
    wanted = project(spec("web", container="front"), spec("db"))
    plan = reconcile(wanted, HASHES, (there("db"),))
    assert [(op.verb, op.service, op.name, op.id) for op in plan.operations] == [
        ("keep", "db", "shop-db-1", "id-db"),
        ("create", "web", "front", ""),
    ]
    assert container_name("shop", spec("web"), 3) == "shop-web-3"


def test_waves_are_sorted_and_as_early_as_can_be() -> None:
    """What depends on nothing comes first, whatever its name."""
    assert waves({"web": ["api", "cache"], "api": ["db"], "db": [], "cache": [], "cron": []}) == (
        ("cache", "cron", "db"),
        ("api",),
        ("web",),
    )
    assert waves({}) == ()


def test_a_dependency_that_is_not_there_orders_nothing() -> None:
    """`up web` without its database, or one that is not required."""
    assert waves({"web": ["db"]}) == (("web",),)


@pytest.mark.parametrize(
    ("needs", "text"),
    [
        ({"a": ["a"]}, "a -> a"),
        ({"a": ["b"], "b": ["a"], "c": []}, "a -> b -> a"),
        ({"x": ["a"], "a": ["b"], "b": ["c"], "c": ["a"]}, "a -> b -> c -> a"),
    ],
)
def test_a_cycle_is_named(needs: dict[str, list[str]], text: str) -> None:
    """Each names the next one that it needs, and the last is the first."""
    with pytest.raises(DependencyCycleError) as raised:
        waves(needs)
    path = raised.value.path
    assert path[0] == path[-1]
    assert all(after in needs[before] for before, after in pairwise(path))
    turned = text.split(" -> ")[:-1]
    assert sorted(path[:-1]) == sorted(turned)
    assert str(raised.value) == f"cannot order the services: {' -> '.join(path)} depend on each other"


@given(
    st.dictionaries(
        st.sampled_from("abcdefgh"), st.lists(st.sampled_from("abcdefgh"), max_size=3), max_size=8
    )
)
def test_every_service_once_and_after_what_it_needs(needs: dict[str, list[str]]) -> None:
    """Or a cycle that is really there."""
    try:
        groups = waves(needs)
    except DependencyCycleError as error:
        assert all(after in needs[before] for before, after in pairwise(error.path))
        return
    wave_of = {name: number for number, group in enumerate(groups) for name in group}
    assert sorted(wave_of) == sorted(needs)
    assert sum(map(len, groups)) == len(needs)
    for name, wanted in needs.items():
        for need in wanted:
            assert need not in needs or wave_of[need] < wave_of[name]
