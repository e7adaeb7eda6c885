"""What survives whom: records until acknowledged, a new daemon, a launcher that was killed; and exec."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import struct
import termios
from pathlib import Path
from typing import Any

import pytest
from launcherbench import DEFAULT_CAPS, PYTHON, Bench, alive, kill_and_wait
from test_launcher_runs import scenario

from supervisor.core.paths import Paths
from supervisor.kernel import process
from supervisor.launcher import plan, protocol
from supervisor.launcher.client import LauncherClient, LauncherError

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces, mounts and cgroups"),
]


def adopt(info: protocol.RunInfo, bench: Bench) -> protocol.Adopt:
    """The request of a daemon that remembers a run."""
    log = bench.paths.instance(info.instance).log
    return protocol.Adopt(
        info.instance,
        info.run,
        info.pid,
        info.start_ticks,
        info.cgroup,
        info.started_ns,
        log,
        1 << 24,
        3,
        False,
        info.meta,
    )


@scenario
async def test_records_are_repeated_until_acknowledged(bench: Bench) -> None:
    """Ends that happen while no daemon is there, and ends that it never confirmed, are in every State."""
    await bench.start("sh", "-c", "read x; exit 5", instance="a", stdin_open=True)
    bench.send(protocol.Launch(bench.plan("nope", instance="b")))
    await bench.event(protocol.LaunchFailed)
    bench.send(protocol.Signal("a", 1, signal.SIGKILL))
    bench.disconnect()
    state = await bench.connect()
    if state.runs:  # the death was later than the connection
        await bench.event(protocol.Exited, instance="a")
        state = await bench.connect()
    assert {(type(end).__name__, end.instance, end.code) for end in state.ended} == {
        ("Exited", "a", 137),
        ("LaunchFailed", "b", 127),
    }
    bench.send(protocol.Launch(bench.plan("true", instance="b")))
    assert (await bench.event(protocol.LaunchFailed)).code == 127, "the same run is not launched twice"
    bench.send(protocol.Ack("a", 1))
    bench.send(protocol.Ack("b", 1))
    assert (await bench.connect()).ended == []


@scenario
async def test_a_daemon_that_comes_back_finds_its_runs(bench: Bench) -> None:
    """The launcher and the service do not notice; the state says what is needed to go on."""
    info = await bench.start("sleep", "1000", meta="the plan")
    launcher = (await bench.connect()).pid
    bench.disconnect()
    state = await bench.connect()
    assert state.pid == launcher
    assert state.runs == [info]
    assert info.meta == "the plan"
    assert process.start_ticks(info.pid) == info.start_ticks


@scenario
async def test_quit_leaves_nothing(bench: Bench) -> None:
    """Right after the end of a run: launcher and log writer end, their cgroups and sockets go."""
    state = await bench.connect()
    children = [int(n) for n in Path(f"/proc/{state.pid}/task/{state.pid}/children").read_text().split()]
    await bench.run("true")
    bench.send(protocol.Quit())
    await bench.until(lambda: bench.lost, "the end of the launcher")
    await bench.until(lambda: not any(alive(n) for n in (state.pid, *children)), "both to end")
    assert not bench.cgroup_directories()
    assert not os.path.exists(bench.paths.launcher_socket)


@scenario
async def test_told_to_end_it_waits_for_its_runs(bench: Bench) -> None:
    """SIGTERM (its unit is being stopped): it goes on until the last run has ended."""
    pid = (await bench.connect()).pid
    await bench.start("sleep", "1000")
    os.kill(pid, signal.SIGTERM)
    await bench.settled()
    bench.send(protocol.Kill("web", 1))
    await bench.event(protocol.Exited)
    await bench.until(lambda: bench.lost, "the end of the launcher")
    await bench.until(lambda: not alive(pid), "its end")


@scenario
async def test_a_newer_connection_replaces_the_older(bench: Bench) -> None:
    """Two daemons never hear the same launcher at once."""
    news: list[protocol.Event] = []
    second = await LauncherClient.connect(bench.paths, news.append)
    try:
        await bench.until(lambda: bench.lost, "the loss of the first connection")
        await bench.until(lambda: [event for event in news if isinstance(event, protocol.State)], "State")
    finally:
        second.close()


@scenario
async def test_there_is_one_launcher_for_a_run_directory(bench: Bench) -> None:
    """A second one ends, and says why."""
    import subprocess
    import sys

    from supervisor.launcher import bootstrap

    command = bootstrap.command(sys.executable, "--run-dir", bench.paths.run_dir)
    done = subprocess.run(
        command, env=bootstrap.environment(), capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert "another launcher" in done.stderr
    await bench.settled()


@scenario
async def test_a_launcher_that_cannot_be_is_an_error(bench: Bench) -> None:
    """No run directory, no interpreter: one line that says so."""
    nowhere = Paths(f"{bench.base}/state", f"{bench.base}/nowhere")
    with pytest.raises(LauncherError, match="nowhere"):
        await LauncherClient.connect(nowhere, lambda _: None)
    with pytest.raises(LauncherError, match="no-python"):
        await LauncherClient.connect(nowhere, lambda _: None, python="/no-python")


@scenario
async def test_a_run_outlives_its_launcher_and_is_adopted(bench: Bench) -> None:
    """kill -9 of the launcher: same process, output goes on, and the true status of its end is known."""
    ticking = "trap 'exit 6' TERM; while :; do echo tick; sleep 0.02; done"
    info = await bench.start("sh", "-c", ticking)
    other = await bench.start("sleep", "1000", instance="other")
    await bench.says("tick")
    await kill_and_wait(bench, (await bench.connect()).pid)
    await bench.until(lambda: bench.lost, "the loss")
    state = await bench.connect()
    assert state.runs == []
    for known in (info, other):
        bench.send(adopt(known, bench))
        again = (await bench.event(protocol.Started)).info
        assert (again.pid, again.started_ns, again.cgroup) == (known.pid, known.started_ns, known.cgroup)
    count = len(bench.output().splitlines())
    await bench.until(lambda: len(bench.output().splitlines()) > count + 3, "output after the adoption")
    bench.send(protocol.Signal("web", 1, signal.SIGTERM))
    exited = await bench.event(protocol.Exited, instance="web")
    if exited.lost:
        pytest.skip("needs PIDFD_GET_INFO with the exit status (Linux 6.15), or an init that reaps late")
    assert (exited.code, exited.lost) == (6, False)
    bench.send(protocol.Kill("other", 1))
    exited = await bench.event(protocol.Exited, instance="other")
    assert (exited.code, exited.signal) in ((137, 9), (255, 0))
    await bench.until(lambda: not bench.cgroup_directories(), "the cgroups to go")


@scenario
async def test_output_is_logged_again_when_the_log_writer_died_too(bench: Bench) -> None:
    """Launcher and log writer killed at once: the pipes are opened from the side of the service."""
    info = await bench.start("sh", "-c", "trap '' PIPE; while :; do echo tick; sleep 0.02; done 2>/dev/null")
    await bench.says("tick")
    pid = (await bench.connect()).pid
    children = [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    writers = [n for n in children if b"logwriter" in Path(f"/proc/{n}/cmdline").read_bytes()]
    for victim in (pid, *writers):
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    await bench.until(lambda: not any(alive(n) for n in (pid, *writers)), "both to end")
    await bench.connect()
    bench.send(adopt(info, bench))
    await bench.event(protocol.Started)
    count = len(bench.output().splitlines())
    await bench.until(lambda: len(bench.output().splitlines()) > count + 3, "output after the adoption")


@scenario
async def test_a_stranger_is_not_adopted(bench: Bench) -> None:
    """A pid that another process has now, or nobody: the run is lost with 255."""
    info = await bench.start("sleep", "1000")
    bench.send(adopt(info._replace(instance="x", start_ticks=info.start_ticks + 1, cgroup="none/x"), bench))
    exited = await bench.event(protocol.Exited, instance="x")
    assert (exited.code, exited.lost) == (255, True)
    bench.send(adopt(info._replace(instance="y", pid=(1 << 22) - 1, cgroup="none/y"), bench))
    assert (await bench.event(protocol.Exited, instance="y")).lost
    assert alive(info.pid)


# --- exec ---------------------------------------------------------------------------------------
def extra(*argv: str, **changes: Any) -> plan.Process:
    """A process for exec."""
    base = plan.Process(list(argv), [["PATH", "/usr/bin:/bin"]], caps=DEFAULT_CAPS)
    return base._replace(**changes)


def read_all(fd: int) -> str:
    """Until the end of the pipe or pty."""
    parts = []
    with contextlib.suppress(OSError):
        while part := os.read(fd, 65536):
            parts.append(part)
    return b"".join(parts).decode()


@scenario
async def test_exec_runs_inside_the_run(bench: Bench) -> None:
    """Same namespaces, root and cgroup; own streams; its code; confined like the service."""
    info = await bench.start("sh", "-c", "echo x > /inside; sleep 1000", net="none")
    script = (
        "cat /inside; cat; echo err >&2; readlink /proc/self/ns/net /proc/1/ns/net; cat /proc/self/cgroup;"
    )
    script += "grep -E 'CapEff|NoNewPrivs' /proc/self/status; ls /proc/self/fd | wc -l; exit 4"
    await bench.until(lambda: Path(bench.paths.instance("web").upper, "inside").exists())
    bench.send(protocol.Exec("e1", "web", 1, extra("sh", "-c", script, stdin_open=True, cwd="/tmp")))
    started = await bench.event(protocol.ExecStarted)
    stdin, stdout, stderr = bench.client.take_fds("e1")
    assert bench.client.take_fds("e1") == []
    group = bench.setup.unified or next(iter(bench.setup.v1.values()))
    assert str(started.pid) in Path(group, info.cgroup, "cgroup.procs").read_text().split()
    os.write(stdin, b"from outside\n")
    os.close(stdin)
    assert (await bench.event(protocol.ExecExited, exec_id="e1")).code == 4
    lines = read_all(stdout).splitlines()
    assert read_all(stderr) == "err\n"
    for fd in (stdout, stderr):
        os.close(fd)
    assert lines[:2] == ["x", "from outside"]
    assert lines[2] == lines[3]
    assert "0::/" in lines
    assert {"NoNewPrivs:\t1", "CapEff:\t00000000a80425fb", "4"} <= set(lines)
    assert alive(info.pid)


@scenario
async def test_exec_with_a_tty_gives_its_master(bench: Bench) -> None:
    """One descriptor, a pty of the service's own devpts, of the size that we set."""
    await bench.start("sleep", "1000")
    bench.send(protocol.Exec("t", "web", 1, extra("sh", "-c", "read x; stty size; tty; exit 2", tty=True)))
    await bench.event(protocol.ExecStarted)
    (master,) = bench.client.take_fds("t")
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
    os.write(master, b"\n")
    assert (await bench.event(protocol.ExecExited)).code == 2
    text = read_all(master)
    os.close(master)
    assert "33 77" in text
    assert "/dev/pts/" in text


