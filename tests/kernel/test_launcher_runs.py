"""Runs of the real launcher: what a service sees, how it ends, and what is left of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from launcherbench import PYTHON, Bench, alive, with_bench

from supervisor.launcher import plan, protocol

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces, mounts and cgroups"),
]

Test = Callable[[Bench], Awaitable[None]]


def scenario(test: Test) -> Callable[[], None]:
    """A test with a launcher of its own."""

    def run() -> None:
        with_bench(test)

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@scenario
async def test_output_and_exit_code_are_the_services_own(bench: Bench) -> None:
    """Both streams reach the log, the code reaches the record, with its times and usage."""
    exited = await bench.run("sh", "-c", "echo out; echo err >&2; exit 3", meta="mine")
    assert (exited.code, exited.signal, exited.lost, exited.oom, exited.meta) == (3, 0, False, False, "mine")
    assert exited.ended_ns >= exited.started_ns
    assert exited.cpu_ns > 0
    assert exited.max_rss_bytes > 0
    await bench.says("err")
    await bench.says("out")
    assert (bench.output(stream="stdout"), bench.output(stream="stderr")) == ("out", "err")


@scenario
async def test_death_by_signal_is_128_plus_its_number(bench: Bench) -> None:
    """A death by signal 9 is 137 with the signal beside it; TERM reaches a handler."""
    info = await bench.start("sleep", "1000")
    bench.send(protocol.Signal("web", 1, signal.SIGKILL))
    exited = await bench.event(protocol.Exited)
    assert (exited.code, exited.signal, exited.pid) == (137, 9, info.pid)
    bench.send(protocol.Ack("web", 1))
    await bench.start("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done", run=2)
    await bench.says("ready")
    bench.send(protocol.Signal("web", 2, signal.SIGTERM))
    assert (await bench.event(protocol.Exited)).code == 7


@scenario
async def test_a_program_that_cannot_run_has_dockers_code(bench: Bench) -> None:
    """Not found 127, not executable 126, a directory 126; the record names the stage and the program."""
    missing = await bench.fails("no-such-program")
    assert (missing.stage, missing.code) == ("exec", 127)
    assert "no-such-program" in missing.detail
    assert (await bench.fails("/no/such", run=2)).code == 127
    assert (await bench.fails("/etc/passwd", run=3)).code == 126
    assert (await bench.fails("/etc", run=4)).code == 126
    assert not [event for event in bench.events if isinstance(event, protocol.Started)]


@scenario
async def test_what_fails_in_the_set_up_names_its_stage(bench: Bench) -> None:
    """Users, mounts, limits of the machine: the stage, the call, and nothing left behind."""
    user = await bench.fails("true", user="nobody-of-that-name")
    assert (user.stage, user.code) == ("user", 128)
    assert "nobody-of-that-name" in user.detail
    files = bench.paths.instance("web")
    steps = [plan.Overlay("/", ["/no/such/layer"], files.upper, files.work), plan.Pivot()]
    lower = await bench.fails("true", run=2, steps=steps)
    assert lower.stage == "mount"
    assert "/no/such/layer" in lower.detail
    bind = plan.Bind("/no/such/source", "/x")
    steps = [plan.Overlay("/", ["/"], files.upper, files.work), bind, plan.Pivot()]
    assert (await bench.fails("true", run=3, steps=steps)).code == 127
    assert (await bench.fails("true", run=4, rlimits=[[7, 10, 1 << 40]])).stage == "rlimit"
    assert (await bench.fails("true", run=5, seccomp="/no/such.bpf")).stage == "seccomp"
    await bench.until(lambda: not bench.cgroup_directories(), "the cgroups to go")


@scenario
async def test_the_process_is_who_the_root_says(bench: Bench) -> None:
    """Names of the new root's passwd and group; HOME from there; numbers without an entry; group_add."""
    await bench.run("mkdir", "-p", "/etc")
    etc = Path(bench.paths.instance("web").upper, "etc")
    etc.mkdir(exist_ok=True)
    (etc / "passwd").write_text("root:x:0:0::/root:/bin/sh\nalice:x:1234:1235::/home/alice:/bin/sh\n")
    (etc / "group").write_text("root:x:0:\nalice:x:1235:\nteam:x:2000:bob,alice\nextra:x:3000:\n")
    told = 'echo "$(id -u):$(id -g):$(id -G):$HOME"'
    for number, (user, groups, expected) in enumerate(
        [
            ("", [], "0:0:0:/root"),
            ("alice", [], "1234:1235:1235 2000:/home/alice"),
            ("1234", ["extra", "77"], "1234:1235:1235 77 2000 3000:/home/alice"),
            ("alice:team", [], "1234:2000:2000:/home/alice"),
            ("4321", [], "4321:0:0:/"),
            ("4321:99", [], "4321:99:99:/"),
        ]
    ):
        exited = await bench.run("sh", "-c", told, run=number + 2, user=user, groups=groups)
        assert exited.code == 0
        assert await bench.says(expected)


