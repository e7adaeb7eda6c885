"""Disks for the virtual machine: a Debian root with systemd (cached), and the checkout with all it installs.

Nothing is mounted here: `mkfs.ext4 -d` makes a file system out of a directory. The root is built by
mmdebstrap once for each list of packages and kept below the cache directory (SHIPKEEPER_VM_CACHE, by default
.cache/vm of the checkout); tests get copies. The second disk is made for every session: the checkout, wheels
and the tests' libraries.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
AGENT = Path(__file__).with_name("agent.py")
RELEASE = os.environ.get("SHIPKEEPER_VM_RELEASE", "bookworm")
# The Python of each release, for which wheels are fetched whatever Python runs the tests.
PYTHON = {"bookworm": "3.11", "trixie": "3.13"}
# What a server has, and what the kernel tests ask for. No network is configured: nothing is fetched inside.
PACKAGES = (
    *("systemd-sysv", "dbus", "udev", "linux-image-cloud-amd64", "initramfs-tools", "zstd"),
    *("python3", "python3-venv", "make", "procps", "kmod", "iproute2", "nftables", "libseccomp2"),
)
# The host's programs, by Debian package.
TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mkfs.ext4": "e2fsprogs",
}

_AGENT_UNIT = r"""
[Unit]
Description=Agent of the test
Wants=dev-virtio\x2dports-test.agent.device
After=dev-virtio\x2dports-test.agent.device
IgnoreOnIsolate=yes

[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/test-agent.py
Restart=always
OOMScoreAdjust=-1000

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True, slots=True)
class Image:
    """A bootable root: never written to, copied for each machine."""

    disk: Path
    kernel: Path
    initrd: Path


def require_tools() -> None:
    """Raises RuntimeError where a program of the host is missing."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [package for program, package in TOOLS.items() if shutil.which(program, path=path) is None]
    if missing:
        raise RuntimeError(
            f"cannot build the virtual machine: {', '.join(missing)} not installed; run"
            " `sh deploy/bootstrap.sh vm`"
        )


def root_image() -> Image:
    """The Debian root, from the cache or built now (about a minute)."""
    digest = hashlib.sha256()
    for part in (RELEASE, *PACKAGES, AGENT.read_text(), _AGENT_UNIT, inspect.getsource(_build_root)):
        digest.update(part.encode() + b"\0")
    cache = Path(os.environ.get("SHIPKEEPER_VM_CACHE") or CHECKOUT / ".cache/vm")
    directory = cache / digest.hexdigest()[:16]
    image = Image(directory / "root.img", directory / "vmlinuz", directory / "initrd")
    if image.disk.exists():
        return image
    cache.mkdir(parents=True, exist_ok=True)
    for old in cache.iterdir():
        shutil.rmtree(old)
    with tempfile.TemporaryDirectory(dir=cache) as building:
        new = Path(building) / "image"
        new.mkdir()
        _build_root(Path(building) / "root", new)
        new.rename(directory)
    return image


def _build_root(root: Path, out: Path) -> None:
    unit = out / "agent.service"
    unit.write_text(_AGENT_UNIT)
    _run(
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        # A small initrd: software emulation unpacks it at every boot.
        """--essential-hook=mkdir -p "$1/etc/initramfs-tools/conf.d" """,
        """--essential-hook=echo MODULES=list > "$1/etc/initramfs-tools/conf.d/modules" """,
        """--essential-hook=printf '%s\\n' virtio_pci virtio_blk ext4 > "$1/etc/initramfs-tools/modules" """,
        "--customize-hook=echo machine > $1/etc/hostname",
        "--customize-hook=echo '127.0.0.1 localhost machine' > $1/etc/hosts",
        "--customize-hook=echo '/dev/vda / ext4 defaults 0 1' > $1/etc/fstab",
        "--customize-hook=echo '/dev/vdb /seed ext4 ro 0 0' >> $1/etc/fstab",
        "--customize-hook=mkdir $1/seed",
        f"--customize-hook=copy-in {unit} /etc/systemd/system/",
        f"--customize-hook=upload {AGENT} /usr/local/lib/test-agent.py",
        # Timers that would only cost time under emulation.
        "--customize-hook=chroot $1 systemctl --quiet enable agent.service",
        "--customize-hook=chroot $1 systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer"
        " dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer man-db.timer",
        # The journal must survive a power cut to be read after it.
        "--customize-hook=mkdir -p $1/var/log/journal",
        RELEASE,
        str(root),
    )
    unit.unlink()
    for name, target in (("vmlinuz", "vmlinuz"), ("initrd.img", "initrd")):
        shutil.copy(root / name, out / target)
    make_disk(root, out / "root.img", size_mib=4096)


def seed_disk(path: Path) -> None:
    """The second disk: /seed/checkout, /seed/wheels (for `make install`), /seed/site (for the tests)."""
    version = PYTHON[RELEASE]
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    runtime = [*project["project"]["dependencies"], *project["build-system"]["requires"], "wheel"]
    tests = [*project["project"]["dependencies"], "pytest", "pytest-timeout", "hypothesis"]
    target = [
        *("--only-binary=:all:", "--implementation=cp", f"--python-version={version}"),
        *(f"--platform={platform}" for platform in ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64")),
        *("--platform=manylinux2014_x86_64", "--quiet", "--disable-pip-version-check"),
    ]
    with tempfile.TemporaryDirectory() as temporary:
        seed = Path(temporary) / "seed"
        _run(sys.executable, "-m", "pip", "download", *target, f"--dest={seed}/wheels", *runtime)
        _run(sys.executable, "-m", "pip", "install", *target, f"--target={seed}/site", *tests)
        shutil.copytree(
            CHECKOUT,
            seed / "checkout",
            symlinks=True,
            ignore=shutil.ignore_patterns(
                ".git", ".venv", ".cache", "__pycache__", ".*_cache", ".hypothesis"
            ),
        )
        make_disk(seed, path, size_mib=512)


def make_disk(directory: Path, path: Path, *, size_mib: int) -> None:
    """An ext4 file system of that size with the content of `directory`; a sparse file."""
    with open(path, "wb") as file:
        file.truncate(size_mib << 20)
    _run("mkfs.ext4", "-q", "-F", "-d", str(directory), str(path))


def _run(*argv: str) -> None:
    """Run a host program. Raises RuntimeError with its output."""
    environment = {
        **os.environ,
        "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    result = subprocess.run(
        argv, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if result.returncode != 0:
        raise RuntimeError(
            f"cannot run {argv[0]}: exit code {result.returncode}\n{result.stdout}{result.stderr}"
        )
