"""A virtual machine that tests can switch off: qemu under software emulation, driven over a virtio port.

It boots in some 10 s on two cores without hardware support. Waiting is for events only: the agent's hello
(a new boot id after each boot) and its answers; every wait has a deadline, and a failure carries the
console's last lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from image import Image

BOOT_TIMEOUT_S = 240.0


class MachineError(Exception):
    """The machine did not boot, did not answer in time, or a command that had to succeed did not."""


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a command inside: exit code (124: not ended in time) and output, both streams in one."""

    exit_code: int
    output: str


class VirtualMachine:
    """One machine with its own copy of a root disk. Owns its qemu process; `close` ends it and keeps nothing.

    `directory` (empty, the caller's to remove) gets the disk, the console's log and the socket.
    """

    def __init__(self, image: Image, seed: Path, directory: Path, *, memory_mib: int = 2048) -> None:
        self._image = image
        self._seed = seed
        self._memory_mib = memory_mib
        self._disk = directory / "root.img"
        self._socket_path = directory / "agent.sock"
        self._console = directory / "console.log"
        self._qemu: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._pending = b""
        self._request = 0
        self.boot_id = ""
        subprocess.run(["cp", "--sparse=always", str(image.disk), str(self._disk)], check=True)

    # --- power ---------------------------------------------------------------------------------------
    def boot(self, arguments: str = "") -> None:
        """Switch on and wait for the agent. arguments: more of them for the kernel. Raises MachineError."""
        assert self._qemu is None, "is switched on already"
        qemu = shutil.which("qemu-system-x86_64")
        assert qemu is not None
        append = f"root=/dev/vda rw console=ttyS0 quiet panic=5 mitigations=off {arguments}"
        self._socket_path.unlink(missing_ok=True)
        self._qemu = subprocess.Popen(
            [
                *(qemu, "-nodefaults", "-no-user-config", "-display", "none", "-nic", "none"),
                *("-machine", "q35", "-accel", os.environ.get("SHIPKEEPER_VM_ACCEL", "tcg,thread=multi")),
                *("-cpu", "max", "-smp", "2", "-m", str(self._memory_mib)),
                *("-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd), "-append", append),
                *("-drive", f"file={self._disk},format=raw,if=virtio,cache=writeback"),
                *("-drive", f"file={self._seed},format=raw,if=virtio,readonly=on"),
                *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
                *("-chardev", f"socket,id=agent,path={self._socket_path},server=on,wait=off"),
                *("-device", "virtserialport,chardev=agent,name=test.agent"),
                *(
                    "-chardev",
                    f"file,id=console,path={self._console},append=on",
                    "-serial",
                    "chardev:console",
                ),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        self._socket = self._connect(deadline)
        self._pending = b""
        self._await_boot(deadline)

    def reboot(self, command: str = "systemctl reboot") -> None:
        """Reboot from inside (an orderly one by default) and wait for the agent of the next boot."""
        self._send(f"systemd-run --no-block --quiet -- {command}", timeout_s=30)
        self._await_boot(time.monotonic() + BOOT_TIMEOUT_S)

    def power_cut(self, arguments: str = "") -> None:
        """Take the power away at this instant, then boot again from the same disk.

        What the guest had not flushed is lost, as with a real disk; the file on this host keeps the rest.
        """
        self.switch_off()
        self.boot(arguments)

    def switch_off(self) -> None:
        """Kill the machine. Nothing inside gets to know."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
            if self._qemu.stderr is not None:
                self._qemu.stderr.close()
            self._qemu = None

    def close(self) -> None:
        """End the machine and remove its disk; the console's log stays."""
        self.switch_off()
        self._disk.unlink(missing_ok=True)

    # --- commands --------------------------------------------------------------------------------------
    def run(self, command: str, *, timeout_s: float = 120, check: bool = True) -> Result:
        """Run a shell command as root.

        Raises MachineError when it fails (unless `check` is false), and when no answer comes in time.
        """
        request = self._send(command, timeout_s=timeout_s)
        deadline = time.monotonic() + timeout_s + 60
        while True:
            message = self._receive(deadline)
            if "hello" in message:
                raise MachineError(
                    f"cannot run {command!r}: the machine rebooted meanwhile\n{self.console_tail()}"
                )
            if message["id"] == request:
                break
        result = Result(int(str(message["exit_code"])), str(message["output"]))
        if check and result.exit_code != 0:
            raise MachineError(f"cannot run {command!r}: exit code {result.exit_code}\n{result.output}")
        return result

    def output(self, command: str, *, timeout_s: float = 120) -> str:
        """The output of a command that must succeed, stripped."""
        return self.run(command, timeout_s=timeout_s).output.strip()

    def console_tail(self, lines: int = 40) -> str:
        """The last lines of the serial console, for messages."""
        with contextlib.suppress(OSError):
            return "\n".join(self._console.read_text(errors="replace").splitlines()[-lines:])
        return "(no console)"

    # --- the wire --------------------------------------------------------------------------------------
    def _connect(self, deadline: float) -> socket.socket:
        assert self._qemu is not None
        while time.monotonic() < deadline:
            if self._qemu.poll() is not None:
                stderr = self._qemu.stderr.read().decode(errors="replace") if self._qemu.stderr else ""
                raise MachineError(f"cannot boot: qemu ended with {self._qemu.returncode}: {stderr}")
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._socket_path))
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._qemu.wait(0.05)
            else:
                return connection
        raise MachineError("cannot boot: qemu does not open its socket")

    def _await_boot(self, deadline: float) -> None:
        while True:
            message = self._receive(deadline)
            boot_id = str(message.get("hello", ""))
            if boot_id and boot_id != self.boot_id:
                self.boot_id = boot_id
                return

    def _send(self, command: str, *, timeout_s: float) -> int:
        assert self._socket is not None, "is switched off"
        self._request += 1
        request = {"id": self._request, "command": command, "timeout_s": timeout_s}
        self._socket.settimeout(60)
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        return self._request

    def _receive(self, deadline: float) -> dict[str, object]:
        assert self._socket is not None, "is switched off"
        while b"\n" not in self._pending:
            left = deadline - time.monotonic()
            if left <= 0:
                raise MachineError(f"no answer from the machine in time\n{self.console_tail()}")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                continue
            if not data:
                raise MachineError(f"the machine ended\n{self.console_tail()}")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        message = json.loads(line)
        assert isinstance(message, dict)
        return message
