#!/usr/bin/env python3
"""Kill every service of the example in turn, while clients write, and show that nothing is lost.

    kills.py [--url http://127.0.0.1:8000] [--timeout 60] [--shipkeeper COMMAND]

As root, for it sends SIGKILL to the main process of a service, as the kernel does for want of memory. A
service is back when a user who signs up after the kill has logged in, written a note, and read it from the
database: that takes every service. What was acknowledged (a note by 202, a user by 201) has to be there in
the end, as has every row of before; what was refused may be there or not. Ends with 1 if anything is lost.

The last round kills the queue while notes wait in it, and nobody takes them.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

from smoke import Client, NotProvedError

HERE = Path(__file__).resolve().parent
SERVICES = ("gateway", "auth", "worker", "cache", "queue", "db")
WRITERS = 2
WAITING_NOTES = 50


@dataclass(frozen=True)
class Round:
    """One kill and what came of it."""

    service: str
    pid: int
    back_after_ms: float
    rows_before: int
    rows_after: int
    acknowledged: int
    refused: int
    lost: int


class Shipkeeper:
    """The command, for the project of this directory."""

    def __init__(self, command: list[str]) -> None:
        self._command = [*command, "-f", str(HERE / "compose.yaml")]

    def run(self, *arguments: str) -> str:
        """What it prints. Raises NotProvedError with what it complains of."""
        try:
            result = subprocess.run([*self._command, *arguments], capture_output=True, text=True, check=False)
        except OSError as error:
            raise NotProvedError(f"{self._command[0]}: {error.strerror}; name it by --shipkeeper") from None
        if result.returncode != 0:
            raise NotProvedError(f"shipkeeper {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def pid(self, service: str) -> int:
        """The main process of a service, as the host sees it."""
        pid = int(json.loads(self.run("inspect", service))[0]["State"]["Pid"])
        if not pid:
            raise NotProvedError(f"{service} is not running; shipkeeper why {service} tells more")
        return pid


@dataclass
class Users:
    """Everybody who signed up, and can therefore log in."""

    client: Client
    passwords: dict[str, str] = field(default_factory=dict)

    def another(self) -> Client:
        """Sign up, log in. A name that was refused may be taken all the same, so each attempt has its own."""
        word = token_hex(8)
        answer = self.client.until(
            "sign-up",
            lambda: self.client.ask("POST", "/signup", {"name": f"kills-{token_hex(6)}", "password": word}),
            201,
        )
        name = answer.body["name"]
        self.passwords[name] = word
        return self.log_in(name)

    def log_in(self, name: str) -> Client:
        """A client with a token of that user."""
        credentials = {"name": name, "password": self.passwords[name]}
        answer = self.client.until("login", lambda: self.client.ask("POST", "/login", credentials), 201)
        return self.client.with_token(answer.body["token"])


class Writers:
    """Threads that write notes as one user, and remember which were acknowledged."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._write) for _ in range(WRITERS)]
        self.acknowledged: list[str] = []
        self.refused: list[int] = []
        self.first = threading.Event()

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self) -> None:
        while not self._stop.is_set():
            answer = self._client.ask("POST", "/notes", {"text": str(uuid.uuid4())})
            if answer.status == 202:
                self.acknowledged.append(answer.body["id"])
                self.first.set()
            else:
                self.refused.append(answer.status)
                self._stop.wait(0.02)  # be polite to who is in trouble


def rows(client: Client) -> set[str]:
    """The ids of the notes that the user of this client has in the database."""
    answer = client.until("the list of notes", lambda: client.ask("GET", "/notes"), 200)
    return {note["id"] for note in answer.body}


