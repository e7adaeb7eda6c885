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
    """A running Debian with systemd; the checkout is at /root/checkout, nothing is installed."""
    require_tools()
    image = root_image()
    with tempfile.TemporaryDirectory(prefix="shipkeeper-vm-") as directory:
        seed = Path(directory) / "seed.img"
        seed_disk(seed)
        machine = VirtualMachine(image, seed, Path(directory))
        try:
            machine.boot()
            machine.run("cp -r /seed/checkout /root/checkout")
            yield machine
        finally:
            machine.close()


@pytest.fixture(scope="session")
def installed(machine: VirtualMachine) -> VirtualMachine:
    """The same machine after `make install`, without any network."""
    machine.run(INSTALL, timeout_s=600)
    machine.run("systemctl is-active shipkeeper shipkeeper-services")
    return machine


INSTALL = "PIP_NO_INDEX=1 PIP_FIND_LINKS=/seed/wheels make -C /root/checkout install"
