"""`run`: the daemon in the foreground, for a service manager or a container."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from sensor.cli.options import ConfigOption, load, show_warnings
from sensor.cli.output import reporting_errors
from sensor.config.load import Loaded
from sensor.daemon.announce import Announcer
from sensor.daemon.app import build_app
from sensor.daemon.run import Daemon
from sensor.log import configure_logging, settle_repeats


def run(config: ConfigOption = None) -> None:
    """Watch the registries, scan what is new, and report it, until SIGTERM or Ctrl-C.

    SIGHUP reloads the configuration; a wrong one is refused and the old one kept. SIGUSR1 looks at every registry now. Log lines go to stderr.
    """
    with reporting_errors():
        loaded = load(config, required=True)
        configure_logging(loaded.config.logging.level, loaded.config.logging.format, sys.stderr)
        show_warnings(loaded)
        try:
            asyncio.run(_run(loaded, config))
        finally:
            settle_repeats(everything=True)


async def _run(loaded: Loaded, path: Path | None) -> None:
    async with build_app(loaded.config, listeners=(Announcer(),)) as app:
        await Daemon(app, reload=lambda: load(path, required=True)).run()
