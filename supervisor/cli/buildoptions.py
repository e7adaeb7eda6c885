"""The options of `build` that are small languages of their own, as values. Pure.

Source of the rules: docs.docker.com reference of `docker buildx build`, buildx util/buildflags, BuildKit
session/secrets/secretsprovider.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping

from supervisor.core.environment import parse_epoch
from supervisor.image.builder.request import Secret, SshAgent

_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "armhf": "arm/v7",
    "armel": "arm/v6",
    "i386": "386",
}


class OptionError(Exception):
    """An option that cannot be used. The text is for the user."""


def fields(option: str, text: str, known: Iterable[str]) -> dict[str, str]:
    """`key=value,key=value`, quoted as CSV. Raises OptionError."""
    found: dict[str, str] = {}
    try:
        (row,) = csv.reader([text])
    except (csv.Error, ValueError):
        raise OptionError(f"cannot use {option} {text!r}: it is no list of key=value") from None
    names = tuple(known)
    for part in row:
        name, equals, value = part.partition("=")
        name = name.strip().lower()
        if name not in names:
            raise OptionError(
                f"cannot use {option} {text!r}: unknown key {name!r}; known: {', '.join(names)}"
            )
        if not equals:
            raise OptionError(f"cannot use {option} {text!r}: {name} has no value; write {name}=...")
        found[name] = value
    return found


def parse_secret(text: str, env: Mapping[str, str]) -> Secret:
    """`id=NAME[,src=PATH|env=VARIABLE]`. With the id alone: the variable of that name, else that file."""
    found = fields("--secret", text, ("type", "id", "src", "source", "env"))
    kind, path, variable = (
        found.get("type", ""),
        found.get("src", found.get("source", "")),
        found.get("env", ""),
    )
    if kind not in ("", "file", "env"):
        raise OptionError(f"cannot use --secret {text!r}: unknown type {kind!r}; write file or env")
    if kind == "env" and path and not variable:
        path, variable = "", path  # buildx takes it so
    name = found.get("id", "")
    if not name:
        raise OptionError(f"cannot use --secret {text!r}: it has no id; write id=NAME,src=PATH")
    if path and variable:
        raise OptionError(f"cannot use --secret {text!r}: it has both a file and a variable; choose one")
    if not path and not variable:
        if kind == "env" or (kind == "" and name in env):
            variable = name
        else:
            path = name
    if variable and variable not in env:
        raise OptionError(f"cannot use --secret {text!r}: the variable {variable} is not set")
    return Secret(name, path, variable)


def parse_ssh(text: str) -> SshAgent:
    """`default`, `ID`, or `ID=PATH[,PATH...]`."""
    name, equals, paths = text.partition("=")
    if not name or (equals and not paths):
        raise OptionError(f"cannot use --ssh {text!r}: write default, or ID=SOCKET, or ID=KEY")
    return SshAgent(name, tuple(part for part in paths.split(",") if part))


def parse_args(texts: Iterable[str], env: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """`NAME=VALUE`, or `NAME` for that of the environment; one that is not set there is not given."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name:
            raise OptionError(f"cannot use --build-arg {text!r}: it has no name; write NAME=VALUE")
        found.pop(name, None)
        if equals:
            found[name] = value
        elif name in env:
            found[name] = env[name]
    return tuple(found.items())


def parse_pairs(option: str, texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """`NAME=VALUE`, or `NAME` for an empty value; the last of a name counts."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not name:
            raise OptionError(f"cannot use {option} {text!r}: it has no name; write NAME=VALUE")
        found[name] = value
    return tuple(found.items())


def parse_platform(text: str) -> str:
    """`OS/ARCH[/VARIANT]` as images name it: `x86_64` is linux/amd64."""
    parts = text.lower().split("/")
    if len(parts) == 1:
        parts = ["linux", *parts]
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise OptionError(f"cannot use --platform {text!r}: write OS/ARCH, as in linux/amd64")
    shown = "/".join([parts[0], _ARCHITECTURES.get(parts[1], parts[1]), *parts[2:]])
    return shown.removesuffix("/v8") if "/arm64/" in shown else shown


def check_platforms(texts: Iterable[str], host: str) -> None:
    """Only what this host is can be built here. Raises OptionError."""
    for text in texts:
        for each in text.split(","):
            if parse_platform(each) != parse_platform(host):
                raise OptionError(
                    f"cannot build for {each}: this host is {host}, and runs no programs of another;"
                    " build there"
                )


def epoch_of(args: Mapping[str, str], env: Mapping[str, str]) -> int | None:
    """SOURCE_DATE_EPOCH as a build argument, else of the environment."""
    try:
        return parse_epoch(args.get("SOURCE_DATE_EPOCH", env.get("SOURCE_DATE_EPOCH", "")))
    except ValueError as error:
        raise OptionError(str(error)) from None
