"""The child's side of a launch and of an exec: from its first instruction to its last, exec.

Everything is imported and prepared before the clone; nothing here returns. What fails is told over the
channel as `["error", stage, errno, detail]`, or as `["row", row, errno, detail]` for a row of the program.
The channel's end without one means that exec succeeded. A pty that was made here is sent as `["tty"]`
with the master, the writable overlays as `["kept"]`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import stat
import struct
from typing import NamedTuple, NoReturn

from supervisor.kernel import privileges, process
from supervisor.kernel import syscalls as sc
from supervisor.launcher import identity, init, plan, stdio
from supervisor.launcher.order import Order, from_bytes, to_bytes
from supervisor.launcher.perform import Performer, RowError
from supervisor.launcher.steps import NEVER_BEGAN, StepError

_CGROUPS = 16
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1  # linux/sockios.h

NAMESPACES = sc.CLONE_NEWNS | sc.CLONE_NEWPID | sc.CLONE_NEWIPC | sc.CLONE_NEWUTS
"""Those that a run is born in; of a network and a cgroup namespace it makes its own where it wants them."""

JOINED = NAMESPACES | sc.CLONE_NEWNET | sc.CLONE_NEWCGROUP
"""Namespaces that an exec enters: all that a run may have of its own."""


class Given(NamedTuple):
    """What a child has open. cgroups: to write "0" to. stdio: -1 where it makes its own. roots: see Order."""

    channel: socket.socket
    cgroups: list[int]
    stdio: tuple[int, int, int]
    roots: list[int]


class Common(NamedTuple):
    """What is the same for every child of this launcher."""

    last_cap: int
    signals: list[signal.Signals]


class _Child:
    def __init__(self, spec: plan.Process, seccomp: bytes | None, given: Given, common: Common) -> None:
        self.process = spec
        self.seccomp = seccomp
        self.given = given
        self.common = common
        self.parks = False
        self.bounded = False
        self.stage = "cgroup"
        self.path = ""

    # --- the two ways in ------------------------------------------------------------------------
    def launch(self, order: Order) -> NoReturn:
        """The first process of a run; the program's data is in the arena."""
        self.parks = order.parks
        self.bounded = order.ahead
        if not order.parks:
            self.enter_cgroups(self.given.cgroups)
            sc.unshare(sc.CLONE_NEWCGROUP)  # after entering: the cgroup of this moment becomes its root
        if not order.ahead:
            os.setsid()
            set_oom_score(self.process.oom_score_adj)
        elif self.process.oom_score_adj is not None:
            self.stage = "oom_score_adj"
            set_oom_score(self.process.oom_score_adj)
        if order.hostname is not None:
            self.stage = "hostname"
            sc.sethostname(order.hostname)
        if order.net != "host":
            self.stage = "network"
            _enter_network(order.net)
        self.stage = "mount"
        registers = Performer().run(order.rows, self.given.roots)
        if order.results:
            # Held until the next run, which then need not mount them again (and nobody has to sync them).
            kept = [registers[place] for place in order.results]
            socket.send_fds(self.given.channel, [b'["kept"]'], kept)
        self.finish(console=True)

    def join(self) -> NoReturn:
        """One more process of a run whose namespaces we are in already."""
        self.enter_cgroups(self.given.cgroups)
        os.setsid()
        self.finish(console=False)

    @staticmethod
    def enter_cgroups(fds: list[int]) -> None:
        for fd in fds:
            os.write(fd, b"0")

    # --- after the root is in place -------------------------------------------------------------
    def finish(self, *, console: bool) -> NoReturn:
        spec = self.process
        self.stage = "user"
        who = identity.resolve(spec.user, spec.groups)
        self.stage = "stdio"
        if spec.tty:
            stdio.use_pty(who.uid, self.given.channel, console=console)
        else:
            stdio.use_pipes(self.given.stdio, who.uid)
        if spec.notify_fd:
            self.stage = "notify"
            self.given = _with_notify_pipe(self.given, spec.notify_fd)
        self.stage = "cwd"
        late = self.change_directory()
        self.stage = "rlimit"
        for number, soft, hard in spec.rlimits:
            try:
                resource.setrlimit(number, (soft, hard))
            except (OSError, ValueError) as error:
                raise StepError(
                    "rlimit", errno.EPERM, f"setrlimit({number}, {soft}, {hard}): {error}"
                ) from error
        env = {name: value for name, value in spec.env}  # noqa: C416 - lists, which dict() is not typed for
        if not env.get("HOME"):
            env["HOME"] = who.home

        def become() -> None:
            self.stage = "caps"
            if not self.bounded:
                privileges.bound(spec.caps, self.common.last_cap)
            privileges.become(who.uid, who.gid, who.groups, spec.caps)
            if late:
                self.stage = "cwd"
                os.chdir(spec.cwd)
            self.stage = "cwd"
            _check_inside()
            self.stage = "exec"
            self.path = find_program(spec.argv[0], env.get("PATH", ""))
            self.stage = "seccomp"

        if self.parks:
            self.park()
        self.stage = "seccomp"
        privileges.confine(
            become,
            self.close_others,
            no_new_privs=spec.no_new_privs,
            seccomp=self.seccomp,
        )
        self.stage = "exec"
        os.umask(spec.umask)
        if spec.init:
            init.stay(lambda: self.execute(env), self.given.channel.close, tty=spec.tty)
        self.execute(env)

    def park(self) -> None:
        """Wait for the word to go on. The launcher's end closed is the word not to."""
        self.stage = "cgroup"
        said, fds, _, _ = socket.recv_fds(self.given.channel, 1, _CGROUPS, socket.MSG_CMSG_CLOEXEC)
        if not said:
            os._exit(0)
        self.enter_cgroups(fds)
        sc.unshare(sc.CLONE_NEWCGROUP)

    def execute(self, env: dict[str, str]) -> NoReturn:
        for number in self.common.signals:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(self.path, self.process.argv, env)  # noqa: S606 - the point of all this

    def close_others(self) -> None:
        """All but 0..2, the channel, which closes at exec, and what the process says that it is ready on."""
        own = [self.process.notify_fd] if self.process.notify_fd else []
        sc.close_all_but([self.given.channel.fileno(), *own])

    def change_directory(self) -> bool:
        """Into the working directory; True if only its user may (then it is done later)."""
        try:
            os.chdir(self.process.cwd)
        except PermissionError:
            return True
        return False

    # --- failing --------------------------------------------------------------------------------
    def report(self, stage: str, number: int, detail: str) -> None:
        self.tell(["error", stage, number, detail[:4000]])

    def tell(self, message: list[str | int]) -> None:
        self.given.channel.send(json.dumps(message).encode())


