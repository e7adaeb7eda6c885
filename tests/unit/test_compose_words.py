"""The small pure readers: command words, units, scalars, signals, and environment files."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.compose import dotenv, scalars, shellwords, units
from supervisor.core.signals import signal_number


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a b  c", ["a", "b", "c"]),
        ("a 'b c' \"d e\"", ["a", "b c", "d e"]),
        ('a\\ b \'c\\d\' "e\\"f"', ["a b", "c\\d", 'e"f']),
        ("'' \"\" x''", ["", "", "x"]),
        ("a\n b\tc", ["a", "b", "c"]),
        ("echo $HOME ~", ["echo", "$HOME", "~"]),
        ("echo $(date +%s)", ["echo", "$(date +%s)"]),
        ("'a'b\"c\"", ["abc"]),
        ("", []),
    ],
)
def test_splits_commands_like_go_shellwords(line: str, words: list[str]) -> None:
    """Neither a shell nor shlex."""
    assert shellwords.split(line) == (words, "")


@pytest.mark.parametrize(
    ("line", "words", "rest"),
    [
        ("a; b", ["a"], "; b"),
        ("a b|c", ["a", "b"], "|c"),
        ("a && b", ["a"], "&& b"),
        ("run 2>err", ["run"], ">err"),
        ("run out>err", ["run", "out"], ">err"),
        ("a ';' b", ["a", ";", "b"], ""),
        ("a \\; b", ["a", ";", "b"], ""),
    ],
)
def test_says_what_is_cut_off_a_command(line: str, words: list[str], rest: str) -> None:
    """Compose drops it silently."""
    assert shellwords.split(line) == (words, rest)


@pytest.mark.parametrize("line", ["'a", 'a "b', "a\\", "a (b)", "a `b", "$(a", "a)"])
def test_refuses_an_open_quote(line: str) -> None:
    """As go-shellwords does."""
    with pytest.raises(shellwords.SplitError):
        shellwords.split(line)


@pytest.mark.parametrize(
    ("text", "ns", "printed"),
    [
        ("10s", 10**10, "10s"),
        ("1m30s", 90 * 10**9, "1m30s"),
        ("90s", 90 * 10**9, "1m30s"),
        ("1.5h", 5400 * 10**9, "1h30m0s"),
        ("500ms", 5 * 10**8, "500ms"),
        ("1500ms", 15 * 10**8, "1.5s"),
        ("1w2d", 216 * 3600 * 10**9, "216h0m0s"),
        ("2us", 2000, "2µs"),
        (".5s", 5 * 10**8, "500ms"),
        ("0", 0, "0s"),
        ("-1s", -(10**9), "-1s"),
    ],
)
def test_reads_and_prints_durations_like_go(text: str, ns: int, printed: str) -> None:
    """With d and w, which Compose adds."""
    assert units.duration_ns(text) == ns
    assert units.duration_text(ns) == printed


@pytest.mark.parametrize("text", ["", "10", "1 s", "s", "1x", "1m 30s", "1e3s", "--1s", "9999999w"])
def test_refuses_a_duration_without_unit(text: str) -> None:
    """An integer is no duration."""
    with pytest.raises(ValueError, match="invalid duration"):
        units.duration_ns(text)


@given(st.integers(-(2**62), 2**62))
def test_a_printed_duration_reads_back(ns: int) -> None:
    """duration_ns is the inverse of duration_text."""
    assert units.duration_ns(units.duration_text(ns)) == ns


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1024", 1024),
        ("1k", 1024),
        ("1kb", 1024),
        ("1KiB", 1024),
        ("64m", 67108864),
        ("1.5gb", 1610612736),
        ("100 MB", 104857600),
        ("5b", 5),
        ("-1", -1),
        ("0", 0),
    ],
)
def test_reads_sizes_in_1024(text: str, size: int) -> None:
    """As units.RAMInBytes."""
    assert units.size_bytes(text) == size


def test_log_sizes_count_in_1000() -> None:
    """As units.FromHumanSize, which Docker's log drivers use."""
    assert units.size_bytes("10m", 1000) == 10_000_000


