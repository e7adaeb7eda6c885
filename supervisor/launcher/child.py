"""The child's side of a launch and of an exec: from its first instruction to its last, exec.

Everything is imported and prepared before the clone; nothing here returns. What fails is told over the
channel as `["error", stage, errno, detail]`; its end without one means that exec succeeded. A pty that was
made here is sent the same way, as `["tty"]` with the master.
"""

from __future__ import annotations

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

from supervisor.kernel import mounts, privileges, process
from supervisor.kernel import syscalls as sc
from supervisor.launcher import identity, plan
from supervisor.launcher.steps import Root, StepError

# asm-generic/ioctls.h, linux/sockios.h
_TIOCSPTLCK, _TIOCGPTN, _TIOCGPTPEER = 0x4004_5431, 0x8004_5430, 0x5441
_TIOCSCTTY = 0x540E
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

JOINED = (
    sc.CLONE_NEWNS
    | sc.CLONE_NEWPID
    | sc.CLONE_NEWIPC
    | sc.CLONE_NEWUTS
    | sc.CLONE_NEWNET
    | sc.CLONE_NEWCGROUP
)
"""Namespaces that an exec enters: all that a run may have of its own."""


class Prepared(NamedTuple):
    """What is opened and read before the clone. stdin, stdout, stderr: -1 where the child makes its own."""

    process: plan.Process
    channel: socket.socket
    v1_cgroups: list[int]
    stdin: int
    stdout: int
    stderr: int
    seccomp: bytes | None
    last_cap: int
    signals: list[signal.Signals]


class _Child:
    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.process = prepared.process
        self.stage = "cgroup"
        self.path = ""

    # --- the two ways in ------------------------------------------------------------------------
    def launch(self, launch: plan.LaunchPlan) -> NoReturn:
        """The first process of a run."""
        self.enter_cgroups()
        sc.unshare(sc.CLONE_NEWCGROUP)  # after entering: the cgroup of this moment becomes its root
        self.set_oom_score()
        os.setsid()
        if launch.hostname is not None:
            self.stage = "hostname"
            sc.sethostname(launch.hostname)
        if launch.net != "host":
            self.stage = "network"
            _loopback_up()
        self.stage = "mount"
        Root(launch.root, self.process.cwd).run(launch.steps)
        self.finish(console=True)

    def join(self) -> NoReturn:
        """One more process of a run whose namespaces we are in already."""
        self.enter_cgroups()
        os.setsid()
        self.finish(console=False)

    def enter_cgroups(self) -> None:
        for fd in self.prepared.v1_cgroups:
            os.write(fd, b"0")

    def set_oom_score(self) -> None:
        self.stage = "oom_score_adj"
        wanted = self.process.oom_score_adj
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(wanted or 0).encode())
        except PermissionError:
            if wanted is not None:
                raise  # less than the launcher's own, without CAP_SYS_RESOURCE
        finally:
            os.close(fd)

    # --- after the root is in place -------------------------------------------------------------
    def finish(self, *, console: bool) -> NoReturn:
        spec = self.process
        self.stage = "user"
        who = identity.resolve(spec.user, spec.groups)
        self.stage = "stdio"
        if spec.tty:
            self.open_tty(who.uid, console=console)
        else:
            self.open_pipes(who.uid)
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
            privileges.become(who.uid, who.gid, who.groups, spec.caps, self.prepared.last_cap)
            if late:
                self.stage = "cwd"
                os.chdir(spec.cwd)
            self.stage = "cwd"
            _check_inside()
            self.stage = "exec"
            self.path = find_program(spec.argv[0], env.get("PATH", ""))
            self.stage = "seccomp"

        self.stage = "seccomp"
        privileges.confine(
            become, self.close_others, no_new_privs=spec.no_new_privs, seccomp=self.prepared.seccomp
        )
        self.stage = "exec"
        os.umask(spec.umask)
        if spec.init:
            self.stay_as_init(env)
        self.execute(env)

    def execute(self, env: dict[str, str]) -> NoReturn:
        for number in self.prepared.signals:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(self.path, self.process.argv, env)  # noqa: S606 - the point of all this

    def close_others(self) -> None:
        """All but 0..2 and the channel, which closes at exec."""
        channel = self.prepared.channel.fileno()
        sc.close_range(3, channel - 1)
        sc.close_range(channel + 1, 0xFFFF_FFFF)

    def open_pipes(self, uid: int) -> None:
        given = (self.prepared.stdin, self.prepared.stdout, self.prepared.stderr)
        null = _null() if -1 in given else -1
        # Above 2 first, so that no dup2 overwrites one that is still needed.
        high = [fcntl.fcntl(fd if fd >= 0 else null, fcntl.F_DUPFD_CLOEXEC, 3) for fd in given]
        for number, fd in enumerate(high):
            os.dup2(fd, number)
            if given[number] >= 0:
                os.fchown(number, uid, -1)  # so that /dev/stdout can be opened by its user (runc)

    def open_tty(self, uid: int, *, console: bool) -> None:
        """A pty of the container's own devpts; its slave is 0..2, controlling terminal and /dev/console."""
        master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if os.fstat(master).st_rdev != os.makedev(5, 2):
            raise StepError("stdio", 0, "/dev/pts/ptmx is not the pty multiplexer")
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        number = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, b"\0\0\0\0"))[0]
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
        os.fchown(slave, uid, -1)
        if console:
            self.bind_console(number)
        socket.send_fds(self.prepared.channel, [b'["tty"]'], [master])
        slave = fcntl.fcntl(slave, fcntl.F_DUPFD_CLOEXEC, 3)
        for target in range(3):
            os.dup2(slave, target)
        fcntl.ioctl(0, _TIOCSCTTY, 0)

    def bind_console(self, number: int) -> None:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            place = mounts.make_file(root, "/dev/console")
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            return  # a /dev that was given read-only, without the file: Docker cannot have one either
        made = mounts.tree(sc.AT_FDCWD, f"/dev/pts/{number}")
        mounts.attach(made, place)

    def change_directory(self) -> bool:
        """Into the working directory; True if only its user may (then it is done later)."""
        try:
            os.chdir(self.process.cwd)
        except PermissionError:
            return True
        return False

    # --- init -----------------------------------------------------------------------------------
    def stay_as_init(self, env: dict[str, str]) -> NoReturn:
        """Run the program as a child and remain: reap, pass every signal on, end as it ends."""
        main = os.fork()
        if main == 0:
            os.setpgid(0, 0)
            if self.process.tty:
                os.tcsetpgrp(0, os.getpid())
            self.execute(env)
        self.prepared.channel.close()
        everything = signal.valid_signals()
        while True:
            number = signal.sigwaitinfo(everything).si_signo
            if number != signal.SIGCHLD:
                _pass_on(main, number)
                continue
            while True:
                try:
                    pid, raw = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    os._exit(0)
                if pid == 0:
                    break
                if pid == main:
                    os._exit(process.status_of(raw).code)

    # --- failing --------------------------------------------------------------------------------
    def report(self, stage: str, number: int, detail: str) -> None:
        self.prepared.channel.send(json.dumps(["error", stage, number, detail[:4000]]).encode())


