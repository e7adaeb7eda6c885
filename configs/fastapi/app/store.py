"""Connections that the three programs of this example share. The others are found by their service names.

Nothing is connected until it is used, and a lost connection is made again at the next use: database, cache
and queue are restarted like everything else, and may be away when a request comes.
"""

from __future__ import annotations

import asyncio
import os

import aio_pika
import aio_pika.abc
import aio_pika.exceptions
import asyncpg
import redis.asyncio
import redis.exceptions

# What a client sees as 503: something that this service needs is not there now.
UNAVAILABLE = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.exceptions.CannotConnectNowError,
    asyncpg.exceptions.AdminShutdownError,
    asyncpg.exceptions.CrashShutdownError,
    asyncpg.exceptions.PostgresConnectionError,
    asyncpg.exceptions.ConnectionDoesNotExistError,
    asyncpg.exceptions.InterfaceError,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    aio_pika.exceptions.AMQPError,
    aio_pika.exceptions.ChannelInvalidStateError,
)

JOBS = "jobs"


def version_key(author: str) -> str:
    """Where the cache counts the changes of an author's notes.

    A list is kept under the count that was there before it was read. So a list that was read before a change,
    and stored in the cache after it, is found by nobody.
    """
    return f"notes-version:{author}"


cache = redis.asyncio.Redis(
    host="cache",
    password=os.environ["CACHE_PASSWORD"],
    decode_responses=True,
)

_pool: asyncpg.Pool | None = None
_making_pool = asyncio.Lock()


async def database() -> asyncpg.Pool:
    """The connections to PostgreSQL; none is open before the first query."""
    global _pool  # noqa: PLW0603 (one for each process)
    async with _making_pool:
        if _pool is None:
            pool = asyncpg.create_pool(
                host="db",
                user="app",
                database="app",
                password=os.environ["DB_PASSWORD"],
                ssl=False,  # it would look for certificates in a home directory that is not there
                min_size=0,
                max_size=4,
                timeout=5,
                command_timeout=5,
            )
            _pool = await pool
        return _pool


_connection: aio_pika.abc.AbstractConnection | None = None
_connecting = asyncio.Lock()


async def channel() -> aio_pika.abc.AbstractChannel:
    """A new channel to RabbitMQ, with the queue of jobs declared, which is on disk as its messages are.

    Raises one of UNAVAILABLE.
    """
    global _connection  # noqa: PLW0603 (one for each process)
    async with _connecting:
        if _connection is not None:
            try:
                return await _with_queue(_connection)
            except (RuntimeError, *UNAVAILABLE):
                _connection = None  # lost, which is seen only when it is used
        _connection = await aio_pika.connect(
            host="queue",
            login="app",
            password=os.environ["QUEUE_PASSWORD"],
            timeout=5,
        )
        return await _with_queue(_connection)


async def _with_queue(connection: aio_pika.abc.AbstractConnection) -> aio_pika.abc.AbstractChannel:
    opened = await connection.channel(publisher_confirms=True)
    await opened.declare_queue(JOBS, durable=True)
    return opened


async def close() -> None:
    """Let go of the queue; the others need no farewell."""
    if _connection is not None:
        await _connection.close()
