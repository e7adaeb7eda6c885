"""depends_on: who waits for whom on up, at a start of the supervisor, after a restart, and on down."""

from __future__ import annotations

import os
import signal

import msgspec
import pytest
from healthy import api, health, inspect, last, service, shell, up
from supervising import Supervisor, until

from supervisor.cli.errors import ApiError
from supervisor.core.model import Dependency, Mount, Policy, Project, RestartRules, ServiceSpec

pytestmark = [pytest.mark.system, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ALWAYS = RestartRules(Policy.ALWAYS)
HEALTHY = "service_healthy"
COMPLETED = "service_completed_successfully"


def needs(condition: str, **more: bool) -> tuple[Dependency, ...]:
    return (Dependency("db", condition, **more),)  # type: ignore[arg-type]


def began(supervisor: Supervisor, name: str) -> str:
    return str(inspect(supervisor, name)["State"]["StartedAt"])


def slow_db(**more: object) -> ServiceSpec:
    """Healthy once it has run for a moment: what its own process writes into its own root is the sign."""
    script = (
        'trap "exit 0" TERM; sleep 0.7; mkdir -p /srv; touch /srv/ready; while :; do sleep 99 & wait; done'
    )
    return service("db", script, healthcheck=shell("test -e /srv/ready", retries=10**6), **more)


def test_a_service_waits_until_its_dependency_is_healthy(clean: Supervisor) -> None:
    lines = up(clean, slow_db(), service("api", depends_on=needs(HEALTHY)))
    assert last(lines, "api") == "running"
    assert "waits for db to be healthy" in [line["outcome"] for line in lines]
    assert health(clean, "p-db-1") == "healthy"
    healthy_at = [
        entry["End"] for entry in inspect(clean, "p-db-1")["State"]["Health"]["Log"] if entry["ExitCode"] == 0
    ]
    assert began(clean, "p-api-1") > healthy_at[0]


def test_an_unhealthy_dependency_is_the_reason_of_those_that_do_not_start(clean: Supervisor) -> None:
    lines = up(
        clean,
        service("db", healthcheck=shell("echo disk broken; exit 1", interval_s=0.1)),
        service("api", depends_on=needs(HEALTHY)),
        service("web", depends_on=(Dependency("api"),)),
    )
    why = "depends on db, which is unhealthy: 2 probes failed in a row: exit code 1, disk broken"
    assert last(lines, "api") == f"not started: {why}"
    assert last(lines, "web").startswith("not started: depends on api, which was not started (not started")
    assert clean.state("api") == clean.state("web") == "created"
    assert clean.row("api")["Reason"] == f"not started: {why}"
    assert f"now: not started: {why}" in clean.ok("why", "p-api-1")
    assert "not started: depends on db" in clean.ok("ps", "-a")


def test_what_must_complete_is_waited_for_and_its_failure_is_named(clean: Supervisor) -> None:
    after = needs(COMPLETED)
    lines = up(clean, service("db", "sleep 0.3; exit 0"), service("api", depends_on=after))
    assert last(lines, "api") == "running"
    assert began(clean, "p-api-1") > inspect(clean, "p-db-1")["State"]["FinishedAt"]
    clean.ok("rm", "--force", "p-api-1", "p-db-1")
    lines = up(clean, service("db", "exit 3"), service("api", depends_on=after))
    assert last(lines, "api") == (
        "not started: depends on db, which did not complete successfully: exit code 3"
    )


def test_one_that_cannot_start_holds_back_those_that_need_it(clean: Supervisor) -> None:
    lines = up(
        clean,
        ServiceSpec("db", command=("/no/such/program",), restart=ALWAYS),
        service("api", depends_on=(Dependency("db"),)),
    )
    assert last(lines, "api").startswith("not started: depends on db, which could not start (exec)")


def test_a_dependency_that_is_not_required_is_only_a_warning(clean: Supervisor) -> None:
    lines = up(
        clean,
        service("db", healthcheck=shell("exit 1", interval_s=0.1)),
        service("api", depends_on=needs(HEALTHY, required=False)),
    )
    assert last(lines, "api").startswith("running; depends on db, which is unhealthy")
    assert clean.state("api") == "running"


def test_without_a_healthcheck_nothing_can_be_healthy(clean: Supervisor) -> None:
    lines = up(clean, service("db"), service("api", depends_on=needs(HEALTHY)))
    assert last(lines, "api") == (
        "not started: depends on db, which has no healthcheck, and so cannot be healthy"
    )


def test_a_circle_is_named(clean: Supervisor) -> None:
    project = Project(
        "p",
        "/",
        services=(
            service("api", depends_on=(Dependency("db"),)),
            service("db", depends_on=(Dependency("api"),)),
        ),
    )
    with pytest.raises(ApiError, match=r"api -> db -> api|db -> api -> db"):
        api(clean).call("POST", "/projects/p/plan", body=msgspec.json.encode(project))
    assert any("depend on each other" in line.get("error", "") for line in up(clean, *project.services))
    assert clean.ok("ps", "-a", "--format", "json") == ""


def test_restart_true_follows_its_dependency(clean: Supervisor) -> None:
    """After a restart by a person and after `up` has made it anew; one without it runs on."""
    others = (
        service("api", depends_on=needs(HEALTHY, restart=True)),
        service("web", depends_on=needs("service_started")),
    )
    up(clean, slow_db(), *others)
    api_began, web_began = began(clean, "p-api-1"), began(clean, "p-web-1")
    clean.ok("restart", "p-db-1")
    assert began(clean, "p-api-1") > began(clean, "p-db-1")
    assert clean.row("api")["Reason"] == "db was restarted"
    again = began(clean, "p-api-1")
    assert again > api_began
    lines = up(clean, slow_db(environment=(("NEW", "1"),)), *others)
    assert last(lines, "api") == "restarted: db was recreated"
    assert began(clean, "p-api-1") > began(clean, "p-db-1")
    assert began(clean, "p-api-1") > again
    assert began(clean, "p-web-1") == web_began


def test_one_whose_dependency_fails_is_not_recreated(clean: Supervisor) -> None:
    """What runs is better than nothing: the old one serves on."""
    up(clean, service("db", healthcheck=shell("true")), service("api", depends_on=needs(HEALTHY)))
    pid = inspect(clean, "p-api-1")["State"]["Pid"]
    lines = up(
        clean,
        service("db", healthcheck=shell("exit 1", interval_s=0.1)),
        service("api", depends_on=needs(HEALTHY), environment=(("NEW", "1"),)),
    )
    assert last(lines, "api").startswith("not recreated: depends on db, which is unhealthy")
    assert inspect(clean, "p-api-1")["State"]["Pid"] == pid


def test_a_start_waits_for_those_that_start_with_it(clean: Supervisor) -> None:
    up(clean, slow_db(), service("api", depends_on=needs(HEALTHY)))
    clean.ok("stop", "-p", "p")
    clean.ok("start", "-p", "p")
    assert clean.state("api") == "running"
    assert began(clean, "p-api-1") > inspect(clean, "p-db-1")["State"]["Health"]["Log"][0]["End"]
    clean.ok("stop", "-p", "p")
    clean.ok("start", "p-api-1")
    assert clean.state("api") == "running", "a person may start one alone"


def test_who_stops_listening_ends_no_start_and_down_does(clean: Supervisor) -> None:
    db = service("db", healthcheck=shell("test -e /srv/ready", retries=10**6))
    web = service("api", depends_on=needs(HEALTHY))
    assert up(clean, db, web, timeout_s=1.0)[-1] == {"timeout": ["p-api-1"]}
    assert clean.row("api")["Reason"] == "waits for db to be healthy"
    clean.ok("exec", "-T", "p-db-1", "sh", "-c", "mkdir -p /srv; touch /srv/ready")
    until(lambda: clean.state("api") == "running", "api is started all the same")
    clean.ok("down", "-p", "p")
    up(clean, db, web, timeout_s=1.0)
    clean.ok("down", "-p", "p")
    assert clean.ok("ps", "-a", "--format", "json") == ""
    up(clean, db, web, timeout_s=1.0)
    lines = up(clean, db, service("api", depends_on=needs("service_started")))
    assert last(lines, "api") == "running", "a newer `up` decides"


def test_a_stop_of_what_waits_is_a_stop(clean: Supervisor) -> None:
    """A later service tells that the dependency was seen to be healthy by all that waited for it."""
    db = service("db", healthcheck=shell("test -e /srv/ready", retries=10**6))
    waits = needs(HEALTHY)
    up(clean, db, service("api", depends_on=waits), service("web", depends_on=waits), timeout_s=1.0)
    clean.ok("stop", "p-api-1")
    clean.ok("exec", "-T", "p-db-1", "sh", "-c", "mkdir -p /srv; touch /srv/ready")
    until(lambda: clean.state("web") == "running", "web is started")
    until(lambda: clean.row("api")["Reason"] == "stopped by you while it waited", "api is not")
    assert clean.state("api") == "created"


def test_an_up_that_the_supervisor_did_not_live_to_end_is_ended_by_the_next(clean: Supervisor) -> None:
    """api waits when the daemon is killed; the next one starts it when db is healthy."""
    db = service("db", healthcheck=shell("test -e /srv/ready", retries=10**6), restart=ALWAYS)
    lines = up(clean, db, service("api", depends_on=needs(HEALTHY), restart=ALWAYS), timeout_s=1.0)
    assert lines[-1] == {"timeout": ["p-api-1"]}
    assert clean.row("api")["Reason"] == "waits for db to be healthy"
    clean.kill()
    clean.start()
    assert clean.state("api") == "created"
    clean.ok("exec", "-T", "p-db-1", "sh", "-c", "mkdir -p /srv; touch /srv/ready")
    until(lambda: clean.state("api") == "running", "api is started by the next daemon")


def test_after_the_end_of_the_host_the_order_is_that_of_the_conditions(clean: Supervisor) -> None:
    """The order of a boot is that of the first start."""
    up(
        clean,
        slow_db(restart=ALWAYS),
        service("api", depends_on=needs(HEALTHY), restart=ALWAYS),
        service("web", depends_on=(Dependency("api"),), restart=ALWAYS),
    )
    clean.power_cut()
    until(lambda: clean.state("web") == "running", "all is up again")
    db = inspect(clean, "p-db-1")["State"]
    assert db["Health"]["Status"] == "healthy"
    assert db["Health"]["Log"][0]["Start"] > db["StartedAt"]
    assert db["StartedAt"] < began(clean, "p-api-1") < began(clean, "p-web-1")


@pytest.mark.parametrize("how", ["reload", "boot"])
def test_a_file_that_is_read_keeps_back_nothing_that_waits(clean: Supervisor, how: str) -> None:
    """A file of the projects directory is read while starts wait: at each boot, and at each reload.

    A service that is new in the file tells that it was read before db is healthy. `left`, which is no longer
    in it, waits for db, too.
    """
    path = clean.base / "projects/p.yaml"
    db = (
        "  db: {command: sleep 1000, init: true, restart: always, network_mode: none,\n"
        "       healthcheck: {test: test -e /srv/ready, interval: 100ms, retries: 1000000}}\n"
    )
    waits = (
        "{command: sleep 1000, init: true, restart: always, network_mode: none,"
        " depends_on: {db: {condition: service_healthy}}}\n"
    )
    path.write_text(f"services:\n{db}  api: {waits}  left: {waits}")
    ready = ("exec", "-T", "p-db-1", "sh", "-c", "mkdir -p /srv; touch /srv/ready")
    assert clean.daemon is not None
    clean.daemon.send_signal(signal.SIGHUP)
    until(lambda: len(clean.rows()) == 3 and clean.state("db") == "running", "db is up")
    if how == "boot":
        clean.ok(*ready)
        until(lambda: clean.state("api") == clean.state("left") == "running", "all are up")
        clean.ok("exec", "-T", "p-db-1", "rm", "/srv/ready")
    until(lambda: clean.row("api")["Reason"] == "waits for db to be healthy" or how == "boot", "api waits")
    path.write_text(
        f"services:\n{db}  api: {waits}  new: {{command: sleep 1000, init: true, network_mode: none}}\n"
    )
    if how == "boot":
        clean.power_cut()
    else:
        clean.daemon.send_signal(signal.SIGHUP)
    until(lambda: any(row["Service"] == "new" for row in clean.rows()), "the file is read")
    until(lambda: clean.state("new") == clean.state("db") == "running", "new is up")
    assert clean.state("api") != "running"
    clean.ok(*ready)
    until(
        lambda: clean.state("api") == clean.state("left") == "running", "they are started when db lets them"
    )


def test_down_stops_dependents_first(clean: Supervisor) -> None:
    """Each writes its name at its stop signal, the dependent after a while."""
    order = clean.base / "order"
    order.mkdir()
    shared = (Mount("bind", "/order", str(order)),)

    def ends(name: str, after_s: float) -> str:
        stop = f"sleep {after_s}; echo {name} >> /order/list; exit"
        return f'trap "{stop}" TERM; while :; do sleep 99 & wait; done'

    up(
        clean,
        service("db", ends("db", 0), healthcheck=shell("true"), mounts=shared),
        service("api", ends("api", 0.5), depends_on=needs(HEALTHY), mounts=shared),
    )
    lines = [line["name"] for line in api(clean).stream("POST", "/projects/p/down")]
    assert sorted(lines) == ["p-api-1", "p-db-1"]
    assert (order / "list").read_text().split() == ["api", "db"]
