"""A mirror of OSV's bulk export on a loopback port, that can be told to misbehave.

async with OsvMirror() as mirror:
    mirror.archives["PyPI"] = zip_bytes
    ... f"{mirror.url}/PyPI/all.zip" ...
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Self

from aiohttp import web
from aiohttp.test_utils import TestServer

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class OsvMirror:
    """Serves `archives` by ecosystem with an ETag. `answers` are used up first, one per request of that ecosystem; None means a normal answer."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.archives: dict[str, bytes] = {}
        self.answers: dict[str, list[Answer | None]] = {}
        self.etags = True
        self.last_modified = ""
        self.seen: list[tuple[str, int]] = []
        """Path and query as sent, and the status answered."""
        self.headers: list[dict[str, str]] = []
        application = web.Application()
        application.router.add_get("/{base:.*}/{ecosystem}/all.zip", self._serve)
        self._tls = tls
        self._server = TestServer(application, scheme="https" if tls else "http")

    async def __aenter__(self) -> Self:
        await self._server.start_server(ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    @property
    def url(self) -> str:
        """Base URL, without a slash at the end."""
        return str(self._server.make_url("/osv"))

    @property
    def statuses(self) -> list[int]:
        """The statuses answered so far."""
        return [status for _, status in self.seen]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        ecosystem = request.match_info["ecosystem"]
        waiting = self.answers.get(ecosystem)
        answer = waiting.pop(0) if waiting else None
        response = await (answer or self._normal)(request)
        self.seen.append((request.raw_path, response.status))
        return response

    async def _normal(self, request: web.Request) -> web.StreamResponse:
        data = self.archives.get(request.match_info["ecosystem"])
        if data is None:
            return web.Response(status=404)
        headers = {}
        if self.etags:
            headers["ETag"] = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
            if request.headers.get("If-None-Match") == headers["ETag"]:
                return web.Response(status=304)
        if self.last_modified:
            headers["Last-Modified"] = self.last_modified
            if request.headers.get("If-Modified-Since") == self.last_modified:
                return web.Response(status=304)
        return web.Response(body=data, headers=headers)


def status(code: int, **headers: str) -> Answer:
    """Answer with a bare status; `retry_after` becomes Retry-After."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=code, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return answer


def body(data: bytes) -> Answer:
    """Answer with these bytes and no headers."""

    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=data)

    return answer


def broken_off(data: bytes) -> Answer:
    """Promise twice as many bytes as come, then hang up."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(2 * len(data))})
        await response.prepare(request)
        await response.write(data)
        assert request.transport is not None
        request.transport.close()
        return response

    return answer
