"""/etc/hosts of an instance whose own addresses change while it runs."""

from __future__ import annotations

import pytest

from supervisor.runtime.etcfiles import moved_hosts

BEFORE = "127.0.0.1\tlocalhost\n10.1.0.2\tweb.corp web\n192.0.2.7\tfar\n"


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (["10.1.0.2"], BEFORE),
        (["10.1.0.2", "10.2.0.2"], BEFORE.replace("web\n", "web\n10.2.0.2\tweb.corp web\n")),
        (["10.3.0.9"], "127.0.0.1\tlocalhost\n192.0.2.7\tfar\n10.3.0.9\tweb.corp web\n"),
        ([], "127.0.0.1\tlocalhost\n192.0.2.7\tfar\n"),
    ],
)
def test_own_lines_follow_and_others_stay(after: list[str], expected: str) -> None:
    assert moved_hosts(BEFORE, ["10.1.0.2"], after, "web.corp web") == expected


def test_what_a_service_wrote_without_an_end_of_line_is_kept_whole() -> None:
    text = moved_hosts("127.0.0.1\tlocalhost\n10.9.9.9\tmine", [], ["10.1.0.2"], "web")
    assert text == "127.0.0.1\tlocalhost\n10.9.9.9\tmine\n10.1.0.2\tweb\n"
