"""The plan of `up`, by the text that it prints; and the order of services."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.core.graph import DependencyCycleError, waves
from supervisor.core.model import Dependency, Project, ServiceSpec, Update
from supervisor.core.network import Attachment, Port
from supervisor.core.reconcile import Observed, Options, Plan, container_name, reconcile
from supervisor.core.replicas import ReplicaError, check_replicas
from supervisor.daemon.making import config_hash, is_stand_in, new_instance

LEFT = "no such service in the files any more"


def spec(name: str, *needs: str, container: str | None = None, **more: Any) -> ServiceSpec:
    needed = tuple(Dependency(need) for need in needs)
    return ServiceSpec(name, depends_on=needed, container_name=container, **more)


def project(*services: ServiceSpec) -> Project:
    return Project("shop", "/srv", services=tuple(sorted(services, key=lambda service: service.name)))


def there(service: str, config_hash: str = "1", *, up: bool = True, number: int = 1) -> Observed:
    name = f"shop-{service}-{number}"
    return Observed(f"id-{service}-{number}", name, service, config_hash, up, (), number)


SHOP = project(spec("web", "api"), spec("api", "db"), spec("db"), spec("mail"))
HASHES = dict.fromkeys(("web", "api", "db", "mail", "log"), "1")


def plan_text(*observed: Observed, wanted: Project = SHOP, **options: Any) -> str:
    return str(reconcile(wanted, HASHES, observed, Options(**options)))


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
        f"orphan   shop-cron-1: {LEFT}; `up --remove-orphans`, `down` or `rm` removes it\n"
        f"orphan   shop-old-1: {LEFT}; `up --remove-orphans`, `down` or `rm` removes it"
    )


def test_an_empty_project_is_an_empty_plan() -> None:
    """Nothing wanted, nothing there, nothing printed."""
    assert plan_text(wanted=project()) == ""


def test_operations_carry_the_instance_that_they_are_about() -> None:
    """A name that was chosen is used; what is to be created has no id yet."""
    wanted = project(spec("web", container="front"), spec("db"))
    plan = reconcile(wanted, HASHES, (there("db"),))
    assert [(op.verb, op.service, op.name, op.id) for op in plan.operations] == [
        ("keep", "db", "shop-db-1", "id-db-1"),
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


# --- several instances ---------------------------------------------------------------------------
def webs(count: int, **more: Any) -> Project:
    return project(spec("web", replicas=count, **more))


def test_what_is_missing_has_the_lowest_free_numbers() -> None:
    """And nothing else is touched."""
    present = [there("web", number=1), there("web", number=3)]
    assert plan_text(*present, wanted=webs(4)) == (
        "keep     shop-web-1: unchanged\n"
        "create   shop-web-2: it is not there yet\n"
        "keep     shop-web-3: unchanged\n"
        "create   shop-web-4: it is not there yet"
    )


def test_too_many_are_removed_from_the_highest_number() -> None:
    """Before anything else happens: what comes may need their ports."""
    present = [there("web", number=number) for number in (1, 2, 10, 9)]
    assert plan_text(*present, wanted=webs(2)) == (
        "remove   shop-web-10: 2 instances are wanted\n"
        "remove   shop-web-9: 2 instances are wanted\n"
        "keep     shop-web-1: unchanged\n"
        "keep     shop-web-2: unchanged"
    )
    assert plan_text(there("web"), wanted=webs(0)) == "remove   shop-web-1: 0 instances are wanted"


def test_what_is_out_of_date_is_removed_before_what_is_not() -> None:
    """As Compose does: it would have to be recreated otherwise."""
    present = [there("web", "0", number=1), there("web", number=2), there("web", number=3)]
    assert plan_text(*present, wanted=webs(2)) == (
        "remove   shop-web-1: 2 instances are wanted\n"
        "keep     shop-web-2: unchanged\n"
        "keep     shop-web-3: unchanged"
    )
    assert plan_text(*present, wanted=webs(2), recreate="never").startswith("remove   shop-web-3")


def test_only_what_is_named_is_recreated_whatever_it_is_like() -> None:
    """--force-recreate is for the services that were named, --always-recreate-deps for the others."""
    wanted = project(spec("web", "db"), spec("db"))
    present = [there("web"), there("db")]
    assert plan_text(*present, wanted=wanted, named=("web",), recreate="always") == (
        "keep     shop-db-1: unchanged\nrecreate shop-web-1: you asked for it"
    )
    assert plan_text(*present, wanted=wanted, named=("web",), recreate_needed="always") == (
        "recreate shop-db-1: you asked for it\nkeep     shop-web-1: unchanged"
    )
    assert plan_text(*present, wanted=wanted, recreate_needed="always").count("keep") == 2
    assert plan_text(there("db", "0"), wanted=project(spec("db")), recreate="never") == (
        "keep     shop-db-1: unchanged"
    )


def test_what_is_no_part_of_the_project_now_is_no_orphan() -> None:
    """`up web` does not call the others orphans; what no file has is one, to tell, ignore or remove."""
    present, wanted = [there("web"), there("mail"), there("old")], project(spec("web"))
    kept = "keep     shop-web-1: unchanged"
    gone = f"remove   shop-old-1: {LEFT}"
    assert plan_text(*present, wanted=wanted, others=("mail",)).startswith(f"{kept}\norphan   shop-old-1")
    assert plan_text(*present, wanted=wanted, others=("mail",), orphans="ignore") == kept
    assert plan_text(*present, wanted=wanted, others=("mail",), orphans="remove") == f"{gone}\n{kept}"


def test_nothing_is_started_where_that_is_not_asked_for() -> None:
    down = there("mail", up=False)
    for start in ("none", "new"):
        assert plan_text(down, wanted=project(spec("mail")), start=start) == "keep     shop-mail-1: left down"


def test_an_update_that_was_cut_short_is_made_anew() -> None:
    """What was to take the place of another goes, and counts for nothing."""
    cut = replace(there("web"), id="new", name="0123456789ab_shop-web-1", stand_in=True)
    assert plan_text(there("web", "0"), cut, wanted=webs(1)) == (
        "remove   0123456789ab_shop-web-1: an update did not come to its end\n"
        "recreate shop-web-1: its definition has changed"
    )


@pytest.mark.parametrize(
    ("up", "start", "first"), [(True, "all", True), (False, "all", False), (True, "none", False)]
)
def test_only_what_is_up_is_replaced_start_first(up: bool, start: str, first: bool) -> None:
    plan = reconcile(
        webs(1, update=Update("start-first")),
        HASHES,
        [there("web", "0", up=up)],
        Options(start=start),  # type: ignore[arg-type]
    )
    assert [(op.verb, op.start_first) for op in plan.operations] == [("recreate", first)]


def test_who_shares_a_network_is_recreated_with_its_first_instance_only() -> None:
    wanted = project(spec("web", replicas=2), spec("log", network_mode="service:web"))
    assert "keep     shop-log-1" in plan_text(there("web"), there("log"), wanted=wanted)
    anew = plan_text(there("web", "0"), there("web", number=2), there("log"), wanted=wanted)
    assert "recreate shop-log-1: the network of web is made anew" in anew
    fewer = project(spec("web"), spec("log", network_mode="service:web"))
    second = plan_text(there("web", "0"), there("web", number=2), there("log"), wanted=fewer)
    assert "remove   shop-web-1" in second
    assert "recreate shop-log-1: the network of web is made anew" in second


def carried_out(plan: Plan, observed: list[Observed], start: str) -> list[Observed]:
    """What would be there afterwards."""
    after = {each.id: each for each in observed}
    for number, op in enumerate(plan.operations):
        if op.verb in ("remove", "recreate"):
            del after[op.id]
        if op.verb in ("create", "recreate"):
            made = Observed(f"new-{number}", op.name, op.service, "1", start != "none", (), op.number)
            after[made.id] = made
        elif op.verb == "start":
            after[op.id] = replace(after[op.id], up=True)
    return list(after.values())


_INSTANCES = st.lists(
    st.builds(
        lambda service, number, wanted, up, stand_in: replace(
            there(service, wanted, up=up, number=number),
            id=f"{service}-{number}-{stand_in}",
            name=f"{'0123456789ab_' if stand_in else ''}shop-{service}-{number}",
            stand_in=stand_in,
        ),
        st.sampled_from(["web", "api", "db", "old"]),
        st.integers(1, 6),
        st.sampled_from(["0", "1"]),
        st.booleans(),
        st.booleans(),
    ),
    max_size=12,
    unique_by=lambda each: each.id,
)


@given(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)),
    _INSTANCES,
    st.builds(
        Options,
        named=st.sampled_from([(), ("web",)]),
        recreate=st.sampled_from(["changed", "always", "never"]),
        recreate_needed=st.sampled_from(["changed", "always", "never"]),
        start=st.sampled_from(["all", "new", "none"]),
        orphans=st.sampled_from(["ignore", "remove"]),
    ),
)
def test_after_a_plan_there_is_nothing_left_to_do(
    counts: tuple[int, int, int], observed: list[Observed], options: Options
) -> None:
    """What is there is what was wanted, and a second plan keeps all of it."""
    web, api, db = counts
    wanted = project(
        spec("web", "api", replicas=web),
        spec("api", network_mode="service:db", replicas=api),
        spec("db", replicas=db),
    )
    plan = reconcile(wanted, HASHES, observed, options)
    after = carried_out(plan, observed, options.start)
    mine = [each for each in after if each.service != "old"]
    names = [each.name for each in after]
    assert len(set(names)) == len(names)
    assert {s.name: s.replicas for s in wanted.services} == {
        s.name: sum(each.service == s.name for each in mine) for s in wanted.services
    }
    assert not any(each.stand_in for each in mine)
    for each in mine:
        assert each.name == f"shop-{each.service}-{each.number}"
        assert each.config_hash == "1" or options.of(each.service) == "never"
        assert each.up or options.start != "all"
    if options.orphans == "remove":
        assert len(mine) == len(after)
    again = replace(
        options,
        recreate="never" if options.recreate == "never" else "changed",
        recreate_needed="never" if options.recreate_needed == "never" else "changed",
    )
    assert {op.verb for op in reconcile(wanted, HASHES, after, again).operations} <= {"keep"}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"container_name": "front"}, "its container_name front is a name for one; remove it, or run one"),
        (
            {"ports": (Port(80, published=(8080, 8080)),)},
            (
                "each would be published at port 8080 of the host; publish a range (8080-8081:80), or any"
                ' port ("80")'
            ),
        ),
        (
            {"networks": (Attachment("shop_default", ipv4_address="10.1.0.9"),)},
            "each would have the address 10.1.0.9; remove ipv4_address, or run one",
        ),
    ],
)
def test_what_only_one_can_have_is_named(fields: dict[str, Any], text: str) -> None:
    """Before anything is touched; and nobody minds where there is one."""
    service = ServiceSpec("web", network_mode="bridge", replicas=2, **fields)
    with pytest.raises(ReplicaError) as raised:
        check_replicas(service)
    assert str(raised.value) == f"cannot run 2 instances of web: {text}"
    check_replicas(replace(service, replicas=1))


def test_a_range_of_ports_is_enough_for_as_many_instances() -> None:
    service = ServiceSpec("web", network_mode="bridge", replicas=3, ports=(Port(80, published=(8080, 8082)),))
    check_replicas(service)
    check_replicas(replace(service, replicas=4, network_mode="host"))  # nothing is published there
    with pytest.raises(ReplicaError, match="one of the ports 8080-8082"):
        check_replicas(replace(service, replicas=4))


def test_an_address_cannot_be_had_by_two_at_once_during_an_update() -> None:
    place = Attachment("shop_default", ipv4_address="10.1.0.9")
    service = ServiceSpec("web", network_mode="bridge", networks=(place,), update=Update("start-first"))
    with pytest.raises(ReplicaError, match="cannot update web start-first: the new instance would have"):
        check_replicas(service)


def test_how_many_and_how_they_are_replaced_is_no_part_of_what_each_is() -> None:
    """A change of these recreates nothing."""
    web = spec("web")
    assert config_hash(replace(web, replicas=5, update=Update("start-first", 1))) == config_hash(web)
    assert config_hash(replace(web, hostname="x")) != config_hash(web)


@pytest.mark.parametrize(
    ("name", "container", "expected"),
    [
        ("shop-web-2", None, False),
        ("0123456789ab_shop-web-2", None, True),
        ("0123456789ab_front", "front", True),
        ("0123456789ab_shop-web-3", None, False),
        ("shop-web-run-0123456789ab", None, False),
    ],
)
def test_a_stand_in_is_known_by_its_name(name: str, container: str | None, expected: bool) -> None:
    made = new_instance(project(), spec("web", container=container), name, number=2)
    assert is_stand_in(made) is expected
    assert is_stand_in(replace(made, project="")) is False
