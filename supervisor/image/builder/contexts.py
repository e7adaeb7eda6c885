"""Where a context's Dockerfile and its ignore file are. Blocks on the disk; reads nothing else.

Source of the rules: docs.docker.com "Build context" (.dockerignore, file-specific ignore files) and buildx
build/opt.go. A context that was fetched is a stranger's: its Dockerfile lies within it, links followed.
"""

from __future__ import annotations

import os

import msgspec

from supervisor.image.builder.ignore import Ignore, PatternError, parse_ignore
from supervisor.image.sources import SourceError

_MAX_BYTES = 4 * 1024 * 1024


class Recipe(msgspec.Struct, frozen=True):
    """A Dockerfile: its text, what problems call it, and which files of the context count."""

    text: bytes
    name: str
    ignore: Ignore


def read_recipe(directory: str, file: str | None, *, local: bool, base: str) -> Recipe:
    """The Dockerfile of a context. Raises SourceError.

    file: as the user names it, None for the usual name. local: the user's own directory, where `file` is
    relative to `base`; else it is relative to the context, and stays within it.
    """
    if file is None:
        # BuildKit takes the lower-case name where the usual one is not there.
        names = [f"{directory}/Dockerfile", f"{directory}/dockerfile"]
        path = next((name for name in names if os.path.lexists(name)), names[0])
        shown = _shown(path, base) if local else os.path.basename(path)
    else:
        path = os.path.normpath(os.path.join(base if local else directory, file))
        shown = file
    if not local:
        _check_within(path, directory, shown)
    try:
        with open(path, "rb") as content:
            text = content.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        hint = "name one with -f FILE" if file is None else "-f is relative to where you are"
        if not local:
            hint = "-f is relative to the context"
        raise SourceError(f"cannot read the Dockerfile {shown}: no such file; {hint}") from None
    except OSError as error:
        raise SourceError(f"cannot read the Dockerfile {shown}: {error.strerror}") from error
    return Recipe(text, shown, read_ignore(directory, path, local=local))


def read_ignore(directory: str, dockerfile: str = "", *, local: bool = True) -> Ignore:
    """`<Dockerfile>.dockerignore` beside the Dockerfile, else the `.dockerignore` of the context."""
    candidates = [f"{dockerfile}.dockerignore"] if dockerfile else []
    candidates += [f"{directory}/.dockerignore"] if directory else []
    for path in candidates:
        if not local and os.path.lexists(path):
            _check_within(path, directory, os.path.basename(path))
        try:
            with open(path, "rb") as content:
                return parse_ignore(content.read(_MAX_BYTES).decode("utf-8"))
        except FileNotFoundError:
            continue
        except PatternError as error:
            raise SourceError(f"cannot use {path}: {error}") from error
        except UnicodeDecodeError:
            raise SourceError(f"cannot use {path}: it is not UTF-8") from None
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}") from error
    return Ignore()


def _shown(path: str, base: str) -> str:
    """A path as people would write it from where they are."""
    near = os.path.relpath(path, base)
    return path if near.startswith("../..") else near


def _check_within(path: str, directory: str, shown: str) -> None:
    root = os.path.realpath(directory)
    if os.path.commonpath([os.path.realpath(path), root]) != root:
        raise SourceError(f"cannot use {shown}: it leads out of the context")
