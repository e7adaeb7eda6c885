"""The tests of the kernel's side once on another kernel, where cgroup v2 has every controller."""

from __future__ import annotations

import pytest
from machine import VirtualMachine

pytestmark = pytest.mark.timeout(900)


def test_the_kernel_tests_pass_where_cgroup_v2_has_every_controller(machine: VirtualMachine) -> None:
    """Isolation, limits and launching on Debian's kernel, pure cgroup v2, as root of a real boot.

    Without what only repeats itself for minutes here: hundreds of kills, and util-linux as a second opinion.
    """
    result = machine.run(
        "systemd-run --quiet --pipe --wait --collect --property=Delegate=yes"
        " --working-directory=/root/checkout"
        " --setenv=PYTHONPATH=/root/checkout:/seed/site"
        " python3 -m pytest tests/kernel -q -p no:cacheprovider -o timeout=300"
        " -k 'not UtilLinux and not rapid and not killed'",
        timeout_s=700,
        check=False,
    )
    print(result.output)
    assert result.exit_code == 0, result.output
