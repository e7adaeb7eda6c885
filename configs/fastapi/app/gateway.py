"""The one address that clients see: asks auth who they are, reads through the cache, queues writes."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Awaitable
from typing import Any

import aio_pika
import httpx
import store
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel, Field

CACHE_S = int(os.environ.get("CACHE_SECONDS", "30"))

app = FastAPI(
    title="gateway", description="Notes: sign up, log in, write one (a worker stores it), read them."
)
auth = httpx.AsyncClient(base_url="http://auth:8000", timeout=5)


class Note(BaseModel):
    """A note to store. `crash` makes the worker die while it holds this one; the next worker stores it."""

    text: str = Field(min_length=1, max_length=2000)
    crash: bool = False


def unavailable(request: Request, error: Exception) -> JSONResponse:
    """503, with the reason in the log only."""
    print(f"unavailable: {type(error).__name__}: {error}", flush=True)
    return JSONResponse({"detail": "not available now, try again"}, status_code=503)


for kind in (*store.UNAVAILABLE, httpx.TransportError):
    app.add_exception_handler(kind, unavailable)


async def user(authorization: str = Header(default="")) -> str:
    """The name behind the token of a request."""
    answer = await auth.get("/sessions/current", headers={"authorization": authorization})
    return _passed_on(answer)["name"]


@app.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    """To the documentation."""
    return RedirectResponse("/docs")


@app.get("/health")
async def health(response: Response) -> dict[str, str]:
    """What the gateway needs, and whether it answers; 503 unless all do."""

    async def auth_answers() -> None:
        (await auth.get("/health")).raise_for_status()

    async def database_answers() -> None:
        await (await store.database()).fetchval("SELECT 1")

    async def queue_answers() -> None:
        await (await store.channel()).close()

    parts: dict[str, Awaitable[Any]] = {
        "auth": auth_answers(),
        "cache": store.cache.ping(),
        "db": database_answers(),
        "queue": queue_answers(),
    }
    results = await asyncio.gather(*parts.values(), return_exceptions=True)
    if any(isinstance(result, BaseException) for result in results):
        response.status_code = 503
    return {
        name: f"{type(result).__name__}: {result}" if isinstance(result, BaseException) else "ok"
        for name, result in zip(parts, results, strict=True)
    }


@app.post("/signup", status_code=201)
async def sign_up(credentials: dict[str, str]) -> Any:
    """Make a user: {name, password}."""
    return _passed_on(await auth.post("/users", json=credentials))


@app.post("/login", status_code=201)
async def log_in(credentials: dict[str, str]) -> Any:
    """Get a token for {name, password}; send it as `Authorization: Bearer TOKEN`."""
    return _passed_on(await auth.post("/sessions", json=credentials))


@app.post("/notes", status_code=202)
async def write(note: Note, name: str = Depends(user)) -> dict[str, str]:
    """Queue a note for the worker."""
    job = {"id": str(uuid.uuid4()), "author": name, "text": note.text, "crash": note.crash}
    message = aio_pika.Message(json.dumps(job).encode(), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
    async with await store.channel() as channel:
        # Returns when the queue has it on its disk.
        await channel.default_exchange.publish(message, routing_key=store.JOBS, timeout=5)
    return {"id": job["id"]}


@app.get("/notes")
async def read_all(response: Response, name: str = Depends(user)) -> list[dict[str, str]]:
    """All notes of the user, from the cache where it has them (header `x-cache`)."""
    version = await store.cache.get(store.version_key(name)) or "0"
    key = f"notes:{name}:{version}"
    cached = await store.cache.get(key)
    if cached is not None:
        response.headers["x-cache"] = "hit"
        return json.loads(cached)
    rows = await (await store.database()).fetch(
        "SELECT id, text, written_at FROM notes WHERE author = $1 ORDER BY written_at, id", name
    )
    notes = [_note(row) for row in rows]
    await store.cache.set(key, json.dumps(notes), ex=CACHE_S)
    response.headers["x-cache"] = "miss"
    return notes


@app.get("/notes/{note_id}")
async def read_one(note_id: uuid.UUID, name: str = Depends(user)) -> dict[str, str]:
    """One note, from the database; 404 until the worker has stored it."""
    row = await (await store.database()).fetchrow(
        "SELECT id, text, written_at FROM notes WHERE author = $1 AND id = $2", name, note_id
    )
    if row is None:
        raise HTTPException(404, "not stored (yet)")
    return _note(row)


def _note(row: Any) -> dict[str, str]:
    return {"id": str(row["id"]), "text": row["text"], "written_at": row["written_at"].isoformat()}


def _passed_on(answer: httpx.Response) -> Any:
    if answer.is_error:
        try:
            detail = answer.json()["detail"]
        except (ValueError, KeyError):
            detail = "auth failed"
        raise HTTPException(answer.status_code, detail)
    return answer.json()
