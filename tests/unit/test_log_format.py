"""The CRI line format: what is encoded comes back byte for byte."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from supervisor.launcher import logformat

NS = 1_795_494_600_123_456_789  # 2026-11-24T04:30:00.123456789Z


def encoded(data: bytes, stream: str = "stdout") -> bytes:
    return b"".join(logformat.encode(data, stream, NS))


def decoded(data: bytes) -> bytes:
    assert data.endswith(b"\n")
    out = b""
    for line in data[:-1].split(b"\n"):
        piece = logformat.decode(line)
        assert piece is not None
        assert (piece.stamp_ns, piece.stream) == (NS, "stdout")
        assert len(piece.text) <= logformat.MAX_PIECE_BYTES
        out += piece.text + (b"\n" if piece.final else b"")
    return out


def test_a_line_looks_as_cri_says() -> None:
    """Stamp with nanoseconds, stream, tag, text."""
    assert encoded(b"hello\n") == b"2026-11-24T04:30:00.123456789Z stdout F hello\n"


def test_a_batch_that_ends_in_mid_line_ends_in_a_p_piece() -> None:
    """No state is needed between two batches."""
    assert [line[31:] for line in encoded(b"a\nb").splitlines()] == [b"stdout F a", b"stdout P b"]
    assert [line[31:] for line in encoded(b"b").splitlines()] == [b"stdout P b"]


def test_an_empty_batch_ends_a_line() -> None:
    """What is written when a stream ends in mid-line."""
    assert encoded(b"").endswith(b" stdout F \n")


_CHUNKS = st.lists(
    st.one_of(st.binary(max_size=50), st.just(b"\n"), st.integers(0, 40000).map(lambda n: b"x" * n)),
    max_size=8,
)


@given(_CHUNKS.map(b"".join).filter(bool))
def test_every_batch_comes_back_byte_for_byte(data: bytes) -> None:
    """Any bytes, any line length, with and without a last newline."""
    assert decoded(encoded(data)) == data


@given(st.integers(0, 4_000_000_000 * 10**9))
def test_a_stamp_comes_back(ns: int) -> None:
    """Always 30 bytes of RFC 3339, to the nanosecond."""
    text = logformat.stamp(ns)
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", text)
    assert logformat.parse_stamp(text) == ns


@given(st.binary(max_size=80))
def test_garbage_is_no_line_and_no_error(line: bytes) -> None:
    """A torn file does not stop a reader."""
    logformat.decode(line)
    logformat.decode(logformat.stamp(NS) + line)
