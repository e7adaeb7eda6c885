"""From a stored instance to its launch plan: root prepared, filter compiled. Blocks; used in a thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from supervisor.core.model import Project, ServiceSpec
from supervisor.core.paths import Paths
from supervisor.daemon.networks import Networks
from supervisor.daemon.state import Stored
from supervisor.kernel import seccomp
from supervisor.launcher.plan import LaunchPlan, Process
from supervisor.runtime.hostview import HostError, prepare_host
from supervisor.runtime.masklayer import forget_masks
from supervisor.runtime.masks import MaskRules
from supervisor.runtime.plan import exec_process, launch_plan, service_hostname
from supervisor.runtime.rootfs import prepare_instance, remove_instance
from supervisor.runtime.translate import PlanError, capability_numbers
from supervisor.runtime.volumes import remove_volume


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

    def __init__(self, paths: Paths, cgroup_base: str, masked: tuple[str, ...], networks: Networks) -> None:
        self._paths = paths
        self._networks = networks
        self.find: Callable[[str, str], Stored | None] = lambda _project, _name: None
        """An instance of a project by its service, or of any ("") by its name or id."""
        self._cgroup_base = cgroup_base
        self._rules = MaskRules(hide=masked)
        self.view = prepare_host(paths, self._rules)
        forget_masks(paths, self._masks())

    def look_again(self) -> bool:
        """See the host as it is now, so that what appeared on it is hidden, too; whether its view changed.

        A plan made before stands on the earlier masks, which stay where they are. Raises PlanError.
        """
        before = self.view
        try:
            self.view = prepare_host(self._paths, self._rules)
        except HostError as error:
            raise PlanError(str(error)) from error
        return (self.view.lowers, self.view.mounts) != (before.lowers, before.mounts)

    def forget(self) -> None:
        """When no service is up and none will be: leave no mount behind."""
        forget_masks(self._paths)

    def _masks(self) -> list[str]:
        return [
            layer for lowers in (self.view.lowers, *(m.lowers for m in self.view.mounts)) for layer in lowers
        ]

    def plan(self, stored: Stored) -> LaunchPlan:
        """Raises PrepareError, PlanError, SeccompError, OSError."""
        spec = stored.spec
        project = Project(stored.project, stored.working_dir, volumes=stored.volumes)
        place = self._networks.attach(stored, self.find)
        prepared = prepare_instance(
            spec,
            stored.instance.id,
            self._paths,
            project,
            container_name=stored.name,
            view=self.view,
            place=place,
        )
        return launch_plan(
            spec,
            prepared,
            stored.instance.run,
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

    def remove_volume(self, name: str) -> bool:
        """Remove a named volume; whether it was there. Raises VolumeError."""
        return remove_volume(name, self._paths)
