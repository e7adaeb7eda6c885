"""Values of a service's keys that have rules of their own: commands, texts, labels, security options."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from supervisor.compose import scalars, shellwords
from supervisor.compose.context import Context
from supervisor.compose.problems import nearest
from supervisor.compose.tree import Node, quote
from supervisor.core.model import SecurityOptions

_CONTAINER_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_HOSTNAME = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,62}[a-zA-Z0-9_])?")
COMMAND_EXAMPLE = 'sleep 60, or ["sleep", "60"]'


def words(context: Context, node: Node, path: str) -> tuple[str, ...] | None:
    match node.value:
        case None:
            return None
        case str():
            if context.reader.string(node, path, COMMAND_EXAMPLE) is None:
                return None
            try:
                words, rest = shellwords.split(node.value)
            except shellwords.SplitError as error:
                context.reader.bad(node, path, str(error), 'write a list, or ["sh", "-c", "..."]')
                return None
            if rest:
                context.reader.findings.warn(
                    node.mark,
                    path,
                    f"{path} is no shell script: it ends before {quote(rest[:30])}, as in Compose",
                    'write ["sh", "-c", "..."], or quote the character',
                )
            return tuple(words)
        case list():
            return tuple(context.reader.strings(node, path, COMMAND_EXAMPLE) or ())
        case _:
            context.reader.wrong(node, path, "a string or a list of strings", COMMAND_EXAMPLE)
            return None


def plain_text(context: Context, node: Node, path: str) -> str | None:
    """A scalar as text, the way Compose prints it; a warning where that is not what was written."""
    value = node.value
    if isinstance(value, dict | list):
        context.reader.wrong(node, path, "a string, a number or a boolean", "a quoted string")
        return None
    if value is None:
        return None
    if isinstance(value, str):
        if node.text and scalars.is_date(node.text):
            context.reader.findings.warn(
                node.mark,
                path,
                f"{path}: Compose reads the unquoted {node.text} as a date and writes it differently",
                f"quote it: {quote(node.text)}",
            )
        return context.reader.string(node, path, "a string")
    text = scalars.text_of(value)
    if node.text is not None and text != node.text:
        context.reader.findings.warn(
            node.mark,
            path,
            f"{path}: the unquoted {node.text} is read as {text}",
            f"quote it: {quote(node.text)}",
        )
    return text


def string_pairs(context: Context, node: Node, path: str) -> dict[str, str]:
    """Labels: a mapping of texts, where nothing is the empty text."""
    entries = context.reader.entries(node, path, "{name: value} or [name=value]") or {}
    return {name: plain_text(context, value, f"{path}.{name}") or "" for name, value in entries.items()}


def option_pairs(
    context: Context, entries: Mapping[str, Node], key: str, path: str, document: dict[str, object]
) -> dict[str, str]:
    """A mapping of texts below `key`, also put into `document` unless it is empty."""
    if key not in entries:
        return {}
    found = string_pairs(context, entries[key], f"{path}.{key}")
    if found:
        document[key] = dict(sorted(found.items()))
    return found


def security_option(
    context: Context, text: str, options: SecurityOptions
) -> SecurityOptions | tuple[str, str]:
    """The options with one more, or (what is wrong, what to do)."""
    name, separator, value = text.partition("=")
    if not separator:
        name, separator, value = text.partition(":")
    if name == "no-new-privileges":
        if value not in ("", "true", "false"):
            return f"{quote(value)} is neither true nor false", "write no-new-privileges:true"
        return replace(options, no_new_privileges=value != "false")
    if name == "seccomp" and value:
        if value in ("unconfined", "default", "builtin"):
            return replace(options, seccomp="unconfined" if value == "unconfined" else "default")
        return replace(options, seccomp=context.absolute(value))
    # Nothing confines a service by these here, so switching them off is what already holds.
    if text.replace(":", "=") in ("apparmor=unconfined", "label=disable"):
        return options
    if name in ("apparmor", "label", "systempaths", "credentialspec", "writable-cgroups", "seccomp"):
        return (
            f"not supported yet: security option {quote(text)}",
            "write no-new-privileges:true or seccomp=unconfined",
        )
    near = nearest(name, ("no-new-privileges", "seccomp", "apparmor", "label"))
    return f"unknown security option {quote(text)}", f"did you mean {near}?" if near else "remove it"


def _check_user(text: str) -> str:
    parts = text.split(":")
    if len(parts) > 2 or not all(parts) or any(char.isspace() for char in text):
        return f"{quote(text)} is no user"
    return ""


def _check_directory(text: str) -> str:
    return "" if text.startswith("/") else f"the working directory {quote(text)} needs to be an absolute path"


def _check_hostname(text: str) -> str:
    return "" if _HOSTNAME.fullmatch(text) else f"{quote(text)} is no host name"


def _check_container_name(text: str) -> str:
    return "" if _CONTAINER_NAME.fullmatch(text) else f"{quote(text)} is no container name"


TEXTS: dict[str, tuple[str, Callable[[str], str], str]] = {
    "working_dir": ("/app", _check_directory, "write /app"),
    "user": ('"1000:1000"', _check_user, "write name, 1000, name:group or 1000:1000"),
    "hostname": ("web", _check_hostname, "write letters, digits, - and ., at most 64"),
    "container_name": ("web-1", _check_container_name, "write letters, digits, _, . and -, two at least"),
}
