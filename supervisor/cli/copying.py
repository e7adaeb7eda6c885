"""Verbs that move files and services' own changes: cp, export, commit.

Where a copied name goes follows Docker's rules (docker cp, "Extended description"), which are cp(1)'s.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import posixpath
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import click

from supervisor.cli import output
from supervisor.cli.context import (
    FAILED,
    INDEX,
    NAME,
    UNKNOWN,
    Context,
    fail,
    in_project,
    instance_name,
    project_option,
)
from supervisor.cli.errors import ApiError

_CHUNK_BYTES = 256 * 1024
_GO_DIR, _GO_LINK = 1 << 31, 1 << 27


@dataclass(frozen=True, slots=True)
class _End:
    """One end of a copy. service: "" for this host; project: where to look for it. path as given."""

    service: str
    path: str
    project: str | None = None

    def __str__(self) -> str:
        return f"{self.service}:{self.path}" if self.service else self.path


@dataclass(frozen=True, slots=True)
class _There:
    """What is at an end. path: with a link at its end followed, where that was asked."""

    path: str
    exists: bool
    is_dir: bool


class _CopyError(Exception):
    """A copy that means nothing. The text is for the user."""


@click.command()
@click.option(
    "-a", "--archive", is_flag=True, help="Keep owners: of SOURCE here, and the service's user there."
)
@click.option("-L", "--follow-link", is_flag=True, help="Copy what a symbolic link SOURCE leads to.")
@click.option("-q", "--quiet", is_flag=True, help="Accepted as Docker has it; nothing is told anyway.")
@click.option("--all", "everywhere", is_flag=True, help="To every replica; what `compose run` made, too.")
@INDEX
@project_option
@click.argument("source")
@click.argument("target")
@click.pass_obj
def cp(
    context: Context,
    archive: bool,
    follow_link: bool,
    quiet: bool,
    everywhere: bool,
    index: int | None,
    source: str,
    target: str,
) -> None:
    """Copy files between a service and this host: NAME:PATH to PATH, or PATH to NAME:PATH.

    The service may run or not; volumes are part of what it sees, /proc, /sys and /dev are not. Links inside
    a service stay inside it. A directory that is there gets the source in it, a name that is not becomes it;
    SOURCE/. is what is in a directory. `-` is a tar archive on stdin or stdout. Files that come here are
    yours, unless -a; files that go there keep owner and mode, with -a they are the service's user's.

    \b
    shipkeeper cp web:/var/log/app.log .
    shipkeeper cp site/. web:/srv/site
    shipkeeper cp web:/etc - | tar t
    """
    del quiet
    here, there = _end(source), _end(target)
    if bool(here.service) == bool(there.service):
        raise click.UsageError("exactly one of SOURCE and TARGET is NAME:PATH; ./a:b is a file of this host")
    service = here.service or there.service
    if everywhere and here.service:
        raise click.UsageError("--all is for copies into a service")
    if everywhere and target != "-" and source == "-":
        raise click.UsageError("--all needs SOURCE several times, and stdin comes once")
    try:
        for name in _all_of(context, service) if everywhere else [instance_name(context, service, index)]:

            def copy(project: str | None, name: str = name) -> None:
                ends = [
                    replace(end, service=name, project=project) if end.service else end
                    for end in (here, there)
                ]
                _copy(context, ends[0], ends[1], archive=archive, follow=follow_link)

            in_project(context, copy, (name,))
    except ApiError:
        raise
    except _CopyError as error:
        fail(FAILED, f"cannot copy {source} to {target}: {error}")
    except FileNotFoundError as error:
        fail(UNKNOWN, f"cannot copy {source} to {target}: {error.strerror}: {error.filename or source}")
    except OSError as error:
        fail(FAILED, f"cannot copy {source} to {target}: {error.strerror or error}")


def _end(text: str) -> _End:
    service, colon, path = text.partition(":")
    if not colon or text.startswith(("/", ".")) or not service:
        return _End("", text)
    return _End(service, path if path.startswith("/") else f"/{path}")


def _all_of(context: Context, service: str) -> list[str]:
    """Every container of a service of the project."""
    query = {"all": 1, "project": context.project_name()}
    views = context.client.call("GET", "/containers/json", query)
    names = [view["Name"] for view in views if service in (view["Service"], view["Name"])]
    if not names:
        raise ApiError(404, f"no such service: {service}")
    return names


def _copy(context: Context, source: _End, target: _End, *, archive: bool, follow: bool) -> None:
    if source.service:
        _from_service(context, source, target.path, archive=archive, follow=follow)
    else:
        _to_service(context, source.path, target, archive=archive, follow=follow)


# --- from a service ----------------------------------------------------------------------------------
def _from_service(context: Context, source: _End, target: str, *, archive: bool, follow: bool) -> None:
    from supervisor.runtime.rootfiles import Rename, read_tar

    found = _look(context, source, follow=follow)
    if not found.exists:
        raise ApiError(404, f"cannot copy {source}: no such file or directory")
    if target == "-" and sys.stdout.isatty():
        raise click.UsageError("an archive is nothing for a terminal: use a pipe")
    query = {"path": found.path, "project": source.project}
    with context.client.download(f"/containers/{source.service}/archive", query) as answer:
        if target == "-":
            while data := answer.read(_CHUNK_BYTES):
                sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            return
        there = _here(target)
        directory, name = _placed(found.is_dir, there)
        inside = found.path.endswith("/.") or found.path == "/"
        first = name or ("" if inside else posixpath.basename(source.path.rstrip("/")))
        rename = Rename(0 if inside else 1, first) if first else None
        owner = None if archive else (os.geteuid(), os.getegid())
        root = os.open("/", os.O_PATH | os.O_DIRECTORY)
        read_tar(root, directory, answer, keep_kinds=True, owner=owner, rename=rename)


# --- to a service ------------------------------------------------------------------------------------
def _to_service(context: Context, source: str, target: _End, *, archive: bool, follow: bool) -> None:
    there = _look(context, target, follow=True)
    query = {
        "noOverwriteDirNonDir": "true",
        "copyUIDGID": "true" if archive else None,
        "project": target.project,
    }
    address = f"/containers/{target.service}/archive"
    if source == "-":
        if not there.is_dir:
            raise _CopyError("an archive on stdin is unpacked into a directory, and that is none")
        context.client.upload(address, {**query, "path": there.path}, sys.stdin.buffer)
        return
    suffix = _suffix(source)
    plain = os.path.abspath(source)  # noqa: PTH100 - no link is followed
    path = os.path.realpath(source) if follow else plain
    path += suffix if path != "/" else ""
    is_dir = stat.S_ISDIR((os.stat if suffix else os.lstat)(path).st_mode)
    directory, name = _placed(is_dir, there)
    if not name:
        name = "." if suffix == "/." else posixpath.basename(plain) or "."
    with _archive_of(path, name) as stream:
        context.client.upload(address, {**query, "path": directory}, stream)


@contextlib.contextmanager
def _archive_of(path: str, name: str) -> Iterator[IO[bytes]]:
    """A tar archive of files of this host, as it is written by a thread."""
    from supervisor.runtime.rootfiles import write_tar

    reader, writer = os.pipe()
    failed: list[BaseException] = []

    def write() -> None:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY)
        try:
            with os.fdopen(writer, "wb") as out:
                write_tar(root, path, out, name=name)
        except BrokenPipeError:
            pass  # the other side has said why
        except BaseException as error:  # noqa: BLE001 - raised again, where somebody waits
            failed.append(error)
        finally:
            os.close(root)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reader, "rb") as stream:
        try:
            yield stream
        finally:
            stream.close()
            thread.join()
    if failed:
        raise failed[0]


# --- where it goes -----------------------------------------------------------------------------------
def _placed(source_is_dir: bool, target: _There) -> tuple[str, str]:
    """(directory that is unpacked into, first name there; "" for the source's own). Raises _CopyError."""
    if target.exists and target.is_dir:
        return target.path, ""
    if source_is_dir and target.exists:
        raise _CopyError("a directory cannot replace a file; remove that first")
    if not source_is_dir and target.path.endswith(("/", "/.")):
        raise _CopyError("no such directory; make it first, or leave the / away")
    directory, _, name = target.path.rstrip("/").rpartition("/")
    return directory or "/", name


def _suffix(path: str) -> str:
    """What a path asserts at its end: "/." what is in a directory, "/" a directory."""
    if posixpath.basename(path) == ".":
        return "/."
    return "/" if path.endswith("/") else ""


def _here(path: str) -> _There:
    """The same on this host."""
    clean = os.path.realpath(path)
    there = Path(clean)
    return _There(clean if clean == "/" else clean + _suffix(path), there.exists(), there.is_dir())


def _look(context: Context, end: _End, *, follow: bool) -> _There:
    """What is at a path of a service. Raises ApiError, but for what is not there."""
    path = end.path
    for _ in range(2):
        query = {"path": path, "project": end.project}
        try:
            head = context.client.head(f"/containers/{end.service}/archive", query)
        except ApiError as error:
            if error.status != 404:
                raise
            # An answer to HEAD has no text: is it the file that is not there, or the service?
            context.client.call("GET", f"/containers/{end.service}/json", {"project": end.project})
            return _There(path, exists=False, is_dir=False)
        found = json.loads(base64.b64decode(head["X-Docker-Container-Path-Stat"]))
        if not follow or not found["mode"] & _GO_LINK:
            return _There(path, exists=True, is_dir=bool(found["mode"] & _GO_DIR))
        path = found["linkTarget"]
    return _There(path, exists=True, is_dir=False)


# --- export and commit -------------------------------------------------------------------------------
@click.command()
@click.option("-o", "--output", "path", help="Where to write; without it, stdout.")
@INDEX
@project_option
@NAME
@click.pass_obj
def export(context: Context, path: str | None, index: int | None, name: str) -> None:
    """Write the whole root of the service NAME as a tar archive; what is mounted in it is not in it.

    It may be running. `shipkeeper import` makes an image of it.
    """
    if path is None and sys.stdout.isatty():
        raise click.UsageError("an archive is nothing for a terminal: use -o FILE, or a pipe")
    name = instance_name(context, name, index)

    def ask(write: Callable[[bytes], Any]) -> None:
        def fetch(project: str | None) -> None:
            with context.client.download(f"/containers/{name}/export", {"project": project}) as answer:
                while data := answer.read(_CHUNK_BYTES):
                    write(data)

        in_project(context, fetch, (name,))

    if path is None:
        ask(sys.stdout.buffer.write)
        sys.stdout.buffer.flush()
        return
    try:
        with output.whole_file(path) as file:
            ask(file.write)
    except output.WriteError as error:
        fail(FAILED, f"{error}; name a place that can be written, with room")


@click.command()
@click.option("-a", "--author", default="", help="Who made it, for its history.")
@click.option(
    "-c", "--change", "changes", multiple=True, metavar="INSTRUCTION",
    help="Of a Dockerfile, as 'CMD [\"x\"]': CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL"
    " USER VOLUME WORKDIR.",
)  # fmt: skip
@click.option("-m", "--message", default="", help="A comment, for its history.")
@click.option("--pause/--no-pause", default=True, show_default=True, help="Pause the service meanwhile.")
@INDEX
@project_option
@NAME
@click.argument("image", required=False)
@click.pass_obj
def commit(
    context: Context,
    author: str,
    changes: tuple[str, ...],
    message: str,
    pause: bool,
    index: int | None,
    name: str,
    image: str | None,
) -> None:
    """Make an image of what the service NAME wrote, on the image that it stands on; call it IMAGE.

    Volumes are not part of it. The service may be running.
    """
    query = {
        "container": instance_name(context, name, index),
        "repo": image or None,
        "author": author or None,
        "comment": message or None,
        "pause": "1" if pause else "0",
        "changes": list(changes) or None,
    }
    made = in_project(
        context,
        lambda project: context.client.call("POST", "/commit", {**query, "project": project}),
        (name,),
    )
    click.echo(made["Id"])