@scenario
async def test_exec_that_cannot_start_says_why(bench: Bench) -> None:
    """127, 126, no such run, a working directory that is not there; the run lives on."""
    info = await bench.start("sleep", "1000")
    for exec_id, command, code, stage in (
        ("a", extra("nope"), 127, "exec"),
        ("b", extra("/etc/passwd"), 126, "exec"),
        ("c", extra("true", cwd="/not/there"), 127, "cwd"),
        ("d", extra("true", user="who"), 128, "user"),
    ):
        bench.send(protocol.Exec(exec_id, "web", 1, command))
        failed = await bench.event(protocol.ExecFailed, exec_id=exec_id)
        assert (failed.code, failed.stage) == (code, stage), failed
    bench.send(protocol.Exec("e", "web", 9, extra("true")))
    assert (await bench.event(protocol.ExecFailed, exec_id="e")).stage == "namespaces"
    assert alive(info.pid)


@scenario
async def test_an_exec_is_killed_with_its_group_and_nothing_else(bench: Bench) -> None:
    """What it began goes with it, and nothing of the run does; also where the kill comes before its start."""
    info = await bench.start("sleep", "1000")
    group = bench.setup.unified or next(iter(bench.setup.v1.values()))
    alive = Path(group, info.cgroup, "cgroup.procs")
    bench.send(protocol.Exec("one", "web", 1, extra("sh", "-c", "sleep 1000 & echo $!; sleep 1000")))
    await bench.event(protocol.ExecStarted, exec_id="one")
    stdin, stdout, stderr = bench.client.take_fds("one")
    assert os.read(stdout, 64)
    assert len(alive.read_text().split()) >= 3
    bench.send(protocol.ExecKill("one"))
    assert (await bench.event(protocol.ExecExited, exec_id="one")).code == 137
    await bench.until(lambda: alive.read_text().split() == [str(info.pid)])
    for fd in (stdin, stdout, stderr):
        os.close(fd)
    bench.send(protocol.Exec("two", "web", 1, extra("sleep", "1000")))
    bench.send(protocol.ExecKill("two"))
    assert (await bench.event(protocol.ExecExited, exec_id="two")).code == 137
    await bench.until(lambda: alive.read_text().split() == [str(info.pid)])
    for fd in bench.client.take_fds("two"):
        os.close(fd)
    bench.send(protocol.Kill("web", 1))
    await bench.event(protocol.Exited)


