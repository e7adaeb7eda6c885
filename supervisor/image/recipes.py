"""Images made here of Debian's packages: a recipe is a directory with a Dockerfile.

Where it has a `rootfs.yaml` beside it, mmdebstrap makes a root file system of that first, and the Dockerfile
finds it as `rootfs.tar` in its context:

    suite: bookworm              # of Debian
    variant: minbase             # mmdebstrap(1), VARIANTS
    packages: [ca-certificates]  # more than the variant has
    leave_out: [/usr/share/man/*]
    keep: [/usr/share/doc/*/copyright]

The archive that is asked is the host's own where the host is a Debian, and deb.debian.org elsewhere. Times
are those of the archive's Release files, or SOURCE_DATE_EPOCH; of the host's names nothing is in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from supervisor.core.environment import parse_epoch

_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_ARCHIVE = "http://deb.debian.org/debian"
_SECURITY = "http://deb.debian.org/debian-security"
_KEYS = {"suite", "variant", "packages", "leave_out", "keep"}
_WORD = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_DATE = re.compile(r"^Date: (.+)$", re.MULTILINE)
_ANSWER_S = 60.0
_HOOK = """set -eu
rm -f "$1/etc/hostname" "$1/etc/resolv.conf" "$1/etc/apt/apt.conf.d/99mmdebstrap"
printf 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb"; };\\nAcquire::Languages "none";\\n' \\
    >"$1/etc/apt/apt.conf.d/80image"
options="$1/etc/dpkg/dpkg.cfg.d"
grep -v '^path-' "$options/99mmdebstrap" >"$options/docker-apt-speedup"
grep '^path-' "$options/99mmdebstrap" >"$options/docker" || rm "$options/docker"
rm "$options/99mmdebstrap"
"""
"""In the new root: nothing of the host's stays, and apt keeps no archives.

What dpkg leaves out is in the file where Debian's images for Docker have it: Dockerfiles that want the
languages after all (that of postgres, say) take the line out of it.
"""

Tell = Callable[[str], None]


class RecipeError(Exception):
    """A recipe that cannot be made. The text is for the user."""


@dataclass(frozen=True, slots=True)
class Root:
    """A root file system of packages; see the module."""

    suite: str
    variant: str = "minbase"
    packages: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """One that was read. root: None where its Dockerfile stands on another image."""

    directory: str
    dockerfile: bytes
    root: Root | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A recipe as a build takes it. digest: of all that it is made of. epoch_s: the time of what is made."""

    context: str
    digest: str
    epoch_s: int | None


def shipped_recipes() -> dict[str, str]:
    """Directories of the recipes that come with Shipkeeper, by the name of their image."""
    base = Path(__file__).resolve().parent.parent / "recipes"
    return {
        "debian:bookworm": str(base / "debian-bookworm"),
        "debian:bookworm-slim": str(base / "debian-bookworm-slim"),
        "debian:trixie-slim": str(base / "debian-trixie-slim"),
        "python:3.11-slim": str(base / "python-3.11-slim"),
        "python:3.13-slim": str(base / "python-3.13-slim"),
    }


def read_recipe(directory: str) -> Recipe:
    """Raises RecipeError."""
    try:
        dockerfile = Path(directory, "Dockerfile").read_bytes()
        described = Path(directory, "rootfs.yaml")
        root = _root(yaml.safe_load(described.read_text()), str(described)) if described.exists() else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"cannot read the recipe {directory}: {error}") from error
    return Recipe(directory, dockerfile, root)


