"""What another user of the host reaches of a supervisor: nothing that is a service's or an image's."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from supervising import Supervisor
from test_images import root_archive

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox on this machine"),
]
NOBODY = 65534


def reaches(path: Path) -> bool:
    """Whether somebody who is not root can so much as look at it."""
    look = ["test", "-e", str(path)]
    return subprocess.run(look, user=NOBODY, group=NOBODY, extra_groups=[], check=False).returncode == 0


def reads(path: Path) -> bool:
    """Whether somebody who is not root can read it."""
    read = ["test", "-r", str(path)]
    return subprocess.run(read, user=NOBODY, group=NOBODY, extra_groups=[], check=False).returncode == 0


def test_programs_of_images_and_services_and_their_environments_are_roots_alone(
    supervisor: Supervisor,
) -> None:
    """A setuid program of an image would make its user the host's root; the database has passwords in it."""
    supervisor.base.chmod(0o711)  # the test's own directory hides nothing
    (supervisor.base / "root.tgz").write_bytes(root_archive("1"))
    supervisor.ok("import", "root.tgz", "box")
    supervisor.ok("run", "-d", "--name", "held", "-e", "PASSWORD=x", "box", "/bin/sleep", "1000")
    assert reads(supervisor.base / "root.tgz")
    state = supervisor.base / "state"
    inner = [
        *(state / "images" / "layers").glob("*/diff/bin/busybox"),
        *(state / "instances").glob("*/upper"),
    ]
    assert len(inner) == 2
    assert [path for path in inner if reaches(path)] == []
    databases = list(state.glob("shipkeeper.db*"))
    assert databases
    assert [path for path in databases if reads(path)] == []
    assert [path for path in (supervisor.base / "run").glob("*.sock") if reads(path)] == []


def test_what_an_earlier_version_left_open_is_closed(supervisor: Supervisor) -> None:
    """The modes are set at each start, not only where directories are made."""
    supervisor.kill()
    state = supervisor.base / "state"
    supervisor.base.chmod(0o711)
    state.chmod(0o711)
    (state / "instances").chmod(0o711)
    (state / "shipkeeper.db").chmod(0o644)
    supervisor.start()
    assert not reads(state / "shipkeeper.db")
    assert (state / "instances").stat().st_mode & 0o777 == 0o700
