"""From a stored instance to its launch plan: root prepared, filter compiled. Blocks; used in a thread."""

from __future__ import annotations

from supervisor.core.model import Project
from supervisor.core.paths import Paths
from supervisor.daemon.state import Stored
from supervisor.kernel import seccomp
from supervisor.launcher.plan import LaunchPlan
from supervisor.runtime.hostview import prepare_host
from supervisor.runtime.masks import MaskRules
from supervisor.runtime.plan import launch_plan
from supervisor.runtime.rootfs import prepare_instance, remove_instance
from supervisor.runtime.translate import capability_numbers
from supervisor.runtime.volumes import remove_volume


class LaunchPlans:
    """Makes plans for the instances of one state directory."""

    def __init__(self, paths: Paths, cgroup_base: str, masked: tuple[str, ...]) -> None:
        self._paths = paths
        self._cgroup_base = cgroup_base
        self._rules = MaskRules(hide=masked)
        self.view = prepare_host(paths, self._rules)

    def plan(self, stored: Stored) -> LaunchPlan:
        """Raises PrepareError, PlanError, SeccompError, OSError."""
        spec = stored.spec
        project = Project(stored.project, stored.working_dir, volumes=stored.volumes)
        prepared = prepare_instance(
            spec, stored.instance.id, self._paths, project, container_name=stored.name, view=self.view
        )
        program = None
        if not spec.privileged and spec.security.seccomp != "unconfined":
            caps: frozenset[str | int] = frozenset(
                capability_numbers(
                    spec.cap_add, spec.cap_drop, privileged=False, available=self.view.facts.capabilities
                )
            )
            if spec.security.seccomp == "default":
                code = seccomp.compile_default(caps)
            else:
                code = seccomp.compile_profile(spec.security.seccomp, caps)
            program = seccomp.install(self._paths.seccomp, code)
        return launch_plan(
            spec,
            prepared,
            stored.instance.run,
            self._paths,
            host=self.view.facts,
            cgroup_base=self._cgroup_base,
            seccomp_path=program,
        )

    def remove(self, stored: Stored) -> None:
        """Remove an instance's files. Raises PrepareError."""
        remove_instance(stored.instance.id, self._paths)

    def remove_volume(self, name: str) -> bool:
        """Remove a named volume; whether it was there. Raises VolumeError."""
        return remove_volume(name, self._paths)
