"""What a daemon answers when it does not do it: apart from the client, which takes 17 ms to import."""

from __future__ import annotations


class ApiError(Exception):
    """The daemon said no. `status` is the HTTP status; the text is for the user."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class UnreachableError(Exception):
    """No daemon answers at the socket."""
