"""The log writer as a real process: exactly once over kills, bounds, full disks, binary and long lines."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.kernel import inotify
from supervisor.launcher import logformat
from supervisor.launcher.loglink import LogLink

pytestmark = pytest.mark.kernel

_DEADLINE_S = 30.0


class Bench:
    """A link with its loop, and what it said."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.run_dir = directory / "run"
        self.run_dir.mkdir()
        self.reports: list[str] = []
        self.drained: list[tuple[str, int]] = []
        self.children: list[subprocess.Popen[bytes]] = []
        self.link = self._link()

    def _link(self) -> LogLink:
        link = LogLink(
            str(self.run_dir), sys.executable, self.reports.append, lambda i, r: self.drained.append((i, r))
        )
        link.start()
        return link

    def log(self, instance: str = "web") -> Path:
        return self.directory / instance / "output.log"

    def attach(
        self, stream: str = "stdout", instance: str = "web", size: int = 1 << 30, files: int = 3
    ) -> int:
        """A pipe whose read end is attached; the caller owns the write end."""
        r, w = os.pipe()
        self.link.attach(instance, 1, stream, r, str(self.log(instance)), size, files)
        return w

    def emit(self, w: int, code: str, *args: str) -> subprocess.Popen[bytes]:
        """A process whose standard output is `w` (which is closed here)."""
        process = subprocess.Popen([sys.executable, "-c", code, *args], stdout=w)
        os.close(w)
        self.children.append(process)
        return process

    def turn(self, timeout: float = 0.02) -> None:
        select.select([self.link], [], [], timeout)
        self.link.on_ready()

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"timed out; reports: {self.reports[-5:]}"
            self.turn()

    def kill_writer(self) -> None:
        pid = self.writer_pid()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def writer_pid(self) -> int:
        assert self.link.child_pid is not None
        return self.link.child_pid

    def stored(self, stream: str) -> int:
        """Bytes of that stream that are in files, by the counters."""
        return sum(count for _, name, count, _ in self.link.counters() if name == stream)

    def idle(self, wanted: dict[str, bytes]) -> bool:
        """Whether everything that was written is stored."""
        return all(self.stored(stream) == len(text) for stream, text in wanted.items())

    def abandon(self) -> None:
        """Kill the log writer for good although it has streams."""
        pid = self.writer_pid()
        self.link.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.link = self._link()

    def end(self) -> None:
        for child in self.children:
            child.kill()
            child.wait()
        self.link.quit()
        pid = self.link.child_pid
        end = time.monotonic() + 5
        while self.link.child_pid is not None and time.monotonic() < end:
            self.turn()
        left = self.link.child_pid
        self.link.close()  # first, or the link would start another one
        for child_pid in {pid, left} - {None}:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                assert child_pid is not None
                if os.waitpid(child_pid, os.WNOHANG)[0] == 0:
                    os.kill(child_pid, signal.SIGKILL)
                    os.waitpid(child_pid, 0)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    try:
        yield bench
    finally:
        bench.end()


def content(log: Path) -> bytes:
    """Everything in a log and its rotated files, oldest first."""
    rotated = sorted(log.parent.glob(log.name + ".*"), key=lambda p: -int(p.suffix[1:]))
    return b"".join(p.read_bytes() for p in [*rotated, log] if p.exists())


def texts(log: Path) -> dict[str, bytes]:
    """What each stream wrote, put together again; every line of the file must be a CRI line."""
    out: dict[str, list[bytes]] = {}
    data = content(log)
    assert data.endswith(b"\n")
    for line in data[:-1].split(b"\n"):
        piece = logformat.decode(line)
        assert piece is not None, line[:80]
        out.setdefault(piece.stream, []).append(piece.text + (b"\n" if piece.final else b""))
    return {stream: b"".join(pieces) for stream, pieces in out.items()}


def numbered(count: int, pad: int = 70) -> str:
    """A program that writes numbered lines in writes of odd sizes, so that batches end in mid-line."""
    return (
        "import os, random\n"
        f"data = b''.join(b'%08d %b\\n' % (i, b'x' * (i % {pad})) for i in range({count}))\n"
        "at = 0\n"
        "while at < len(data):\n"
        "    at += os.write(1, data[at:at + random.randint(1, 30000)])\n"
    )


def expected(count: int, pad: int = 70) -> bytes:
    return b"".join(b"%08d %b\n" % (i, b"x" * (i % pad)) for i in range(count))