def run(prepared: Prepared, launch: plan.LaunchPlan | None) -> NoReturn:
    """In a new child: become the run's first process, or (None) one more process of it. Never returns."""
    try:
        child = _Child(prepared)
        try:
            if launch is None:
                child.join()
            child.launch(launch)
        except StepError as error:
            child.report(error.stage, error.number, error.detail)
        except identity.UnknownIdentityError as error:
            child.report("user", 0, str(error))
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            child.report(child.stage, error.errno or 0, f"{error.strerror}{where}")
        except BaseException as error:  # noqa: BLE001 - nothing may unwind into the launcher's own code
            child.report(child.stage, 0, repr(error))
    finally:
        os._exit(128)


def join(prepared: Prepared, target: int) -> NoReturn:
    """In a new child of the launcher: enter the namespaces of `target` (a pidfd), and clone there.

    We are in the run's cgroup already, so the clone is as well: inside a cgroup namespace nobody may enter
    one who is not below its root, where the hierarchy is mounted with nsdelegate (systemd does that). The
    launcher becomes the parent of the clone; its pid is told as `["pid", number]`. Never returns.
    """
    try:
        child = _Child(prepared)
        try:
            child.set_oom_score()  # now, because its own /proc may be anything
            child.stage = "namespaces"
            sc.setns(target, JOINED)
            child.stage = "clone"
            # The pid namespace is entered by the clone itself.
            pid, _ = process.clone(0, sibling=True)
            if pid == 0:
                run(prepared, None)
            prepared.channel.send(json.dumps(["pid", pid]).encode())
        except OSError as error:
            child.report(child.stage, error.errno or 0, str(error.strerror))
        except BaseException as error:  # noqa: BLE001 - as above
            child.report(child.stage, 0, repr(error))
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


def _null() -> int:
    fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    if not mounts.is_null(fd):
        raise StepError("stdio", 0, "/dev/null of the new root is not the null device")
    return fd


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = struct.pack("16sH22x", b"lo", 0)
        flags = struct.unpack("16sH22x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


def _pass_on(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        return
