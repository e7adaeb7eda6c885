"""Before the launcher serves: detached, one for each run directory, and out of harm's way.

    first process --fork--> detached one --exec--> the launcher, from a read-only mount of the interpreter

The interpreter must not be writable through /proc/PID/exe of a child that is in a container and has not
exec'ed yet (CVE-2019-5736); the file is bound read-only over itself in a mount namespace of the launcher's
own. That namespace is a slave of the host's, so what is mounted on the host later is seen here.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from typing import NoReturn

from supervisor.kernel import hierarchies, mounts, process
from supervisor.kernel import syscalls as sc
from supervisor.kernel.locks import try_lock

PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


class StartError(Exception):
    """Why the launcher cannot be; the text is for the operator."""


def environment() -> dict[str, str]:
    """Of the launcher; nothing of it reaches a service."""
    return {"PYTHONPATH": PACKAGE_ROOT, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def command(python: str, *arguments: str) -> list[str]:
    """The command line of a launcher. -OO: nobody reads its docstrings, 0.3 MB in each process like it."""
    return [python, "-OO", "-S", "-P", "-m", "supervisor.launcher.server", *arguments]


def detach() -> int:
    """Fork; the parent says on its standard output how the start went ("ready" or why not) and exits.

    In the child: the descriptor on which to say it.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    if os.fork():
        os.close(writing)
        text = b"".join(iter(lambda: os.read(reading, 65536), b""))
        text = text or b"it ended before it was ready; its messages are on standard error"
        with contextlib.suppress(BrokenPipeError):  # the starter died; the launcher serves the next one
            os.write(1, text)
        os._exit(0 if text == b"ready" else 1)
    os.close(reading)
    os.setsid()
    return writing


def isolate(ready: int, arguments: list[str]) -> NoReturn:
    """Exec the launcher again from a read-only mount of its interpreter. Raises StartError."""
    python = os.path.realpath("/proc/self/exe")
    try:
        sc.unshare(sc.CLONE_NEWNS)
        sc.mount("none", "/", None, sc.MS_SLAVE | sc.MS_REC)
        sc.mount(python, python, None, sc.MS_BIND)
        sc.mount("none", python, None, sc.MS_BIND | sc.MS_REMOUNT | sc.MS_RDONLY)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.set_inheritable(ready, True)
        os.chdir("/")
        # By the name that we were started with, so that a virtual environment is found again.
        os.execve(  # noqa: S606 - ourselves
            sys.executable, command(sys.executable, "--ready-fd", str(ready), *arguments), environment()
        )
    except OSError as error:
        raise StartError(
            f"cannot isolate the launcher: {error.strerror}; it needs root and may not be in a sandbox"
        ) from error


def lock(run_dir: str) -> int:
    """Hold the one launcher's lock of a run directory. Raises StartError."""
    try:
        fd = try_lock(f"{run_dir}/launcher.lock")
    except OSError as error:
        raise StartError(f"cannot use the run directory {run_dir}: {error.strerror}; create it") from error
    if fd is None:
        raise StartError(f"cannot serve {run_dir}: another launcher does")
    return fd


def harden(cgroup_base: str | None) -> hierarchies.CgroupSetup:
    """What the launcher is for its life: subreaper, non-dumpable, with all descriptors it may have.

    Raises StartError.
    """
    try:
        process.become_subreaper()
        process.hide_memory()
        os.umask(0o022)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        # For the launcher alone, which has some for each service; a plan has the service's own limit.
        limit = min(hard, 1_048_576) if hard != resource.RLIM_INFINITY else 1_048_576
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        setup = hierarchies.detect()
        if cgroup_base is not None:
            hierarchies.enter_leaf(setup, cgroup_base)
    except OSError as error:
        raise StartError(f"cannot set up the launcher: {error.strerror}") from error
    with contextlib.suppress(OSError):  # the first launch will say it
        mounts.takes_layers_one_by_one()  # kept: children need not ask
    with contextlib.suppress(OSError):  # needs CAP_SYS_RESOURCE, without which it stays as it is
        hierarchies.write_text("/proc/self/oom_score_adj", "-900")
    for number in (32, 33):  # a starter may have ignored them, and Python cannot change that in a child
        with contextlib.suppress(OSError):
            sc.default_signal(number)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    return setup
