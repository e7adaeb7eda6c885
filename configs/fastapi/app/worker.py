"""The worker: takes notes from the queue and writes them to the database. Dies now and then, by itself.

A job is acknowledged when it is stored, and the queue gives one that was not to the next worker, so a death
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
from pathlib import Path

import store

# Looked for by the health check. /tmp is empty at the start of each run.
READY = Path("/tmp/ready")


async def work() -> None:
    """Take jobs for ever."""
    channel = await store.channel()
    await channel.set_qos(prefetch_count=1)
    jobs = await channel.get_queue(store.JOBS)
    async with jobs.iterator() as messages:
        READY.touch()
        print("waiting for jobs", flush=True)
        async for message in messages:
            if message.redelivered:
                print("again: a job that the last worker had taken", flush=True)
            job = json.loads(message.body)
            if job["crash"] and not message.redelivered:
                print(f"asked to crash on job {job['id']}", flush=True)
                os.abort()
            await (await store.database()).execute(
                "INSERT INTO notes (id, author, text) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                uuid.UUID(job["id"]),
                job["author"],
                job["text"],
            )
            await store.cache.incr(store.version_key(job["author"]))
            await message.ack()
            print(f"stored job {job['id']}", flush=True)
    raise ConnectionError("the queue went away")


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
    try:
        while not stop.is_set():
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            tasks = [task for task in tasks if task not in done]
            for task in done:
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()
    print("stopped; what was taken goes back at the next start", flush=True)


try:
    asyncio.run(main())
except store.UNAVAILABLE as error:
    # One line instead of a traceback for what is no bug: the others are just starting, or being restarted.
    sys.exit(f"cannot reach queue, cache or database: {error}")