def test_output_is_stored_stamped_and_counted(bench: Bench) -> None:
    """Both streams of an instance land in one file, whole; counters are the service's own bytes."""
    bench.emit(bench.attach("stdout"), numbered(20000))
    bench.emit(bench.attach("stderr"), numbered(10000))
    bench.until(lambda: bench.drained == [("web", 1)])
    assert texts(bench.log()) == {"stdout": expected(20000), "stderr": expected(10000)}
    assert bench.link.counters() == [
        ("web", "stderr", len(expected(10000)), 0),
        ("web", "stdout", len(expected(20000)), 0),
    ]
    assert bench.reports == []


def test_each_line_is_stored_once_however_often_the_log_writer_is_killed(bench: Bench) -> None:
    """kill -9 of the log writer at random moments: every line of every stream once, in order, rotated."""
    count = 400000
    for stream, instance in (("stdout", "web"), ("stderr", "web"), ("stdout", "db")):
        bench.emit(bench.attach(stream, instance, size=500_000, files=1000), numbered(count))
    kills = 0
    rng = random.Random(7)
    while len(bench.drained) < 2:
        if kills == 60:
            bench.turn()
            continue
        before, restarts = bench.link.counters(), bench.link.restarts
        bench.until(lambda b=before: bench.link.counters() != b or len(bench.drained) == 2)  # type: ignore[misc]
        end = time.monotonic() + rng.uniform(0.0, 0.02)
        while time.monotonic() < end:
            pass  # a moment within a batch, finer than a sleep
        bench.kill_writer()
        bench.until(lambda n=restarts: bench.link.restarts > n)  # type: ignore[misc]  # bound on purpose
        kills += 1
    assert kills >= 10, "precondition: the writer was killed while there was output"
    assert bench.link.restarts == kills
    assert texts(bench.log("web")) == {"stdout": expected(count), "stderr": expected(count)}
    assert texts(bench.log("db")) == {"stdout": expected(count)}
    assert bench.link.counters()[0] == ("db", "stdout", len(expected(count)), 0)


_TRACED = """#!{python}
import itertools, os, signal, sys
sys.path.insert(0, {root!r})
from supervisor.launcher import logfile, logjournal, logwriter
with open({counter!r}, "r+") as file:
    limit = int(file.read()) + 1
    file.seek(0)
    file.write(str(limit))
files = {{module.__file__ for module in (logfile, logjournal, logwriter)}}
going = False
steps = itertools.count(1)
def line(frame, event, arg):
    if event == "line" and going and next(steps) == limit:
        os.kill(os.getpid(), signal.SIGKILL)
    return line
def call(frame, event, arg):
    global going
    going = going or frame.f_code.co_name == "_go"
    return line if frame.f_code.co_filename in files else None
sys.settrace(call)
sys.exit(logwriter.main(sys.argv[sys.argv.index("-m") + 1:]))
"""


@pytest.mark.slow
def test_each_line_is_stored_once_wherever_the_log_writer_is_killed(bench: Bench) -> None:
    """The n-th log writer kills itself before its n-th line of Python: nothing is lost or doubled.

    A small bound makes every third batch or so rotate, so that the steps of a rotation are among them.
    """
    counter, python = bench.directory / "counter", bench.directory / "python"
    counter.write_text("0")
    root = str(Path(__file__).resolve().parents[2])
    python.write_text(_TRACED.format(python=sys.executable, root=root, counter=str(counter)))
    python.chmod(0o755)
    bench.link._python = str(python)
    outs = {
        "stdout": bench.attach("stdout", size=150_000, files=1000),
        "stderr": bench.attach("stderr", size=150_000, files=1000),
    }
    bench.kill_writer()
    wanted = {"stdout": b"", "stderr": b""}
    data = expected(1000)  # ends on no boundary of a batch: half of it is written at a time
    deaths, at = 0, 0
    while deaths < 400:
        for stream, w in outs.items():
            piece = data[at % len(data) :][:17_001]
            if len(wanted[stream]) - bench.stored(stream) < 30_000:
                os.write(w, piece)
                wanted[stream] += piece
        at += 17_001
        restarts = bench.link.restarts
        bench.until(lambda n=restarts: bench.link.restarts > n or bench.idle(wanted))  # type: ignore[misc]
        deaths = bench.link.restarts
        bench.link._failures = 0
    bench.link._python = sys.executable
    bench.kill_writer()
    for w in outs.values():
        os.close(w)
    bench.until(lambda: bool(bench.drained))
    found = texts(bench.log())
    for stream, text in wanted.items():
        assert found[stream] == text + (b"" if text.endswith(b"\n") else b"\n")


