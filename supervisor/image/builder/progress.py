"""What a build tells while it goes on, as data: whoever shows it decides how. Pure.

A *vertex* is a step as people see it: loading the base image, one instruction of one stage, writing the
image. Its number is that of its first event, from 1, as BuildKit's plain progress numbers them (#1, #2, ...).
"""

from __future__ import annotations

import msgspec


class Planned(msgspec.Struct, frozen=True):
    """First event: how many vertices there will be, as far as it is known."""

    total: int


class Started(msgspec.Struct, frozen=True):
    """A vertex begins. name: `[builder 2/5] RUN make`, `[internal] load context`, `exporting image`."""

    vertex: int
    name: str


class Output(msgspec.Struct, frozen=True):
    """Bytes that a RUN step wrote, in its order, cut anywhere. stderr: it came from there."""

    vertex: int
    data: bytes
    stderr: bool = False


class Note(msgspec.Struct, frozen=True):
    """One line about a vertex: where an image came from, how far a download is. vertex 0: of the build.

    done, total: bytes, where it is the progress of something that has a length; a later one replaces it.
    """

    vertex: int
    text: str
    done: int | None = None
    total: int | None = None


class Ended(msgspec.Struct, frozen=True):
    """A vertex is done. error: "" or why it failed. cancelled: because another one failed."""

    vertex: int
    duration_s: float
    cached: bool = False
    error: str = ""
    cancelled: bool = False


Event = Planned | Started | Output | Note | Ended


class Built(msgspec.Struct, frozen=True):
    """The end of a build. id: of the image. warnings: lines for the user."""

    id: str
    manifest_digest: str
    names: tuple[str, ...]
    warnings: tuple[str, ...] = ()


class BuildError(Exception):
    """A build that ends without an image. The text is for the user, with FILE:LINE where one is to blame.

    exit_code: of the RUN step that failed, or None. output: the last lines that it wrote.
    """

    def __init__(self, message: str, *, exit_code: int | None = None, output: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.output = output
