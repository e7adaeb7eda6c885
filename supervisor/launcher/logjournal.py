"""The memory that the log writer shares with the launcher: what makes each byte be written exactly once.

A batch travels: service's pipe -splice-> holding pipe H -readv-> slot buffer -pwrite-> file. H and this
memory belong to both processes, so a log writer that is killed between any two instructions leaves the
batch in one known place, and the next one goes on there:

====== ============================================================================================
state  where the batch is
====== ============================================================================================
FREE   nowhere
TAKE   still in the service's pipe, or all in H: as many bytes as H holds were taken
READ   `taken` bytes: the last ones in H (as many as H holds), those before them in the slot's buffer
HELD   all in the buffer, nothing of it in a file that counts
WRITE  to be at `offset` of the file (`dev`, `ino`) under `stamp_ns`; writing it again there changes nothing
====== ============================================================================================

At most one slot is in TAKE or READ, for there is one H. Every word is 8 bytes and aligned, so a store is
whole or absent; one process's stores are seen in program order after its death. `state` is stored last.
Reading H destroys nothing that counts, since the bytes are in the buffer by then: that is why no tee(2) is
needed (os has none), and a batch costs four system calls: splice, readv, fstat, pwritev.
"""

from __future__ import annotations

import mmap
import os

FREE, TAKE, READ, HELD, WRITE = range(5)

BATCH_BYTES = 256 * 1024
"""Most that one turn takes from one stream, and the capacity asked for every pipe."""
SLOTS = 8
"""Batches that can wait for their file (disk full) before every stream has to wait."""
STREAMS = 16384
"""Streams that can be attached at once."""

_MAGIC = 0x5348_4B4C_4F47_0001  # "SHKLOG", layout 1
_FOREIGN = "cannot use the log journal: it is another version's; stop all services once to replace it"
_SLOT_WORDS = 16
_STREAM_WORDS = 2
_SLOTS_AT = 8
_STREAMS_AT = _SLOTS_AT + SLOTS * _SLOT_WORDS
_WORDS = _STREAMS_AT + STREAMS * _STREAM_WORDS
_BUFFERS_AT = -(-_WORDS * 8 // mmap.PAGESIZE) * mmap.PAGESIZE
_SIZE = _BUFFERS_AT + SLOTS * BATCH_BYTES


class Slot:
    """One batch on its way, in shared memory. Each property is one word; see the module for `state`."""

    __slots__ = ("_at", "_words", "buffer")

    def __init__(self, words: memoryview, at: int, buffer: memoryview) -> None:
        self._words = words
        self._at = at
        self.buffer = buffer

    @property
    def state(self) -> int:
        """FREE, TAKE, READ, HELD or WRITE."""
        return int(self._words[self._at])

    @state.setter
    def state(self, value: int) -> None:
        self._words[self._at] = value

    @property
    def stream(self) -> int:
        """Number of the stream that the batch came from."""
        return int(self._words[self._at + 1])

    @property
    def taken(self) -> int:
        """Bytes of the batch; 0 closes a last line that has no newline."""
        return int(self._words[self._at + 2])

    @taken.setter
    def taken(self, value: int) -> None:
        self._words[self._at + 2] = value

    @property
    def bytes_before(self) -> int:
        """Bytes of this stream that were in files before this batch."""
        return int(self._words[self._at + 3])

    @property
    def stamp_ns(self) -> int:
        """Wall clock of the batch, nanoseconds since the epoch."""
        return int(self._words[self._at + 4])

    @property
    def offset(self) -> int:
        """Size of the file before this batch."""
        return int(self._words[self._at + 5])

    @property
    def file(self) -> tuple[int, int]:
        """(device, inode) of the file that `offset` is about."""
        return int(self._words[self._at + 6]), int(self._words[self._at + 7])

    def begin(self, stream: int, bytes_before: int, state: int) -> None:
        """Claim the slot for a batch: TAKE before a splice, HELD (nothing taken) to close a line."""
        words, at = self._words, self._at
        words[at + 1] = stream
        words[at + 2] = 0
        words[at + 3] = bytes_before
        words[at + 4] = 0
        words[at] = state

    def place(self, stamp_ns: int, offset: int, dev: int, ino: int) -> None:
        """State WRITE: from here on the batch belongs at `offset` of that file, under that stamp."""
        words, at = self._words, self._at
        words[at + 4] = stamp_ns
        words[at + 5] = offset
        words[at + 6] = dev
        words[at + 7] = ino
        words[at] = WRITE


class Journal:
    """The mapped memory. Owns the mapping, not the descriptor."""

    def __init__(self, fd: int) -> None:
        """Map the memory of `create`. Raises ValueError if its layout is another version's."""
        if os.fstat(fd).st_size != _SIZE:
            raise ValueError(_FOREIGN)
        self._map = mmap.mmap(fd, _SIZE)
        view = memoryview(self._map)
        self._words = view[: _WORDS * 8].cast("Q")
        if self._words[0] not in (0, _MAGIC):
            raise ValueError(_FOREIGN)
        self._words[0] = _MAGIC
        self.slots = tuple(
            Slot(
                self._words,
                _SLOTS_AT + i * _SLOT_WORDS,
                view[_BUFFERS_AT + i * BATCH_BYTES : _BUFFERS_AT + (i + 1) * BATCH_BYTES],
            )
            for i in range(SLOTS)
        )

    def written(self, stream: int) -> int:
        """Bytes of this stream that are in its files."""
        return int(self._words[_STREAMS_AT + stream * _STREAM_WORDS])

    def midline(self, stream: int) -> bool:
        """Whether the last piece of this stream did not end its line."""
        return bool(self._words[_STREAMS_AT + stream * _STREAM_WORDS + 1])

    def account(self, stream: int, written: int, midline: bool) -> None:
        """Store the figures of a stream (absolute, so that doing it twice changes nothing)."""
        at = _STREAMS_AT + stream * _STREAM_WORDS
        self._words[at] = written
        self._words[at + 1] = midline


def create() -> int:
    """A new journal: a close-on-exec memfd that the caller owns. Pages cost memory once touched."""
    fd = os.memfd_create("shipkeeper-log", os.MFD_CLOEXEC)
    os.ftruncate(fd, _SIZE)
    return fd
