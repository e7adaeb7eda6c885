"""`build --check`: the doubts about a Dockerfile, as text or JSON, and at the end of a build."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

import click

from supervisor.cli import output
from supervisor.cli.builderror import excerpt
from supervisor.cli.context import FAILED, USAGE
from supervisor.image.blobs import BlobError
from supervisor.image.builder.contexts import Recipe
from supervisor.image.config import ConfigError
from supervisor.image.dockerfile.lint import Finding, Inputs, Report, lint
from supervisor.image.machine import host_platform
from supervisor.image.store import ImageStore, StoreError


def report_of(recipe: Recipe, args: tuple[tuple[str, str], ...], images: str) -> Report:
    """The doubts about a Dockerfile. images: the store, which knows the environment of base images.

    Raises LintOptionError.
    """
    ignore = recipe.ignore
    negated = any(pattern.negated for pattern in ignore.patterns)
    inputs = Inputs(
        dict(args),
        "/".join(host_platform()),
        ignore.excludes if ignore.patterns and not negated else None,
        any(pattern.text in ("*", "**", "**/*") for pattern in ignore.patterns),
        _environments(images),
    )
    return lint(recipe.text, recipe.name, inputs)


def _environments(images: str) -> Callable[[str], Mapping[str, str] | None]:
    """What images of the store set; of others nothing is known, and nothing is made on the disk."""

    def look(name: str) -> Mapping[str, str] | None:
        if not os.access(images, os.W_OK):
            return None
        try:
            entries = ImageStore(images).find(name).config.config.env
        except (StoreError, BlobError, ConfigError, OSError):
            return None
        return {name: value for name, _, value in (entry.partition("=") for entry in entries or ())}

    return look


def summary(findings: tuple[Finding, ...]) -> list[str]:
    """What is said of them at the end of a build."""
    if not findings:
        return []
    count = f"{len(findings)} warning{'s' if len(findings) > 1 else ''} found (--check explains):"
    return ["", f" {count}", *(f" - {finding}" for finding in findings)]


def show(report: Report, recipe: Recipe, form: str) -> None:
    """Print everything, and end the command: 0 where nothing is doubtful, 1 where something is."""
    if form == "json":
        for finding in report.findings:
            output.print_json(
                {
                    "ruleName": finding.rule.name,
                    "description": finding.rule.description,
                    "url": finding.rule.url,
                    "detail": finding.detail,
                    "file": recipe.name,
                    "line": finding.line,
                    "endLine": finding.end_line,
                }
            )
        for problem in report.error.problems if report.error is not None else ():
            output.print_json({"error": problem.message, "file": problem.file, "line": problem.line})
    else:
        click.echo("\n".join(_text(report, recipe)))
        if report.error is not None:
            for line in str(report.error).splitlines():
                output.print_error(line)
    if report.error is not None:
        sys.exit(USAGE)
    if report.findings:
        sys.exit(FAILED)


def _text(report: Report, recipe: Recipe) -> list[str]:
    count = len(report.findings)
    if not count:
        return ["Check complete, no warnings found."]
    lines = [f"Check complete, {count} warning{'s have' if count > 1 else ' has'} been found!"]
    text = recipe.text.decode("utf-8", "replace")
    for finding in report.findings:
        lines += [
            "",
            f"WARNING: {finding.rule.name} - {finding.rule.url}",
            finding.detail,
            *excerpt(recipe.name, text, finding.line, finding.end_line),
        ]
    return lines