_LAUNCHER = """
import os, select, subprocess, sys
from supervisor.launcher.loglink import LogLink
run_dir, log, program = sys.argv[1:4]
drained = []
link = LogLink(run_dir, sys.executable, lambda text: None, lambda i, r: drained.append((i, r)))
link.start()
recovered = link.recovered()
if not recovered and program:
    for stream in ("stdout", "stderr"):
        r, w = os.pipe()
        subprocess.Popen([sys.executable, "-c", program], stdout=w)
        os.close(w)
        link.attach("web", 1, stream, r, log, 300_000, 1000)
    link.on_ready()
    recovered = [1, 2]
print(len(recovered), flush=True)
while recovered and not drained:
    select.select([link], [], [])
    link.on_ready()
print("drained", flush=True)
"""


def test_each_line_is_stored_once_however_often_the_launcher_is_killed(tmp_path: Path) -> None:
    """kill -9 of a launcher: the log writer writes on, the next launcher takes the streams over."""
    count = 200000
    log = tmp_path / "web" / "output.log"
    rng = random.Random(11)
    kills, program = 0, numbered(count)
    while True:
        launcher = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, str(tmp_path), str(log), program],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert launcher.stdout is not None
        with launcher, launcher.stdout:
            try:
                assert launcher.stdout.readline() in (b"2\n", b"1\n", b"0\n")
                program = ""
                if select.select([launcher.stdout], [], [], rng.uniform(0, 0.1) if kills < 30 else 60)[0]:
                    assert launcher.stdout.readline() == b"drained\n"
                    break
                kills += 1
            finally:
                launcher.kill()
    assert kills >= 1, "precondition: a launcher was killed while there was output"
    size = -1
    end = time.monotonic() + 30
    while len(content(log)) != size or time.monotonic() > end:  # the last writer may outlive its launcher
        size = len(content(log))
        select.select([], [], [], 0.2)
    assert texts(log) == {"stdout": expected(count), "stderr": expected(count)}


def test_a_log_never_outgrows_its_bounds(bench: Bench) -> None:
    """At most max_files in all, and none larger than max_size (a batch is smaller here)."""
    bench.emit(bench.attach(size=1_000_000, files=3), numbered(100000))
    bench.until(lambda: bool(bench.drained))
    sizes = {p.name: p.stat().st_size for p in bench.log().parent.iterdir()}
    assert set(sizes) == {"output.log", "output.log.1", "output.log.2"}
    assert all(0 < size <= 1_000_000 for size in sizes.values())
    assert expected(100000).endswith(texts(bench.log())["stdout"][-500_000:])


def test_one_file_is_bounded_too(bench: Bench) -> None:
    """max_files=1 keeps one file within max_size."""
    bench.emit(bench.attach(size=1_000_000, files=1), numbered(100000))
    bench.until(lambda: bool(bench.drained))
    assert [p.name for p in bench.log().parent.iterdir()] == ["output.log"]
    assert bench.log().stat().st_size <= 1_000_000


def test_binary_output_and_long_lines_come_through(bench: Bench) -> None:
    """Any bytes are kept, and a line beyond 16 KiB is stored as pieces of at most 16 KiB."""
    data = random.Random(3).randbytes(300_000) + b"\n" + b"y" * 500_000 + b"\n\n\0\r\n end"
    code = "import os, sys\nd = open(sys.argv[1], 'rb').read()\nwhile d: d = d[os.write(1, d):]"
    (source := bench.directory / "source").write_bytes(data)
    bench.emit(bench.attach(), code, str(source))
    bench.until(lambda: bool(bench.drained))
    lines = content(bench.log()).split(b"\n")
    assert max(map(len, lines)) <= logformat.MAX_RECORD_BYTES
    # The unfinished last line is ended when its stream ends.
    assert texts(bench.log())["stdout"] == data + b"\n"


def test_a_terminal_is_logged_until_its_last_end_closes(bench: Bench) -> None:
    """The master of a pty is a stream like any other."""
    master, slave = pty.openpty()
    bench.link.attach("web", 1, "tty", master, str(bench.log()), 1 << 30, 3)
    os.write(slave, b"hello\nprompt> ")
    bench.until(lambda: bench.link.counters()[0][2] == len(b"hello\r\nprompt> "))
    os.close(slave)
    bench.until(lambda: bool(bench.drained))
    assert texts(bench.log()) == {"tty": b"hello\r\nprompt> \n"}


