"""Where everything lies: the one place that spells the names of files below the state and run directories.

Pure strings; nobody here looks at a disk. State survives a reboot (/var/lib/shipkeeper), run does not
(/run/shipkeeper). The owner of each file is named beside it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InstancePaths:
    """Files of one service instance. All are removed with it."""

    base: str

    @property
    def upper(self) -> str:
        """Writable layer of the root overlay (owner: the service)."""
        return f"{self.base}/upper"

    @property
    def work(self) -> str:
        """overlayfs work directory, on the same file system as `upper`."""
        return f"{self.base}/work"

    @property
    def submounts(self) -> str:
        """Upper and work directories for file systems mounted below / in the host view."""
        return f"{self.base}/sub"

    @property
    def etc(self) -> str:
        """hostname, hosts and resolv.conf that are bound into /etc (owner: runtime)."""
        return f"{self.base}/etc"

    @property
    def volumes(self) -> str:
        """Anonymous volumes (owner: the service)."""
        return f"{self.base}/volumes"

    @property
    def network(self) -> str:
        """Its addresses and ports, which it keeps for its life (owner: runtime.networkfiles)."""
        return f"{self.base}/network.json"

    @property
    def log(self) -> str:
        """The CRI log; rotated files are `<log>.1`, `<log>.2` ... (owner: log writer)."""
        return f"{self.base}/output.log"


@dataclass(frozen=True, slots=True)
class Paths:
    """The layout below the two directories that are configurable."""

    state_dir: str = "/var/lib/shipkeeper"
    run_dir: str = "/run/shipkeeper"

    @property
    def database(self) -> str:
        """SQLite (owner: daemon)."""
        return f"{self.state_dir}/shipkeeper.db"

    @property
    def lock(self) -> str:
        """Held locked by the one daemon of this state directory."""
        return f"{self.state_dir}/daemon.lock"

    def instance(self, instance_id: str) -> InstancePaths:
        """Files of an instance."""
        return InstancePaths(f"{self.state_dir}/instances/{instance_id}")

    @property
    def asked(self) -> str:
        """A JSON file for each project that is being changed (owner: daemon.asked)."""
        return f"{self.state_dir}/asked"

    @property
    def instances(self) -> str:
        """Parent of all instance directories."""
        return f"{self.state_dir}/instances"

    @property
    def volumes(self) -> str:
        """Parent of all volumes that have a name (owner: runtime.volumes)."""
        return f"{self.state_dir}/volumes"

    def volume(self, name: str) -> str:
        """Data directory of a named volume."""
        return f"{self.volumes}/{name}/_data"

    @property
    def contents(self) -> str:
        """Configs and secrets that are in no file of the user's, by digest (owner: runtime.grants)."""
        return f"{self.state_dir}/secrets"

    @property
    def rootfs_cache(self) -> str:
        """Unpacked `x-shipkeeper.rootfs` archives, by digest (owner: runtime)."""
        return f"{self.state_dir}/rootfs"

    @property
    def images(self) -> str:
        """The store of images: an OCI layout and unpacked layers (owner: image.store)."""
        return f"{self.state_dir}/images"

    @property
    def networks(self) -> str:
        """A JSON file for each network (owner: runtime.networkfiles)."""
        return f"{self.state_dir}/networks"

    @property
    def projects(self) -> str:
        """A JSON file for each project that is there (owner: runtime.projectfiles)."""
        return f"{self.state_dir}/projects"

    @property
    def network_namespaces(self) -> str:
        """A mount of its own, in which each networked instance has the file of its network namespace."""
        return f"{self.run_dir}/netns"

    @property
    def notices(self) -> str:
        """A directory for each instance that says itself when it is ready (owner: launcher)."""
        return f"{self.run_dir}/notify"

    def notify(self, instance_id: str) -> str:
        """Where an instance says that it is ready: a directory that its runs have inside."""
        return f"{self.notices}/{instance_id}"

    def netns(self, instance_id: str) -> str:
        """The file that keeps the network namespace of an instance (owner: runtime.wiring)."""
        return f"{self.network_namespaces}/{instance_id}"

    @property
    def networks_active(self) -> str:
        """Is there while links or rules of ours may be in the kernel; says the state directory, of which they
        have the tag (owner: runtime.wiring; read by `doctor`)."""
        return f"{self.run_dir}/networks-active"

    @property
    def api_socket(self) -> str:
        """HTTP API (owner: daemon)."""
        return f"{self.run_dir}/shipkeeper.sock"

    @property
    def launcher_socket(self) -> str:
        """SOCK_SEQPACKET (owner: launcher)."""
        return f"{self.run_dir}/launcher.sock"

    @property
    def names_socket(self) -> str:
        """SOCK_SEQPACKET (owner: resolver)."""
        return f"{self.run_dir}/names.sock"

    @property
    def names_table(self) -> str:
        """What the resolver answers, JSON (owner: daemon)."""
        return f"{self.run_dir}/names.json"

    @property
    def log_socket(self) -> str:
        """SOCK_SEQPACKET (owner: log writer)."""
        return f"{self.run_dir}/log.sock"

    @property
    def root_mountpoint(self) -> str:
        """Empty directory over which every run mounts its root, in a mount namespace of its own."""
        return f"{self.run_dir}/root"

    @property
    def tag(self) -> str:
        """What keeps supervisors of one host apart: in names of cgroups, links and nftables tables."""
        return hashlib.sha256(self.state_dir.encode()).hexdigest()[:8]

    @property
    def own_cgroup(self) -> str:
        """Cgroup of the services where systemd gave us none."""
        return f"shipkeeper-{self.tag}"

    @property
    def builds(self) -> str:
        """Parent of the run directories of builds' launchers (owner: runtime.buildplace)."""
        return f"{self.run_dir}/builds"

    @property
    def cgroup_base(self) -> str:
        """Holds the path of the cgroup above those of all instances (owner: daemon; read by `doctor`)."""
        return f"{self.run_dir}/cgroup-base"

    @property
    def seccomp(self) -> str:
        """Compiled seccomp programs, `<digest>.bpf` (owner: kernel.seccomp)."""
        return f"{self.run_dir}/seccomp"

    @property
    def masks(self) -> str:
        """What the host view hides: a read-only tmpfs for each set of masks (owner: runtime.masklayer)."""
        return f"{self.run_dir}/masks"

    @property
    def held_mounts(self) -> str:
        """Volumes with options, configs and secrets, mounted while in use (owner: runtime.heldmounts)."""
        return f"{self.run_dir}/mounts"


_BUILD = "build-"


def build_cgroup(build_id: str) -> str:
    """Name of the cgroup of a build's launcher, beside those of the instances."""
    return f"{_BUILD}{build_id}"


def build_of_cgroup(name: str) -> str | None:
    """The build of a cgroup beside those of the instances; None if it is not of one."""
    return name.removeprefix(_BUILD) if name.startswith(_BUILD) else None
