"""`console`: the control-plane side, for sites without HarborGuard."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from sensor.cli.output import clean, err, reporting_errors
from sensor.console.server import run_console
from sensor.errors import ConfigError
from sensor.log import configure_logging


def console(
    listen: Annotated[str, typer.Option("--listen", help="host:port to serve on.")] = "127.0.0.1:3456",
    directory: Annotated[
        Path, typer.Option("--directory", envvar="HARBORGUARD_CONSOLE_DIRECTORY", help="Where its database lies.")
    ] = Path("/var/lib/harborguard-console"),
    new_admin_key: Annotated[
        bool, typer.Option("--new-admin-key", help="Mint a new admin key; the old one stops working.")
    ] = False,
) -> None:
    """Serve the endpoints that sensors report to, and JSON views of agents, images, findings and jobs.

    The admin key is shown once, at the first start. Sensors get their own keys: POST /api/agents or POST /api/registries.
    """
    with reporting_errors():
        configure_logging("info", "auto", sys.stderr)
        host, _, port = listen.rpartition(":")
        if not port.isdigit() or int(port) > 65535 or not host:
            message = f"not an address: {listen!r}"
            raise ConfigError(message, "expected host:port, such as 127.0.0.1:3456")
        asyncio.run(_serve(host.strip("[]"), int(port), directory, renew=new_admin_key))


async def _serve(host: str, port: int, directory: Path, *, renew: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        running = await stack.enter_async_context(run_console(host, port, directory))
        key = running.admin_key or (await running.store.mint_admin_key(replace=True) if renew else None)
        err.print(f"console on {clean(running.url)}")
        if key is not None:
            err.print(f"admin key (shown once): [bold]{key.reveal()}[/]")
        await stop.wait()
