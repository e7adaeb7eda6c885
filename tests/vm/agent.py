"""The program inside the virtual machine that runs the test's commands; started by systemd, stdlib only.

One JSON object a line over a virtio port, both ways. It says `{"hello": <boot id>}` when it has started (so
also after every boot), then answers `{"id", "command", "timeout_s"}` by `{"id", "exit_code", "output"}`.
A command that does not end in time is killed with its session and answered by exit code 124.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

PORT = "/dev/virtio-ports/test.agent"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


def run(command: str, timeout_s: float) -> tuple[int, str]:
    """Run a shell command: its exit code (128+n for a death by signal n), and both streams in one."""
    process = subprocess.Popen(
        ["/bin/bash", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=ENVIRONMENT,
        cwd="/root",
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return 124, output.decode(errors="replace")
    code = process.returncode
    return (code if code >= 0 else 128 - code), output.decode(errors="replace")


def main() -> None:
    """Serve until the machine stops."""
    # Opened once for both directions: the host sees the port as connected while it is open.
    with open(PORT, "r+b", buffering=0) as port:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        port.write(json.dumps({"hello": boot_id}).encode() + b"\n")
        pending = b""
        while True:
            pending += os.read(port.fileno(), 65536)
            *lines, pending = pending.split(b"\n")
            for line in lines:
                try:
                    request = json.loads(line)
                except ValueError:
                    continue  # the rest of a request that an earlier boot did not read to its end
                code, output = run(request["command"], request["timeout_s"])
                answer = (
                    json.dumps({"id": request["id"], "exit_code": code, "output": output}).encode() + b"\n"
                )
                while answer:
                    answer = answer[port.write(answer) or 0 :]


if __name__ == "__main__":
    main()