@scenario
async def test_privileges_are_given_up(bench: Bench) -> None:
    """Root keeps what was given, a user only the bounding set; NNP; default signals; no descriptor more."""
    ask = (
        "grep -E '^(Cap|NoNewPrivs|Sig(Blk|Ign)|Seccomp:)' /proc/self/status; ls /proc/self/fd | wc -l; umask"
    )
    await bench.run("sh", "-c", ask, caps=[0, 5])
    text = await bench.says("0022")
    found = dict(line.split(":\t") for line in text.splitlines() if ":\t" in line)
    assert {name: int(found[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")} == {
        "CapPrm": 0x21,
        "CapEff": 0x21,
        "CapBnd": 0x21,
        "CapInh": 0,
        "CapAmb": 0,
    }
    assert (found["NoNewPrivs"], int(found["SigBlk"], 16), int(found["SigIgn"], 16)) == ("1", 0, 0)
    assert text.splitlines()[-2] == "4", "0..2 and the directory that ls reads"
    await bench.run("sh", "-c", ask, instance="user", caps=[0, 5], user="1000:1000", no_new_privs=False)
    text = await bench.says("0022", "user")
    found = dict(line.split(":\t") for line in text.splitlines() if ":\t" in line)
    assert [int(found[name], 16) for name in ("CapPrm", "CapEff", "CapBnd")] == [0, 0, 0x21]
    assert found["NoNewPrivs"] == "0"


@scenario
async def test_the_service_has_its_own_world(bench: Bench) -> None:
    """Hostname, pid 1, mounts, cgroup root, working directory made, environment from nothing, masks."""
    script = """
hostname; echo "pid $$"; pwd; env | sort | tr '\\n' ' '; echo
cat /proc/self/cgroup | grep ^0:
stat -c 'keys %F' /proc/keys; ls /sys/firmware | wc -l
touch /proc/sys/kernel/hostname 2>&1; echo x > /made; ls /proc/1/root/made
"""
    exited = await bench.run("sh", "-c", script, cwd="/new/place", env={"A": "b c"})
    await bench.says("/proc/1/root/made")
    text = bench.output(stream="stdout")
    assert exited.code == 0, text
    lines = text.splitlines()
    assert lines[:3] == ["inside", "pid 1", "/new/place"]
    assert lines[3] == "A=b c HOME=/root PATH=/usr/bin:/bin PWD=/new/place "
    assert lines[4] == "0::/", text
    assert lines[5] == "keys character special file"
    assert lines[6] == "0"
    assert "Read-only file system" in lines[7]
    assert not Path("/made").exists()


@scenario
async def test_no_network_has_loopback_up(bench: Bench) -> None:
    """net=none: an interface lo that is up, and nothing else."""
    listen = (
        "import socket; s=socket.create_server(('127.0.0.1',0)); socket.create_connection(s.getsockname())"
    )
    listen += "; print(sorted(n for _, n in socket.if_nameindex()))"
    exited = await bench.run(PYTHON, "-S", "-c", listen, net="none")
    assert exited.code == 0, bench.output()
    assert "'lo'" in await bench.says("lo")


@scenario
async def test_kill_leaves_nothing_of_a_tree_that_hides(bench: Bench) -> None:
    """Children that double-fork, start sessions and ignore signals end with the run."""
    script = """
trap '' TERM HUP INT
for i in 1 2 3 4 5; do (trap '' TERM HUP; setsid sh -c 'trap "" TERM HUP; sleep 1000 & sleep 1000' &) ; done
echo ready; sleep 1000
"""
    info = await bench.start("sh", "-c", script)
    await bench.says("ready")
    group = bench.setup.unified or next(iter(bench.setup.v1.values()))
    procs = Path(group, info.cgroup, "cgroup.procs")
    await bench.until(lambda: len(procs.read_text().split()) >= 12, "the whole tree")
    pids = [int(pid) for pid in procs.read_text().split()]
    bench.send(protocol.Kill("web", 1))
    assert (await bench.event(protocol.Exited)).code == 137
    assert not [pid for pid in pids if alive(pid)]
    await bench.until(lambda: not bench.cgroup_directories(), "the cgroup to go")


@scenario
async def test_kill_ends_a_fork_loop(bench: Bench) -> None:
    """A process that forks without end, within a limit, cannot outrun the kill."""
    script = """
import os
print("ready", flush=True)
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
    await bench.start(PYTHON, "-S", "-c", script, limits=plan.Limits(pids=100))
    await bench.says("ready")
    bench.send(protocol.Kill("web", 1))
    assert (await bench.event(protocol.Exited)).signal == 9
    await bench.until(lambda: not bench.cgroup_directories(), "the cgroup to go")


@scenario
async def test_the_end_of_the_main_process_ends_the_others(bench: Bench) -> None:
    """What the main process leaves behind does not outlive it."""
    await bench.run("sh", "-c", "sleep 1000 & echo child; exit 0")
    await bench.until(lambda: not bench.cgroup_directories(), "the cgroup to go")


@scenario
async def test_an_out_of_memory_kill_is_told(bench: Bench) -> None:
    """A process that exceeds the memory limit dies by signal 9, and the record says why."""
    limits = plan.Limits(memory_bytes=32 << 20, memory_swap_bytes=32 << 20)
    eat = "b=bytearray(200 << 20)\nfor i in range(0, len(b), 4096): b[i]=1"
    exited = await bench.run(PYTHON, "-S", "-c", eat, limits=limits)
    assert (exited.oom, exited.code) == (True, 137)
    assert not (await bench.run("true", run=2, limits=limits)).oom


@scenario
async def test_a_process_limit_holds(bench: Bench) -> None:
    """pids: forks beyond it fail."""
    fork = """
import os, time
made = 0
try:
    for _ in range(50):
        if os.fork() == 0:
            time.sleep(1000)
        made += 1
except BlockingIOError:
    print("stopped at", made, flush=True)
"""
    await bench.run(PYTHON, "-S", "-c", fork, limits=plan.Limits(pids=10))
    assert await bench.says("stopped at 9")


@scenario
async def test_a_frozen_run_stands_still_until_thawed_or_killed(bench: Bench) -> None:
    """Freeze is confirmed, shown in the state, undone by thaw; kill ends a frozen run."""
    await bench.start("sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")
    await bench.says("3")
    bench.send(protocol.Freeze("web", 1, True))
    assert (await bench.event(protocol.Frozen)).error == ""
    bench.send(protocol.Hello(protocol.VERSION))
    assert (await bench.event(protocol.State)).runs[0].frozen
    bench.send(protocol.Freeze("web", 1, False))
    assert not (await bench.event(protocol.Frozen)).frozen
    count = len(bench.output().splitlines())
    await bench.until(lambda: len(bench.output().splitlines()) > count, "more output")
    bench.send(protocol.Freeze("web", 1, True))
    await bench.event(protocol.Frozen)
    bench.send(protocol.Kill("web", 1))
    assert (await bench.event(protocol.Exited)).code == 137
    bench.send(protocol.Freeze("web", 1, True))
    assert (await bench.event(protocol.Frozen)).error


@scenario
async def test_a_second_run_of_a_living_instance_is_refused(bench: Bench) -> None:
    """Never two lives of an instance; the one there is goes on; the same run asked for again is told."""
    first = await bench.start("sleep", "1000")
    bench.send(protocol.Launch(bench.plan("true", run=2)))
    assert (await bench.event(protocol.LaunchFailed)).stage == "busy"
    bench.send(protocol.Launch(bench.plan("true", run=1)))
    assert (await bench.event(protocol.Started)).info.pid == first.pid
    assert alive(first.pid)


@scenario
async def test_init_reaps_forwards_and_ends_as_the_main_process(bench: Bench) -> None:
    """pid 1 is ours, orphans are reaped, TERM reaches the program, its code is the run's."""
    script = """
(sh -c 'sleep 0.01 & exit 0') ; sleep 0.2
echo "zombies $(grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l) pid $$"
trap 'echo got; exit 9' TERM; while :; do sleep 0.05; done
"""
    await bench.start("sh", "-c", script, init=True)
    await bench.says("zombies 0 pid 2")
    bench.send(protocol.Signal("web", 1, signal.SIGTERM))
    assert (await bench.event(protocol.Exited)).code == 9
    await bench.says("got")
    assert (await bench.fails("nope", run=2, init=True)).code == 127


@scenario
async def test_a_tty_is_the_controlling_terminal_of_the_service(bench: Bench) -> None:
    """All three streams are a pty of its own devpts, /dev/console too; output is logged as one stream."""
    script = "tty; test -c /dev/console && echo console; test -t 0 -a -t 2 && echo yes"
    exited = await bench.run("sh", "-c", script, tty=True)
    text = await bench.says("yes")
    assert exited.code == 0, text
    assert "/dev/pts/0" in text
    assert "console" in text
    assert bench.output(stream="stdout") == ""


@scenario
async def test_standard_input_is_empty_unless_open(bench: Bench) -> None:
    """/dev/null by default; a pipe that never ends with stdin_open."""
    assert (await bench.run("cat")).code == 0
    await bench.start(
        "sh", "-c", "test -p /dev/stdin || test -p /proc/self/fd/0 && echo pipe; cat", run=2, stdin_open=True
    )
    await bench.says("pipe")
    bench.send(protocol.Kill("web", 2))
    await bench.event(protocol.Exited)


@scenario
async def test_the_launchers_interpreter_cannot_be_written(bench: Bench) -> None:
    """Its executable lies on a read-only mount, in its own namespace; it cannot be looked into."""
    bench.send(protocol.Hello(protocol.VERSION))
    pid = (await bench.event(protocol.State)).pid
    mine, its = (os.readlink(f"/proc/{p}/ns/mnt") for p in ("self", pid))
    assert mine != its
    rows = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    over = [row for row in rows if row[4] == os.readlink(f"/proc/{pid}/exe")]
    assert over, "bound over itself"
    assert "ro" in over[-1][5].split(",")
    assert any("master:" in " ".join(row) for row in rows) or not any(
        "shared:" in line for line in Path("/proc/self/mountinfo").read_text().splitlines()
    ), "later mounts of the host are seen"


@scenario
async def test_many_rapid_launches_leave_nothing(bench: Bench) -> None:
    """200 runs one after the other: no descriptor, cgroup, mount or zombie more than before."""
    await bench.run("true")
    bench.send(protocol.Hello(protocol.VERSION))
    pid = (await bench.event(protocol.State)).pid
    await bench.until(lambda: not bench.cgroup_directories())
    before = len(os.listdir(f"/proc/{pid}/fd"))
    mounts = len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
    for number in range(2, 202):
        await bench.run("true", run=number)
    await bench.until(lambda: not bench.cgroup_directories(), "the cgroups to go")
    await bench.until(lambda: len(os.listdir(f"/proc/{pid}/fd")) <= before, "the descriptors to go")
    assert len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()) == mounts
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) <= 3, "log writer, nursery and spare"
