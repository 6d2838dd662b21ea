"""The local health endpoint: /healthz /readyz /status /metrics.

Reads the status board and nothing else, so it answers while a sweep is busy and can break nothing. It shows no secrets and takes no
input; it listens on loopback by default.

/healthz is 200 as long as the event loop turns; /readyz is 200 when images can be judged, else 503 with the reasons.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime

import msgspec
from aiohttp import web

from sensor.errors import StateError
from sensor.health.metrics import CONTENT_TYPE, render
from sensor.status import StatusBoard

_CLOCK: web.AppKey[Callable[[], datetime]] = web.AppKey("clock")
_BOARD = web.AppKey("board", StatusBoard)


def make_app(board: StatusBoard, clock: Callable[[], datetime]) -> web.Application:
    """The endpoint as an application."""
    app = web.Application()
    app[_BOARD] = board
    app[_CLOCK] = clock
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/readyz", _readyz)
    app.router.add_get("/status", _status)
    app.router.add_get("/metrics", _metrics)
    return app


@contextlib.asynccontextmanager
async def serve_health(board: StatusBoard, clock: Callable[[], datetime], listen: str) -> AsyncIterator[str]:
    """Serve on `host:port` (`off`: not at all) and yield the base URL, empty when off.

    Raises:
        StateError: the address cannot be listened on.
    """
    if listen == "off":
        yield ""
        return
    host, _, port = listen.rpartition(":")
    runner = web.AppRunner(make_app(board, clock), access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host.strip("[]"), int(port))
        try:
            await site.start()
        except OSError as error:
            message = f"cannot listen on {listen}: {error.strerror}"
            raise StateError(message, "another process has the port: change health.listen, or set it to off") from error
        bound = runner.addresses[0][1]
        yield f"http://{host}:{bound}"
    finally:
        await runner.cleanup()


async def _healthz(_request: web.Request) -> web.Response:
    return web.json_response({"ok": True})


async def _readyz(request: web.Request) -> web.Response:
    snapshot = request.app[_BOARD].snapshot(request.app[_CLOCK]())
    return web.json_response(
        {"ready": snapshot.ready, "problems": snapshot.problems}, status=200 if snapshot.ready else 503
    )


async def _status(request: web.Request) -> web.Response:
    snapshot = request.app[_BOARD].snapshot(request.app[_CLOCK]())
    return web.Response(body=msgspec.json.encode(snapshot), content_type="application/json")


async def _metrics(request: web.Request) -> web.Response:
    snapshot = request.app[_BOARD].snapshot(request.app[_CLOCK]())
    return web.Response(body=render(snapshot, tasks=len(asyncio.all_tasks())), headers={"Content-Type": CONTENT_TYPE})
