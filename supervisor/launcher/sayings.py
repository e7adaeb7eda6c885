"""How much the launcher tells of what goes wrong: a handler that fails for ever fills no disk. Pure."""

from __future__ import annotations

MOST = 20
SPAN_S = 10.0


class Sayings:
    """At most MOST texts in SPAN_S seconds, and how many more there were."""

    def __init__(self) -> None:
        self._began = float("-inf")
        self._said = 0
        self._unsaid = 0
        self._last = ""

    def say(self, text: str, now_s: float) -> list[str]:
        """What is to be told now that there is this text."""
        told = self.due(now_s)
        if now_s - self._began >= SPAN_S:
            self._began, self._said = now_s, 0
        if self._said < MOST:
            self._said += 1
            return [*told, text]
        self._unsaid += 1
        self._last = text
        return told

    def due(self, now_s: float) -> list[str]:
        """What was held back, in one line, once its time is over."""
        if not self._unsaid or now_s - self._began < SPAN_S:
            return []
        more, self._unsaid = self._unsaid, 0
        return [f"{more} more problems within {SPAN_S:g} s were not told; the last of them: {self._last}"]

    @property
    def holds_back(self) -> bool:
        """There is something to ask `due` for, after SPAN_S."""
        return self._unsaid > 0
