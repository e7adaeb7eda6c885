"""The type of a plain YAML scalar, and a typed value as text, both as in Compose's YAML library.

No Python loader agrees with it: PyYAML makes 1342 of `22:22` and booleans of yes and on; YAML 1.2 loaders
read 0644 as 644, where Compose reads an octal number. The rules are those of go-yaml (v3 and later).
"""

from __future__ import annotations

import re

from supervisor.compose.tree import Scalar

_WORDS: dict[str, Scalar] = {
    "": None,
    "~": None,
    "null": None,
    "Null": None,
    "NULL": None,
    "true": True,
    "True": True,
    "TRUE": True,
    "false": False,
    "False": False,
    "FALSE": False,
    ".nan": float("nan"),
    ".NaN": float("nan"),
    ".NAN": float("nan"),
    **{sign + word: float("inf") for sign in ("", "+") for word in (".inf", ".Inf", ".INF")},
    **{"-" + word: float("-inf") for word in (".inf", ".Inf", ".INF")},
}
_INTEGER = re.compile(
    r"(?P<sign>[-+]?)(?:0[xX](?P<hex>[0-9a-fA-F]+)|0[bB](?P<bin>[01]+)|0[oO](?P<oct>[0-7]+)"
    r"|0(?P<old>[0-7]+)|(?P<dec>0|[1-9][0-9]*))"
)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}.*)?")
_BASES = {"hex": 16, "bin": 2, "oct": 8, "old": 8, "dec": 10}
_INT64 = range(-(2**63), 2**64)


def resolve(text: str) -> Scalar:
    """The value of a plain scalar: null, a boolean, a number, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if not text or text[0] not in "0123456789+-.":
        return text
    digits = text.replace("_", "") if len(text) <= 400 else text
    if (match := _INTEGER.fullmatch(digits)) and len(digits) <= 80:
        kind = match.lastgroup or "dec"
        number = int(match[kind], _BASES[kind])
        number = -number if match["sign"] == "-" else number
        if number in _INT64:
            return number
    if _FLOAT.fullmatch(digits):
        return float(digits)
    return text


def is_date(text: str) -> bool:
    """A plain scalar that Compose would read as a point in time (we keep the text, and say so)."""
    return _DATE.fullmatch(text) is not None


def text_of(value: Scalar) -> str:
    """A scalar as Go prints it: the text that lands in an environment variable or a label."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return _float_text(value)
        case _:
            return str(value)


def _float_text(value: float) -> str:
    """Go's %v: the shortest digits that read back the same, with an exponent below 1e-4 and from 1e6."""
    if value != value:  # NaN
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    # repr has the same shortest digits; only where the point stands differs.
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0").rstrip("0") or "0"
    leading = len(whole) - 1 if whole != "0" else -1 - (len(fraction) - len(fraction.lstrip("0")))
    power = 0 if value == 0 else int(exponent or 0) + leading
    minus = "-" if repr(value).startswith("-") else ""
    if not -4 <= power < 6:
        rest = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{minus}{digits[0]}{rest}e{'-' if power < 0 else '+'}{abs(power):02d}"
    if power < 0:
        return f"{minus}0.{'0' * (-power - 1)}{digits}"
    digits = digits.ljust(power + 1, "0")
    rest = f".{digits[power + 1 :]}" if len(digits) > power + 1 else ""
    return f"{minus}{digits[: power + 1]}{rest}"
