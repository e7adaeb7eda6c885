"""The virtual machine of the tests in this folder, which run only when it is named: `pytest tests/vm`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from image import require_tools, root_image, seed_disk
from machine import VirtualMachine

HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Booting machines takes minutes: a plain `pytest` leaves this folder out."""
    named = [Path(config.invocation_params.dir, arg.split("::")[0]).resolve() for arg in config.args]
    return None if any(path.is_relative_to(HERE) for path in named) else True


@pytest.fixture(scope="session")
def machine() -> Iterator[VirtualMachine]:
    """A running Debian with systemd; the checkout is at /root/checkout, and is being installed.

    That takes minutes, in which the tests that need no installation leave a processor free.
    """
    require_tools()
    image = root_image()
    with tempfile.TemporaryDirectory(prefix="shipkeeper-vm-") as directory:
        seed = Path(directory) / "seed.img"
        seed_disk(seed)
        machine = VirtualMachine(image, seed, Path(directory))
        try:
            machine.boot()
            machine.run("cp -r /seed/checkout /root/checkout")
            machine.run(
                "systemd-run --quiet --no-block --unit=test-install --service-type=oneshot"
                f" --property=RemainAfterExit=yes /bin/sh -c '{INSTALL}'"
            )
            yield machine
        finally:
            machine.close()


@pytest.fixture(scope="session")
def installed(machine: VirtualMachine) -> VirtualMachine:
    """The same machine after `make install`, without any network."""
    machine.run(
        "for i in $(seq 900); do case $(systemctl show --property=ActiveState --value test-install) in"
        " active) exit 0;; failed) break;; esac; sleep 1; done; journalctl -o cat -u test-install; exit 1",
        timeout_s=900,
    )
    machine.run("systemctl is-active shipkeeper shipkeeper-services")
    return machine


# Compiling all of every library takes a minute under emulation; what is used is compiled when it is.
INSTALL = "PIP_NO_COMPILE=1 PIP_NO_INDEX=1 PIP_FIND_LINKS=/seed/wheels make -C /root/checkout install"
