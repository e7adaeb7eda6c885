"""The worker: takes notes from the queue and writes them to the database. Dies now and then, by itself.

A job is moved to a second list while it is worked on, and goes back when the worker starts again, so a death
at any moment loses none; writing one twice changes nothing. That is a program's half of the bargain with a
supervisor that restarts it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import uuid

import store


async def work() -> None:
    """Take jobs for ever."""
    while await store.cache.lmove("taken", "jobs", "RIGHT", "RIGHT") is not None:
        print("put back a job that the last worker had taken", flush=True)
    print("waiting for jobs", flush=True)
    while True:
        taken = await store.cache.blmove("jobs", "taken", 0, "RIGHT", "LEFT")
        job = json.loads(taken)
        if job["crash"] and await store.cache.set(f"crashed:{job['id']}", 1, nx=True, ex=3600):
            print(f"asked to crash on job {job['id']}", flush=True)
            os.abort()
        await (await store.database()).execute(
            "INSERT INTO notes (id, author, text) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
            uuid.UUID(job["id"]),
            job["author"],
            job["text"],
        )
        await store.cache.delete(f"notes:{job['author']}")
        await store.cache.lrem("taken", 1, taken)
        print(f"stored job {job['id']}", flush=True)


async def crash_now_and_then() -> None:
    """Die after a random time within CRASH_AFTER_SECONDS ("20-60"); never, if it is empty."""
    bounds = os.environ.get("CRASH_AFTER_SECONDS", "")
    if not bounds:
        return
    low, high = map(float, bounds.split("-"))
    await asyncio.sleep(random.uniform(low, high))
    match random.choice(("an exception", "abort()", "memory")):
        case "abort()":
            print("crash: abort(), as a failed assertion in C does", flush=True)
            os.abort()
        case "memory":
            print("crash: takes memory until the kernel ends it", flush=True)
            hoard = []
            while True:
                hoard.append(b"x" * (1 << 20))
        case _:
            raise RuntimeError("crash: a bug that nobody caught")


async def main() -> None:
    """Work until SIGTERM, or until something fails: then the supervisor's policy decides."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    tasks = [asyncio.create_task(coroutine) for coroutine in (work(), crash_now_and_then(), stop.wait())]
    pending: set[asyncio.Task[object]] = set(tasks)
    while not stop.is_set():
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    print("stopped; what was taken goes back at the next start", flush=True)


try:
    asyncio.run(main())
except store.UNAVAILABLE as error:
    # One line instead of a traceback for what is no bug: the others are just starting, or being restarted.
    sys.exit(f"cannot reach the cache or the database: {error}")
