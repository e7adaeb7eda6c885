"""From a stored instance to its launch plan: root prepared, filter compiled. Blocks; used in a thread."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

from supervisor.core.model import Project, ServiceSpec
from supervisor.core.paths import Paths
from supervisor.daemon.networks import Networks
from supervisor.daemon.state import Stored
from supervisor.daemon.volumes import held_name, named_volumes
from supervisor.kernel import seccomp
from supervisor.launcher.plan import LaunchPlan, Process, Step
from supervisor.runtime.grants import GrantError, GrantStore
from supervisor.runtime.heldmounts import HeldMounts
from supervisor.runtime.hostview import HostError, host_facts, prepare_host
from supervisor.runtime.localdriver import LocalDriverError, mount_local
from supervisor.runtime.masklayer import forget_masks
from supervisor.runtime.masks import MaskRules
from supervisor.runtime.plan import exec_process, launch_plan, service_hostname
from supervisor.runtime.rootfs import PrepareError, prepare_instance, remove_instance
from supervisor.runtime.translate import PlanError, capability_numbers
from supervisor.runtime.volumes import VolumeError, VolumeRecord, find_volume


@dataclass(frozen=True, slots=True)
class ExecRequest:
    """What somebody wants to run inside a service. None: as the service's own process has it."""

    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    cwd: str | None = None
    tty: bool = False
    stdin: bool = False
    privileged: bool = False