def test_a_descriptor_that_cannot_be_spliced_is_copied(bench: Bench) -> None:
    """As on ttys of kernels before 5.10; an inotify descriptor is such a one here."""
    watcher = inotify.Inotify()
    try:
        watcher.watch(str(bench.directory), inotify.CREATE)
        bench.link.attach("web", 1, "tty", os.dup(watcher.fileno()), str(bench.log()), 1 << 30, 3)
        (bench.directory / "a-new-name").touch()
        bench.until(lambda: bench.log().exists() and b"a-new-name" in content(bench.log()))
    finally:
        watcher.close()
        bench.abandon()


def test_a_deleted_log_directory_is_made_again(bench: Bench) -> None:
    """Deleting the log file and its directory costs what was in it and nothing that comes after."""
    w = bench.attach()
    os.write(w, b"before\n")
    bench.until(lambda: bench.log().exists() and bench.log().stat().st_size > 0)
    bench.log().unlink()
    bench.log().parent.rmdir()
    os.write(w, b"after\n")
    os.close(w)
    bench.until(lambda: bool(bench.drained))
    assert texts(bench.log()) == {"stdout": b"after\n"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    target = tmp_path / "disk"
    target.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(target)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.decode()}")
    try:
        yield target
    finally:
        subprocess.run(["umount", "-l", str(target)], check=True)


@pytest.mark.parametrize("kill", [False, True])
def test_a_full_disk_makes_the_service_wait_and_loses_nothing(
    bench: Bench, small_disk: Path, kill: bool
) -> None:
    """ENOSPC: said once, other services go on, memory stays; once there is room every line is there once."""
    (ballast := small_disk / "ballast").write_bytes(b"b" * 1_000_000)
    r, w = os.pipe()
    log = small_disk / "web.log"
    bench.link.attach("web", 1, "stdout", r, str(log), 1 << 30, 3)
    count = 20000
    service = bench.emit(w, numbered(count))
    bench.until(lambda: any("No space left" in text for text in bench.reports))
    if kill:
        bench.kill_writer()
        bench.until(lambda: sum("No space left" in text for text in bench.reports) >= 2)
    bench.emit(bench.attach(instance="other"), numbered(1000))
    bench.until(lambda: ("other", 1) in bench.drained)
    assert ("web", 1) not in bench.drained
    ballast.unlink()
    bench.until(lambda: ("web", 1) in bench.drained)
    assert service.wait() == 0
    assert texts(log) == {"stdout": expected(count)}
    assert any("written again" in text for text in bench.reports)


def pss_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def test_memory_stays_bounded_however_much_is_written(bench: Bench) -> None:
    """60 MB of output through four streams leave the log writer below 24 MiB."""
    code = "import os\nfor i in range(250): os.write(1, b'z' * 59999 + b'\\n')"
    for stream, instance in (("stdout", "a"), ("stderr", "a"), ("stdout", "b"), ("stderr", "b")):
        bench.emit(bench.attach(stream, instance, size=1_000_000), code)
    peak = 0
    while len(bench.drained) < 2:
        bench.turn(0.01)
        peak = max(peak, pss_kib(bench.writer_pid()))
    assert peak < 24 * 1024


def test_an_idle_log_writer_does_not_run(bench: Bench) -> None:
    """No polling: with a silent stream attached the process uses no CPU between two looks."""
    w = bench.attach()
    os.write(w, b"x\n")
    bench.until(lambda: bool(bench.link.counters()[0][2]))
    status = Path(f"/proc/{bench.writer_pid()}/status")

    def switches() -> list[str]:
        return [line for line in status.read_text().splitlines() if "ctxt_switches" in line]

    bench.until(lambda: "\nState:\tS" in status.read_text())
    select.select([], [], [], 0.2)
    before = switches()
    select.select([], [], [], 1.0)
    assert switches() == before
    os.close(w)


def test_the_log_writer_ends_when_nobody_needs_it(bench: Bench) -> None:
    """quit(): it ends after the last stream, with everything written, and is not started again."""
    w = bench.attach()
    os.write(w, b"last words")
    bench.link.quit()
    bench.turn()
    assert bench.link.child_pid is not None
    os.close(w)
    bench.until(lambda: bench.link.child_pid is None)
    assert bench.link.restarts == 0
    assert texts(bench.log()) == {"stdout": b"last words\n"}
