"""Many isolated services: time until all run, the supervisor's memory and CPU when idle, time to stop.

`up` counts from the command's start until the last service's first instruction, `stop` until the last is gone
and until the command has returned. Memory is PSS of daemon, launcher, log writer and spare; CPU time and
voluntary context switches are of the same processes over some seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import subprocess
import time

import psutil

from benchmarks import peers
from benchmarks.supervised import machine, supervised

SETTLE_S = 3.0


def measure(count: int, idle_s: float) -> None:
    """One supervisor with so many services."""
    with supervised() as world:
        world.compose(count)
        with world.daemon_running():
            began = time.monotonic()
            with subprocess.Popen(
                world.command("up", "-d"),
                env=world.environment,
                cwd=world.base,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as up:
                pids: dict[str, int] = {}
                while len(pids) < count:
                    name, at, pid = world.hear()
                    pids[name] = pid
                last = at / 1e9 - began
                code = up.wait()
            took = time.monotonic() - began
            print(f"{count:5} services: up {last:6.2f} s (command {took:.2f} s, exit {code})")
            time.sleep(SETTLE_S)
            ours = world.processes()
            rows = []
            for process in ours:
                pss = process.memory_full_info().pss
                word = next((w for w in process.cmdline() if w.startswith("supervisor.")), "daemon")
                rows.append((word.rpartition(".")[2], pss, sum(process.cpu_times()[:2])))
            before = [(sum(p.cpu_times()[:2]), p.num_ctx_switches().voluntary) for p in ours]
            time.sleep(idle_s)
            after = [(sum(p.cpu_times()[:2]), p.num_ctx_switches().voluntary) for p in ours]
            cpu = sum(b[0] - a[0] for a, b in zip(before, after, strict=True))
            switches = sum(b[1] - a[1] for a, b in zip(before, after, strict=True))
            parts = ", ".join(f"{name} {pss / 1e6:.1f}" for name, pss, _ in rows)
            used = ", ".join(f"{name} {cpu_s:.2f}" for name, _, cpu_s in rows)
            print(f"      CPU seconds until then: {used}")
            print(f"      memory {sum(pss for _, pss, _ in rows) / 1e6:.1f} MB PSS ({parts})")
            print(
                f"      idle {idle_s:.0f} s: {cpu * 1e3:.0f} ms CPU, {switches} voluntary switches",
                flush=True,
            )
            pidfds = [os.pidfd_open(pid) for pid in pids.values()]
            began = time.monotonic()
            stopping = subprocess.Popen(
                world.command("stop"),
                env=world.environment,
                cwd=world.base,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            poll = select.poll()
            for pidfd in pidfds:
                poll.register(pidfd, select.POLLIN)
            left = len(pidfds)
            while left:
                for pidfd, _ in poll.poll():
                    poll.unregister(pidfd)
                    os.close(pidfd)
                    left -= 1
            gone = time.monotonic() - began
            stopping.wait()
            print(f"      stop {gone:.2f} s (command {time.monotonic() - began:.2f} s)", flush=True)


def beside(count: int) -> None:
    """Other supervisors with so many: from their start until the last first instruction, and their memory.

    Their configuration is written within that time, dockerd's own start, too. None of ours is up meanwhile.
    """
    for peer in peers.there():
        with supervised() as world:
            (base := world.base / peer.NAME).mkdir()
            names = [f"s{number}" for number in range(count)]
            mine = {process.pid for process in psutil.process_iter()}
            began = time.monotonic()
            with peer.running(base, world.io, names):
                heard = [world.hear() for _ in names]
                services = {pid for _, _, pid in heard}
                last = max(at for _, at, _ in heard) / 1e9 - began
                time.sleep(SETTLE_S)
                pss = 0
                for process in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        if process.pid not in services | mine:
                            pss += process.memory_full_info().pss
                print(
                    f"{count:5} of {peer.NAME}: up {last:6.2f} s, memory {pss / 1e6:.1f} MB PSS", flush=True
                )


def main() -> None:
    """Each size in turn."""
    parser = argparse.ArgumentParser(description="many services")
    parser.add_argument("--sizes", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--peers", type=int, default=100, help="how many for the others; 0 leaves them out")
    parser.add_argument("--idle", type=float, default=10.0)
    args = parser.parse_args()
    machine()
    for size in args.sizes:
        measure(size, args.idle)
    if args.peers:
        beside(args.peers)


if __name__ == "__main__":
    main()
