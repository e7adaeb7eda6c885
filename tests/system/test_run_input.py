"""`run -i`, `run -it` and `attach`: stdin to its end, a real terminal, leaving it and coming back."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator

import pytest
from supervising import PATIENCE_S, Supervisor, supervising, until
from test_images import root_archive

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox on this machine"),
]


@pytest.fixture(scope="module")
def box() -> Iterator[Supervisor]:
    with supervising() as made:
        (made.base / "root.tgz").write_bytes(root_archive("1"))
        made.ok("import", "root.tgz", "box")
        yield made


@pytest.fixture(autouse=True)
def _nothing_left(box: Supervisor) -> Iterator[None]:
    """A test that fails leaves its instances; the next one begins without them."""
    yield
    if left := box.ok("ps", "-a", "-q").split():
        box.run("rm", "--force", *left)


def piped(box: Supervisor, stdin: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "supervisor.cli.main", *words],
        env=box.environment, cwd=box.base, input=stdin, capture_output=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


class Screen:
    """The command on a terminal of its own."""

    def __init__(self, box: Supervisor, *words: str) -> None:
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        self.before = termios.tcgetattr(self.slave)
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.cli.main", *words],
            env=box.environment, cwd=box.base, stdin=self.slave, stdout=self.slave, stderr=self.slave,
        )  # fmt: skip

    def expect(self, wanted: bytes) -> None:
        """Read until it is there, and forget what was before it."""
        while wanted not in self.seen:
            ready, _, _ = select.select([self.master], [], [], PATIENCE_S)
            assert ready, self.seen
            self.seen += os.read(self.master, 4096)
        self.seen = self.seen.partition(wanted)[2]

    def answer(self, command: bytes) -> bytes:
        """The line that a command of a shell prints, at its prompt."""
        self.type(command + b"\n")
        self.expect(command + b"\r\n")
        while b"# " not in self.seen:
            self.seen += os.read(self.master, 4096)
        line, _, self.seen = self.seen.partition(b"\r\n")
        self.expect(b"# ")
        return line

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def ended(self) -> int:
        """Its exit code; the terminal is as it was."""
        code = self.process.wait(PATIENCE_S)
        assert termios.tcgetattr(self.slave) == self.before
        return code


@contextlib.contextmanager
def screen(box: Supervisor, *words: str) -> Iterator[Screen]:
    made = Screen(box, *words)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        os.close(made.master)
        os.close(made.slave)


def test_stdin_comes_to_its_end(box: Supervisor) -> None:
    assert piped(box, b"x\n", "run", "-i", "--rm", "box", "/bin/cat").stdout == b"x\n"
    assert piped(box, b"", "run", "-i", "--rm", "box", "/bin/cat").stdout == b""
    assert piped(box, b"x\n", "run", "--rm", "box", "/bin/cat").stdout == b"", "without -i it has none"
    much = os.urandom(3_000_000)
    echoed = piped(box, much, "run", "-i", "--rm", "box", "/bin/cat")
    assert echoed.returncode == 0
    assert echoed.stdout == much, "every byte, and no newline more"


def test_who_reads_no_stdin_ends_all_the_same(box: Supervisor) -> None:
    result = piped(box, b"y" * 1_000_000, "run", "-i", "--rm", "box", "/bin/sh", "-c", "read -n 1 a; exit 4")
    assert result.returncode == 4


def test_a_shell_on_a_terminal(box: Supervisor) -> None:
    with screen(box, "run", "-it", "--rm", "box", "/bin/sh") as shell:
        shell.expect(b"# ")
        shell.type(b"tty; echo $TERM\n")
        shell.expect(b"/dev/pts/0\r\n")
        shell.expect(b"xterm\r\n")
        shell.expect(b"# ")
        shell.type(b"stty size\n")
        shell.expect(b"33 77\r\n")
        shell.expect(b"# ")
        fcntl.ioctl(shell.master, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 99, 0, 0))
        shell.process.send_signal(signal.SIGWINCH)  # the kernel does where it is the controlling terminal
        until(lambda: shell.answer(b"stty size") == b"44 99", "it has the new size")
        shell.type(b"echo begun; cat\n")
        shell.expect(b"\r\nbegun\r\n")
        shell.type(b"\x03")  # ends cat, not the shell
        shell.expect(b"# ")
        shell.type(b"exit 5\n")
        assert shell.ended() == 5
    assert box.ok("ps", "-a", "-q") == ""


def test_a_terminal_is_left_and_come_back_to(box: Supervisor) -> None:
    with screen(box, "run", "-it", "--name", "kept", "box", "/bin/sh") as shell:
        shell.expect(b"# ")
        shell.type(b"A=remembered\n")
        shell.expect(b"# ")
        shell.type(b"\x10\x11")
        shell.expect(b"attach")
        assert shell.ended() == 0
    assert box.state("kept") == "running"
    with screen(box, "attach", "--detach-keys", "ctrl-x", "kept") as shell:
        shell.type(b"echo $A\n")
        shell.expect(b"remembered\r\n")
        shell.type(b"\x18")
        assert shell.ended() == 0
    with screen(box, "attach", "kept") as shell:
        shell.type(b"echo $A\n")
        shell.expect(b"remembered\r\n")
        shell.process.send_signal(signal.SIGTERM)  # passed on; a shell on a terminal takes no notice
        shell.type(b"exit 6\n")
        assert shell.ended() == 6
    box.ok("rm", "kept")


def test_a_terminal_is_restored_when_the_command_is_ended(box: Supervisor) -> None:
    with screen(box, "run", "-it", "--sig-proxy=false", "--name", "left", "box", "/bin/sh") as shell:
        shell.expect(b"# ")
        shell.process.send_signal(signal.SIGTERM)
        assert shell.ended() == 128 + signal.SIGTERM
    assert box.state("left") == "running"
    box.ok("rm", "-f", "left")


def test_a_terminal_lives_on_when_the_launcher_was_killed(box: Supervisor) -> None:
    box.ok("run", "-dit", "--name", "held", "box", "/bin/sh")
    (launcher,) = [
        process
        for process in box.helpers()
        if "supervisor.launcher.server" in process.cmdline() and process.ppid() == 1
    ]
    launcher.kill()
    with screen(box, "attach", "held") as shell:  # nobody has waited for the next launcher
        shell.type(b"echo a$((1+1))b\n")
        shell.expect(b"a2b\r\n")
        shell.type(b"exit 8\n")
        shell.ended()
    until(lambda: box.state("held") == "exited", "the shell has ended")
    box.ok("rm", "held")


def test_minus_it_needs_a_terminal(box: Supervisor) -> None:
    result = piped(box, b"", "run", "-it", "--rm", "box", "/bin/sh")
    assert result.returncode == 125
    assert b"stdin is no terminal" in result.stderr
    assert piped(box, b"", "run", "-t", "--rm", "box", "/bin/sh", "-c", "echo a").stdout == b"a\r\n"


def test_attach_gives_stdin_and_takes_the_exit_code(box: Supervisor) -> None:
    """What was made with -d keeps its stdin open when a client has gone."""
    box.ok("run", "-di", "--name", "asks", "box", "/bin/sh", "-c", "read a; echo $a; read b; echo $b; exit 3")
    assert piped(box, b"one\n", "attach", "--detach-keys", "ctrl-x", "--no-stdin", "nothing").returncode == 4
    with subprocess.Popen(
        [sys.executable, "-m", "supervisor.cli.main", "attach", "--sig-proxy=false", "asks"],
        env=box.environment, cwd=box.base, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as first:  # fmt: skip
        assert first.stdin is not None
        first.stdin.write(b"one\n")
        first.stdin.close()
        assert first.stdout is not None
        assert first.stdout.readline() == b"one\n"
        result = piped(box, b"two\n", "attach", "asks")
        assert (result.returncode, result.stdout) == (3, b"two\n")
        assert first.wait(PATIENCE_S) == 3
    result = piped(box, b"", "attach", "asks")
    assert result.returncode == 1
    assert b"it is exited" in result.stderr
    box.ok("rm", "asks")


def test_rename_and_prune(box: Supervisor) -> None:
    box.ok("run", "-d", "--name", "runs", "box", "/bin/sleep", "1000")
    box.ok("create", "--name", "old", "-l", "kind=x", "box", "/bin/sh")
    box.ok("create", "--name", "other", "box", "/bin/sh")
    box.ok("rename", "old", "new")
    box.ok("rename", "runs", "runs-on")
    assert box.run("rename", "new", "other").returncode == 1, "the name is taken"
    assert box.run("rename", "new", "a b").returncode == 1
    box.kill()
    box.start()
    assert sorted(box.ok("ps", "-a", "--format", "json").count(f'"{n}"') > 0 for n in ("new", "runs-on")) == [
        True, True,
    ]  # fmt: skip
    gone = json.loads(box.ok("container", "prune", "-f", "--filter", "label=kind=x", "--format", "json"))
    assert len(gone["removed"]) == 1
    assert box.run("inspect", "new").returncode == 4
    assert len(box.ok("container", "prune", "-f").split()) == 1
    assert box.state("runs-on") == "running"
    box.ok("rm", "--force", "runs-on")
    until(lambda: box.ok("ps", "-a", "-q") == "", "all are gone")


def test_mounts_and_shm(box: Supervisor) -> None:
    (box.base / "shared").mkdir()
    (box.base / "shared" / "seen").touch()
    script = (
        "ls /s; touch /s/x 2>/dev/null || echo ro; while read a b c d e; do case $b in /t|/dev/shm|/v)"
        " echo $b $d;; esac; done < /proc/mounts"
    )
    out = box.ok(
        "run", "--rm", "--shm-size", "1m",
        "--mount", f"type=bind,src={box.base}/shared,dst=/s,readonly",
        "--mount", "type=tmpfs,target=/t,tmpfs-size=64k,tmpfs-mode=0700",
        "--mount", "type=volume,source=kept,target=/v",
        "box", "/bin/sh", "-c", script,
    )  # fmt: skip
    assert out.startswith("seen\nro\n")
    assert "size=1024k" in out.partition("/dev/shm ")[2].splitlines()[0]
    assert "size=64k,mode=700" in out.partition("/t ")[2].splitlines()[0]
    assert "/v " in out
    for words, why in (
        ("type=bind,src=/no/such,dst=/s", "/no/such"),
        ("type=disk,dst=/s", "bind, volume, tmpfs and image"),
        ("type=bind,src=/", "target= is missing"),
        ("type=bind,src=/,dst=/s,colour=red", "colour=red"),
    ):
        result = box.run("run", "--rm", "--mount", words, "box", "/bin/sh")
        assert result.returncode == 125, words
        assert why in result.stderr
    until(lambda: box.ok("ps", "-a", "-q") == "", "none is left")