def wait_for_rows(client: Client, ids: set[str], timeout_s: float) -> set[str]:
    """The rows, as soon as all of these are among them, or when the time is up."""
    deadline = time.monotonic() + timeout_s
    while not ids <= (there := rows(client)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return there


def write_note(client: Client) -> str:
    """Write one, wait until it is in the database; its id."""
    answer = client.until("a note", lambda: client.ask("POST", "/notes", {"text": "still here"}), 202)
    note: str = answer.body["id"]
    client.until("the worker", lambda: client.ask("GET", f"/notes/{note}"), 200)
    return note


def end(pid: int) -> None:
    """Kill a process, and return when it has ended."""
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
        select.select([process], [], [])
    finally:
        os.close(process)


def kill(service: str, shipkeeper: Shipkeeper, users: Users, writer: Client, timeout_s: float) -> Round:
    """One round. `shipkeeper kill` is not used: it is a stop by a person, which `always` respects."""
    pid = shipkeeper.pid(service)
    with Writers(writer) as writers:
        if not writers.first.wait(timeout_s):
            raise NotProvedError(f"before {service} is killed: no note is accepted, {writers.refused[-1:]}")
        before = rows(writer)
        begun = time.monotonic()
        end(pid)
        write_note(users.another())
        back_after_ms = (time.monotonic() - begun) * 1000
    promised = before | set(writers.acknowledged)
    after = wait_for_rows(writer, promised, timeout_s)
    return Round(
        service,
        pid,
        back_after_ms,
        len(before),
        len(after),
        len(writers.acknowledged),
        len(writers.refused),
        len(promised - after),
    )


def kill_with_notes_waiting(shipkeeper: Shipkeeper, users: Users, writer: Client, timeout_s: float) -> Round:
    """The queue dies with notes in it, which no worker has seen."""
    pid = shipkeeper.pid("queue")
    shipkeeper.run("stop", "worker")
    try:
        before = rows(writer)
        promised = set(before)
        for _ in range(WAITING_NOTES):
            answer = writer.until("a note", lambda: writer.ask("POST", "/notes", {"text": "waits"}), 202)
            promised.add(answer.body["id"])
        if rows(writer) != before:
            raise NotProvedError("a note was stored without a worker")
        begun = time.monotonic()
        end(pid)
        writer.until("health", lambda: writer.ask("GET", "/health"), 200)
    finally:
        shipkeeper.run("start", "worker")
    write_note(users.another())
    back_after_ms = (time.monotonic() - begun) * 1000
    after = wait_for_rows(writer, promised, timeout_s)
    name = f"queue, {WAITING_NOTES} waiting"
    return Round(name, pid, back_after_ms, len(before), len(after), WAITING_NOTES, 0, len(promised - after))


def report(one: Round) -> None:
    """A line of the table."""
    print(
        f"{one.service:<18} {one.pid:>7} {one.back_after_ms:>8.0f} ms {one.rows_before:>7}"
        f" {one.rows_after:>7} {one.acknowledged:>8} {one.refused:>8} {one.lost:>6}",
        flush=True,
    )


def prove(shipkeeper: Shipkeeper, client: Client, timeout_s: float) -> None:
    """All rounds. Raises NotProvedError."""
    client.until("health", lambda: client.ask("GET", "/health"), 200)
    users = Users(client)
    writer = users.another()
    write_note(writer)
    print(
        f"{'service':<18} {'killed':>7} {'back after':>11} {'rows':>7} {'after':>7}"
        f" {'accepted':>8} {'refused':>8} {'lost':>6}"
    )
    lost = 0
    for service in (*SERVICES, None):
        if service is None:
            done = kill_with_notes_waiting(shipkeeper, users, writer, timeout_s)
        else:
            done = kill(service, shipkeeper, users, writer, timeout_s)
        report(done)
        lost += done.lost
    for name in users.passwords:
        users.log_in(name)
    if lost:
        raise NotProvedError(f"{lost} acknowledged notes are not in the database")
    print(f"ok  {len(rows(writer))} notes, none lost; the session of the beginning holds; all users log in")


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description="Kill every service of the FastAPI example in turn.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--timeout", type=float, default=60.0, help="seconds for anything that is waited for")
    ours = HERE.parents[1] / ".venv/bin/shipkeeper"
    found = str(ours) if ours.exists() else shutil.which("shipkeeper") or "shipkeeper"
    parser.add_argument("--shipkeeper", default=found, metavar="COMMAND", help="default: %(default)s")
    options = parser.parse_args()
    shipkeeper = Shipkeeper(shlex.split(options.shipkeeper))
    try:
        prove(shipkeeper, Client(options.url, options.timeout), options.timeout)
    except NotProvedError as error:
        print(f"NOT {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
