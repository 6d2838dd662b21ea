from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import structlog

from sensor import events
from sensor.catalog.diff import DigestState
from sensor.catalog.snapshots import Standing
from sensor.daemon.app import App, build_app
from sensor.daemon.settle import put_stale, settle
from sensor.model.request import Lane, ScanRequest, SweepRequest
from sensor.work.lanes import ALL_LANES
from sensor.work.port import Item
from tests.fakes.daemon import config, plug_in
from tests.fakes.memory_registry import MemoryRegistry
from tests.fakes.pipeline import Clock, Disk, python_layer

CLOCK = Clock()


@pytest.fixture
def registry() -> MemoryRegistry:
    made = MemoryRegistry()
    made.image("team/app", "v1", [python_layer("jinja2", "2.10")])
    made.tag("team/copy", "v1", made.tagged["team/app"]["v1"])
    return made


@pytest.fixture
async def app(tmp_path: Path, registry: MemoryRegistry) -> AsyncIterator[App]:
    """After one sweep, with nothing in the queue."""
    told: list[events.Event] = []
    async with build_app(config(tmp_path), listeners=(told.append,), clock=CLOCK) as built:
        plug_in(built, {"prod": registry})
        await built.queue.put(SweepRequest(registry="prod"), Lane.NOW)
        item = await take(built)
        assert isinstance(item.work, SweepRequest)
        await built.pipeline.sweep(item.work, item)
        await built.queue.done(await take(built))
        yield built


async def take(app: App) -> Item:
    found = await app.queue.take("w", ALL_LANES)
    assert found is not None
    return found


async def mark(app: App, registry: MemoryRegistry, state: DigestState, after: timedelta | None = None) -> None:
    digest = registry.tagged["team/app"]["v1"]
    standing = Standing(digest=digest, state=state, next_try=None if after is None else CLOCK() + after)
    async with app.engine.storage.transaction() as connection:
        await app.snapshots.mark(connection, "prod", standing, CLOCK())


async def test_a_queued_digest_is_queued_once_whatever_points_to_it(app: App) -> None:
    await settle(app, "prod")
    item = await take(app)
    assert isinstance(item.work, ScanRequest)
    assert item.lane is Lane.NEW
    assert await app.queue.take("w", ALL_LANES) is None


async def test_a_failed_digest_keeps_its_time(app: App, registry: MemoryRegistry) -> None:
    await mark(app, registry, DigestState.FAILED, timedelta(hours=1))
    await settle(app, "prod")
    counts = await app.queue.counts()
    assert (counts[Lane.NEW].later, counts[Lane.NEW].waiting) == (1, 0)


async def test_what_had_no_next_try_is_tried_by_this_version_last_of_all(app: App, registry: MemoryRegistry) -> None:
    await mark(app, registry, DigestState.FAILED)
    await settle(app, "prod")
    assert (await app.queue.counts())[Lane.AGAIN].waiting == 1


async def test_what_is_done_stays_done(app: App, registry: MemoryRegistry) -> None:
    await mark(app, registry, DigestState.SCANNED)
    await settle(app, "prod")
    await put_stale(app)
    assert await app.queue.take("w", ALL_LANES) is None


@pytest.mark.parametrize(("schedule", "sweeps"), [("daily", 1), ("on_push", 1), ("manual", 0)])
async def test_a_registry_that_was_never_looked_at_is_swept_unless_it_is_manual(
    tmp_path: Path, schedule: str, sweeps: int
) -> None:
    async with build_app(config(tmp_path, schedule=schedule)) as app:  # type: ignore[arg-type]
        await settle(app, "prod")
        assert (await app.queue.counts())[Lane.NOW].waiting == sweeps
        await settle(app, "a registry that left meanwhile")
        assert (await app.queue.counts())[Lane.NOW].waiting == sweeps


async def test_when_a_registry_was_looked_at_last_outlives_a_restart(app: App) -> None:
    app.board._registries.clear()
    await settle(app, "prod")
    (registry,) = app.board.snapshot(CLOCK()).registries
    assert (registry.state, registry.last_sweep, registry.complete) == ("ok", CLOCK(), True)


@pytest.mark.parametrize(("hours", "is_missed"), [(0, False), (25, True)])
async def test_a_turn_that_was_missed_is_made_up_for(app: App, hours: int, is_missed: bool) -> None:
    await settle(app, "prod")
    await app.queue.done(await take(app))
    now, CLOCK.now = CLOCK.now, CLOCK.now + timedelta(hours=hours)
    try:
        await settle(app, "prod")
        works = [item.work async for item in all_of(app)]
    finally:
        CLOCK.now = now
    sweeps = [work for work in works if isinstance(work, SweepRequest)]
    assert sweeps == ([SweepRequest(registry="prod", reason="missed turn")] if is_missed else [])


async def all_of(app: App) -> AsyncIterator[Item]:
    while (item := await app.queue.take("w", ALL_LANES)) is not None:
        yield item


async def test_images_that_a_former_version_read_are_read_again(app: App) -> None:
    await settle(app, "prod")
    item = await take(app)
    assert isinstance(item.work, ScanRequest)
    await app.pipeline.scan(item.work, item)
    async with app.engine.storage.transaction() as connection:
        await connection.exec_driver_sql("UPDATE image_inventories SET catalogers = 'of a former version'")
    await put_stale(app)
    again = await take(app)
    assert isinstance(again.work, ScanRequest)
    assert (again.work.digest, again.lane) == (item.work.digest, Lane.AGAIN)
    await app.pipeline.scan(again.work, again)
    await put_stale(app)
    assert await app.queue.take("w", ALL_LANES) is None


async def test_a_full_disk_puts_rescans_off(app: App) -> None:
    await settle(app, "prod")
    item = await take(app)
    assert isinstance(item.work, ScanRequest)
    await app.pipeline.scan(item.work, item)
    async with app.engine.storage.transaction() as connection:
        await connection.exec_driver_sql("UPDATE image_inventories SET catalogers = 'of a former version'")
    disk = Disk(full=True)
    disk.attach(app.engine.storage)
    with structlog.testing.capture_logs() as lines:
        await put_stale(app)
    assert [line["event"] for line in lines] == ["images of a former version wait for the next start"]
