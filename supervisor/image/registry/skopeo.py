"""skopeo as a child process: bounded in time, dead with us, and its errors as one sentence.

Authentication, mirrors, certificates and proxies are what skopeo reads them from: auth files of Docker and
Podman, registries.conf(5), certs.d, HTTPS_PROXY. A registry on loopback is tried without TLS, too, as Docker
does (moby, registry/config.go: 127.0.0.0/8 is insecure).
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from supervisor.core.reference import Reference
from supervisor.image.store import StoreError

_MESSAGE = re.compile(r'level=(?:fatal|error) msg=("(?:[^"\\]|\\.)*")')
_PREFIXES = (
    re.compile(r'^Error parsing image name "docker://[^"]*": '),
    re.compile(r"^initializing source docker://\S+: "),
    re.compile(r"^trying to reuse blob \S+ at destination: "),
)
_HINTS = (
    ("server gave HTTP response to HTTPS client", "name it with `insecure = true` in registries.conf"),
    ("unauthorized", "`shipkeeper login {domain}` first"),
    ("authentication required", "`shipkeeper login {domain}` first"),
    ("no basic auth credentials", "`shipkeeper login {domain}` first"),
    ("denied", "`shipkeeper login {domain}` with an account that may"),
    ("certificate", "put its CA into /etc/containers/certs.d/{domain}/ca.crt"),
)


class RegistryError(StoreError):
    """A registry that cannot be reached, or says no. The text is for the user."""


class CancelledTransferError(RegistryError):
    """It was ended from here."""


@dataclass(frozen=True, slots=True)
class Access:
    """How registries are reached. registries_conf: instead of the host's own; "" for that.

    answer_s: how long a registry may take to answer a small request. silence_s: how long nothing may come of
    something large.
    """

    registries_conf: str = ""
    answer_s: float = 20.0
    silence_s: float = 60.0


class Skopeo:
    """Runs skopeo, one or several at a time; may be used from several threads. All raise RegistryError."""

    def __init__(self, access: Access | None = None) -> None:
        self.access = access or Access()
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._cancelled = False

    def manifest(self, reference: Reference) -> bytes:
        """The manifest or index that a name means, its bytes as they are."""
        return self.run("inspect", "--raw", *tls(reference.domain), address(reference))

    def tags(self, reference: Reference) -> list[str]:
        """All tags of a repository."""
        text = self.run(
            "list-tags",
            *tls(reference.domain),
            f"docker://{reference.name}",
            about=f"list the tags of {reference.familiar_name}",
        )
        return sorted(str(tag) for tag in json.loads(text)["Tags"] or [])

    def run(self, *arguments: str, stdin: bytes = b"", about: str = "") -> bytes:
        """A small request; what it writes to stdout. about: what fails; "" for the bare reason."""
        with self.started(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            try:
                out, error = process.communicate(stdin, self.access.answer_s)
            except subprocess.TimeoutExpired:
                why = f"the registry did not answer within {self.access.answer_s:g} s"
                raise RegistryError(f"cannot {about}: {why}" if about else why) from None
        if process.returncode:
            self.check_cancelled()
            why = reason(error)
            raise RegistryError(f"cannot {about}: {why}" if about else why)
        return out

    @contextlib.contextmanager
    def started(
        self,
        arguments: Sequence[str],
        *,
        stdin: int,
        stdout: int,
        stderr: int = subprocess.PIPE,
        pass_fds: Sequence[int] = (),
    ) -> Iterator[subprocess.Popen[bytes]]:
        """One skopeo; it is gone when the context ends, and when this process dies."""
        for tool, package in (("skopeo", "skopeo"), ("setpriv", "util-linux")):
            if shutil.which(tool) is None:
                raise RegistryError(f"{tool} is not on this host; apt-get install {package}")
        with self._lock:
            self.check_cancelled()
            process = subprocess.Popen(
                [*_PREFIX, *_policy(), *self._registries(), *arguments],
                stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=pass_fds,
            )  # fmt: skip
            self._running.add(process)
        try:
            with process:
                try:
                    yield process
                finally:
                    if process.poll() is None:
                        process.kill()
        finally:
            with self._lock:
                self._running.discard(process)

    def cancel(self) -> None:
        """End what runs, and let nothing begin."""
        with self._lock:
            self._cancelled = True
            for process in self._running:
                process.kill()

    def check_cancelled(self) -> None:
        """Raises CancelledTransferError after `cancel`."""
        if self._cancelled:
            raise CancelledTransferError("cancelled")

    def _registries(self) -> tuple[str, ...]:
        given = self.access.registries_conf
        return ("--registries-conf", given) if given else ()


# setpriv is of util-linux, which every Debian has; it makes skopeo die with the one that asked for it.
_PREFIX = ("setpriv", "--pdeathsig", "KILL", "--", "skopeo")


def address(reference: Reference) -> str:
    """A name as skopeo wants it: with a tag or a digest, not both."""
    return f"docker://{replace(reference, tag='') if reference.digest else reference}"


def tls(domain: str, option: str = "--tls-verify") -> tuple[str, ...]:
    """The option that lets a registry on loopback have no certificate."""
    return (f"{option}=false",) if is_loopback(domain) else ()


def is_loopback(domain: str) -> bool:
    """Whether a registry's HOST[:PORT] is this host."""
    host = domain[1:].partition("]")[0] if domain.startswith("[") else domain.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reason(stderr: bytes) -> str:
    """Why skopeo failed: its last message, without what we say ourselves."""
    text = stderr.decode(errors="replace").strip()
    found = _MESSAGE.findall(text)
    if found:
        with contextlib.suppress(ValueError):
            text = json.loads(found[-1])
    return shorten(text)


def shorten(text: str) -> str:
    """A message of skopeo in one line, without its preambles."""
    text = " ".join(text.split())
    for prefix in _PREFIXES:
        text = prefix.sub("", text)
    return text or "skopeo said nothing"


def advice(why: str, reference: Reference) -> str:
    """The next step for a reason, as "; do this", where one is known."""
    for sign, hint in _HINTS:
        if sign in why:
            return f"; {hint.format(domain=reference.domain)}"
    return ""


def _policy() -> tuple[str, ...]:
    """Without a policy file skopeo refuses everything; the administrator's own is heeded."""
    places = ("/etc/containers/policy.json", os.path.expanduser("~/.config/containers/policy.json"))
    return () if any(os.path.exists(place) for place in places) else ("--insecure-policy",)


Tell = Callable[["Progress"], None]


@dataclass(frozen=True, slots=True)
class Progress:
    """One blob on its way, in bytes.

    what: waiting, exists, downloading, downloaded, unpacking, compressing, compressed, pushing or done.
    """

    digest: str
    what: str
    done: int = 0
    total: int = 0
