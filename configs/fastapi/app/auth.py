"""The auth service: users in PostgreSQL, sessions in Redis. Only the gateway talks to it."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets

import store
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

SESSION_S = int(os.environ.get("SESSION_SECONDS", "3600"))

app = FastAPI(title="auth")


class Credentials(BaseModel):
    """A name and a password."""

    name: str = Field(min_length=1, max_length=64)
    password: str = Field(min_length=8, max_length=256)


def unavailable(request: Request, error: Exception) -> JSONResponse:
    """503, with the reason in the log only."""
    print(f"unavailable: {type(error).__name__}: {error}", flush=True)
    return JSONResponse({"detail": "not available now, try again"}, status_code=503)


for kind in store.UNAVAILABLE:
    app.add_exception_handler(kind, unavailable)


@app.get("/health")
async def health() -> dict[str, str]:
    """This process answers."""
    return {"auth": "ok"}


@app.post("/users", status_code=201)
async def sign_up(credentials: Credentials) -> dict[str, str]:
    """Make a user; 409 if the name is taken."""
    salt = secrets.token_bytes(16)
    made = await (await store.database()).fetchval(
        "INSERT INTO users (name, salt, password_hash) VALUES ($1, $2, $3)"
        " ON CONFLICT DO NOTHING RETURNING name",
        credentials.name,
        salt,
        await _hash(credentials.password, salt),
    )
    if made is None:
        raise HTTPException(409, "this name is taken")
    return {"name": credentials.name}


@app.post("/sessions", status_code=201)
async def log_in(credentials: Credentials) -> dict[str, str]:
    """Exchange a name and a password for a token; 401 if they do not fit."""
    row = await (await store.database()).fetchrow(
        "SELECT salt, password_hash FROM users WHERE name = $1", credentials.name
    )
    # The same work whether or not the user exists: the time must not tell.
    salt, expected = (row["salt"], row["password_hash"]) if row else (b"-" * 16, b"")
    if not hmac.compare_digest(await _hash(credentials.password, salt), expected):
        raise HTTPException(401, "wrong name or password")
    token = secrets.token_urlsafe(32)
    await store.cache.set(_session_key(token), credentials.name, ex=SESSION_S)
    return {"token": token}


@app.get("/sessions/current")
async def who(authorization: str = Header(default="")) -> dict[str, str]:
    """Whose token it is; 401 if nobody's."""
    name = await store.cache.get(_session_key(authorization.removeprefix("Bearer ")))
    if name is None:
        raise HTTPException(401, "log in first")
    return {"name": name}


async def _hash(password: str, salt: bytes) -> bytes:
    return await asyncio.to_thread(hashlib.scrypt, password.encode(), salt=salt, n=2**14, r=8, p=1)


def _session_key(token: str) -> str:
    # The cache holds no usable token.
    return "session:" + hashlib.sha256(token.encode()).hexdigest()
