"""Executors of launch plans for the isolation tests: the launcher, and a second opinion.

`UtilLinux` carries a plan out with unshare, mount and setpriv from Debian's util-linux: an independent
reading of what the steps mean, on the real kernel, without the launcher. It resolves targets by name and
knows no seccomp, so it says so in `lacks`, and the tests that need these skip with that reason.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
from typing import Protocol, assert_never

import launcherbench

from supervisor.core.paths import Paths
from supervisor.kernel import capabilities, seccomp
from supervisor.launcher import plan, protocol
from supervisor.runtime.translate import DEFAULT_CAPABILITIES

_FLAGS = {1: "ro", 2: "nosuid", 4: "nodev", 8: "noexec"}
_ULIMITS = {7: "n", 4: "c", 3: "s"}


class Executor(Protocol):
    """What runs a plan to its end."""

    paths: Paths
    seccomp_path: str
    cgroup_base: str
    lacks: frozenset[str]
    """Of "seccomp", "resolve" (targets inside the root) and "clean" (no helper's own traces in /run)."""

    def run_to_end(self, launch: plan.LaunchPlan) -> int:
        """Run the plan; its exit code. Output is appended to the plan's log."""

    def close(self) -> None:
        """Leave nothing behind."""


class RealLauncher:
    """The launcher itself, started for these tests, with the default seccomp profile."""

    def __init__(self, base: str) -> None:
        self.bench = launcherbench.Bench(base)
        self.paths = self.bench.paths
        self.cgroup_base = self.bench.cgroup_base
        self.lacks = frozenset[str]()
        caps = frozenset[str | int](DEFAULT_CAPABILITIES)
        self.seccomp_path = seccomp.install(self.paths.seccomp, seccomp.compile_default(caps))

    def run_to_end(self, launch: plan.LaunchPlan) -> int:
        """Run the plan; a run that could not start has the code of its record, and its detail as output."""
        return asyncio.run(self._run(launch))

    async def _run(self, launch: plan.LaunchPlan) -> int:
        await self.bench.connect()
        self.bench.send(protocol.Launch(launch))

        def ended() -> protocol.Exited | protocol.LaunchFailed | None:
            kinds = (protocol.Exited, protocol.LaunchFailed)
            return next((event for event in self.bench.events if isinstance(event, kinds)), None)

        end = await self.bench.until(ended, "the end")
        assert end is not None
        self.bench.send(protocol.Ack(end.instance, end.run))
        await self.bench.settled()
        self.bench.disconnect()
        if isinstance(end, protocol.LaunchFailed):
            with open(launch.log.path, "a") as log:
                log.write(f"{end.stage}: {end.detail}\n")
        return end.code

    def close(self) -> None:
        """End it, and remove its cgroups."""
        asyncio.run(self.bench.shut_down())


class UtilLinux:
    """See the module."""

    def __init__(self, base: str) -> None:
        self.paths = Paths(f"{base}/state", f"{base}/run")
        self.seccomp_path = "/nonexistent.bpf"
        self.cgroup_base = "unused"
        self.lacks = frozenset(("seccomp", "resolve", "clean"))

    def close(self) -> None:
        """Nothing lives."""

    def run_to_end(self, launch: plan.LaunchPlan) -> int:
        """Run the plan in a shell script that ends in exec."""
        script = ["set -e", f"hostname {shlex.quote(launch.hostname or 'none')}", "mount --make-rprivate /"]
        root = launch.root
        for step in launch.steps:
            script += _lines(step, root)
            if isinstance(step, plan.Pivot):
                root = ""
        script += _process(launch.process)
        command = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--fork"]
        if launch.net == "none":
            command.append("--net")
        with open(launch.log.path, "ab") as log:
            return subprocess.run(
                [*command, "sh", "-c", "\n".join(script)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            ).returncode


def _lines(step: plan.Step, root: str) -> list[str]:
    match step:
        case plan.Overlay():
            options = f"lowerdir={':'.join(step.lowers)},upperdir={step.upper},workdir={step.work}"
            return [f"mount -t overlay overlay -o {_options(options, step.dev)} {_at(root, step.target)}"]
        case plan.Bind():
            at = _at(root, step.target)
            kind = "rbind" if step.recursive else "bind"
            lines = [
                f"if [ -d {shlex.quote(step.source)} ]; then mkdir -p {at}; else",
                f"mkdir -p $(dirname {at}); [ -e {at} ] || touch {at}; fi",
                f"mount --{kind} {shlex.quote(step.source)} {at}",
            ]
            flags = [*(["ro"] if step.read_only else []), *([] if step.dev else ["nodev"])]
            return [*lines, f"mount -o {','.join(['remount', 'bind', *flags])} {at}"] if flags else lines
        case plan.Mount():
            words = [word for flag, word in _FLAGS.items() if step.flags & flag]
            options = ",".join([*words, *([step.data] if step.data else [])]) or "rw"
            at = _at(root, step.target)
            return [f"mkdir -p {at}", f"mount -t {step.fstype} {step.fstype} -o {shlex.quote(options)} {at}"]
        case plan.Symlink():
            return [f"ln -sfn {shlex.quote(step.text)} {_at(root, step.target)}"]
        case plan.Pivot():
            return [f"cd {shlex.quote(root)}", "pivot_root . .", "umount -l .", "cd /"]
        case plan.ReadOnly():
            one = "[ ! -e {0} ] || {{ mount --bind {0} {0};"
            one += " mount -o remount,bind,ro,nosuid,nodev,noexec {0}; }}"
            return [one.format(path) for path in step.paths]
        case plan.Mask():
            one = "if [ -d {0} ]; then mount -t tmpfs -o ro,nodev tmpfs {0};"
            one += " elif [ -e {0} ]; then mount --bind /dev/null {0}; fi"
            return [one.format(path) for path in step.paths]
        case plan.ReadOnlyRoot():
            return ["mount -o remount,bind,ro /"]
        case plan.Sysctl():
            return [f"echo {shlex.quote(step.value)} > /proc/sys/{step.name.replace('.', '/')}"]
        case plan.Chown():
            at = _at(root, step.target)
            return [f"chown {step.uid}:{step.gid} {at}", f"chmod {step.mode:o} {at}"]
        case _:
            assert_never(step)


def _process(process: plan.Process) -> list[str]:
    names = ["-all", *(f"+{capabilities.NAMES[number][4:].lower()}" for number in process.caps)]
    user, _, group = (process.user or "0:0").partition(":")
    command = ["setpriv", f"--bounding-set={','.join(names)}", "--inh-caps=-all"]
    command += [f"--reuid={user}", f"--regid={group or user}"]
    command.append(f"--groups={','.join(process.groups)}" if process.groups else "--clear-groups")
    if process.no_new_privs:
        command.append("--no-new-privs")
    command += ["env", "-i", *(f"{name}={value}" for name, value in [*process.env, ["HOME", "/root"]])]
    limits = [
        f"ulimit -S{_ULIMITS[number]} {soft}; ulimit -H{_ULIMITS[number]} {hard}"
        for number, soft, hard in process.rlimits
    ]
    return [*limits, f"cd {shlex.quote(process.cwd)}", f"exec {shlex.join([*command, *process.argv])}"]


def _at(root: str, target: str) -> str:
    return shlex.quote(os.path.normpath(root + target))


def _options(text: str, dev: bool) -> str:
    return shlex.quote(text if dev else f"{text},nodev")
