"""Health of containers, asked of a real dockerd and of ours by the same client: the same states and words.

    DOCKER_HOST=unix:///run/docker.sock pytest tests/differential/test_health_oracle.py

Needs Debian's docker.io and busybox-static; no registry. Times are not compared: the first probe comes
earlier here on purpose.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dockers import IMAGE, Docker, busybox_archive
from restart_play import until

sys.path.insert(0, str(Path(__file__).parents[1] / "system"))
from supervising import supervising

HOST = os.environ.get("DOCKER_HOST", "")
BUSYBOX = shutil.which("busybox")
SECOND = 1_000_000_000

pytestmark = [
    pytest.mark.skipif(not HOST.startswith("unix://"), reason="no local dockerd is named by DOCKER_HOST"),
    pytest.mark.skipif(BUSYBOX is None, reason="no busybox on this machine; apt-get install busybox-static"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@dataclass(frozen=True)
class Case:
    """A healthcheck, the state that it leads to, and what is compared of the newest result."""

    name: str
    check: dict[str, Any]
    status: str
    code: int
    output: str


CASES = (
    Case("success", {"Test": ["CMD-SHELL", "echo well"], "Retries": 1}, "healthy", 0, "well\n"),
    Case("argv", {"Test": ["CMD", "/bin/sh", "-c", "exit 0"]}, "healthy", 0, ""),
    Case("failure", {"Test": ["CMD-SHELL", "echo bad >&2; exit 7"], "Retries": 2}, "unhealthy", 7, "bad\n"),
    Case(
        "timeout",
        {"Test": ["CMD-SHELL", "sleep 100"], "Timeout": SECOND // 2, "Retries": 1},
        "unhealthy",
        -1,
        "Health check exceeded timeout",
    ),
    Case("death", {"Test": ["CMD-SHELL", "kill -9 $$"], "Retries": 1}, "unhealthy", 137, ""),
)


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, Any]]:
    """Docker's, and ours, with the same image."""
    assert BUSYBOX is not None
    archive = busybox_archive(BUSYBOX)
    theirs = Docker(HOST, archive)
    print(f"compared with dockerd {theirs.version()}")
    with supervising() as made:
        (made.base / "root.tar").write_bytes(archive)
        made.ok("import", "root.tar", IMAGE)
        import docker

        ours = docker.APIClient(f"unix://{made.base}/run/shipkeeper.sock", timeout=60, version="1.41")
        yield {"docker": theirs.api, "ours": ours}
        ours.close()
    theirs.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_check_leads_to_the_same_health(case: Case, engines: dict[str, Any]) -> None:
    name = f"shipkeeper-health-{os.getpid()}"
    seen = {}
    for which, api in engines.items():
        host = api.create_host_config(network_mode="none")
        check = {"Interval": SECOND // 2, "Timeout": 30 * SECOND, **case.check}
        api.create_container(IMAGE, ["/bin/sleep", "1000"], name=name, host_config=host, healthcheck=check)
        try:
            api.start(name)

            def health(api: Any = api) -> dict[str, Any]:
                return dict(api.inspect_container(name)["State"]["Health"])

            found = until(health, lambda health: health["Status"] != "starting", f"{which} has judged")
            newest = health()["Log"][-1]
            (row,) = api.containers(filters={"name": name})
            status = row["Status"].partition("(")[2]
            streak = found["FailingStreak"] >= case.check.get("Retries", 3)
            seen[which] = (found["Status"], newest["ExitCode"], newest["Output"][:29], streak, status)
        finally:
            api.remove_container(name, force=True)
    assert seen["docker"] == seen["ours"]
    assert seen["ours"][:2] == (case.status, case.code)
    assert seen["ours"][2].startswith(case.output[:29])


def test_a_failure_in_the_start_period_does_not_count(engines: dict[str, Any]) -> None:
    name = f"shipkeeper-health-{os.getpid()}"
    check = {
        "Test": ["CMD-SHELL", "exit 1"],
        "Interval": SECOND // 2,
        "Timeout": 30 * SECOND,
        "Retries": 1,
        "StartPeriod": 3600 * SECOND,
    }
    for which, api in engines.items():
        api.create_container(IMAGE, ["/bin/sleep", "1000"], name=name, healthcheck=check,
                             host_config=api.create_host_config(network_mode="none"))  # fmt: skip
        try:
            api.start(name)

            def health(api: Any = api) -> dict[str, Any]:
                return dict(api.inspect_container(name)["State"]["Health"])

            found = until(health, lambda health: len(health["Log"]) >= 2, f"{which} has probed")
            assert (found["Status"], found["FailingStreak"]) == ("starting", 0)
        finally:
            api.remove_container(name, force=True)