def launch(order: Order, seccomp: bytes | None, given: Given, common: Common) -> NoReturn:
    """In a new child, in namespaces of its own: become a run's first process. Never returns."""
    _run(_Child(order.process, seccomp, given, common), order)


def _run(child: _Child, order: Order | None) -> NoReturn:
    try:
        try:
            if order is None:
                child.join()
            child.launch(order)
        except StepError as error:
            child.report(error.stage, error.number, error.detail)
        except RowError as error:
            child.tell(["row", error.row, error.number, error.detail[:4000]])
        except identity.UnknownIdentityError as error:
            child.report("user", 0, str(error))
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            child.report(child.stage, error.errno or 0, f"{error.strerror}{where}")
        except BaseException as error:  # noqa: BLE001 - nothing may unwind into the launcher's own code
            child.report(child.stage, 0, repr(error))
    finally:
        os._exit(NEVER_BEGAN)


def join(spec: plan.Process, seccomp: bytes | None, given: Given, common: Common, target: int) -> NoReturn:
    """In a new child of the launcher: enter the namespaces of `target` (a pidfd), and clone there.

    We are in the run's cgroup already, so the clone is as well: inside a cgroup namespace nobody may enter
    one who is not below its root, where the hierarchy is mounted with nsdelegate (systemd does that). The
    launcher becomes the parent of the clone; its pid is told as `["pid", number]`. Never returns.
    """
    try:
        child = _Child(spec, seccomp, given, common)
        try:
            child.stage = "oom_score_adj"
            set_oom_score(spec.oom_score_adj)  # now, because its own /proc may be anything
            child.stage = "namespaces"
            sc.setns(target, JOINED)
            child.stage = "clone"
            # The pid namespace is entered by the clone itself.
            pid, _ = process.clone(0, sibling=True)
            if pid == 0:
                _run(child, None)
            child.tell(["pid", pid])
        except OSError as error:
            child.report(child.stage, error.errno or 0, str(error.strerror))
        except BaseException as error:  # noqa: BLE001 - as above
            child.report(child.stage, 0, repr(error))
    finally:
        os._exit(0)


