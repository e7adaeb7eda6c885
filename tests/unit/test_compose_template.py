"""Interpolation: every form of the specification, nested, and against an independent model."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.compose.template import TemplateError, substitute

VARIABLES = {"SET": "value", "EMPTY": "", "lower_1": "l", "_U": "u"}

FORMS = [
    ("$SET", "value"),
    ("${SET}", "value"),
    ("a$SET-b", "avalue-b"),
    ("${lower_1}$_U", "lu"),
    ("$UNSET|${UNSET}", "|"),
    ("${SET:-d} ${EMPTY:-d} ${UNSET:-d}", "value d d"),
    ("${SET-d} ${EMPTY-d} ${UNSET-d}", "value  d"),
    ("${SET:+r} ${EMPTY:+r} ${UNSET:+r}", "r  "),
    ("${SET+r} ${EMPTY+r} ${UNSET+r}", "r r "),
    ("${SET:?e} ${SET?e} [${EMPTY?e}]", "value value []"),
    ("${UNSET:-${EMPTY:-${SET}}}", "value"),
    ("${UNSET:-a${SET}b}c", "avaluebc"),
    ("${SET:+<${UNSET-x}>}", "<x>"),
    ("${UNSET-myerror?msg}", "myerror?msg"),
    ("${UNSET:-{}}", "{}"),
    ('${UNSET:-{"a": {"b": 1}}}!', '{"a": {"b": 1}}!'),
    ("${UNSET:-{x}", "{x"),
    ("${UNSET:-}", ""),
    ("${UNSET:-a:-b}", "a:-b"),
    ("$$SET $${SET} $$$SET", "$SET ${SET} $value"),
    ("${UNSET:-$$x}", "$x"),
    ("$1 $(date) $ 5$", "$1 $(date) $ 5$"),
    ("no variables at all", "no variables at all"),
    ("${UNSET:-two\nlines}", "two\nlines"),
]


@pytest.mark.parametrize(("text", "expected"), FORMS)
def test_replaces_every_form(text: str, expected: str) -> None:
    """The table of the specification."""
    assert substitute(text, VARIABLES.get) == expected


@pytest.mark.parametrize(
    "text", ["${", "${}", "${1}", "${a b}", "${A/b/c}", "${A:}", "${A:=x}", "${A", "x ${A:-b", "${!A}"]
)
def test_refuses_what_is_no_form(text: str) -> None:
    """An error that says how to escape a dollar."""
    with pytest.raises(TemplateError, match="invalid interpolation") as raised:
        substitute(text, VARIABLES.get)
    assert "$$" in raised.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${UNSET:?}", "required variable UNSET is missing a value"),
        ("${UNSET?set $SET}", "required variable UNSET is missing a value: set value"),
        ("${EMPTY:?gone}", "required variable EMPTY is missing a value: gone"),
    ],
)
def test_required_variable_is_named_with_its_reason(text: str, message: str) -> None:
    """The text behind ? is interpolated and part of the error."""
    with pytest.raises(TemplateError) as raised:
        substitute(text, VARIABLES.get)
    assert str(raised.value) == message


def test_tells_of_unset_variables_only_where_they_are_read() -> None:
    """No word of a variable with a default, nor of one in a default that is not used."""
    told: list[str] = []
    substitute("$A ${B} ${C:-x} ${D-} ${E:+y} ${SET:-$F} ${G:-$H}", VARIABLES.get, told.append)
    assert told == ["A", "B", "H"]


def test_nesting_is_bounded() -> None:
    """Depth ends in an error, not in a recursion."""
    with pytest.raises(TemplateError, match="nested"):
        substitute("${A:-" * 500 + "}" * 500, VARIABLES.get)


# An independent model: a text is made from a tree of which the value is known.
_names = st.sampled_from(["SET", "EMPTY", "UNSET", "lower_1"])
_literal = st.text(alphabet="abc ./=[]'\"-+?:1", max_size=6)


def _model(parts: object) -> tuple[str, str]:
    """(text, value) of a generated tree."""
    text, value = "", ""
    for part in parts:  # type: ignore[attr-defined] # a list of tuples from the strategy below
        kind = part[0]
        if kind == "literal":
            text, value = text + part[1], value + part[1]
        elif kind == "dollar":
            text, value = text + "$$", value + "$"
        elif kind == "plain":
            text, value = text + "${" + part[1] + "}", value + VARIABLES.get(part[1], "")
        else:
            _, name, operator, inner = part
            inner_text, inner_value = _model(inner)
            text += "${" + name + operator + inner_text + "}"
            has = name in VARIABLES and (":" not in operator or VARIABLES[name] != "")
            if operator[-1] == "-":
                value += VARIABLES[name] if has else inner_value
            else:
                value += inner_value if has else VARIABLES.get(name, "")
    return text, value


_parts = st.recursive(
    st.lists(
        st.one_of(
            st.tuples(st.just("literal"), _literal),
            st.just(("dollar",)),
            st.tuples(st.just("plain"), _names),
        ),
        max_size=4,
    ),
    lambda inner: st.lists(
        st.one_of(
            st.tuples(st.just("literal"), _literal),
            st.tuples(st.just("form"), _names, st.sampled_from([":-", "-", ":+", "+"]), inner),
        ),
        max_size=3,
    ),
    max_leaves=8,
)


@given(_parts)
def test_agrees_with_an_independent_model(parts: object) -> None:
    """Whatever is nested in whatever."""
    text, value = _model(parts)
    assert substitute(text, VARIABLES.get) == value


@given(st.text(alphabet="${}AB:-+? \n", max_size=60))
def test_any_text_gives_a_text_or_a_template_error(text: str) -> None:
    """No other exception, ever; and doubling each dollar gives the text itself."""
    with contextlib.suppress(TemplateError):
        substitute(text, VARIABLES.get)
    assert substitute(text.replace("$", "$$"), VARIABLES.get) == text
