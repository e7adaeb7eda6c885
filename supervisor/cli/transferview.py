"""How a pull or a push looks while it goes on: bars on a terminal, lines elsewhere, or JSON."""

from __future__ import annotations

import shutil
import threading
import time
from typing import TextIO

from supervisor.cli import output
from supervisor.cli.tables import size
from supervisor.image.registry.skopeo import Progress

WORDS = {
    "waiting": "Waiting",
    "exists": "Already exists",
    "downloading": "Downloading",
    "downloaded": "Download complete",
    "unpacking": "Extracting",
    "compressing": "Compressing",
    "compressed": "Compressed",
    "pushing": "Pushing",
    "done": "Complete",
}
_MOVING = ("downloading", "pushing", "compressing")
_REDRAW_S = 0.1
_BAR = 24


def bar(progress: Progress, width: int = _BAR) -> str:
    """`[=====>    ]  1.2MB/3.4MB`: how much of it has come."""
    share = min(1.0, progress.done / progress.total) if progress.total else 1.0
    filled = int(share * width)
    drawn = "=" * filled + (">" if filled < width else "")
    return f"[{drawn.ljust(width)}]  {size(progress.done)}/{size(progress.total)}"


def line(progress: Progress) -> str:
    """One layer in one line."""
    text = f"{progress.digest[7:19]}: {WORDS[progress.what]}"
    return f"{text.ljust(32)}{bar(progress)}" if progress.what in _MOVING else text


class TransferView:
    """Shows events, which may come from several threads. form: `text`, `json` or `quiet`."""

    def __init__(self, stream: TextIO, form: str) -> None:
        self._stream = stream
        self._form = form
        self._lock = threading.Lock()
        self._layers: dict[str, Progress] = {}
        self._drawn = 0
        self._at = 0.0

    def tell(self, progress: Progress) -> None:
        """One more event."""
        with self._lock:
            before = self._layers.get(progress.digest)
            self._layers[progress.digest] = progress
            changed = before is None or before.what != progress.what
            if self._form == "quiet":
                return
            if self._form == "json":
                if changed or self._due():
                    output.print_json(
                        {
                            "id": progress.digest[7:19],
                            "digest": progress.digest,
                            "status": WORDS[progress.what],
                            "progressDetail": {"current": progress.done, "total": progress.total},
                        }
                    )
            elif self._stream.isatty():
                if changed or self._due():
                    self._draw()
            elif changed and progress.what != "waiting":
                text = (
                    line(progress)
                    if progress.what not in _MOVING
                    else (f"{progress.digest[7:19]}: {WORDS[progress.what]} {size(progress.total)}")
                )
                self._stream.write(f"{text}\n")
                self._stream.flush()

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._at < _REDRAW_S:
            return False
        self._at = now
        return True

    def _draw(self) -> None:
        width, height = shutil.get_terminal_size()
        lines = [line(progress)[: width - 1] for progress in self._layers.values()][-(height - 2) :]
        back = f"\x1b[{self._drawn}A" if self._drawn else ""
        self._stream.write(back + "".join(f"\r\x1b[K{text}\n" for text in lines))
        self._stream.flush()
        self._drawn = len(lines)

    def close(self) -> None:
        """The last state, to stay."""
        with self._lock:
            if self._form == "text" and self._layers and self._stream.isatty():
                self._draw()
