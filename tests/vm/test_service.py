"""The supervisor as a service of the host: restarts, upgrades, deaths of each part, the end of everything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from conftest import INSTALL
from inside import (
    SERVICES_CGROUP,
    SLEEPER,
    Seen,
    await_running,
    await_states,
    await_supervisor,
    live_pids,
    project,
    ps,
)
from machine import VirtualMachine

pytestmark = pytest.mark.timeout(600)


def main_pid(machine: VirtualMachine) -> str:
    """Of the daemon; "0" while there is none."""
    return machine.output("systemctl show --property=MainPID --value shipkeeper")


def await_daemon(machine: VirtualMachine, *, other_than: str = "0") -> None:
    """Until there is a daemon that answers, another one than that."""
    machine.run(
        f"for i in $(seq 300); do p=$(systemctl show --property=MainPID --value shipkeeper);"
        f' [ "$p" != 0 ] && [ "$p" != {other_than} ] && systemctl is-active --quiet shipkeeper &&'
        " shipkeeper ps > /dev/null && exit 0; sleep 0.2; done; exit 1"
    )


@contextmanager
def drop_in(machine: VirtualMachine, text: str) -> Iterator[None]:
    """More settings for shipkeeper.service, for a while."""
    directory = "/run/systemd/system/shipkeeper.service.d"
    content = f"[Service]\\n{text}\\n"
    machine.run(f"mkdir -p {directory}; printf '{content}' > {directory}/test.conf; systemctl daemon-reload")
    try:
        yield
    finally:
        machine.run(f"rm -r {directory}; systemctl daemon-reload; systemctl restart shipkeeper", check=False)


def test_a_fresh_installation_has_nothing_to_complain_of(installed: VirtualMachine) -> None:
    """`doctor` sees the units and pure cgroup v2; all processes but the daemon are in the services' unit."""
    lines = installed.run("shipkeeper doctor --format json", check=False).output.splitlines()
    checks = {row["name"]: row for row in map(json.loads, lines)}
    assert [row for row in checks.values() if row["status"] == "fail"] == []
    assert checks["systemd"]["status"] == "ok"
    assert checks["cgroups"]["detail"].startswith("v2; controllers: cpu")
    helpers = installed.output(f"cat {SERVICES_CGROUP}/launcher/cgroup.procs").split()
    assert len(helpers) == 4, "launcher, nursery, log writer, and what keeps the cgroup until they are there"
    assert installed.output(f"cat {SERVICES_CGROUP}/cgroup.procs") == ""


def test_limits_hold_and_nothing_of_the_daemons_standing_is_inherited(installed: VirtualMachine) -> None:
    """Memory ends it, forks fail; what a run has is what systemd gives a service, not what the daemon has."""
    shell = f"for n in {' '.join(map(str, range(40)))}; do sleep infinity & done; wait"
    look = "ulimit -Sn; ulimit -Hn; cat /proc/self/oom_score_adj; umask; sleep infinity"
    model: dict[str, object] = {
        "services": {
            "greedy": {
                "command": ["python3", "-c", "x = bytearray(300_000_000)"],
                "mem_limit": "64m",
                "memswap_limit": "64m",
            },
            "forks": {"command": ["/bin/sh", "-c", shell], "pids_limit": 20},
            "plain": {"command": ["/bin/sh", "-c", look], "cpus": 0.5},
        }
    }
    with project(installed, "limits", model):

        def open_ones(seen: dict[str, Seen]) -> list[str]:
            return [name for name in ("greedy", "forks") if seen[name].state != "exited"]

        seen = await_states(installed, "limits", "is not ended by its limit", open_ones)
        assert (seen["greedy"].exit_code, seen["forks"].exit_code) == (137, 2)
        assert '"OOMKilled": true' in installed.output("shipkeeper inspect limits-greedy-1")
        assert "Cannot fork" in installed.output("shipkeeper -p limits logs forks")
        run = f"{SERVICES_CGROUP}/$(cut -d: -f3 /proc/{seen['plain'].pid}/cgroup | cut -d/ -f4-)"
        assert installed.output(f"cat {run}/cpu.max") == "50000 100000"
        assert installed.output(f"cat {run}/memory.pressure /proc/pressure/memory").count("some avg10=") == 2
        words = installed.output("shipkeeper -p limits logs --no-log-prefix plain").split()
        assert words[-4:] == ["1024", "524288", "0", "0022"], words


