"""What is said at the end of a build: the image and the warnings, or the step that failed, where, and why."""

from __future__ import annotations

import json

from supervisor.cli import output
from supervisor.cli.buildcheck import summary
from supervisor.cli.builderror import excerpt, failed_step, place_of
from supervisor.cli.buildview import View
from supervisor.cli.context import FAILED, USAGE
from supervisor.core.problems import Findings
from supervisor.core.reference import InvalidReferenceError
from supervisor.image.builder.contexts import Recipe
from supervisor.image.builder.progress import BuildError, Built
from supervisor.image.dockerfile import DockerfileError
from supervisor.image.dockerfile.lines import read_lines
from supervisor.image.dockerfile.lint import LintOptionError, Report
from supervisor.image.sources import SourceError

_USAGE_ERRORS = (SourceError, DockerfileError, LintOptionError, InvalidReferenceError)


def exit_code(error: BaseException) -> int:
    """2: it is the command line or a file that is wrong; 1: the build."""
    return USAGE if isinstance(error, _USAGE_ERRORS) else FAILED


def tell_failure(view: View, recipe: Recipe | None, error: Exception) -> None:
    """The step, the place, and one line that says why."""
    message = str(error)
    place = place_of(message)
    if isinstance(error, PermissionError):
        message = f"cannot build: {error.filename}: {error.strerror}; be root"
    if view.mode == "json":
        failed: dict[str, object] = {"event": "failed", "error": message}
        if place is not None:
            failed |= {"file": place[0], "line": place[1]}
        if isinstance(error, BuildError):
            failed["exit_code"] = error.exit_code
        view.say(json.dumps(failed))
        return
    said = error.output if isinstance(error, BuildError) else ""
    view.say(*failed_step(view.state, said))
    if place is not None and recipe is not None and place[0] == recipe.name:
        text = recipe.text.decode("utf-8", "replace")
        view.say(*excerpt(place[0], text, place[1], last_line(text, place[1])))
    for line in message.splitlines() or ["the build failed"]:
        output.print_error(line)


def last_line(text: str, first: int) -> int:
    """The last line of the instruction that begins at a line."""
    for line in read_lines(text, "", Findings()).lines:
        if line.mark.line == first:
            return line.own_end_line
    return first


def _others(warnings: tuple[str, ...]) -> list[str]:
    """Those that no rule of the checks says as well."""
    return [line for line in warnings if "an empty line within a continued instruction" not in line]


def tell_end(view: View, built: Built, report: Report | None = None) -> None:
    """The warnings, and the image."""
    findings = report.findings if report is not None else ()
    warnings = _others(built.warnings)
    if report is not None and report.unused:
        warnings.append(f"One or more build-args [{' '.join(report.unused)}] were not consumed")
    if view.mode == "json":
        view.say(
            json.dumps(
                {
                    "event": "built",
                    "id": built.id,
                    "digest": built.manifest_digest,
                    "names": list(built.names),
                    "warnings": [*warnings, *map(str, findings)],
                }
            )
        )
    elif view.mode != "quiet":
        view.say(*summary(findings))
        view.say(*(f"[Warning] {line.removeprefix('[Warning] ')}" for line in warnings))
    if view.mode == "quiet":
        print(built.id)
