"""The console as a process: the application, its errors in JSON, and its life on a port.

`run_console` embeds it (demo, tests); the command line keeps it running. Leaves the endpoints to `views`, who may call them to `auth`, and
TLS to a proxy in front.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from sensor.console.auth import guard
from sensor.console.store import METADATA, Clock, ConsoleError, ConsoleStore
from sensor.console.views import MOST_BYTES, STORE, reply, routes
from sensor.errors import StateError
from sensor.secret import Secret
from sensor.storage import open_storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """A running console. `admin_key` is there at the first start only: afterwards nobody knows it but its holder."""

    url: str
    admin_key: Secret | None
    store: ConsoleStore


def make_console(store: ConsoleStore) -> web.Application:
    """The console as an application."""
    # aiohttp stops reading here; the exact bound is kept where the body is read
    app = web.Application(client_max_size=MOST_BYTES + 1, middlewares=[_answer_errors, guard(store)])
    app[STORE] = store
    app.add_routes(routes())
    return app


async def open_store(directory: Path, clock: Clock | None = None) -> ConsoleStore:
    """Open (or make) the console's database in a directory of its own.

    Raises:
        StateError: the directory cannot be used, another console has it, or the database is damaged or newer.
    """
    storage = await open_storage(directory, file="console.db", metadata=METADATA)
    return ConsoleStore(storage, clock or (lambda: datetime.now(UTC)))


@contextlib.asynccontextmanager
async def run_console(host: str, port: int, directory: Path, clock: Clock | None = None) -> AsyncIterator[Console]:
    """Serve on an address (port 0: a free one) until the context ends.

    Raises:
        StateError: the address or the directory cannot be used.
    """
    async with contextlib.AsyncExitStack() as stack:
        store = await open_store(directory, clock)
        stack.push_async_callback(store.close)
        runner = web.AppRunner(make_console(store), access_log=None, handle_signals=False)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            message = f"cannot listen on {host}:{port}: {error.strerror}"
            raise StateError(message, "another process has the port, or the address is not this machine's") from error
        bound = runner.addresses[0][1]
        shown = f"[{host}]" if ":" in host else host
        # the key is minted last: a start that failed must not use up its one showing
        yield Console(url=f"http://{shown}:{bound}", admin_key=await store.mint_admin_key(), store=store)


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except ConsoleError as error:
        text = f"{error.field}: {error.message}" if error.field else error.message
        response = reply({"error": text, **({"field": error.field} if error.field else {})}, error.status)
    except StateError as error:
        response = reply({"error": error.message}, 503)
        response.headers["Retry-After"] = "5"
    except web.HTTPException as error:
        response = reply({"error": error.reason}, error.status)
        if isinstance(error, web.HTTPMethodNotAllowed):
            response.headers["Allow"] = ", ".join(sorted(error.allowed_methods))
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "no-store"
    return response
