"""Names while one or the other of those who answer ends: no question is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dnslib
import pytest
from naming import PATIENCE_S, Namespace, Resolving, member, namespace

from supervisor.kernel import hierarchies
from supervisor.resolver import protocol

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="no ip: apt-get install iproute2"),
]


class Asker:
    """Asks again and again, each time once and without a second try, in turn over UDP and TCP."""

    def __init__(self, where: Namespace, tcp: bool) -> None:
        self._wire = dnslib.DNSRecord.question("web").pack()
        self._where = where
        self._tcp = tcp
        self._ended = False
        self._more = threading.Condition()
        self.failures: list[str] = []
        self.answers = 0
        self._thread = threading.Thread(target=where.inside, args=(self._run,))
        self._thread.start()

    def _run(self) -> None:
        while not self._ended:
            try:
                found = self._once()
                rdata = str(dnslib.DNSRecord.parse(found).rr[0].rdata)
                assert rdata in ("10.0.0.2", "10.0.0.9"), rdata
            except (OSError, AssertionError, IndexError) as error:
                self.failures.append(repr(error))
                self._ended = True
            with self._more:
                self.answers += 1
                self._more.notify()

    def _once(self) -> bytes:
        kind = socket.SOCK_STREAM if self._tcp else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(("127.0.0.11", 53))
            if not self._tcp:
                sock.send(self._wire)
                return sock.recv(512)
            sock.sendall(len(self._wire).to_bytes(2, "big") + self._wire)
            with sock.makefile("rb") as file:
                return file.read(int.from_bytes(file.read(2), "big"))

    def more(self, count: int = 50) -> None:
        """Wait for so many answers more."""
        until = self.answers + count
        with self._more:
            assert self._more.wait_for(lambda: self.answers >= until or self._ended, PATIENCE_S)

    def end(self) -> None:
        """No failure is what it should have seen."""
        self._ended = True
        self._thread.join()
        assert self.failures == []


@contextlib.contextmanager
def asking(where: Namespace, *, tcp: bool = False) -> Iterator[Asker]:
    made = Asker(where, tcp)
    try:
        made.more()
        yield made
        made.more()
    finally:
        made.end()


def ended(pid: int, work: Callable[[], None]) -> None:
    """Do it, and wait until a process is gone for it."""
    pidfd = os.pidfd_open(pid)
    try:
        work()
        assert select.select([pidfd], [], [], PATIENCE_S)[0], f"{pid} ends"
    finally:
        os.close(pidfd)


def part(run_dir: Path, web: Namespace, address: str) -> subprocess.Popen[str]:
    """A daemon's part that has told its table."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("asking.py")), str(run_dir), web.path, address],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as told:
        assert told.readline() == "told\n"
    return process


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_no_question_is_lost_while_the_daemon_is_killed_and_comes_back(
    web: Namespace, tmp_path: Path, tcp: bool
) -> None:
    first = part(tmp_path, web, "10.0.0.2")
    resolver = None
    try:
        with asking(web, tcp=tcp) as asker:
            first.kill()
            first.wait()
            asker.more()
            second = part(tmp_path, web, "10.0.0.9")
            try:
                assert web.addresses("web") == ["10.0.0.9"], "the new table, of the same resolver"
                asker.more()
            finally:
                second.kill()
                second.wait()
    finally:
        first.kill()
        first.wait()
        resolver = Resolving(str(tmp_path))
        pid = resolver.pid
        ended(pid, lambda: resolver.close(end=True))
    assert os.listdir(tmp_path) == []


def test_no_question_is_lost_while_the_resolver_is_killed(resolver: Resolving, web: Namespace) -> None:
    """They wait in the sockets, of which the daemon has a second descriptor."""
    resolver.tell(member(web, "shop-web-1", "web", "10.0.0.2"))
    with asking(web) as asker:
        for count in range(1, 4):
            before = resolver.pid
            ended(before, lambda pid=before: os.kill(pid, signal.SIGKILL))  # type: ignore[misc]
            asker.more()
            assert resolver.pid != before
            assert resolver.names.lost == count
    assert resolver.said == ["the resolver died; another one takes over what it was asked"] * 3


def test_a_resolver_that_a_daemon_adopted_is_replaced_without_its_telling(
    web: Namespace, tmp_path: Path
) -> None:
    first = Resolving(str(tmp_path))
    first.tell(member(web, "shop-web-1", "web", "10.0.0.2"))
    first.close(end=False)
    second = Resolving(str(tmp_path))
    try:
        with asking(web) as asker:
            before = second.pid
            ended(before, lambda: os.kill(before, signal.SIGKILL))
            asker.more()
            assert second.pid != before
    finally:
        second.close(end=True)


