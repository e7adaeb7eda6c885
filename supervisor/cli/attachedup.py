"""An attached `up` under a daemon: the output of the services here, until all have ended, or Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from queue import Empty, SimpleQueue
from typing import Any

from supervisor.cli.bringing import Ready, went_well
from supervisor.cli.client import Client
from supervisor.cli.context import FAILED
from supervisor.cli.errors import ApiError, UnreachableError
from supervisor.cli.following import Ending, Shown, Wish, are_over, is_shown, listening
from supervisor.cli.logview import LogView, wants_colour

LAST_LINES_S = 5.0
"""How long the last lines of what has ended are waited for: a service may have closed its output before."""


@dataclass(frozen=True, slots=True)
class _Brought:
    """`up` has done all; whether it went well."""

    good: bool


class _Died:
    """A run has ended."""


class _Interrupted:
    """Ctrl-C."""


class _Stopped:
    """What was to be stopped is down."""


class _Looked:
    """A line was shown."""


@dataclass(frozen=True, slots=True)
class _Failed:
    error: Exception


_News = _Brought | _Died | _Interrupted | _Stopped | _Looked | _Failed


def make_view(wish: Wish) -> LogView:
    """Where it is shown."""
    return LogView(
        sys.stdout.buffer,
        colour=wish.colour and wants_colour(sys.stdout),
        prefix=wish.prefix,
        stamps=wish.stamps,
    )


def run_attached(client: Client, ready: Ready, wish: Wish) -> int:
    """Bring the project up and stay with it; the exit code. Raises UnreachableError if no daemon answers."""
    return _Attached(client, ready, wish).run()


class _Attached:
    def __init__(self, client: Client, ready: Ready, wish: Wish) -> None:
        self._client = client
        self._ready = ready
        self._wish = wish
        self._project = ready.project
        self._view = make_view(wish)
        self._ending = Ending(wish)
        self._shown = Shown()
        self._news: SimpleQueue[_News] = SimpleQueue()
        self._stops = 0
        self._known: set[tuple[str, int]] = set()
        """Runs, by instance, that had ended before, or whose end has been judged."""
        self._before: set[tuple[str, int]] = set()

    def run(self) -> int:
        """See run_attached."""
        project = self._project.name
        # Both are listened to from before anything begins: nothing is missed.
        events = self._client.stream("GET", "/events", {"project": project})
        lines = self._client.stream("GET", "/logs", {"project": project, "follow": 1, "tail": 0})
        self._before = {(view["Id"], view["Run"]) for view in self._views() if are_over([view])}
        self._known = set(self._before)
        self._begin(lambda: self._listen(events))
        self._begin(lambda: self._show(lines))
        self._begin(self._bring_up)
        with self._interrupts():
            try:
                return self._stay()
            except (ApiError, UnreachableError, HTTPException, OSError) as error:
                return self._left(error)

    def _begin(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except (ApiError, UnreachableError, HTTPException, OSError, ValueError) as error:
                self._news.put(_Failed(error))

        threading.Thread(target=run, daemon=True).start()

    @contextlib.contextmanager
    def _interrupts(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {n: signal.signal(n, lambda _n, _f: self._news.put(_Interrupted())) for n in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    # --- threads ---------------------------------------------------------------------------------
    def _listen(self, events: Iterator[dict[str, Any]]) -> None:
        for event in events:
            if event["Action"] == "die":
                self._news.put(_Died())
        raise UnreachableError("it tells of nothing any more")

    def _show(self, lines: Iterator[dict[str, Any]]) -> None:
        for line in lines:
            if is_shown(self._wish, self._project, line["name"]):
                self._view.show(line)
            self._shown.line(line)
            if line.get("marker"):
                self._news.put(_Looked())

    def _bring_up(self) -> None:
        good = True
        for line in self._client.stream("POST", f"{self._ready.base}/up", None, self._ready.body()):
            good = good and went_well(line)
            if "error" in line:
                self._view.say(line["error"])
            elif line["verb"] != "keep":
                self._view.say(f"{line['name']}: {line['outcome']}")
        self._news.put(_Brought(good))

    def _stop(self, verb: str) -> None:
        names = [view["Name"] for view in self._views() if view["State"]["Status"] != "exited"]
        body = {"project": self._project.name, "names": names, "grace_s": self._wish.grace_s}
        if names:
            for line in self._client.stream("POST", f"/services/{verb}", body=json.dumps(body).encode()):
                if "waiting_s" not in line:
                    self._view.say(f"{line['name']}: {line.get('outcome') or line['error']}")
        if verb == "stop":
            self._news.put(_Stopped())

    # --- deciding --------------------------------------------------------------------------------
    def _stay(self) -> int:
        brought = False
        while True:
            match self._news.get():
                case _Brought(good=False):
                    return FAILED
                case _Brought():
                    brought = True
                    self._tell_up()
                case _Died():
                    pass
                case _Interrupted():
                    self._interrupted()
                case _Stopped():
                    self._judged()
                    return self._closed()
                case _Failed(error=error):
                    return self._left(error)
                case _Looked():
                    continue
            if self._judged() and brought and not self._stops:
                return self._closed()

    def _left(self, error: Exception) -> int:
        self._view.say(f"cannot stay with {self._project.name}: {error}; what runs runs on")
        return FAILED

    def _tell_up(self) -> None:
        for name, places in listening(self._views()):
            self._view.say(f"{name}: listens on {places}")
        if self._wish.watch is not None:
            watch = self._wish.watch
            threading.Thread(target=lambda: watch(self._view.say), daemon=True).start()

    def _judged(self) -> bool:
        """Look at what has ended for good, in the order of its end; whether that is all."""
        views = [view for view in self._views() if self._counts(view["Service"])]
        ended = [view for view in views if are_over([view]) and (view["Id"], view["Run"]) not in self._known]
        for view in sorted(ended, key=lambda view: str(view["State"]["FinishedAt"])):
            self._known.add((view["Id"], view["Run"]))
            if self._ending.ended(view["Service"], view["State"]["ExitCode"]):
                self._view.say("aborting, as a container has ended")
                self._begin_stop()
        return are_over(views)

    def _interrupted(self) -> None:
        if self._stops == 0:
            self._view.say("gracefully stopping; Ctrl-C again kills")
            self._begin_stop()
        elif self._stops == 1:
            self._stops += 1
            self._begin(lambda: self._stop("kill"))

    def _begin_stop(self) -> None:
        self._stops = max(self._stops, 1)
        self._begin(lambda: self._stop("stop"))

    def _closed(self) -> int:
        """All is down: its last lines are waited for."""
        for view in self._views():
            fresh = (view["Id"], view["Run"]) not in self._before
            if fresh and is_shown(self._wish, self._project, view["Name"]):
                self._shown.died(view["Name"], view["Run"])
        while not self._shown.complete:
            try:
                self._news.get(timeout=LAST_LINES_S)
            except Empty:
                break
        return self._ending.code

    def _counts(self, service: str) -> bool:
        known = any(spec.name == service for spec in self._project.services)
        return known and self._wish.counts(service)

    def _views(self) -> list[dict[str, Any]]:
        names = {spec.name for spec in self._project.services}
        query = {"all": 1, "project": self._project.name}
        views = self._client.call("GET", "/containers/json", query)
        return [view for view in views if view["Service"] in names and not view["OneOff"]]