RESTARTS = {
    "systemctl restart": "systemctl restart shipkeeper",
    "kill -9": "kill -9 $(systemctl show --property=MainPID --value shipkeeper)",
    "an upgrade": INSTALL,
}


@pytest.mark.parametrize("how", list(RESTARTS))
def test_a_restart_of_the_daemon_leaves_every_service_running(installed: VirtualMachine, how: str) -> None:
    """The same processes, counters and start times before and after, and a new daemon that knows them."""
    model: dict[str, object] = {
        "services": {
            policy: {"command": SLEEPER, "restart": policy} for policy in ("no", "always", "unless-stopped")
        }
    }
    with project(installed, "stay", model):
        before = await_running(installed, "stay")
        alive = live_pids(installed)
        daemon = main_pid(installed)
        installed.run(RESTARTS[how], timeout_s=600)
        await_daemon(installed, other_than=daemon)
        assert ps(installed, "stay") == before
        assert live_pids(installed) == alive


def test_what_ended_while_the_daemon_was_away_is_judged_by_its_true_exit(installed: VirtualMachine) -> None:
    """Table 1.6, live restore: `no` keeps the code, on-failure looks at it, and the restart is counted."""
    services: dict[str, object] = {}
    for policy in ("no", "on-failure", "always", "unless-stopped"):
        for code in (0, 3):
            script = f"trap 'exit {code}' TERM; sleep infinity & wait"
            services[f"{policy}-{code}"] = {"command": ["/bin/sh", "-c", script], "restart": policy}
    with project(installed, "away", {"services": services}):
        before = await_running(installed, "away")
        installed.run("systemctl stop shipkeeper")
        pids = " ".join(str(row.pid) for row in before.values())
        installed.run(f"kill -TERM {pids}; for p in {pids}; do timeout 60 tail --pid=$p -f /dev/null; done")
        installed.run("systemctl start shipkeeper")
        rests = {"no-0": 0, "no-3": 3, "on-failure-0": 0}
        # Docker's live-restore would count from 0, and on-failure:N have no bound.

        def wrong(seen: dict[str, Seen]) -> list[str]:
            return [
                name
                for name, row in seen.items()
                if (
                    (row.state, row.exit_code) != ("exited", rests[name])
                    if name in rests
                    else row.state != "running" or row.restarts != 1 or row.pid == before[name].pid
                )
            ]

        await_states(installed, "away", "not as the table says", wrong)


def test_stopping_the_services_unit_ends_everything(installed: VirtualMachine) -> None:
    """`systemctl stop shipkeeper-services` stops daemon and services; a start brings back what is wanted."""
    with project(installed, "all", {"services": {"web": {"command": SLEEPER, "restart": "unless-stopped"}}}):
        await_running(installed, "all")
        installed.run("systemctl stop shipkeeper-services")
        assert installed.run("systemctl is-active shipkeeper shipkeeper-services", check=False).exit_code != 0
        assert installed.run(f"test -e {SERVICES_CGROUP}", check=False).exit_code == 1
        installed.run("systemctl start shipkeeper")
        await_running(installed, "all")


LAUNCHER = "pgrep -f '[s]upervisor.launcher.server --ready-fd'"


def test_a_launcher_that_dies_is_replaced_inside_the_unit(installed: VirtualMachine) -> None:
    """Services run on, and the new launcher is where the old one was; it starts what ends."""
    with project(installed, "orphan", {"services": {"web": {"command": SLEEPER, "restart": "always"}}}):
        before = await_running(installed, "orphan")
        installed.run(
            f"old=$({LAUNCHER}); kill -9 $old;"
            f" for i in $(seq 300); do new=$({LAUNCHER}) && [ $new != $old ] &&"
            f" grep -qx $new {SERVICES_CGROUP}/launcher/cgroup.procs && exit 0; sleep 0.2; done; exit 1"
        )
        assert ps(installed, "orphan")["web"].pid == before["web"].pid
        assert live_pids(installed) >= {before["web"].pid}
        installed.run(f"kill -9 {before['web'].pid}")

        def not_again(seen: dict[str, Seen]) -> list[str]:
            return ["web"] if seen["web"].pid in (0, before["web"].pid) else []

        after = await_states(installed, "orphan", "is not started again", not_again)
        assert after["web"].pid in live_pids(installed)


