"""A program taken from a template is the one that would have been assembled, or is assembled."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from launcherbench import root_steps

from supervisor.launcher import plan
from supervisor.launcher.ahead import Made, ahead_of
from supervisor.launcher.assemble import assemble
from supervisor.launcher.templates import Templates

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: which mount options the kernel takes"),
]

BASE = 0x7F00_0000_0000


def launch_of(instance: str, *more: plan.Step, cwd: str = "/") -> plan.LaunchPlan:
    place = f"/var/lib/x/instances/{instance}"
    steps = root_steps(f"{place}/upper", f"{place}/work")
    steps[-3:-3] = [plan.Bind(f"{place}/etc/hosts", "/etc/hosts"), *more]
    process = plan.Process(["true"], [], caps=[0, 1, 5], cwd=cwd)
    limits, log = plan.Limits(), plan.LogPlan(f"{place}/log", 0, 0)
    return plan.LaunchPlan(instance, 1, f"x/{instance}", limits, "h", "host", "/run/x", steps, process, log)


def usual(instance: str) -> plan.LaunchPlan:
    return launch_of(instance)


def in_its_own_directory(instance: str) -> plan.LaunchPlan:
    return launch_of(instance, plan.Bind("/srv", f"/srv/{instance}"), cwd=f"/srv/{instance}/here")


def with_a_device_of_its_name(instance: str) -> plan.LaunchPlan:
    """What can be made ahead depends on the id."""
    return launch_of(instance, plan.Bind(f"/dev/{instance}", f"/dev/{instance}", dev=True))


def with_the_place_holder(instance: str) -> plan.LaunchPlan:
    return launch_of(instance, plan.Bind("/srv/" + "\x1a" * len(instance), "/srv"))


@pytest.mark.parametrize(
    "make", [usual, in_its_own_directory, with_a_device_of_its_name, with_the_place_holder]
)
@pytest.mark.parametrize(
    "ids", [("aaaaaaaaaaaa", "0123456789ab", "cccccccccccc"), ("a", "b", "/"), ("web-1",) * 3]
)
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("ahead", [False, True])
def test_each_program_is_the_one_of_its_plan(
    make: Callable[[str], plan.LaunchPlan], ids: tuple[str, ...], kept: bool, ahead: bool
) -> None:
    """At every sight, for every id."""
    templates = Templates(BASE)
    for instance in ids * 2:
        launch = make(instance)
        assembly = templates.look(launch)
        assert assembly.ahead == ahead_of(launch)
        made = Made(kept, assembly.ahead) if ahead else Made(kept)
        found, wanted = templates.program(assembly, made), assemble(launch, BASE, made)
        assert (found.rows, found.data, found.results) == (wanted.rows, wanted.data, wanted.results)


def test_what_is_alike_is_assembled_once() -> None:
    """From the third sight on the rows are the very object that the second one made."""
    templates = Templates(BASE)
    programs = [templates.program(templates.look(usual(f"{number:012}")), Made()) for number in range(4)]
    assert programs[3].rows is programs[2].rows
    assert programs[3].data != programs[2].data
    other = templates.look(launch_of("000000000000", cwd="/srv"))
    assert other.template is None, "another plan"
