"""What the daemon says while it runs: a line an event, with fields; JSON for a journal, words for a terminal.

Problems are warnings. What happens to services is told at info, named as `shipkeeper events` names it.
"""

from __future__ import annotations

import contextlib
import os
import sys

# Where rich is installed, structlog imports it for tracebacks that are never printed here: 4 MB for nothing.
sys.modules.setdefault("rich", None)  # type: ignore[arg-type]  # "do not import this", to the import system

import structlog
from structlog.typing import EventDict, WrappedLogger

from supervisor.daemon.engine import Published
from supervisor.daemon.settings import Settings

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
# sd-daemon(3): a prefix by which `journalctl -p warning` finds a line; systemd takes it off.
_PRIORITIES = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>"}


class Journal:
    """The daemon's log. `report` is for problems, `event` subscribes to the engine."""

    def __init__(self, settings: Settings) -> None:
        as_json = settings.log_format == "json" or (settings.log_format == "auto" and not os.isatty(2))
        processors: list[structlog.typing.Processor] = [
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
        ]
        if not as_json:
            processors.append(structlog.dev.ConsoleRenderer())
        elif _is_journal():
            processors += [structlog.processors.JSONRenderer(), _with_priority]
        else:
            processors.append(structlog.processors.JSONRenderer())
        self._log: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
            structlog.WriteLogger(sys.stderr),
            processors=processors,
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS.get(settings.log_level, 20)),
        )

    def report(self, text: str) -> None:
        """Something that the operator should know."""
        with contextlib.suppress(OSError):  # nobody reads any more: no reason to end
            self._log.warning(text)

    def event(self, event: Published) -> None:
        """Something that happened to a service."""
        with contextlib.suppress(OSError):
            self._log.info(
                event.action,
                project=event.project,
                service=event.service,
                name=event.name,
                why=event.why,
                instance=event.instance[:12],
            )


def _is_journal() -> bool:
    """Whether standard error is the stream to the journal that systemd gave us (systemd.exec(5))."""
    try:
        found = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _with_priority(_logger: WrappedLogger, method: str, text: str | bytes | EventDict) -> str:
    return f"{_PRIORITIES.get(method, '')}{text!s}"