@scenario
async def test_exec_ends_with_its_run_and_by_signal(bench: Bench) -> None:
    """A signal reaches it; the end of the run ends it; the record of the run comes after."""
    await bench.start("sleep", "1000")
    for exec_id in ("one", "two"):
        bench.send(protocol.Exec(exec_id, "web", 1, extra("sleep", "1000")))
        await bench.event(protocol.ExecStarted, exec_id=exec_id)
        for fd in bench.client.take_fds(exec_id):
            os.close(fd)
    bench.send(protocol.ExecSignal("one", signal.SIGTERM))
    assert (await bench.event(protocol.ExecExited, exec_id="one")).code == 143
    bench.send(protocol.Kill("web", 1))
    assert (await bench.event(protocol.ExecExited, exec_id="two")).code == 137
    assert (await bench.event(protocol.Exited)).code == 137


@scenario
async def test_errors_of_the_daemon_do_not_end_the_launcher(bench: Bench) -> None:
    """Rubbish, unknown runs, impossible signals and plans: a Problem or a record, and life goes on."""
    import socket

    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.connect(bench.paths.launcher_socket)
    with sock:
        sock.send(b"rubbish")
        sock.send(b'["Launch",["LaunchPlan",1]]')
        readable, _, _ = select.select([sock], [], [], 10)
        assert readable
        assert b"Problem" in sock.recv(65536)
    await bench.connect()
    bench.send(protocol.Signal("nobody", 1, 15))
    bench.send(protocol.Kill("nobody", 1))
    bench.send(protocol.ExecSignal("nobody", 15))
    await bench.start("sleep", "1000")
    bench.send(protocol.Signal("web", 1, 999))
    await bench.event(protocol.Problem)
    bench.send(protocol.Launch(bench.plan("true", instance="odd")._replace(net="what")))
    assert (await bench.event(protocol.LaunchFailed)).stage == "network"
    bench.send(protocol.Launch(bench.plan(instance="empty")))
    assert (await bench.event(protocol.LaunchFailed, instance="empty")).stage == "exec"
    bench.send(protocol.Quit())
    assert (await bench.event(protocol.State)).runs, "refused while a run lives"