def test_a_resolver_of_another_version_is_replaced_without_a_gap(
    web: Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Resolving(str(tmp_path))
    first.tell(member(web, "shop-web-1", "web", "10.0.0.2"))
    before = first.pid
    first.close(end=False)
    second = Resolving(str(tmp_path))
    try:
        assert second.names._link is not None
        second.names._link.version = protocol.VERSION - 1  # as an older one says
        with asking(web) as asker, asking(web, tcp=True):
            ended(before, lambda: second.tell(member(web, "shop-web-1", "web", "10.0.0.9")))
            asker.more()
            assert second.pid != before
            assert web.addresses("web") == ["10.0.0.9"]
        assert second.said == []
    finally:
        second.close(end=True)


def test_one_that_hangs_is_replaced(
    resolver: Resolving, web: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisor.daemon.resolverlink._PATIENCE_S", 0.5)
    resolver.tell(member(web, "shop-web-1", "web", "10.0.0.2"))
    before = resolver.pid
    os.kill(before, signal.SIGSTOP)
    ended(before, lambda: resolver.do(resolver.names.counters()) and None)
    assert web.addresses("web") == ["10.0.0.2"]
    assert resolver.pid != before


def test_changes_are_seen_at_once_and_by_the_same_resolver(resolver: Resolving, web: Namespace) -> None:
    resolver.tell(member(web, "shop-web-1", "web", "10.0.0.2"))
    before = resolver.pid
    for number in range(3, 20):
        resolver.tell(member(web, "shop-web-1", "web", f"10.0.0.{number}"))
        assert web.addresses("web") == [f"10.0.0.{number}"]
    with namespace() as other:
        resolver.tell(
            member(web, "shop-web-1", "web", "10.0.0.2"), member(other, "shop-db-1", "db", "10.0.0.3")
        )
        assert other.addresses("web") == ["10.0.0.2"]
        resolver.tell(member(web, "shop-web-1", "web", "10.0.0.2"))
        with pytest.raises(ConnectionRefusedError):
            other.ask("web")
    assert resolver.pid == before


def test_a_namespace_that_was_made_anew_gets_new_sockets(resolver: Resolving, web: Namespace) -> None:
    with namespace() as other:
        resolver.tell(member(other, "shop-web-1", "web", "10.0.0.2"))
        assert other.addresses("web") == ["10.0.0.2"]
        resolver.tell(member(web, "shop-web-1", "web", "10.0.0.2"))
        assert web.addresses("web") == ["10.0.0.2"]


def test_a_namespace_that_is_not_there_is_a_problem_of_its_own(resolver: Resolving, web: Namespace) -> None:
    good = member(web, "shop-web-1", "web", "10.0.0.2")
    gone = member(Namespace("skn-none"), "shop-db-1", "db", "10.0.0.3")
    problems = resolver.do(resolver.names.tell(lambda: [good, gone]))
    assert problems == {
        "shop-db-1": "cannot answer names in the network of shop-db-1: No such file or directory"
    }
    assert web.addresses("db") == ["10.0.0.3"]


def test_nothing_is_left_and_nothing_runs_without_endpoints(web: Namespace, tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    made = Resolving(str(tmp_path))
    made.tell()
    assert made.names._link is None, "who has no networks has no resolver"
    for _ in range(3):
        made.tell(member(web, "shop-web-1", "web", "10.0.0.2"))
        pid = made.pid
        ended(pid, made.tell)
        if (ending := made.names._idle) is not None:
            made.do(asyncio.wait([ending]))
        assert os.listdir(tmp_path) == []
    made.close(end=True)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_what_is_told_after_the_end_starts_nothing(web: Namespace, tmp_path: Path) -> None:
    """A port that was given back when the supervisor had let go of the resolver (seen after a Ctrl-C)."""
    made = Resolving(str(tmp_path))
    made.tell(member(web, "shop-web-1", "web", "10.0.0.2"))
    pid = made.pid
    ended(pid, lambda: made.do(made.names.close(end=True)))
    made.tell(member(web, "shop-web-1", "web", "10.0.0.2"))
    assert made.names._link is None
    assert os.listdir(tmp_path) == []
    made.close(end=True)


def test_it_runs_in_a_cgroup_of_its_own_beside_the_services(web: Namespace, tmp_path: Path) -> None:
    """So that the end of the daemon's unit is not its end, and that nothing of it stays."""
    setup = hierarchies.detect()
    if setup.unified is None:
        pytest.skip("no cgroup v2 is mounted")
    base = f"skn-{os.getpid()}"
    made = Resolving(str(tmp_path), base)
    try:
        made.tell(member(web, "shop-web-1", "web", "10.0.0.2"))
        places = Path(f"/proc/{made.pid}/cgroup").read_text()
        assert f"0::/{base}/resolver" in places
    finally:
        made.close(end=True)
        hierarchies.remove_empty(setup, base)
    assert not Path(f"{setup.unified}/{base}").exists()
