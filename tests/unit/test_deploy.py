"""What is shipped for the host and for Prometheus is accepted by the programs that will read it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from supervisor.daemon.measures import Measures
from supervisor.daemon.metrics import Snapshot, exposition

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMETHEUS = DEPLOY / "prometheus"


def tool(name: str, package: str) -> str:
    """The path of a program. Skips the test where it is not installed, naming the package."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} on this machine; apt-get install {package}")
    return path


def run(*argv: str | Path, cwd: Path = DEPLOY) -> subprocess.CompletedProcess[str]:
    argv_text = [str(a) for a in argv]
    return subprocess.run(argv_text, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a unit file: key -> its values in order (a key may stand there several times)."""
    settings: dict[str, list[str]] = {}
    for line in (DEPLOY / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            settings.setdefault(key, []).append(value)
    return settings


def test_alert_rules_and_scrape_job_are_valid_for_prometheus() -> None:
    """promtool accepts both, the rule file through the scrape file as an administrator includes it."""
    promtool = tool("promtool", "prometheus")
    result = run(promtool, "check", "config", "scrape.yaml", cwd=PROMETHEUS)
    assert result.returncode == 0, result.stdout + result.stderr


def test_alert_rules_fire_when_they_should_and_only_then() -> None:
    """The promtool unit tests pass."""
    promtool = tool("promtool", "prometheus")
    result = run(promtool, "test", "rules", "rules_test.yaml", cwd=PROMETHEUS)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_a_unit_test_that_sees_it_fire() -> None:
    """No rule is shipped that nobody has seen firing."""
    rules = yaml.safe_load((PROMETHEUS / "rules.yaml").read_text())
    shipped = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    tests = yaml.safe_load((PROMETHEUS / "rules_test.yaml").read_text())
    fired = {
        case["alertname"]
        for test in tests["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert shipped == fired


def test_every_alert_says_what_it_means_and_how_bad_it_is() -> None:
    """Each has the prefix, a severity, a summary and a description."""
    rules = yaml.safe_load((PROMETHEUS / "rules.yaml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert rule["alert"].startswith("Shipkeeper")
            assert rule["labels"]["severity"] in {"critical", "warning", "info"}
            assert rule["annotations"]["summary"]
            assert rule["annotations"]["description"]


def test_alerts_name_only_what_the_daemon_exports() -> None:
    """Every family of a rule is in the exposition; `up` and process_* are those of every target."""
    parsed = text_string_to_metric_families(exposition(Snapshot((), Measures(), 0.0, 0)).decode())
    exported = {"up"}
    for family in parsed:
        exported.add(
            {"counter": f"{family.name}_total", "histogram": f"{family.name}_bucket"}.get(
                family.type, family.name
            )
        )
    rules = yaml.safe_load((PROMETHEUS / "rules.yaml").read_text())
    texts = [re.sub(r"\{[^}]*\}", "", rule["expr"]) for group in rules["groups"] for rule in group["rules"]]
    named = {word for text in texts for word in re.findall(r"\b(?:shipkeeper_|process_)\w+|\bup\b", text)}
    assert len(named) > 10
    assert named <= exported


def test_units_are_valid_for_systemd(tmp_path: Path) -> None:
    """systemd-analyze finds nothing to say about them but that the program is not installed here."""
    analyze = tool("systemd-analyze", "systemd")
    units = [
        shutil.copy(DEPLOY / name, tmp_path) for name in ("shipkeeper.service", "shipkeeper-services.service")
    ]
    result = run(analyze, "verify", "--man=no", *units, cwd=tmp_path)
    complaints = [
        line
        for line in result.stderr.splitlines()
        if "shipkeeper" in line and "is not executable: No such file or directory" not in line
    ]
    assert complaints == []


def test_the_daemon_can_be_restarted_and_killed_beside_running_services() -> None:
    """Services live in another unit's cgroup, and only the daemon itself is signalled."""
    daemon, services = unit("shipkeeper.service"), unit("shipkeeper-services.service")
    assert daemon["Type"] == ["notify"]
    assert daemon["KillMode"] == ["process"]
    assert daemon["Restart"] == ["always"]
    assert daemon["StartLimitIntervalSec"] == ["0"]
    assert daemon["Requires"] == ["shipkeeper-services.service"]
    # No process whose death would end the unit, and with it every service.
    assert (services["Type"], services["GuessMainPID"]) == (["forking"], ["no"])
    # A restart of the daemon must not travel to the unit that holds the services.
    assert not {"PartOf", "BindsTo", "Requires", "Requisite"} & set(services)
    for settings in (daemon, services):
        assert settings["Delegate"] == ["yes"]
        assert settings["OOMPolicy"] == ["continue"]
        assert settings["TasksMax"] == ["infinity"]


def test_the_daemon_is_stopped_before_what_is_left_of_the_services() -> None:
    """systemd stops in the reverse order of starts: the daemon, which stops gracefully, comes first."""
    assert "shipkeeper-services.service" in unit("shipkeeper.service")["After"]


def test_the_settings_file_changes_nothing_and_is_valid_when_uncommented() -> None:
    """Every setting is there as a comment with its default, and uncommented it is a YAML mapping."""
    text = (DEPLOY / "shipkeeper.yaml").read_text()
    assert yaml.safe_load(text) is None
    uncommented = yaml.safe_load("\n".join(re.findall(r"^#(\w+: .*)$", text, re.MULTILINE)))
    assert uncommented["state_dir"] == "/var/lib/shipkeeper"
    assert uncommented["run_dir"] == "/run/shipkeeper"
    assert uncommented["metrics_address"] == "127.0.0.1:10323"


def test_the_tmpfiles_entry_is_valid(tmp_path: Path) -> None:
    """systemd-tmpfiles creates both directories with their modes."""
    tmpfiles = tool("systemd-tmpfiles", "systemd")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nshipkeeper:x:0:\n")
    result = run(tmpfiles, "--create", f"--root={tmp_path}", DEPLOY / "shipkeeper.tmpfiles")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run/shipkeeper").stat().st_mode & 0o7777 == 0o750
    assert (tmp_path / "var/lib/shipkeeper").stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
def test_scripts_are_portable_shell(script: str) -> None:
    """The shell that runs them (dash on Debian) can parse them."""
    result = run("sh", "-n", script)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("script", ["install.sh", "uninstall.sh"])
def test_scripts_have_no_common_shell_mistake(script: str) -> None:
    """shellcheck has nothing to say."""
    result = run(tool("shellcheck", "shellcheck"), "--severity=style", script)
    assert result.returncode == 0, result.stdout
