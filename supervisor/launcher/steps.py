"""The launch steps in words: for people, and for the record of a launch that failed."""

from __future__ import annotations

from typing import assert_never

from supervisor.launcher import plan

NEVER_BEGAN = 128
"""Exit code of a child that could not become the service; why goes through its channel before."""


class StepError(Exception):
    """What failed: the stage for the record, errno or 0, and the call with its arguments."""

    def __init__(self, stage: str, number: int, detail: str) -> None:
        super().__init__(stage, number, detail)
        self.stage = stage
        self.number = number
        self.detail = detail


def describe(step: plan.Step) -> str:
    """A step in one line, for people."""
    match step:
        case plan.Overlay():
            return f"overlay of {len(step.lowers)} layers at {step.target}"
        case plan.Bind():
            return f"bind {step.source} at {step.target}"
        case plan.Mount():
            return f"mount {step.fstype} at {step.target}"
        case plan.Symlink():
            return f"symlink {step.target} to {step.text}"
        case plan.Pivot():
            return "pivot into the new root"
        case plan.ReadOnly():
            return f"make {', '.join(step.paths)} read-only"
        case plan.Mask():
            return f"mask {', '.join(step.paths)}"
        case plan.ReadOnlyRoot():
            return "make the root read-only"
        case plan.Sysctl():
            return f"sysctl {step.name}={step.value}"
        case plan.Chown():
            return f"chown {step.target}"
        case _:
            assert_never(step)


STAGES: dict[type, str] = {
    plan.Pivot: "pivot",
    plan.Sysctl: "sysctl",
    plan.Mask: "mask",
    plan.ReadOnly: "mask",
    plan.ReadOnlyRoot: "mask",
}
"""Where a step fails, if that is not "mount"."""