class LaunchPlans:
    """Makes plans for the instances of one state directory."""

    def __init__(
        self,
        paths: Paths,
        cgroup_base: str,
        masked: tuple[str, ...],
        networks: Networks,
        find: Callable[[str, str], Stored | None],
    ) -> None:
        """find: as for `Networks.attach`."""
        self._paths = paths
        self._networks = networks
        self._find = find
        self._cgroup_base = cgroup_base
        self._rules = MaskRules(hide=masked)
        self.view = prepare_host(paths, self._rules)
        self._looking = Lock()
        self.held = HeldMounts(paths)
        self.grants = GrantStore(paths)
        forget_masks(paths, self._masks())

    def look_again(self, *, layers: bool) -> bool:
        """See the host as it is now; whether its view changed.

        layers: also what appeared on it, so that it is hidden, too: work (30 ms) for services that stand on
        it. A plan made before stands on the earlier masks, which stay where they are. Raises PlanError.
        """
        try:
            with self._looking:  # or facts alone could bring back the masks of before
                before = self.view
                if layers:
                    self.view = prepare_host(self._paths, self._rules)
                else:
                    self.view = replace(before, facts=host_facts())
                return (self.view.lowers, self.view.mounts) != (before.lowers, before.mounts)
        except HostError as error:
            raise PlanError(str(error)) from error
        except OSError as error:
            raise PlanError(f"cannot look at this host: {error.strerror}") from error

    def forget(self) -> None:
        """When no service is up and none will be: leave no mount behind."""
        self.held.forget()
        forget_masks(self._paths)

    def _masks(self) -> list[str]:
        return [
            layer for lowers in (self.view.lowers, *(m.lowers for m in self.view.mounts)) for layer in lowers
        ]

    def plan(self, stored: Stored) -> LaunchPlan:
        """Raises PrepareError, PlanError, SeccompError, OSError.

        What it mounts for the instance stays until `release` of this run or a later one.
        """
        try:
            return self._plan(stored)
        except (GrantError, LocalDriverError) as error:
            raise PrepareError(str(error)) from error

    @contextlib.contextmanager
    def looked_at(self, stored: Stored) -> Iterator[list[Step]]:
        """The steps of a launch, for who looks at the root of an instance that is down: without its secrets.

        What is mounted for that goes afterwards, unless the instance holds it itself. Raises as `plan`.
        """
        instance = stored.instance
        held = self.held.holds(instance.id)
        try:
            yield self.plan(replace(stored, spec=replace(stored.spec, grants=()))).steps
        finally:
            if not held:
                self.held.release(instance.id, instance.run)

    def _plan(self, stored: Stored) -> LaunchPlan:
        spec, instance, run = stored.spec, stored.instance.id, stored.instance.run
        project = Project(stored.project, stored.working_dir, volumes=stored.volumes)
        place = self._networks.attach(stored, self._find)
        prepared = prepare_instance(
            spec,
            instance,
            self._paths,
            project,
            container_name=stored.name,
            view=self.view,
            mount_volume=lambda record: self._mount_volume(record, instance, run),
            place=place,
        )
        if spec.ready is not None:
            Path(self._paths.notify(instance)).mkdir(0o755, parents=True, exist_ok=True)
        if spec.grants:
            granted = self.held.hold(
                _files_of(instance), instance, run, lambda place: self.grants.deliver(spec.grants, place)
            )
            prepared = replace(prepared, granted=granted)
        return launch_plan(
            spec,
            prepared,
            run,
            self._paths,
            host=self.view.facts,
            cgroup_base=self._cgroup_base,
            seccomp_path=self._program(spec),
            net=place.net,
        )

    def exec_process(self, stored: Stored, request: ExecRequest) -> Process:
        """One more process for a running instance. Raises PlanError, SeccompError, OSError."""
        return exec_process(
            stored.spec,
            service_hostname(stored.spec, stored.instance.id, self.view.facts),
            request.argv,
            host=self.view.facts,
            seccomp_path=self._program(stored.spec),
            env=request.env,
            user=request.user,
            cwd=request.cwd,
            tty=request.tty,
            stdin_open=request.stdin,
            privileged=request.privileged,
        )

    def _program(self, spec: ServiceSpec) -> str | None:
        """Path of the compiled seccomp filter of a service; None where it has none."""
        if spec.privileged or spec.security.seccomp == "unconfined":
            return None
        caps: frozenset[str | int] = frozenset(
            capability_numbers(
                spec.cap_add, spec.cap_drop, privileged=False, available=self.view.facts.capabilities
            )
        )
        if spec.security.seccomp == "default":
            code = seccomp.compile_default(caps)
        else:
            code = seccomp.compile_profile(spec.security.seccomp, caps)
        return seccomp.install(self._paths.seccomp, code)

    def remove(self, stored: Stored) -> None:
        """Remove an instance's files. Raises PrepareError."""
        remove_instance(stored.instance.id, self._paths)
        if stored.spec.ready is not None:
            shutil.rmtree(self._paths.notify(stored.instance.id), ignore_errors=True)

    # --- what is mounted for an instance --------------------------------------------------------
    def release(self, stored: Stored) -> None:
        """The instance is down: what only it held is unmounted, and its plan is void. Raises OSError."""
        self.held.release(stored.instance.id, stored.instance.run)

    def take_over(self, up: Iterable[Stored]) -> None:
        """At a start of the daemon: these are up or on their way; what is mounted for others goes.

        Raises OSError.
        """
        holders: dict[str, dict[str, int]] = {}
        users: dict[str, dict[str, int]] = {}
        for stored in up:
            instance, run = stored.instance.id, stored.instance.run
            if stored.spec.grants:
                holders[_files_of(instance)] = {instance: run}
            for volume in named_volumes(stored.spec):
                users.setdefault(volume, {})[instance] = run
        holders |= {held_name(volume): runs for volume, runs in users.items() if self._has_options(volume)}
        self.held.take_over(holders)

    def _has_options(self, volume: str) -> bool:
        try:
            record = find_volume(volume, self._paths)
        except VolumeError:
            return False
        return record is not None and bool(record.options)

    def _mount_volume(self, record: VolumeRecord, instance: str, run: int) -> str:
        options = dict(record.options)
        return self.held.hold(
            held_name(record.name), instance, run, lambda place: mount_local(record.name, options, place)
        )


def _files_of(instance: str) -> str:
    return f"files-{instance}"
