"""The keys that let go of a terminal and leave what runs in it running. Pure.

As Docker's client has them (moby/term, ToBytes and NewEscapeProxy): a sequence that was begun is held back,
and sent after all where another key follows.
"""

from __future__ import annotations

DEFAULT = "ctrl-p,ctrl-q"
_OTHERS = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse_keys(text: str) -> bytes:
    """The bytes of `ctrl-p,ctrl-q` or `a,b`. Raises ValueError."""
    return bytes(_key(word) for word in text.split(","))


def _key(word: str) -> int:
    if len(word) == 1 and word.isascii():
        return ord(word)
    control = word.removeprefix("ctrl-")
    if control != word and len(control) == 1:
        if "a" <= control <= "z":
            return ord(control) - ord("a") + 1
        if control in _OTHERS:
            return _OTHERS[control]
    raise ValueError(
        f"cannot use the detach key {word!r}: write a character, or ctrl- and a-z, @, [, \\, ], ^, _"
    )


class DetachKeys:
    """Looks for the sequence in what is typed."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def typed(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be sent of it, and whether the sequence is whole; nothing after it is sent."""
        out = bytearray()
        for byte in data:
            if byte != self._keys[self._matched]:
                out += self._keys[: self._matched]
                self._matched = 0
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(out), True
            else:
                out.append(byte)
        return bytes(out), False
