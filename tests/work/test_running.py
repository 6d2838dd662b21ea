import asyncio

import pytest

from sensor.work.running import Running, Stopped


async def held(running: Running, key: str, began: asyncio.Event | None = None) -> str:
    async with running.hold(key):
        if began is not None:
            began.set()
        await asyncio.Event().wait()
    return "done"


async def test_work_ends_as_if_nobody_had_been_there() -> None:
    running = Running()
    async with running.hold("a"):
        await asyncio.sleep(0)
    running.stop("a")
    running.stop("a")


async def test_only_the_named_work_is_stopped() -> None:
    running, one, two = Running(), asyncio.Event(), asyncio.Event()
    first = asyncio.ensure_future(held(running, "a", one))
    second = asyncio.ensure_future(held(running, "b", two))
    await one.wait()
    await two.wait()
    running.stop("a")
    running.stop("a")
    with pytest.raises(Stopped):
        await first
    assert not second.done()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_what_is_stopped_before_it_begins_ends_at_its_first_pause_and_once() -> None:
    running = Running()
    running.stop("a")
    with pytest.raises(Stopped):
        await held(running, "a")
    async with running.hold("a"):
        await asyncio.sleep(0.01)


async def test_other_time_outs_and_errors_are_the_works_own() -> None:
    running = Running()
    with pytest.raises(TimeoutError):
        async with running.hold("a"):
            raise TimeoutError
    with pytest.raises(ZeroDivisionError):
        async with running.hold("a"):
            raise ZeroDivisionError
