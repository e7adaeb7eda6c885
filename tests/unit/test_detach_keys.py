"""The keys that detach from a terminal: how they are written, and found in what is typed."""

from __future__ import annotations

import pytest

from supervisor.cli.detachkeys import DEFAULT, DetachKeys, parse_keys


def test_keys_are_written_as_dockers() -> None:
    assert parse_keys(DEFAULT) == b"\x10\x11"
    assert parse_keys("a,ctrl-@,ctrl-_,ctrl-[") == b"a\x00\x1f\x1b"
    for bad in ("", "ctrl-", "ctrl-1", "ab", "ctrl-A", "é"):
        with pytest.raises(ValueError, match="detach key"):
            parse_keys(bad)


@pytest.mark.parametrize("split", [1, 2, 100])
def test_only_the_whole_sequence_detaches(split: int) -> None:
    def typed(data: bytes) -> tuple[bytes, bool]:
        keys, out = DetachKeys(b"aab"), b""
        for start in range(0, len(data), split):
            more, over = keys.typed(data[start : start + split])
            out += more
            if over:
                return out, True
        return out, False

    assert typed(b"xaab after") == (b"x", True)
    assert typed(b"xaxaax") == (b"xaxaax", False)
    assert typed(b"xa") == (b"x", False), "it may go on"
    assert typed(b"abaab") == (b"ab", True)
