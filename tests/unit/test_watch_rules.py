"""`develop.watch`: which changed file means what."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.cli.watchrules import Rule, rules_of, work_of
from supervisor.image.builder.ignore import parse_ignore


def rule(**given: Any) -> Rule:
    entry = {"path": "/p/src", "action": "sync", "target": "/app", **given}
    return rules_of("web", {"develop": {"watch": [entry]}}, given.pop("context", None))[0]


@pytest.mark.parametrize(
    ("given", "path", "target"),
    [
        ({}, "/p/src/a/b.py", "/app/a/b.py"),
        ({}, "/p/src", "/app"),
        ({}, "/p/srcs/b.py", None),
        ({}, "/p/other", None),
        ({"target": "/app/"}, "/p/src/a", "/app/a"),
        ({"path": "/p/f.txt", "target": "/etc/f.txt"}, "/p/f.txt", "/etc/f.txt"),
        ({"ignore": ["node_modules/"]}, "/p/src/node_modules/x/y.js", None),
        ({"ignore": ["node_modules/"]}, "/p/src/deep/node_modules/y.js", "/app/deep/node_modules/y.js"),
        ({"ignore": ["**/*.tmp"]}, "/p/src/deep/x.tmp", None),
        ({"ignore": ["*", "!*.py"]}, "/p/src/x.py", "/app/x.py"),
        ({"ignore": ["*", "!*.py"]}, "/p/src/x.js", None),
        ({"include": ["*.py"]}, "/p/src/x.py", "/app/x.py"),
        ({"include": ["*.py"]}, "/p/src/x.js", None),
        ({"include": ["*.py"], "ignore": ["x.py"]}, "/p/src/x.py", None),
        ({"action": "rebuild"}, "/p/src/x", ""),
        ({"action": "restart"}, "/p/src/x", ""),
    ],
)
def test_where_a_changed_file_goes(given: dict[str, Any], path: str, target: str | None) -> None:
    assert rule(**given).target_of(path) == target


@pytest.mark.parametrize("name", [".git/HEAD", ".x.swp", "x~", "4913", ".idea/w.xml", "#x#", ".#x"])
def test_what_tools_write_beside_a_file_never_counts(name: str) -> None:
    assert rule().target_of(f"/p/src/{name}") is None
    assert rule().target_of("/p/src/x.py") == "/app/x.py"


def test_the_ignore_file_of_a_build_counts_in_its_context() -> None:
    entry = {"path": "/p/src", "action": "sync", "target": "/app"}
    context = ("/p", parse_ignore("src/secret\n"))
    (found,) = rules_of("web", {"develop": {"watch": [entry]}}, context)
    assert found.target_of("/p/src/secret/key") is None
    assert found.target_of("/p/src/open") == "/app/open"
    assert found.leaves_out("/p/src/secret")
    assert not found.leaves_out("/p/src/open")


def test_a_batch_is_one_piece_of_work() -> None:
    """Each service is rebuilt and restarted once, also for many files; a rebuild is a restart, too."""
    entries = [
        {"path": "/p/src", "action": "sync+restart", "target": "/app"},
        {"path": "/p/hooks", "action": "sync+exec", "target": "/h", "exec": {"command": ["true"]}},
        {"path": "/p/package.json", "action": "rebuild"},
    ]
    rules = [
        each for name in ("api", "web") for each in rules_of(name, {"develop": {"watch": entries}}, None)
    ]
    work = work_of(rules, ["/p/src/a", "/p/src/b", "/p/hooks/h", "/p/hooks/i", "/elsewhere"])
    assert (work.rebuild, work.restart) == (set(), {"api", "web"})
    assert work.syncs["web"] == {
        "/p/src/a": "/app/a",
        "/p/src/b": "/app/b",
        "/p/hooks/h": "/h/h",
        "/p/hooks/i": "/h/i",
    }
    assert [each.service for each in work.execs] == ["api", "web"]
    work = work_of(rules[:3], ["/p/package.json", "/p/src/a"])
    assert (work.rebuild, work.restart) == ({"api"}, set())


def test_a_directory_is_not_looked_into_where_nothing_in_it_counts() -> None:
    assert rule(ignore=["node_modules"]).leaves_out("/p/src/node_modules")
    assert not rule(ignore=["node_modules", "!node_modules/mine"]).leaves_out("/p/src/node_modules")
    assert rule().leaves_out("/p/src/.git")
