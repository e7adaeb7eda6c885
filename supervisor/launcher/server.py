"""The launcher: parent of every service. It starts, watches and ends them, and knows no policy.

    python -m supervisor.launcher.server --run-dir DIR [--cgroup-base PATH] [--detach]

One thread, one epoll. Deaths are handled before anything else in a turn. It does not end because of an
error: what goes wrong becomes a record or a Problem. Standard library only, and little of it.
"""

from __future__ import annotations

import gc
import os
import signal
import sys

from supervisor.kernel import hierarchies
from supervisor.launcher import bootstrap
from supervisor.launcher.supervise import Launcher


def main(arguments: list[str]) -> int:
    """Serve until told to end. The exit status is 0, or 1 with a message."""
    options: dict[str, str] = {}
    flags: set[str] = set()
    rest = iter(arguments)
    for argument in rest:
        if argument == "--detach":
            flags.add(argument)
        elif argument in ("--run-dir", "--cgroup-base", "--ready-fd"):
            options[argument] = next(rest, "")
        else:
            sys.stderr.write(f"cannot use the argument {argument!r}: see supervisor.launcher.server\n")
            return 2
    if not options.get("--run-dir"):
        sys.stderr.write("cannot start the launcher: give --run-dir DIR\n")
        return 2
    ready = int(options["--ready-fd"]) if "--ready-fd" in options else -1
    try:
        if ready < 0:
            ready = bootstrap.detach() if "--detach" in flags else os.dup(1)
            kept = [word for name, value in options.items() for word in (name, value)]
            bootstrap.isolate(ready, kept)
        _serve(options["--run-dir"], options.get("--cgroup-base"), ready)
    except bootstrap.StartError as error:
        os.write(ready, str(error).encode())
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _serve(run_dir: str, cgroup_base: str | None, ready: int) -> None:
    os.set_inheritable(ready, False)
    lock = bootstrap.lock(run_dir)
    setup = bootstrap.harden(cgroup_base)
    try:
        launcher = Launcher(run_dir, sys.executable, setup, quick_moves=hierarchies.moves_are_quick())
    except OSError as error:
        raise bootstrap.StartError(f"cannot serve {run_dir}: {error.strerror or error}") from error
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: launcher.end_when_idle())
    launcher.prepare(wake_read)
    os.write(ready, b"ready")
    os.close(ready)
    # What lives now lives for ever: it need not be looked at again, nor its pages be copied for a child.
    gc.collect()
    gc.disable()
    gc.freeze()
    launcher.run()
    os.close(lock)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
