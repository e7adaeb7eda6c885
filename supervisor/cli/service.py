"""The daemon's own process, which `shipkeeper daemon` becomes: it loads what supervising needs and no more.

`python -m supervisor.cli.service SETTINGS`, the settings as JSON. The command that was typed is a program of
its own (options, help, the client of the API); becoming another one gives all its memory back.

Its HTTP has no TLS, and no OpenSSL, which take 7 MB: the API is a unix socket, the metrics are plain, what
talks to registries is a child. asyncio, aiohttp and hashlib do without where there is none when they are
loaded. (prometheus-client does not: where somebody scrapes, the first scrape loads it.) Docstrings, which
nobody asks this process for, take 2.5 MB: hence -OO, which leaves out assertions, too.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from supervisor.daemon.settings import Settings  # not before what is absent is said

_ABSENT = ("_hashlib", "rich", "ssl")


def become(settings: Settings) -> NoReturn:
    """Replace this process by the daemon. Its pid, descriptors and environment stay."""
    import msgspec

    given = msgspec.json.encode(settings).decode()
    os.execv(sys.executable, [sys.executable, "-OO", "-m", "supervisor.cli.service", given])  # noqa: S606 - ourselves


def main() -> None:
    """Run until SIGTERM or SIGINT; errors are told as the command tells them."""
    for name in _ABSENT:
        sys.modules[name] = None  # type: ignore[assignment]  # "do not import this", to the import system
    # What http.client has for https is defined where there is an ssl, and prometheus-client asks for it.
    sys.modules["ssl"] = ModuleType("ssl")
    importlib.import_module("urllib.request")
    sys.modules["ssl"] = None  # type: ignore[assignment]
    import asyncio

    import msgspec

    from supervisor.cli.host import run_daemon
    from supervisor.cli.output import is_foreseen, print_error
    from supervisor.daemon.settings import Settings

    del sys.modules["ssl"]  # the others stay away: hmac, loaded by whoever needs it, would bring OpenSSL
    try:
        asyncio.run(run_daemon(msgspec.json.decode(sys.argv[1], type=Settings)))
    except Exception as error:
        if not is_foreseen(error):
            raise
        print_error(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
