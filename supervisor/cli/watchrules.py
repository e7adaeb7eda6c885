"""`develop.watch`: which change of a file means what. Pure.

Source of the rules: the Compose specification, develop.md, and docker/compose pkg/compose/watch.go: patterns
are those of .dockerignore, relative to the rule's path; of a build context its .dockerignore counts, too;
.git and what editors write beside a file never count.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from supervisor.image.builder.ignore import Ignore, parse_ignore

Action = Literal["sync", "rebuild", "restart", "sync+restart", "sync+exec"]

# docker/compose, internal/watch/ephemeral.go: of JetBrains', emacs, vim, kate, gedit.
_EPHEMERAL = parse_ignore(
    "**/*___jb_old___\n**/*___jb_tmp___\n**/.idea/**\n**/.#*\n**/#*#\n**/4913\n**/*~\n**/.*.swp\n**/.*.swx\n"
    "**/.*.swo\n**/.*.swn\n**/*.kate-swp\n**/.goutputstream-*\n**/.git\n"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `develop.watch`. target: where in the service; "" for what is not synced.

    include: None is all. context: the directory of the build and what its .dockerignore says; exec: the hook
    of sync+exec in the canonical form of the model.
    """

    service: str
    path: str
    action: Action
    target: str = ""
    include: Ignore | None = None
    ignore: Ignore = field(default_factory=Ignore)
    context: tuple[str, Ignore] | None = None
    initial_sync: bool = False
    exec: Mapping[str, Any] | None = None

    @property
    def syncs(self) -> bool:
        """It carries files."""
        return self.action.startswith("sync")

    def target_of(self, path: str) -> str | None:
        """Where a changed file goes; "" where it goes nowhere; None where the rule does not mean it."""
        inner = _below(path, self.path)
        if inner is None or _EPHEMERAL.excludes(path.lstrip("/")):
            return None
        if self.context is not None:
            in_context = _below(path, self.context[0])
            if in_context not in (None, "") and self.context[1].excludes(in_context or ""):
                return None
        name = inner or posixpath.basename(path)  # the rule is of one file
        if self.ignore.excludes(name) or (self.include is not None and not self.include.excludes(name)):
            return None
        return posixpath.normpath(posixpath.join(self.target, inner)) if self.syncs else ""

    def leaves_out(self, directory: str) -> bool:
        """Whether nothing below a directory can be meant: it need not be looked into."""
        inner = _below(directory, self.path)
        if inner is None or _EPHEMERAL.excludes(directory.lstrip("/")):
            return True
        if self.ignore.excludes(inner) and not self.ignore.may_include_below(inner):
            return True
        if self.context is None:
            return False
        in_context = _below(directory, self.context[0])
        excluded = bool(in_context) and self.context[1].excludes(in_context or "")
        return excluded and not self.context[1].may_include_below(in_context or "")


@dataclass(slots=True)
class Work:
    """What a batch of changes comes to. syncs: by service, target by path of this host."""

    rebuild: set[str] = field(default_factory=set)
    restart: set[str] = field(default_factory=set)
    syncs: dict[str, dict[str, str]] = field(default_factory=dict)
    execs: list[Rule] = field(default_factory=list)


def work_of(rules: Sequence[Rule], paths: Iterable[str]) -> Work:
    """What these changes mean. A service that is built anew need not be restarted."""
    work = Work()
    for path in sorted(set(paths)):
        for rule in rules:
            target = rule.target_of(path)
            if target is None:
                continue
            if rule.action == "rebuild":
                work.rebuild.add(rule.service)
            if rule.syncs:
                work.syncs.setdefault(rule.service, {})[path] = target
            if rule.action in ("restart", "sync+restart"):
                work.restart.add(rule.service)
            if rule.action == "sync+exec" and rule not in work.execs:
                work.execs.append(rule)
    work.restart -= work.rebuild
    return work


def rules_of(service: str, document: Mapping[str, Any], context: tuple[str, Ignore] | None) -> list[Rule]:
    """The rules of a service from its canonical form. Raises PatternError."""
    return [
        Rule(
            service,
            entry["path"],
            entry["action"],
            entry.get("target", ""),
            parse_ignore("\n".join(entry["include"])) if entry.get("include") else None,
            parse_ignore("\n".join(entry.get("ignore", ()))),
            context,
            bool(entry.get("initial_sync")),
            entry.get("exec"),
        )
        for entry in (document.get("develop") or {}).get("watch", ())
    ]


def _below(path: str, directory: str) -> str | None:
    """The path relative to a directory that it is, or lies in; None where it does not."""
    if path == directory:
        return ""
    prefix = directory.rstrip("/") + "/"
    return path[len(prefix) :] if path.startswith(prefix) else None
