"""`nft`: a script as one transaction, and what there is. The one place that runs it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

_PATIENCE_S = 30.0


class RulesError(Exception):
    """nft did not do it. The text is for the user."""


def apply(script: str, begun: Callable[[int], object]) -> None:
    """Carry out a script, all of it or nothing. begun: told the process's id before it changes anything.

    Raises RulesError.
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


def listing(table: str) -> str:
    """The rules of a table of family inet, "" where there is none."""
    try:
        done = subprocess.run(
            ["nft", "list", "table", "inet", table],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_S,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
