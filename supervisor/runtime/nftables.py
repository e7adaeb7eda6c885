"""`nft`: a script as one transaction. The one place that has it change anything."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

_PATIENCE_S = 30.0


class RulesError(Exception):
    """nft did not do it. The text is for the user."""


def _nothing(_: int) -> None: ...


def apply(script: str, begun: Callable[[int], object] = _nothing) -> None:
    """Carry out a script, all of it or nothing, in the network namespace of this thread.

    begun: told the process's id before it changes anything. Raises RulesError.
    """
    try:
        process = subprocess.Popen(
            ["nft", "-f", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError:
        raise RulesError(
            "cannot set up networks: there is no `nft` here; install nftables (apt install nftables)"
        ) from None
    begun(process.pid)
    try:
        _, said = process.communicate(script, _PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise RulesError("cannot set the rules of networks: nft did not answer in time") from None
    if process.returncode:
        raise RulesError(f"cannot set the rules of networks: nft: {' '.join(said.split())[:500]}")
