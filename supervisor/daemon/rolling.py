"""The turns of the instances of one service that are replaced, by its `update`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from supervisor.core.model import Update
from supervisor.daemon.engine import Engine, Entry
from supervisor.daemon.ordering import HeldBackError, Turns
from supervisor.daemon.replacing import is_good


class Roll:
    """So many at a time, the next when those before are up; where one fails, the others stay as they are."""

    def __init__(self, update: Update, count: int, turns: Turns) -> None:
        """count: how many take part."""
        self._update = update
        self._left = count
        self._turns = turns
        self._gate = asyncio.Semaphore(update.parallelism or count)
        self._failed = ""

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for one's turn, and give it to the next one. Raises HeldBackError: it does not come."""
        async with self._gate:
            if self._turns.off:
                raise HeldBackError(self._turns.off)
            if self._failed and self._update.on_failure == "pause":
                raise HeldBackError(f"{self._failed} did not come up; this one stays as it is")
            self._left -= 1
            yield
            if self._left and self._update.delay_s:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._turns.called_off.wait(), self._update.delay_s)

    def failed(self, name: str) -> None:
        """One did not come up. Where all are replaced at once, that is no matter of the others."""
        self._failed = name if self._update.parallelism else ""

    async def watch(self, engine: Engine, entry: Entry) -> None:
        """Wait until one is up or has failed, where another one waits for that."""
        if not (self._left and self._update.parallelism):
            return
        if not await is_good(engine, entry, lambda: bool(self._turns.off)):
            self.failed(entry.stored.name)
