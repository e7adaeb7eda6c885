"""The other flags of `run` and `create`, looked at from inside and in the kernel's own files."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from supervising import Supervisor, supervising, until
from test_images import root_archive, with_config

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox on this machine"),
]
SLEEP = ("box", "/bin/sleep", "1000")


@pytest.fixture(scope="module")
def box() -> Iterator[Supervisor]:
    with supervising() as made:
        (made.base / "root.tgz").write_bytes(root_archive("1"))
        made.ok("import", "root.tgz", "box")
        yield made


def inspect(box: Supervisor, name: str) -> dict[str, Any]:
    found = json.loads(box.ok("inspect", name))
    return dict(found[0] if isinstance(found, list) else found)


def setting(pid: int, controller: str, v1: str, v2: str) -> str:
    """What the cgroup of a process says; of v1 where that controller is there."""
    rows = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    for _, controllers, path in rows:
        if controller in controllers.split(","):
            return Path(f"/sys/fs/cgroup/{controller}{path}/{v1}").read_text().strip()
    (unified,) = [path for _, controllers, path in rows if not controllers]
    roots = [root for root in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")) if root.exists()]
    return Path(f"{roots[0]}{unified}/{v2}").read_text().strip()


def status(pid: int) -> dict[str, str]:
    rows = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: value.strip() for name, _, value in rows}


def test_limits_are_in_the_cgroup(box: Supervisor) -> None:
    box.ok(
        "run", "-d", "--name", "limited", "-m", "64m", "--memory-swap", "96m", "--cpus", "0.5",
        "--pids-limit", "33", "--cpuset-cpus", "0", "--cap-add", "NET_ADMIN", "--group-add", "1234",
        "--sysctl", "kernel.msgmax=4096", "--device", "/dev/full:/dev/brimful", *SLEEP,
    )  # fmt: skip
    pid = box.row("limited")["Pid"]
    assert setting(pid, "memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert setting(pid, "pids", "pids.max", "pids.max") == "33"
    assert os.sched_getaffinity(pid) == {0}
    cpu = setting(pid, "cpu", "cpu.cfs_quota_us", "cpu.max")
    assert cpu in ("50000", "50000 100000")
    try:
        swap = setting(pid, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max")
    except FileNotFoundError:
        swap = ""  # a kernel that does not account for swap
    assert swap in ("", str(96 << 20), str(32 << 20))
    seen = status(pid)
    assert int(seen["CapEff"], 16) & 1 << 12, "NET_ADMIN"
    assert "1234" in seen["Groups"].split()
    assert seen["NoNewPrivs"] == "1"
    assert seen["Seccomp"] == "2"
    assert box.ok("exec", "-T", "limited", "/bin/cat", "/proc/sys/kernel/msgmax") == "4096\n"
    assert os.stat(f"/proc/{pid}/root/dev/brimful").st_rdev == os.stat("/dev/full").st_rdev
    box.ok("rm", "--force", "limited")


def test_privileged_and_security_options(box: Supervisor) -> None:
    box.ok("run", "-d", "--name", "mighty", "--privileged", *SLEEP)
    seen = status(box.row("mighty")["Pid"])
    assert seen["CapEff"] == status(1)["CapBnd"]
    assert (seen["Seccomp"], seen["NoNewPrivs"]) == ("0", "0")
    options = ("--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges=false")
    box.ok("run", "-d", "--name", "open", *options, *SLEEP)
    seen = status(box.row("open")["Pid"])
    assert (seen["Seccomp"], seen["NoNewPrivs"]) == ("0", "0")
    assert seen["CapEff"] != status(1)["CapBnd"]
    assert box.run("run", "--security-opt", "label=x", *SLEEP).returncode == 125
    box.ok("rm", "--force", "mighty", "open")


def test_stop_signal_and_timeout(box: Supervisor) -> None:
    script = "trap 'exit 7' USR1; echo ready; while :; do sleep 0.1; done"
    box.ok("run", "-d", "--name", "gentle", "--stop-signal", "USR1", "box", "/bin/sh", "-c", script)
    until(lambda: "ready" in box.ok("logs", "gentle"), "the trap is set")
    box.ok("stop", "gentle")
    assert inspect(box, "gentle")["State"]["ExitCode"] == 7
    deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    box.ok("run", "-d", "--name", "deaf", "--stop-timeout", "0", "box", "/bin/sh", "-c", deaf)
    until(lambda: "ready" in box.ok("logs", "deaf"), "the trap is set")
    box.ok("stop", "deaf")
    assert inspect(box, "deaf")["State"]["ExitCode"] == 128 + signal.SIGKILL
    box.ok("rm", "gentle", "deaf")


def test_restart_label_cidfile_and_a_random_name(box: Supervisor) -> None:
    cidfile = box.base / "cid"
    words = ("--restart", "on-failure:2", "-l", "a=b", "--cidfile", str(cidfile))
    made = box.ok("run", "-d", *words, "box", "/bin/sh", "-c", "exit 3").strip()
    assert cidfile.read_text() == made
    until(lambda: bool(inspect(box, made)["Exhausted"]), "it gave up")
    seen = inspect(box, made)
    assert seen["RestartCount"] == 2
    assert seen["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    assert seen["Config"]["Labels"] == {"a": "b"}
    assert re.fullmatch(r"[a-z]+_[a-z]+\d*", seen["Name"])
    again = box.run("create", "--cidfile", str(cidfile), "box", "/bin/sh")
    assert again.returncode == 125
    assert "exists already" in again.stderr
    box.ok("rm", made)


def test_create_makes_and_start_starts(box: Supervisor) -> None:
    made = box.ok("create", "--name", "later", "box", "/bin/sh", "-c", "echo begun").strip()
    assert re.fullmatch("[0-9a-f]{64}", made)
    assert inspect(box, "later")["State"]["Status"] == "created"
    box.ok("start", "later")
    until(lambda: "begun" in box.ok("logs", "later"), "it has run")
    box.ok("rm", "later")


def test_volumes_named_and_of_the_image(box: Supervisor) -> None:
    """What is in the image at that place is in a fresh volume; a named one keeps what was written."""
    with_config(box, "box", Volumes={"/data": {}}, Healthcheck={"Test": ["CMD", "/bin/sh"]})
    inside = "cat /data/seed; echo; echo $1 >> /data/written; cat /data/written"
    script = ("box", "/bin/sh", "-c", inside, "sh")
    assert box.ok("run", "--rm", *script, "one") == "s\none\n"
    assert box.ok("run", "--rm", *script, "two") == "s\ntwo\n", "an anonymous one is of one container"
    assert box.ok("run", "--rm", "-v", "kept:/data", *script, "one") == "s\none\n"
    assert box.ok("run", "--rm", "-v", "kept:/data", *script, "two") == "s\none\ntwo\n"
    (image,) = json.loads(box.ok("image", "inspect", "box"))
    assert image["Config"]["Healthcheck"]["Test"] == ["CMD", "/bin/sh"], "kept, and not run"
