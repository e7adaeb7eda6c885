"""The last of all: what an uninstallation leaves."""

from __future__ import annotations

import pytest
from inside import SERVICES_CGROUP
from machine import VirtualMachine

pytestmark = pytest.mark.timeout(300)


def test_uninstalling_leaves_state_and_settings_until_they_are_purged(installed: VirtualMachine) -> None:
    """`make uninstall` removes the program and all processes; PURGE=1 the rest. Both may be repeated."""
    for _ in range(2):
        installed.run("make -C /root/checkout uninstall")
        installed.run("test -d /var/lib/shipkeeper && test -d /etc/shipkeeper && ! test -e /opt/shipkeeper")
    assert installed.run(f"test -e {SERVICES_CGROUP}", check=False).exit_code == 1
    installed.run("PURGE=1 make -C /root/checkout uninstall")
    installed.run("! test -e /var/lib/shipkeeper && ! test -e /etc/shipkeeper && ! getent group shipkeeper")
