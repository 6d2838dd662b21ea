"""Keys of the console: how they are made, kept, presented and checked.

A key is 192 bits from the system's generator, so its plain SHA-256 may be stored: nothing can be tried against it. Sensor keys open the sensor
endpoints only, the admin key all others; whatever is not listed as open demands a key, also paths that do not exist.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from contextvars import ContextVar
from enum import StrEnum
from typing import Protocol

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from sensor.secret import Secret

_OPEN = frozenset({"/api/health", "/api/ready"})
_SENSOR_PATHS = ("/api/agent/", "/api/scans/upload")
_LONGEST_KEY = 512

_AGENT: ContextVar[str] = ContextVar("agent")
# each request has a task, and so a context, of its own


class Role(StrEnum):
    """Whom a key belongs to."""

    ADMIN = "admin"
    SENSOR = "sensor"


class Keys(Protocol):
    """The keys in force."""

    async def find_key(self, digest: str) -> tuple[Role, str, str] | None:
        """Role, stored digest and agent id (empty for the admin) of the key with this digest."""


def mint_key(role: Role) -> Secret:
    """A new key. Show it once; only its digest is kept."""
    return Secret(f"hg_{'ak' if role is Role.SENSOR else 'admin'}_{secrets.token_hex(24)}")


def digest_key(key: Secret) -> str:
    """What is stored of a key."""
    return hashlib.sha256(key.reveal().encode("utf-8", "surrogatepass")).hexdigest()


def presented_key(headers: Mapping[str, str]) -> Secret | None:
    """The key of a request: `Authorization: Bearer <key>`, else `X-API-Key: <key>` (control-plane contract, section 2.2)."""
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    key = value.strip() if scheme == "Bearer" else headers.get("X-API-Key", "").strip()
    return Secret(key) if 0 < len(key) <= _LONGEST_KEY else None


def current_agent() -> str:
    """The id of the agent whose key came with the request being handled; there is one on sensor endpoints only."""
    return _AGENT.get()


def guard(keys: Keys) -> Middleware:
    """The middleware that lets a request through, or answers 401 or 403. It runs before any body is read."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in _OPEN:
            return await handler(request)
        key = presented_key(request.headers)
        if key is None:
            return _refuse(401, "Missing Authorization header")
        digest = digest_key(key)
        found = await keys.find_key(digest)
        if found is None or not hmac.compare_digest(found[1], digest):
            return _refuse(401, "Invalid API key")
        wanted = Role.SENSOR if request.path.startswith(_SENSOR_PATHS) else Role.ADMIN
        if found[0] is not wanted:
            return _refuse(403, f"This needs the {'key of a sensor' if wanted is Role.SENSOR else 'admin key'}")
        if wanted is Role.SENSOR:
            _AGENT.set(found[2])
        return await handler(request)

    return check


def _refuse(status: int, text: str) -> web.Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return web.json_response({"error": text}, status=status, headers=headers)