def test_a_unit_that_lost_its_last_process_is_started_again(installed: VirtualMachine) -> None:
    """systemd ends it and removes its cgroup; the daemon has it started, with a launcher in it."""
    installed.run(f"kill -9 $(cat {SERVICES_CGROUP}/launcher/cgroup.procs)")
    with project(installed, "anew", {"services": {"web": {"command": SLEEPER}}}):
        seen = await_running(installed, "anew")
        assert live_pids(installed) >= {seen["web"].pid}
        installed.run("systemctl is-active shipkeeper shipkeeper-services")


def test_a_stop_has_the_time_that_services_need_and_a_daemon_that_hangs_has_not(
    installed: VirtualMachine,
) -> None:
    """Longer than TimeoutStopSec, for the daemon asks for more; the watchdog replaces a silent one."""
    slow = ["/bin/sh", "-c", "trap 'sleep 15; exit 7' TERM; sleep infinity & wait"]
    model: dict[str, object] = {"services": {"slow": {"command": slow, "stop_grace_period": "2m"}}}
    with (
        drop_in(installed, "TimeoutStopSec=5s\\nTimeoutAbortSec=5s\\nWatchdogSec=10s"),
        project(installed, "slow", model),
    ):
        installed.run("systemctl restart shipkeeper")
        before = await_running(installed, "slow")
        daemon = main_pid(installed)
        installed.run(f"kill -STOP {daemon}")
        await_daemon(installed, other_than=daemon)
        assert ps(installed, "slow") == before
        assert "Watchdog timeout" in installed.output("journalctl -u shipkeeper -b -o cat")
        installed.run("systemctl stop shipkeeper-services; systemctl start shipkeeper")
        after = ps(installed, "slow")["slow"]
        assert (after.state, after.exit_code, after.started) == ("exited", 7, before["slow"].started)


@pytest.mark.parametrize(
    ("mode", "arguments"),
    [
        ("hybrid", "systemd.unified_cgroup_hierarchy=0"),
        ("v1", "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1"),
    ],
)
def test_hosts_with_cgroups_of_version_1_are_served(
    installed: VirtualMachine, mode: str, arguments: str
) -> None:
    """systemd sees the unit's processes in its own hierarchy; limits, restarts and the end are as on v2."""
    model: dict[str, object] = {
        "services": {"web": {"command": SLEEPER, "restart": "always", "mem_limit": "64m"}}
    }
    installed.power_cut(arguments)
    try:
        await_supervisor(installed)
        checks = installed.run("shipkeeper doctor", check=False).output
        assert f"cgroups: {mode}; controllers: " in checks
        with project(installed, "old", model):
            before = await_running(installed, "old")
            cgroups = installed.output(f"cat /proc/{before['web'].pid}/cgroup").splitlines()
            unit = "/system.slice/shipkeeper-services.service/"
            places = {line.split(":")[1]: line.split(":")[2] for line in cgroups}
            assert places["name=systemd"].startswith(unit)
            assert places["memory"].startswith(unit)
            limit = installed.output(f"cat /sys/fs/cgroup/memory{places['memory']}/memory.limit_in_bytes")
            assert limit == str(64 << 20)
            installed.run("systemctl restart shipkeeper")
            assert ps(installed, "old") == before
            installed.run("systemctl stop shipkeeper-services")
            installed.run(f"! kill -0 {before['web'].pid}; ! {LAUNCHER}")
            installed.run("systemctl start shipkeeper")
            await_running(installed, "old")
    finally:
        installed.power_cut()
        await_supervisor(installed)