def _root(document: object, path: str) -> Root:
    if not isinstance(document, dict) or set(document) - _KEYS or "suite" not in document:
        raise RecipeError(f"cannot use {path}: write `suite: bookworm`; known are {', '.join(sorted(_KEYS))}")
    given: dict[str, Any] = {}
    for key in ("suite", "variant"):
        if key in document:
            if not isinstance(document[key], str) or not _WORD.fullmatch(document[key]):
                raise RecipeError(f"cannot use {key} in {path}: write one word")
            given[key] = document[key]
    for key in ("packages", "leave_out", "keep"):
        values = document.get(key, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise RecipeError(f"cannot use {key} in {path}: write a list")
        given[key] = tuple(values)
    for name in given["packages"]:
        if not _WORD.fullmatch(name):
            raise RecipeError(f"cannot use packages in {path}: {name!r} is no name of a package")
    return Root(**given)


@contextlib.asynccontextmanager
async def prepared(recipe: Recipe, place: str, env: Mapping[str, str], tell: Tell) -> AsyncIterator[Prepared]:
    """A recipe's context, while the context lasts; made below `place`. Raises RecipeError.

    Cancelled, it leaves no process, mount or file behind.
    """
    if recipe.root is None:
        yield Prepared(recipe.directory, _digest(recipe, "", None), _epoch(env))
        return
    context = await asyncio.to_thread(tempfile.mkdtemp, prefix="recipe-", dir=place)
    try:
        sources = _deb822(*await _archives(), recipe.root.suite)
        epoch_s = _epoch(env)
        if epoch_s is None:
            epoch_s = await _newest_release(sources, context)
        await asyncio.to_thread(_copy_recipe, recipe.directory, context)
        await _bootstrap(recipe.root, sources, epoch_s, context, tell)
        yield Prepared(context, _digest(recipe, sources, epoch_s), epoch_s)
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, context, ignore_errors=True))


def _copy_recipe(directory: str, context: str) -> None:
    shutil.copytree(directory, context, dirs_exist_ok=True)


def _epoch(env: Mapping[str, str]) -> int | None:
    try:
        return parse_epoch(env.get("SOURCE_DATE_EPOCH", ""))
    except ValueError as error:
        raise RecipeError(str(error)) from None


def _digest(recipe: Recipe, sources: str, epoch_s: int | None) -> str:
    """Of everything that decides what comes of a recipe."""
    files = {
        str(path.relative_to(recipe.directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(recipe.directory).rglob("*"))
        if path.is_file()
    }
    text = json.dumps([files, sources, epoch_s, platform.machine(), _HOOK], sort_keys=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


# --- Debian's archive --------------------------------------------------------------------------------
async def _archives() -> tuple[str, str]:
    """(archive, security archive): the host's own if apt knows them as Debian's, else Debian's."""
    form = "$(ORIGIN) $(REPO_URI)"
    main, security = _ARCHIVE, _SECURITY
    if shutil.which("apt-get") is not None:
        with contextlib.suppress(RecipeError):
            text = await _run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
            known = [
                line.split(" ", 1)[1].rstrip("/") for line in text.splitlines() if line.startswith("Debian ")
            ]
            # An account in an address belongs into no image.
            usable = [uri for uri in known if uri.startswith(("http://", "https://")) and "@" not in uri]
            main = next((uri for uri in usable if not uri.endswith("-security")), main)
            security = next((uri for uri in usable if uri.endswith("-security")), security)
    return main, security


def _deb822(main: str, security: str, suite: str) -> str:
    """Sources as sources.list(5) has them, of mmdebstrap and of the new root."""
    return "\n".join(
        f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\nSigned-By: {_KEYRING}\n"
        for uri, suites in ((main, f"{suite} {suite}-updates"), (security, f"{suite}-security"))
    )


async def _newest_release(sources: str, place: str) -> int:
    """The time of the newest Release file: the same packages, the same time."""
    newest = 0
    for uri, suites in re.findall(r"^URIs: (\S+)\nSuites: (.+)$", sources, re.MULTILINE):
        for suite in suites.split():
            file = f"{place}/InRelease"
            # It goes through apt's own proxies and certificates. Its signature mmdebstrap checks.
            await _run(["/usr/lib/apt/apt-helper", "download-file", f"{uri}/dists/{suite}/InRelease", file])
            match = _DATE.search(await asyncio.to_thread(Path(file).read_text, errors="replace"))
            await asyncio.to_thread(os.unlink, file)
            if match is not None:
                newest = max(newest, int(email.utils.parsedate_to_datetime(match[1]).timestamp()))
    if not newest:
        raise RecipeError("cannot tell the time of Debian's archive: no Release file of it has a date")
    return newest


async def _bootstrap(root: Root, sources: str, epoch_s: int, context: str, tell: Tell) -> None:
    if shutil.which("mmdebstrap") is None:
        raise RecipeError("mmdebstrap is not on this host; apt-get install mmdebstrap")
    if not os.path.exists(_KEYRING):
        raise RecipeError(f"{_KEYRING} is not on this host; apt-get install debian-archive-keyring")
    work = await asyncio.to_thread(tempfile.mkdtemp, prefix="mmdebstrap-", dir=os.path.dirname(context))
    try:
        await asyncio.to_thread(Path(f"{work}/debian.sources").write_text, sources)
        await asyncio.to_thread(Path(f"{work}/apt.conf").write_text, await _apt_conf())
        arguments = [
            "mmdebstrap", "--mode=root", "--format=tar", f"--variant={root.variant}", "--skip=check/qemu",
            f"--aptopt={work}/apt.conf", "--dpkgopt=force-unsafe-io",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in root.leave_out),
            *(f"--dpkgopt=path-include={pattern}" for pattern in root.keep),
            *([f"--include={','.join(root.packages)}"] if root.packages else []),
            f"--customize-hook={_HOOK}",
            root.suite, f"{context}/rootfs.tar", f"{work}/debian.sources",
        ]  # fmt: skip
        tell(f"making a root of Debian {root.suite} by mmdebstrap")
        await _run(
            arguments,
            {"SOURCE_DATE_EPOCH": str(epoch_s), "TMPDIR": work},
            timeout_s=None,
            tell=tell,
        )
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, work, ignore_errors=True))