@pytest.mark.parametrize("text", ["", "lots", "1x", "1kbb", "-1k", "1  k", "k", "1bk", "0x10", "٣"])
def test_refuses_what_is_no_size(text: str) -> None:
    """Also digits of other scripts."""
    with pytest.raises(ValueError, match="invalid size"):
        units.size_bytes(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("22:22", "22:22"),
        ("yes", "yes"),
        ("on", "on"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("", None),
        ("~", None),
        ("Null", None),
        ("0644", 420),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", 3),
        ("1_000", 1000),
        ("08", 8.0),
        ("+12", 12),
        ("-7", -7),
        ("1.10", 1.1),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("1.2.3", "1.2.3"),
        ("12a", "12a"),
        ("2024-01-02", "2024-01-02"),
        ("-", "-"),
        ("tRue", "tRue"),
    ],
)
def test_types_plain_scalars_like_compose(text: str, value: object) -> None:
    """Not as PyYAML does."""
    found = scalars.resolve(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.1, "1.1"),
        (1000.0, "1000"),
        (1e21, "1e+21"),
        (1234567.0, "1.234567e+06"),
        (100000.0, "100000"),
        (1e-7, "1e-07"),
        (0.0001, "0.0001"),
        (0.5, "0.5"),
        (-0.0, "-0"),
        (123.456, "123.456"),
        (True, "true"),
        (None, ""),
        (12, "12"),
    ],
)
def test_prints_numbers_like_go(value: scalars.Scalar, text: str) -> None:
    """What an unquoted number becomes in an environment variable."""
    assert scalars.text_of(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_printed_float_reads_back(value: float) -> None:
    """The digits are the shortest that are exact."""
    assert float(scalars.text_of(value)) == value


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("SIGTERM", 15),
        ("term", 15),
        ("9", 9),
        ("SIGRTMIN+3", 37),
        ("RTMAX-1", 63),
        ("SIGRTMIN", 34),
        ("USR1", 10),
    ],
)
def test_knows_signals_by_name_and_number(text: str, number: int) -> None:
    """With and without SIG, in any case."""
    assert signal_number(text) == number


@pytest.mark.parametrize("text", ["SIGFOO", "", "0", "65", "RTMIN+40", "SIG", "-9"])
def test_refuses_unknown_signals(text: str) -> None:
    """None, so that the caller can say where."""
    assert signal_number(text) is None


ENV_LINES = [
    ("A=1", {"A": "1"}),
    ("export A=1\nexport\tB=2", {"A": "1", "B": "2"}),
    ("A: yaml", {"A": "yaml"}),
    ("A = spaced ", {"A": "spaced"}),
    ("A=x # comment\nB=x#kept", {"A": "x", "B": "x#kept"}),
    ("# c\n\n  A=1", {"A": "1"}),
    ("A=", {"A": ""}),
    ("A=\nB=2", {"A": "", "B": "2"}),
    ("A='$x \\n' # c", {"A": "$x \\n"}),
    ("A='it\\'s'", {"A": "it's"}),
    ('A="a\\tb\\"c\\\\n"', {"A": 'a\tb"c\\n'}),
    ('A="two\nlines"', {"A": "two\nlines"}),
    ('A="\\$x $$y"', {"A": "$x $y"}),
    ('A=1\nB=${A}2\nC="$B-${D:-d}"', {"A": "1", "B": "12", "C": "12-d"}),
    ("A=$SHELL_ONLY\nB=$BOTH\nBOTH=own\nC=$BOTH", {"A": "s", "B": "shell", "BOTH": "own", "C": "shell"}),
    ("SHELL_ONLY\nNOT_THERE\n", {"SHELL_ONLY": "s"}),
    ("SHELL_ONLY", {"SHELL_ONLY": "s"}),
    ("a.b-c[0]=1", {"a.b-c[0]": "1"}),
    ("\ufeffA=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
    ('A="\\0101\\x41"', {"A": "A\\x41"}),
    ("A=a=b", {"A": "a=b"}),
]


@pytest.mark.parametrize(("text", "expected"), ENV_LINES)
def test_reads_env_files_like_compose(text: str, expected: dict[str, str]) -> None:
    """Known answers of Compose's own dotenv."""
    assert dotenv.parse(text, {"SHELL_ONLY": "s", "BOTH": "shell"}.get) == expected


@pytest.mark.parametrize(
    ("text", "line"), [("A B=1", 1), ("A=1\n!x=2", 2), ("A=1\n\nB='open", 3), ("A=${", 1), ("=x", 1)]
)
def test_names_the_line_of_a_wrong_env_file(text: str, line: int) -> None:
    """Counted from 1."""
    with pytest.raises(dotenv.EnvFileError) as raised:
        dotenv.parse(text, {}.get)
    assert raised.value.line == line


def test_raw_env_files_are_taken_to_the_letter() -> None:
    """format: raw has comments and inherited names, and nothing else."""
    text = 'A="q" # no comment\n# comment\nB=$A\\n\nSHELL_ONLY\nGONE\n  C=x \r\n'
    assert dotenv.parse_raw(text, {"SHELL_ONLY": "s"}.get) == {
        "A": '"q" # no comment',
        "B": "$A\\n",
        "SHELL_ONLY": "s",
        "C": "x ",
    }


@given(st.text(max_size=80))
def test_any_env_file_gives_variables_or_an_error_with_a_line(text: str) -> None:
    """No other exception."""
    try:
        dotenv.parse(text, {}.get)
    except dotenv.EnvFileError as error:
        assert error.line >= 1


@given(st.text(alphabet="ab'\"\\;|()$` \n", max_size=40))
def test_any_command_gives_words_or_a_split_error(line: str) -> None:
    """No other exception."""
    with contextlib.suppress(shellwords.SplitError):
        shellwords.split(line)
