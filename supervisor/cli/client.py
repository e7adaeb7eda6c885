"""The HTTP client of the command: the API's unix socket, with the standard library (a start costs little)."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from email.message import Message
from io import BufferedReader
from typing import IO, Any
from urllib.parse import quote, urlencode

from supervisor.cli.errors import ApiError, UnreachableError


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float | None) -> None:
        super().__init__("localhost")
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        try:
            self.sock.connect(self._path)
        except OSError as error:
            self.sock.close()
            hint = "be root or in its group" if isinstance(error, PermissionError) else "is it running?"
            raise UnreachableError(
                f"cannot reach the daemon at {self._path}: {error.strerror}; {hint}"
                " (`shipkeeper daemon`, `systemctl start shipkeeper`, or `shipkeeper up` in the foreground)"
            ) from error


class Hijacked:
    """A connection that is a raw stream now. What the answer's reader has buffered already is not lost."""

    def __init__(self, sock: socket.socket, response: http.client.HTTPResponse) -> None:
        self.sock = sock
        self._response = response  # closes the reader when it goes
        self.reader: BufferedReader = response.fp


class Pending:
    """A request whose answer has begun: the daemon has understood it. `result` waits for all of it."""

    def __init__(self, response: http.client.HTTPResponse, connection: _Connection) -> None:
        self._response = response
        self._connection = connection

    def result(self) -> Any:
        """The JSON answer. Raises UnreachableError: the daemon went away before it was whole."""
        try:
            return json.loads(self._response.read())
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise UnreachableError(f"cannot hear the daemon's answer: {error}; it went away") from error
        finally:
            self._connection.close()


def _lines(response: http.client.HTTPResponse, connection: _Connection) -> Iterator[Any]:
    try:
        while line := response.readline():
            yield json.loads(line)
    finally:
        connection.close()


class Client:
    """Calls of the API. Raises ApiError and UnreachableError."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path

    def call(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: bytes | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Any:
        """One request; its JSON answer, None where there is none. Raises TimeoutError."""
        response, connection = self._request(method, path, query, body, timeout_s=timeout_s)
        try:
            text = response.read()
        except (http.client.HTTPException, ConnectionError) as error:
            raise UnreachableError(
                f"cannot hear the daemon at {self._path} to the end: {error}; it went away"
            ) from error
        finally:
            connection.close()
        return json.loads(text) if text and response.status != 304 else None

    def begin(self, method: str, path: str, query: Mapping[str, object] | None = None) -> Pending:
        """One request whose answer begins at once and ends later."""
        return Pending(*self._request(method, path, query, None))

    def stream(
        self, method: str, path: str, query: Mapping[str, object] | None = None, body: bytes | None = None
    ) -> Iterator[Any]:
        """One request whose answer is JSON lines, as they come. It has begun when this returns."""
        return _lines(*self._request(method, path, query, body))

    @contextlib.contextmanager
    def download(
        self, path: str, query: Mapping[str, object] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to a GET, headers read and body not."""
        response, connection = self._request("GET", path, query, None)
        try:
            yield response
        finally:
            connection.close()

    def upload(self, path: str, query: Mapping[str, object] | None, body: IO[bytes]) -> None:
        """PUT a body of a length that nobody knows yet."""
        _, connection = self._request("PUT", path, query, body)
        connection.close()

    def head(self, path: str, query: Mapping[str, object] | None = None) -> Message:
        """The headers of an answer."""
        response, connection = self._request("HEAD", path, query, None)
        connection.close()
        return response.headers

    def hijack(self, path: str, body: bytes, query: Mapping[str, object] | None = None) -> Hijacked:
        """A request after which the connection is a raw stream, the caller's."""
        headers = {"Connection": "Upgrade", "Upgrade": "tcp", "Content-Type": "application/json"}
        response, connection = self._request("POST", path, query, body, headers)
        assert isinstance(connection.sock, socket.socket)
        return Hijacked(connection.sock, response)

    def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, object] | None,
        body: bytes | IO[bytes] | None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> tuple[http.client.HTTPResponse, _Connection]:
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = quote(path) + ("?" + urlencode(given, doseq=True) if given else "")
        connection = _Connection(self._path, timeout_s)
        try:
            connection.request(method, target, body, headers or {})
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
