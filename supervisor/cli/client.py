"""The HTTP client of the command: the API's unix socket, with the standard library (a start costs little)."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode


class ApiError(Exception):
    """The daemon said no. `status` is the HTTP status; the text is for the user."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class UnreachableError(Exception):
    """No daemon answers at the socket."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.connect(self._path)
        except OSError as error:
            self.sock.close()
            hint = "be root or in its group" if isinstance(error, PermissionError) else "is it running?"
            raise UnreachableError(
                f"cannot reach the daemon at {self._path}: {error.strerror}; {hint}"
                " (`shipkeeper daemon`, `systemctl start shipkeeper`, or `shipkeeper up` in the foreground)"
            ) from error


class Client:
    """Calls of the API. Raises ApiError and UnreachableError."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path

    def call(
        self, method: str, path: str, query: Mapping[str, object] | None = None, body: bytes | None = None
    ) -> Any:
        """One request; its JSON answer, None where there is none."""
        response, connection = self._request(method, path, query, body)
        try:
            text = response.read()
        finally:
            connection.close()
        return json.loads(text) if text and response.status != 304 else None

    def stream(
        self, method: str, path: str, query: Mapping[str, object] | None = None, body: bytes | None = None
    ) -> Iterator[Any]:
        """One request whose answer is JSON lines, as they come."""
        response, connection = self._request(method, path, query, body)
        try:
            while line := response.readline():
                yield json.loads(line)
        finally:
            connection.close()

    def _request(
        self, method: str, path: str, query: Mapping[str, object] | None, body: bytes | None
    ) -> tuple[http.client.HTTPResponse, _Connection]:
        given = {name: str(value) for name, value in (query or {}).items() if value is not None}
        target = quote(path) + ("?" + urlencode(given) if given else "")
        connection = _Connection(self._path)
        try:
            connection.request(method, target, body)
            response = connection.getresponse()
            if response.status >= 400:
                text = response.read()
                try:
                    message = json.loads(text)["message"]
                except (ValueError, KeyError, TypeError):
                    message = text.decode(errors="replace") or response.reason
                raise ApiError(response.status, message)
        except (http.client.HTTPException, ConnectionError) as error:
            connection.close()
            raise UnreachableError(
                f"cannot talk to the daemon at {self._path}: {error}; it went away"
            ) from error
        except BaseException:
            connection.close()
            raise
        return response, connection
