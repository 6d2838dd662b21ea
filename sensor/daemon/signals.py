"""The daemon's signals, taken while it runs and left as they were found."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Callable


@contextlib.asynccontextmanager
async def signals(
    *, stop: Callable[[], None], reload: Callable[[], None], sweep: Callable[[], None]
) -> AsyncIterator[None]:
    """SIGTERM and SIGINT stop, SIGHUP reloads, SIGUSR1 sweeps. Outside of the main thread (an embedded daemon) none is taken."""
    wanted = ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, reload), (signal.SIGUSR1, sweep))
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = [(number, signal.getsignal(number)) for number, _ in wanted]
    for number, handler in wanted:
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number, found in before:
            loop.remove_signal_handler(number)
            signal.signal(number, found)
