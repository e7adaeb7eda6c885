"""What is stored against what lives: the first thing after every connection to a launcher.

Survivors are kept; an end that came meanwhile is judged as if the daemon had been there; what an earlier
launcher started is handed to the new one; what no database knows is taken from the launcher's memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from supervisor.core import events as ev
from supervisor.core.boot import Anew, keep, recover, starts_at_boot
from supervisor.core.paths import Paths
from supervisor.core.state import Running, Starting, Stopping
from supervisor.daemon.engine import Engine, Entry, boottime_s
from supervisor.daemon.record import RecordError
from supervisor.daemon.state import load_identity
from supervisor.kernel.cgroups import Cgroup, kill_all
from supervisor.kernel.hierarchies import CgroupSetup
from supervisor.launcher import protocol
from supervisor.runtime.plan import notify_path, run_cgroup

End = protocol.Exited | protocol.LaunchFailed


class Adoption:
    """One match of the stored instances with a launcher's State. `run` does it, at once and once."""

    def __init__(
        self,
        engine: Engine,
        state: protocol.State,
        anew: Anew,
        *,
        paths: Paths,
        cgroup_base: str,
        shift_s: float = 0.0,
    ) -> None:
        """shift_s: see `core.boot.recover`."""
        self._engine = engine
        self._anew = anew
        self._paths = paths
        self._cgroup_base = cgroup_base
        self._shift_s = shift_s
        self._runs = {info.instance: info for info in state.runs}
        self._ended: dict[str, list[End]] = {}
        for record in sorted(state.ended, key=lambda record: record.run):
            self._ended.setdefault(record.instance, []).append(record)
        self._found: dict[str, int] = {}

    def run(self, setup: CgroupSetup, begun: Iterable[tuple[str, int]]) -> list[str]:
        """The instances that are to be started, in no order. begun: every run that has a cgroup."""
        for known in (*self._runs.values(), *(end for ends in self._ended.values() for end in ends)):
            self._remember(known)
        for instance_id, run in begun:
            self._look_at(setup, instance_id, run)
        start = [name for name, entry in self._engine.entries.items() if self._match(entry)]
        self._engine.booting.update(start)
        return start

    def _count(self, outcome: str) -> None:
        if self._anew is not Anew.LAUNCHER:
            cause = "host_reboot" if self._anew is Anew.HOST else "supervisor_restart"
            self._engine.measures.recovered[cause, outcome] += 1

    def _remember(self, known: protocol.RunInfo | End) -> None:
        """Make an instance again that the database does not know (any more)."""
        engine = self._engine
        if known.instance in engine.entries:
            return
        try:
            stored = load_identity(known.meta.encode("utf-8", "surrogateescape"))
        except RecordError as error:
            self._drop(known, str(error))
            return
        if any(entry.stored.name == stored.name for entry in engine.entries.values()):
            # It was removed, and its name given to another one, before the launcher heard of that.
            self._drop(known, f"{stored.name} is another one now")
            return
        engine.restore(stored)
        engine.report(f"{stored.name} is not in the state database, and is taken from the launcher")

    def _drop(self, known: protocol.RunInfo | End, why: str) -> None:
        """End what belongs to no service; of what has ended already nothing is kept."""
        if isinstance(known, protocol.RunInfo):
            self._engine.report(f"run {known.run} of unknown instance {known.instance} is ended: {why}")
            self._engine.measures.orphans += 1
            self._engine.send(protocol.Kill(known.instance, known.run))
        else:
            self._engine.send(protocol.Ack(known.instance, known.run))

    def _look_at(self, setup: CgroupSetup, instance_id: str, run: int) -> None:
        """A run that this launcher may not know of, for the one that began it died before it had said so."""
        info = self._runs.get(instance_id)
        if (info is not None and info.run == run) or any(
            end.run == run for end in self._ended.get(instance_id, ())
        ):
            return
        entry = self._engine.entries.get(instance_id)
        newest = 0 if entry is None else entry.instance.run
        if entry is not None and run > newest and self._anew is not Anew.HOST:
            self._found[instance_id] = max(run, self._found.get(instance_id, 0))
            return
        path = run_cgroup(self._cgroup_base, instance_id, run)
        cgroup = Cgroup(setup, path)
        try:
            if cgroup.populated():
                if entry is not None and run == newest:
                    return
                self._engine.report(f"what is left in the cgroup {path} belongs to no service, and is ended")
                self._engine.measures.orphans += 1
                kill_all(cgroup)
            elif (
                entry is None
                or run < newest
                or not isinstance(entry.instance.phase, Starting | Running | Stopping)
                or self._anew is Anew.HOST
            ):
                cgroup.remove()
        except OSError as error:
            self._engine.report(f"cannot clear the cgroup {path}: {error.strerror}")

    def _match(self, entry: Entry) -> bool:
        """Whether it is to be started."""
        instance_id = entry.instance.id
        for record in self._ended.get(instance_id, ()):
            self._catch_up(entry, record)
        if instance_id in self._runs:
            self._take(entry, self._runs[instance_id])
            self._count("adopted")
            return False
        if self._found.get(instance_id, 0) > entry.instance.run:
            self._forward(entry, self._found[instance_id], boottime_s())
        if self._anew is not Anew.HOST and isinstance(entry.instance.phase, Running | Stopping):
            self._hand_over(entry)
            self._count("adopted")
            return False
        was = entry.instance.phase
        self._recover(entry)
        starts = self._anew is not Anew.LAUNCHER and starts_at_boot(entry.instance, boottime_s())
        if starts:
            self._count("restarted")
        elif self._anew is Anew.HOST and isinstance(was, Starting | Running | Stopping):
            self._count("lost")
        return starts

    def _take(self, entry: Entry, info: protocol.RunInfo) -> None:
        """The run lives, and the launcher knows it."""
        self._engine.follow(entry, info)
        if info.run > entry.instance.run:
            self._forward(entry, info.run, info.started_ns / 1e9)
        instance = entry.instance
        if not isinstance(instance.phase, Stopping):
            began_s = info.started_ns / 1e9
            signalled = instance.phase.signalled if isinstance(instance.phase, Running) else None
            phase = Running(info.pid, began_s, info.frozen, signalled, info.start_ticks)
            self._engine.apply(entry, (replace(instance, phase=phase, started_before=True), (ev.Save(),)))
        self._engine.apply(entry, (entry.instance, keep(entry.instance, boottime_s())))

    def _catch_up(self, entry: Entry, record: End) -> None:
        """The run has ended, and the record is not acknowledged: it may have been judged, or not."""
        instance = entry.instance
        began_s = (record.started_ns if isinstance(record, protocol.Exited) else record.at_ns) / 1e9
        if record.run > instance.run:
            self._forward(entry, record.run, began_s)
        elif record.run < instance.run or not isinstance(instance.phase, Starting | Running | Stopping):
            self._engine.send(protocol.Ack(instance.id, record.run))
            return
        instance = entry.instance
        if isinstance(record, protocol.Exited) and isinstance(instance.phase, Starting):
            began = replace(instance, phase=Running(0, began_s), started_before=True)
            self._engine.apply(entry, (began, ()))
        self._engine.on_launcher(record)

    def _forward(self, entry: Entry, run: int, since_s: float) -> None:
        """A start that was on its way, and not in the database yet, when the daemon died."""
        begun = replace(entry.instance, run=run, phase=Starting(since_s), wanted=True, manually_stopped=False)
        self._engine.apply(entry, (begun, (ev.Save(),)))

    def _hand_over(self, entry: Entry) -> None:
        """Have the launcher look after what an earlier one started; it finds out whether that lives."""
        instance = entry.instance
        phase = instance.phase
        assert isinstance(phase, Running | Stopping)
        pid, ticks = (phase.pid, phase.start_ticks) if isinstance(phase, Running) else (0, 0)
        started_s = phase.started_s if phase.started_s is not None else boottime_s()
        spec = entry.stored.spec
        self._engine.send(
            protocol.Adopt(
                instance.id,
                instance.run,
                pid,
                ticks,
                run_cgroup(self._cgroup_base, instance.id, instance.run),
                int(started_s * 1e9),
                self._paths.instance(instance.id).log,
                spec.logging.max_size_bytes,
                spec.logging.max_files,
                spec.tty,
                self._engine.meta(entry),
                notify_path(spec, instance.id, self._paths),
            )
        )
        self._engine.apply(entry, (instance, keep(instance, boottime_s())))

    def _recover(self, entry: Entry) -> None:
        before = entry.instance
        self._engine.apply(entry, recover(before, boottime_s(), self._anew, shift_s=self._shift_s))
        phase = before.phase
        ran = isinstance(phase, Starting | Running) or (
            isinstance(phase, Stopping) and phase.started_s is not None
        )
        if self._anew is Anew.HOST and ran:
            self._engine.record_lost(entry, before.run, self._anew.value)