async def _apt_conf() -> str:
    """How the host reaches the archive: proxies and retries. It does not stay in the root."""
    text = await _run(["apt-config", "dump", "--format", '%f "%v";%n'])
    wanted = re.compile(r"Acquire::(https?|Retries|Check-Valid-Until|Check-Date|ForceIPv)")
    return "".join(
        f"{line}\n" for line in text.splitlines() if wanted.match(line) and not line.endswith(' "";')
    )


async def _run(
    arguments: list[str],
    extra: Mapping[str, str] | None = None,
    *,
    timeout_s: float | None = _ANSWER_S,
    tell: Tell | None = None,
) -> str:
    """Its output. Raises RecipeError with its last line; it has ended when this has."""
    env = {**os.environ, "LC_ALL": "C.UTF-8", **(extra or {})}
    try:
        process = await asyncio.create_subprocess_exec(
            "setpriv", "--pdeathsig", "TERM", "--", *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=env, start_new_session=True,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise RecipeError(f"{error.filename} is not on this host") from error
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(timeout_s):
            while line := await process.stdout.readline():
                lines.append(line.decode(errors="replace").rstrip())
                if tell is not None and lines[-1].startswith("I: "):
                    tell(lines[-1].removeprefix("I: "))
            status = await process.wait()
    except TimeoutError:
        raise RecipeError(f"cannot run {arguments[0]}: it did not end within {timeout_s:g} s") from None
    finally:
        # mmdebstrap unmounts what it mounted when it is ended, so it is not killed.
        while process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(asyncio.CancelledError, TimeoutError):
                await asyncio.wait_for(asyncio.shield(process.communicate()), 10)
    if status:
        # The first error names the cause; what follows are its consequences.
        said = [line for line in lines if line.startswith(("E: ", "W: "))] or lines[-1:]
        why = said[0] if said else f"exit status {status}"
        raise RecipeError(f"cannot run {arguments[0]}: {why.removeprefix('E: ').removeprefix('W: ')}")
    return "\n".join(lines)
