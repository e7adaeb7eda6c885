"""The lock of a step: one at a time, also between processes, and nobody's after a kill."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from supervisor.image.builder.flight import alone

HOLDER = """
import fcntl, os, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_another_process_is_waited_for_and_its_kill_lets_go(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "key")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        told: list[str] = []

        def tell(text: str) -> None:
            told.append(text)
            holder.kill()

        async def wait() -> None:
            async with alone(str(tmp_path), "key", tell):
                assert os.listdir(tmp_path) == ["key"]

        asyncio.run(wait())
    assert told == ["another build is making this step; waiting for it"]
    assert os.listdir(tmp_path) == []


def test_many_hold_it_one_after_another(tmp_path: Path) -> None:
    inside = 0

    async def one() -> None:
        nonlocal inside
        async with alone(str(tmp_path), "key", lambda _: None):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            inside -= 1

    async def many() -> None:
        await asyncio.gather(*(one() for _ in range(20)))

    asyncio.run(many())
    assert os.listdir(tmp_path) == []


def test_other_keys_wait_for_nothing(tmp_path: Path) -> None:
    async def two() -> None:
        async with alone(str(tmp_path), "a", lambda _: None), alone(str(tmp_path), "b", lambda _: None):
            assert sorted(os.listdir(tmp_path)) == ["a", "b"]

    asyncio.run(two())
