"""inotify in an event loop: told of changes by it, and closed without making it wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from supervisor.kernel import inotify

WRITTEN = inotify.MODIFY | inotify.CREATE | inotify.MOVED_TO | inotify.ONLYDIR
"""To watch the directory of a log for: what is written, and files that are new in it."""


class Watching(inotify.Inotify):
    """An inotify instance of the running loop. `listen` once it watches what it is to watch."""

    def __init__(self) -> None:
        """See Inotify."""
        super().__init__()
        self._loop = asyncio.get_running_loop()

    def listen(self, woken: Callable[[], None]) -> None:
        """Call `woken` in the loop while events wait: it, or somebody soon, is to `read` them."""
        self._loop.add_reader(self.fileno(), woken)

    def close(self) -> None:
        """In a thread: the kernel waits for its readers (synchronize_srcu) at the last close, 13 ms or so."""
        self._loop.remove_reader(self.fileno())
        self._loop.run_in_executor(None, super().close)