@scenario
async def test_no_descriptors_left_is_a_failed_launch(bench: Bench) -> None:
    """EMFILE becomes a record; when there is room again, launches work again."""
    pid = (await bench.connect()).pid
    import resource

    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{pid}/fd"))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 2, before[1]))
    failed = await bench.fails("true")
    assert failed.errno == 24
    assert failed.code == 128
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    assert (await bench.run("true", run=2)).code == 0
    await bench.until(lambda: not bench.cgroup_directories(), "the cgroups to go")


@scenario
async def test_a_large_plan_and_a_large_state_travel(bench: Bench) -> None:
    """More than a packet holds, both ways."""
    exited = await bench.run(
        PYTHON, "-S", "-c", "import os; print(len(os.environ['BIG']))", env={"BIG": "x" * 120_000}
    )
    assert exited.code == 0
    assert await bench.says("120000")
    for number in range(40):
        bench.send(protocol.Launch(bench.plan("nope", instance=f"i{number}", meta="m" * 10_000)))
        await bench.event(protocol.LaunchFailed)
    assert len((await bench.connect()).ended) == 40


@scenario
async def test_a_run_that_is_killed_while_something_enters_it_ends(bench: Bench) -> None:
    """At any moment of an exec: what was cloned and had no time to tell its pid keeps nothing from ending."""
    for number in range(1, 201):
        await bench.start("sleep", "1000", run=number)
        bench.send(protocol.Exec(f"e{number}", "web", number, extra("sleep", "1000")))
        await asyncio.sleep(0.002 + number % 100 * 0.0001)  # another moment each time
        bench.send(protocol.Kill("web", number))
        await bench.event(protocol.Exited, run=number)
        bench.send(protocol.Ack("web", number))
