#!/usr/bin/env python3
"""Use the example as a client would, and say what was proved. Ends with 1 at the first thing that is not so.

    smoke.py [--url http://127.0.0.1:8000] [--timeout 60]

Proves: everything is up; sign-up and login; a wrong password and a missing token are refused; a note goes
through the queue and the worker into the database; the second read comes from the cache; a worker that dies
with a note in its hands is started again, and the note is stored.
"""

from __future__ import annotations

import argparse
import http.client
import json
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class NotProvedError(Exception):
    """Something is not as promised. The text says what."""


@dataclass(frozen=True)
class Answer:
    """Status 0 stands for: nobody answered."""

    status: int
    body: Any
    headers: dict[str, str]


class Client:
    """JSON over HTTP to the gateway. No single wait is longer than `timeout_s`."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self.token = ""

    def with_token(self, token: str) -> Client:
        """The same client, as who has that token."""
        client = Client(self._url, self._timeout_s)
        client.token = token
        return client

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        """One request."""
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json", "authorization": f"Bearer {self.token}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return _answer(response.status, response)
        except urllib.error.HTTPError as error:
            with error:
                return _answer(error.code, error)
        except (OSError, http.client.HTTPException) as error:
            return Answer(0, str(error), {})

    def until(self, what: str, ask: Callable[[], Answer], status: int) -> Answer:
        """Repeat a request until it has that status. Raises NotProvedError when the time is up."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            answer = ask()
            if answer.status == status:
                return answer
            if time.monotonic() > deadline:
                raise NotProvedError(f"{what}: no {status} in time, at last {answer.status} {answer.body}")
            time.sleep(0.01)


def _answer(status: int, response: Any) -> Answer:
    text = response.read().decode()
    try:
        body = json.loads(text)
    except ValueError:
        body = text
    return Answer(status, body, {name.lower(): value for name, value in response.headers.items()})


def check(what: str, holds: bool, answer: Answer) -> None:
    """Print what was proved. Raises NotProvedError if it was not."""
    if not holds:
        raise NotProvedError(f"{what}: not so, the answer was {answer.status} {answer.body}")
    print(f"ok  {what}", flush=True)


def prove(client: Client) -> None:
    """The whole round. Raises NotProvedError."""
    answer = client.until("health", lambda: client.ask("GET", "/health"), 200)
    parts = {"auth", "cache", "db", "queue"}
    check("gateway, auth, database, cache and queue answer", set(answer.body) == parts, answer)

    user = {"name": f"smoke-{secrets.token_hex(4)}", "password": secrets.token_hex(8)}
    answer = client.ask("POST", "/signup", user)
    check("a user signs up", answer.status == 201, answer)
    answer = client.ask("POST", "/signup", user)
    check("the name is taken after that", answer.status == 409, answer)
    answer = client.ask("POST", "/login", {**user, "password": "not the password"})
    check("a wrong password is refused", answer.status == 401, answer)
    answer = client.ask("GET", "/notes")
    check("without a token nothing can be read", answer.status == 401, answer)
    answer = client.ask("POST", "/login", user)
    check("the user logs in", answer.status == 201, answer)
    client.token = answer.body["token"]

    answer = client.ask("POST", "/notes", {"text": "hello"})
    check("a note is accepted", answer.status == 202, answer)
    first = answer.body["id"]
    answer = client.until("the worker", lambda: client.ask("GET", f"/notes/{first}"), 200)
    check("the worker stored it", answer.body["text"] == "hello", answer)

    client.ask("GET", "/notes")
    answer = client.ask("GET", "/notes")
    if answer.headers.get("x-cache") == "miss":
        # The worker lets go of what is cached after it has stored a note, once: that came in between.
        answer = client.ask("GET", "/notes")
    check("a second read comes from the cache", answer.headers.get("x-cache") == "hit", answer)

    answer = client.ask("POST", "/notes", {"text": "survives", "crash": True})
    check("a note that kills the worker is accepted", answer.status == 202, answer)
    second = answer.body["id"]
    answer = client.until("the next worker", lambda: client.ask("GET", f"/notes/{second}"), 200)
    check("the worker came back and stored it", answer.body["text"] == "survives", answer)


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description="Use the FastAPI example as a client would.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for anything that is waited for")
    options = parser.parse_args()
    try:
        prove(Client(options.url, options.timeout))
    except NotProvedError as error:
        print(f"NOT {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
