"""Facts about the host, held against other ways to know them."""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import time
from pathlib import Path

import pytest

from supervisor.kernel import host

pytestmark = pytest.mark.kernel


def test_the_boot_id_is_the_kernels() -> None:
    """The same as sysctl's, without a line end."""
    shown = subprocess.run(
        ["sysctl", "-n", "kernel.random.boot_id"], capture_output=True, text=True, check=True
    )
    assert host.boot_id() == shown.stdout.strip()
    assert len(host.boot_id()) == 36


def test_boottime_is_the_clock_of_proc_uptime() -> None:
    """In nanoseconds since boot, never backwards."""
    before = host.boottime_ns()
    uptime_ns = float(Path("/proc/uptime").read_text().split()[0]) * 1e9
    after = host.boottime_ns()
    assert before - 20_000_000 <= uptime_ns <= after  # /proc cuts at a hundredth of a second
    assert time.clock_gettime_ns(time.CLOCK_BOOTTIME) >= after


def test_every_feature_is_there_on_a_current_kernel() -> None:
    """What is not there says how it was refused."""
    features = host.features()
    for name in features.__slots__:
        feature = getattr(features, name)
        assert feature.present == (feature.why == ""), name
    if host.kernel().version >= (6, 15) and os.geteuid() == 0:
        assert all(getattr(features, name).present for name in features.__slots__)


@pytest.mark.skipif(not host.features().pidfd_info.present, reason="the kernel has no PIDFD_GET_INFO")
def test_exit_info_is_told_exactly_where_the_version_says_so() -> None:
    """Tried with a process that was reaped: the claim by version agrees with the kernel."""
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    fd = os.pidfd_open(pid)
    try:
        os.waitpid(pid, 0)
        record = ctypes.create_string_buffer(struct.pack("=QQ12I", 8, 0, *[0] * 12), 64)
        back = ctypes.CDLL(None).ioctl(fd, ctypes.c_ulong(0xC040FF0B), record)
        fields = struct.unpack("=QQ11Ii", record.raw)
        told = back == 0 and bool(fields[0] & 8) and os.waitstatus_to_exitcode(fields[-1]) == 7
    finally:
        os.close(fd)
    assert told == host.features().pidfd_exit_info.present


def test_capabilities_are_those_of_the_process() -> None:
    """Of this process, and of a child that lacks one."""
    assert ("CAP_SYS_ADMIN" in host.capabilities()) == (os.geteuid() == 0)
    child = subprocess.Popen(["setpriv", "--bounding-set=-chown", "sleep", "60"])
    try:
        deadline = time.monotonic() + 10
        while Path(f"/proc/{child.pid}/comm").read_text().strip() != "sleep":
            assert time.monotonic() < deadline
            os.sched_yield()
        assert "CAP_CHOWN" not in host.capabilities(child.pid)
        assert "CAP_KILL" in host.capabilities(child.pid)
    finally:
        child.kill()
        child.wait()


def test_the_distribution_is_named() -> None:
    """By os-release."""
    found = host.distribution()
    assert found.id and found.name
    assert host.kernel().release == os.uname().release
