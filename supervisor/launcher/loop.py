"""The launcher's loop: one epoll, deaths before everything else in a turn, timers, and nothing that ends it.

What goes wrong in a handler becomes one problem that the operator hears of.
"""

from __future__ import annotations

import gc
import heapq
import itertools
import select
import time
from collections.abc import Callable
from typing import Any

from supervisor.launcher.runs import Child

READABLE = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
_COLLECT_EVERY = 1024

Handler = Callable[[Any], object]


class Loop:
    """Watches descriptors and pidfds. `problem` is told what went wrong, in one line."""

    def __init__(self, problem: Callable[[str], None]) -> None:
        self.epoll = select.epoll()
        self.turns = 0
        self.pids: set[int] = set()
        """Of the processes that are watched, or are to be."""
        self._problem = problem
        self._deaths: dict[int, tuple[Callable[[Child], object], Child]] = {}  # by pidfd
        self._handlers: dict[int, tuple[Handler, Any]] = {}
        self._masked: dict[int, Callable[[int], object]] = {}
        self._timers: list[tuple[float, int, Handler, Any]] = []
        self._order = itertools.count()

    def run(self, done: Callable[[], bool]) -> None:
        """Until `done`, which is asked once a turn."""
        while not done():
            try:
                events = self.epoll.poll(self._timeout())
            except InterruptedError:
                continue
            deaths = self._deaths
            for fd, _ in events:
                if fd in deaths:
                    handler, child = deaths[fd]
                    self.guard(handler, child)
            for fd, mask in events:
                if fd in self._handlers:
                    self.guard(*self._handlers[fd])
                elif fd in self._masked:
                    self.guard(self._masked[fd], mask)
            self._run_timers()
            self.turns += 1
            if self.turns % _COLLECT_EVERY == 0:
                gc.collect()

    def guard(self, handler: Handler, argument: Any) -> None:
        """One thing that goes wrong is one problem."""
        try:
            handler(argument)
        except Exception as error:  # noqa: BLE001 - everything that lives hangs on this process
            trace = error.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            where = f"{trace.tb_frame.f_code.co_name}:{trace.tb_lineno}" if trace is not None else "?"
            self._problem(f"the launcher failed in {where}: {error!r}")

    # --- descriptors ----------------------------------------------------------------------------
    def watch(self, fd: int, events: int, handler: Handler, argument: Any) -> None:
        """Call the handler whenever one of the events is there. Raises OSError."""
        self.epoll.register(fd, events)
        self._handlers[fd] = (handler, argument)

    def unwatch(self, fd: int) -> None:
        """Before it is closed; one that is not watched is no error."""
        if self._handlers.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def on_events(self, fd: int, handler: Callable[[int], object]) -> None:
        """A descriptor that its owner registers in `epoll` and unregisters; the handler gets the mask."""
        self._masked[fd] = handler

    def forget(self, fd: int) -> None:
        """The end of `on_events`."""
        self._masked.pop(fd, None)

    # --- deaths ---------------------------------------------------------------------------------
    def watch_death(self, child: Child, handler: Callable[[Any], object]) -> None:
        """Call the handler with the child while its pidfd says that it is dead. Raises OSError."""
        self.epoll.register(child.pidfd, select.EPOLLIN)
        self._deaths[child.pidfd] = (handler, child)
        self.pids.add(child.pid)

    def unwatch_death(self, child: Child) -> None:
        """Before its pidfd is closed."""
        if self._deaths.pop(child.pidfd, None) is not None:
            self.epoll.unregister(child.pidfd)
        self.pids.discard(child.pid)

    # --- timers ---------------------------------------------------------------------------------
    def after(self, delay_s: float, handler: Handler, argument: Any) -> None:
        """Once, so much later."""
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._order), handler, argument))

    def _timeout(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        if not self._timers:
            return
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, handler, argument = heapq.heappop(self._timers)
            self.guard(handler, argument)