def prepare(caps: list[int] | None, common: Common) -> None:
    """In a spare: do what can be done before the order, and run what a launch will run where it does nothing.

    The pages that this touches are copied here and now. Raises OSError, StepError.
    """
    os.setsid()
    set_oom_score(None)
    if caps is not None:
        privileges.bound(caps, common.last_cap)
    spec = plan.Process(["x"], [["PATH", "/"]])
    order = from_bytes(to_bytes(Order(spec, "x", "host", b"", b"x", [], True, False)))
    Performer().run(order.rows, [])
    who = identity.resolve(spec.user, spec.groups)
    stdio.use_pipes((-1, -1, -1), who.uid)
    _check_inside()
    with contextlib.suppress(StepError):
        find_program(spec.argv[0], spec.env[0][1])


def _with_notify_pipe(given: Given, number: int) -> Given:
    """That descriptor is the pipe to say something on; what had the number has another one. Raises OSError.

    Open for reading, too: nobody gets a SIGPIPE, whoever of ours has died.
    """
    channel = given.channel
    if channel.fileno() == number:
        channel = socket.socket(fileno=fcntl.fcntl(channel.detach(), fcntl.F_DUPFD_CLOEXEC, number + 1))
    fd = os.open(f"{plan.NOTIFY_PLACE}/{plan.NOTIFY_PIPE}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    if fd == number:
        os.set_inheritable(fd, True)
    else:
        os.dup2(fd, number)
        os.close(fd)
    return given._replace(channel=channel)


def set_oom_score(wanted: int | None) -> None:
    """Of this process; None is 0, or what the launcher has if it may have no less. Raises OSError."""
    fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(wanted or 0).encode())
    except PermissionError:
        if wanted is not None:
            raise  # less than the launcher's own, without CAP_SYS_RESOURCE
    finally:
        os.close(fd)


def hold(fds: list[int], until: int) -> NoReturn:
    """In a new child: hold descriptors until the pipe `until` has ended. Never returns."""
    try:
        sc.close_all_but([*fds, until])
        os.read(until, 1)
    finally:
        os._exit(0)


def find_program(name: str, path: str) -> str:
    """The file that a command names, as Docker finds it: with a slash as it is, else along PATH.

    Raises StepError ("exec") with ENOENT or EACCES.
    """
    if "/" in name:
        try:
            mode = os.stat(name).st_mode
        except OSError as error:
            raise StepError("exec", error.errno or 0, f'exec: "{name}": {error.strerror}') from error
        if stat.S_ISDIR(mode):
            raise StepError("exec", errno.EACCES, f'exec: "{name}": is a directory')
        if not os.access(name, os.X_OK):
            raise StepError("exec", errno.EACCES, f'exec: "{name}": permission denied')
        return name
    for directory in path.split(":"):
        candidate = f"{directory}/{name}"
        # A relative directory in PATH is skipped, as in Go's exec.LookPath.
        if directory.startswith("/") and os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    raise StepError("exec", errno.ENOENT, f'exec: "{name}": executable file not found in $PATH')


def _check_inside() -> None:
    """The working directory is below the root (CVE-2024-21626)."""
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = ""
    if not here.startswith("/"):
        raise StepError("cwd", 0, "the working directory is outside of the root")


def _enter_network(net: str) -> None:
    """A fresh one, or that of a file. Raises OSError."""
    if net == "none":
        sc.unshare(sc.CLONE_NEWNET)
        _loopback_up()
        return
    fd = os.open(net, os.O_RDONLY | os.O_CLOEXEC)
    try:
        sc.setns(fd, sc.CLONE_NEWNET)
    finally:
        os.close(fd)


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = struct.pack("16sH22x", b"lo", 0)
        flags = struct.unpack("16sH22x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))
