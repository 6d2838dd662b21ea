import asyncio
import os
import signal

import pytest

from sensor.daemon.signals import signals


@pytest.mark.parametrize(
    ("number", "told"),
    [(signal.SIGTERM, "stop"), (signal.SIGINT, "stop"), (signal.SIGHUP, "reload"), (signal.SIGUSR1, "sweep")],
)
async def test_each_signal_asks_for_its_own_thing_and_is_given_back(number: signal.Signals, told: str) -> None:
    came: asyncio.Queue[str] = asyncio.Queue()
    before = signal.getsignal(number)
    async with signals(
        stop=lambda: came.put_nowait("stop"),
        reload=lambda: came.put_nowait("reload"),
        sweep=lambda: came.put_nowait("sweep"),
    ):
        os.kill(os.getpid(), number)
        assert await asyncio.wait_for(came.get(), 10) == told
    assert signal.getsignal(number) is before


async def test_outside_of_the_main_thread_no_signal_is_taken() -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def inside() -> object:
        async with signals(stop=lambda: None, reload=lambda: None, sweep=lambda: None):
            return signal.getsignal(signal.SIGTERM)

    assert await asyncio.to_thread(lambda: asyncio.run(inside())) is before
