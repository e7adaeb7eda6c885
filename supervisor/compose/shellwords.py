"""Splits a command string into words as Compose does (go-shellwords, without variables or backticks). Pure.

It is not a shell and not shlex: a backslash escapes everywhere but in single quotes, and an unquoted
`; & | < >` ends the command. Compose drops the rest silently; here the caller is told, to warn.
"""

from __future__ import annotations


class SplitError(ValueError):
    """A quote, parenthesis, backtick or backslash is left open."""


def split(line: str) -> tuple[list[str], str]:
    """The words, and what was cut off from the first unquoted operator on ("" if nothing).

    Raises SplitError.
    """
    words: list[str] = []
    word: list[str] = []
    started = False
    quote = ""  # the closing character of what is open: ' " ` or )
    escaped = False
    rest = ""
    for at, char in enumerate(line):
        if escaped:
            word.append(char)
            started, escaped = True, False
        elif char == "\\" and quote != "'":
            escaped = True
        elif char in " \t\r\n":
            if quote:
                word.append(char)
            elif started:
                words.append("".join(word))
                word, started = [], False
        elif char in "'\"" and quote in ("", "`", char):
            # An empty pair of quotes is a word of its own.
            started = started or quote == char
            quote = "" if quote == char else char
        elif char == "`" and quote in ("", "`"):
            quote = "" if quote else "`"
            word.append(char)
            started = True
        elif char == ")" and quote in ("", ")"):
            quote = "" if quote else ")"
            word.append(char)
            started = True
        elif char == "(" and quote in ("", ")"):
            if quote or word[-1:] != ["$"]:
                raise SplitError("an unquoted ( has a meaning only for a shell")
            quote = ")"
            word.append(char)
            started = True
        elif char in ";&|<>" and not quote:
            # "2>" is a redirection of descriptor 2: the digit is no word.
            if char == ">" and "".join(word[:1]).isdigit():
                started = False
            rest = line[at:]
            break
        else:
            word.append(char)
            started = True
    if quote or escaped:
        raise SplitError(f"unclosed {quote or 'backslash'} in the command")
    if started:
        words.append("".join(word))
    return words, rest
