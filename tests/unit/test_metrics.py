"""The families of metrics: all of them are documented, and what is documented is there."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from supervisor.daemon.measures import BOUNDS_S, Histogram, Measures
from supervisor.daemon.metrics import Snapshot, exposition

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def families(taken: Snapshot) -> dict[str, str]:
    """Name, as a query writes it, and type."""
    parsed = text_string_to_metric_families(exposition(taken).decode())
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type for family in parsed
    }


def test_the_documented_families_are_those_that_are_exported() -> None:
    exported = families(Snapshot((), Measures(), 0.0, 0))
    rows = re.findall(r"^\| `(shipkeeper_\w+)` \| (\w+) \|", DOCUMENT.read_text(), re.MULTILINE)
    ours = {name: kind for name, kind in exported.items() if name.startswith("shipkeeper_")}
    assert dict(rows) == ours


def test_a_histogram_puts_a_value_under_the_bound_that_it_reaches() -> None:
    histogram = Histogram()
    for seconds in (0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.01, 1e9, -1.0):
        histogram.observe(seconds)
    assert histogram.counts[0] == 3, "a bound belongs to its bucket, and nothing took less than no time"
    assert histogram.counts[1] == 1
    assert histogram.counts[-1] == 1
    assert sum(histogram.counts) == 5


def test_a_frozen_copy_does_not_change() -> None:
    measures = Measures()
    measures.reaction.observe(0.002)
    frozen = measures.freeze()
    measures.reaction.observe(0.002)
    measures.counts["web", "starts", ""] += 1
    assert sum(frozen.reaction.counts) == 1
    assert not frozen.counts
