"""`kernel.locks`: which directories are left behind."""

from __future__ import annotations

import os
from pathlib import Path

from supervisor.kernel import locks


def test_what_nobody_holds_is_left(tmp_path: Path) -> None:
    held = locks.claim(str(tmp_path), "held")
    os.close(locks.claim(str(tmp_path), "left"))
    (tmp_path / "half-removed").mkdir()  # its lock went first
    (tmp_path / ".being-made").mkdir()
    (tmp_path / ".forgotten").mkdir()
    os.utime(tmp_path / ".forgotten", (0, 0))
    assert sorted(locks.unclaimed(str(tmp_path))) == [".forgotten", "half-removed", "left"]
    os.close(held)
    assert "held" in locks.unclaimed(str(tmp_path))
