"""The ledger is told after every change while counting is cheap, and now and then when it is not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sensor.catalog.ledgers import Ledgers
from sensor.catalog.snapshots import Snapshots
from sensor.events import Event, LedgerChanged
from sensor.storage import open_storage


class Clock:
    """Each look at it lets some time go by: the time that counting takes."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 1000.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
async def snapshots(tmp_path: Path) -> AsyncIterator[Snapshots]:
    storage = await open_storage(tmp_path)
    yield Snapshots(storage)
    await storage.close()


async def test_a_small_ledger_is_told_after_every_change(snapshots: Snapshots) -> None:
    told: list[Event] = []
    ledgers = Ledgers(snapshots=snapshots, publish=told.append, clock=Clock(0.001))
    for _ in range(3):
        await ledgers.changed("main")
    assert [type(event) for event in told] == [LedgerChanged] * 3
    await ledgers.catch_up()
    assert len(told) == 3


async def test_a_large_ledger_is_told_now_and_then_and_never_forgotten(snapshots: Snapshots) -> None:
    told: list[Event] = []
    clock = Clock(1.0)
    ledgers = Ledgers(snapshots=snapshots, publish=told.append, clock=clock)
    for _ in range(5):
        await ledgers.changed("main")
    assert len(told) == 1
    await ledgers.changed("other")
    assert len(told) == 2
    await ledgers.catch_up()
    assert len(told) == 2
    clock.now += 60
    await ledgers.catch_up()
    assert [event.registry for event in told if isinstance(event, LedgerChanged)] == ["main", "other", "main"]
    clock.now += 60
    await ledgers.catch_up()
    assert len(told) == 3
