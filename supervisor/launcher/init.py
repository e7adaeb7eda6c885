"""`init: true`: stay as the first process of a run, reap, pass signals on, and end as the program ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import NoReturn

from supervisor.kernel import process


def stay(execute: Callable[[], NoReturn], let_go: Callable[[], None], *, tty: bool) -> NoReturn:
    """Run `execute` in a child and remain. let_go: closes what would keep the launcher waiting."""
    main = os.fork()
    if main == 0:
        os.setpgid(0, 0)
        if tty:
            os.tcsetpgrp(0, os.getpid())
        execute()
    let_go()
    everything = signal.valid_signals()
    while True:
        number = signal.sigwaitinfo(everything).si_signo
        if number == signal.SIGCHLD:
            _reap(main)
        else:
            _pass_on(main, number)


def _reap(main: int) -> None:
    while True:
        try:
            pid, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            os._exit(0)
        if pid == 0:
            return
        if pid == main:
            os._exit(process.status_of(raw).code)


def _pass_on(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        return
