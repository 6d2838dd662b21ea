"""The durable queue: once under one key, by lane, leased, and never given to two workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

import sensor.storage as storage_module
from sensor.errors import StateError
from sensor.model.digest import Digest, sha256_digest
from sensor.model.request import JobRequest, Lane, RematchRequest, ScanRequest, SweepRequest
from sensor.storage import PRAGMAS, Storage, open_storage
from sensor.work.lanes import ALL_LANES
from sensor.work.port import Item, LaneCounts, WorkQueue
from sensor.work.queue import WORK, TableQueue, key_of

ROOT = Path(__file__).parent.parent.parent
START = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **units: float) -> None:
        self.now += timedelta(**units)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = await open_storage(tmp_path)
    yield storage
    await storage.close()


@pytest.fixture
def queue(storage: Storage, clock: Clock) -> TableQueue:
    return TableQueue(storage, clock)


def scan(name: str) -> ScanRequest:
    return ScanRequest(registry="main", repository="team/app", tag=name, digest=sha256_digest(name.encode()))


def tag_of(item: Item | None) -> str:
    assert item is not None
    assert isinstance(item.work, ScanRequest)
    return item.work.tag


async def take(queue: WorkQueue, worker: str = "w") -> Item:
    item = await queue.take(worker, ALL_LANES)
    assert item is not None
    return item


async def test_what_is_put_is_taken_once_and_gone_when_done(queue: TableQueue) -> None:
    assert await queue.put(scan("v1"), Lane.NEW)
    item = await take(queue)
    assert item.work == scan("v1")
    assert (item.lane, item.attempts, item.created, item.error) == (Lane.NEW, 1, START, "")
    assert await queue.take("other", ALL_LANES) is None
    assert await queue.done(item)
    assert not await queue.done(item)
    assert await queue.take("w", ALL_LANES) is None


@pytest.mark.parametrize(
    "work",
    [
        SweepRequest(registry="main", reason="push"),
        scan("v1"),
        JobRequest(link="https://hg.example", job="42", reference="r.example/a:1", scanners=("trivy",)),
        RematchRequest(revision="2026-05-01"),
    ],
)
async def test_every_kind_of_work_comes_back_as_it_went_in(queue: TableQueue, work: ScanRequest) -> None:
    await queue.put(work, Lane.NOW)
    item = await take(queue)
    assert item.work == work
    assert item.key == key_of(work)


def test_keys_tell_work_apart_by_what_makes_it_the_same() -> None:
    digest = Digest("sha256:" + "a" * 64)
    one = ScanRequest(registry="main", repository="a", tag="1", digest=digest)
    same = ScanRequest(registry="main", repository="b", tag="2", digest=digest)
    elsewhere = ScanRequest(registry="other", repository="a", tag="1", digest=digest)
    assert key_of(one) == key_of(same) != key_of(elsewhere)
    assert key_of(SweepRequest(registry="main", reason="push")) == key_of(SweepRequest(registry="main"))
    job = JobRequest(link="l", job="1", reference="x")
    assert key_of(job) != key_of(JobRequest(link="l", job="2", reference="x"))
    assert (
        len({key_of(job), key_of(one), key_of(SweepRequest(registry="main")), key_of(RematchRequest(revision="1"))})
        == 4
    )


async def test_urgent_first_then_new_digests_newest_first_then_re_scans_in_order(queue: TableQueue) -> None:
    for name, lane in [
        ("again1", Lane.AGAIN),
        ("new1", Lane.NEW),
        ("now1", Lane.NOW),
        ("again2", Lane.AGAIN),
        ("new2", Lane.NEW),
        ("now2", Lane.NOW),
    ]:
        await queue.put(scan(name), lane)
    order = [tag_of(await queue.take("w", ALL_LANES)) for _ in range(6)]
    assert order == ["now1", "now2", "new2", "new1", "again1", "again2"]


async def test_a_worker_gets_only_its_lanes(queue: TableQueue) -> None:
    await queue.put(scan("new"), Lane.NEW)
    assert await queue.take("urgent", (Lane.NOW,)) is None
    await queue.put(scan("now"), Lane.NOW)
    assert tag_of(await queue.take("urgent", (Lane.NOW,))) == "now"


async def test_the_same_key_waits_once_in_the_more_urgent_lane_with_the_earlier_start(
    queue: TableQueue, clock: Clock
) -> None:
    assert await queue.put(scan("v1"), Lane.AGAIN, not_before=START + timedelta(hours=1))
    assert not await queue.put(scan("v1"), Lane.NOW)
    assert not await queue.put(scan("v1"), Lane.NEW, not_before=START + timedelta(days=1))
    item = await take(queue)
    assert item.lane is Lane.NOW
    assert await queue.take("w", ALL_LANES) is None


async def test_nothing_starts_before_its_time(queue: TableQueue, clock: Clock) -> None:
    await queue.put(scan("v1"), Lane.NEW, not_before=START + timedelta(minutes=10))
    assert await queue.take("w", ALL_LANES) is None
    clock.advance(minutes=10)
    assert tag_of(await queue.take("w", ALL_LANES)) == "v1"


async def test_a_put_in_a_foreign_transaction_shares_its_fate(queue: TableQueue, storage: Storage) -> None:
    async def fail() -> None:
        async with storage.transaction() as connection:
            await queue.put(scan("lost"), Lane.NEW, connection=connection)
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await queue.take("w", ALL_LANES) is None

    async with storage.transaction() as connection:
        assert await queue.put(scan("kept"), Lane.NEW, connection=connection)
        assert not await queue.put(scan("kept"), Lane.NEW, connection=connection)
    item = await take(queue)
    async with storage.transaction() as connection:
        assert await queue.done(item, connection=connection)
    await queue.put(scan("kept"), Lane.NEW)
    item = await take(queue)
    async with storage.transaction() as connection:
        assert await queue.retry(item, START, "once more", connection=connection)
    assert (await take(queue)).error == "once more"


async def test_the_item_of_a_silent_worker_returns_and_its_late_answer_counts_no_more(
    queue: TableQueue, clock: Clock
) -> None:
    await queue.put(scan("v1"), Lane.NEW)
    lost = await take(queue, "killed")
    clock.advance(minutes=4, seconds=59)
    assert await queue.take("next", ALL_LANES) is None
    clock.advance(seconds=1)
    item = await take(queue, "next")
    assert item.attempts == 2
    assert not await queue.extend(lost)
    assert not await queue.done(lost)
    assert not await queue.retry(lost, START, "late")
    assert not await queue.release(lost)
    assert await queue.done(item)


async def test_the_same_worker_does_not_hold_what_it_held_before(queue: TableQueue, clock: Clock) -> None:
    await queue.put(scan("v1"), Lane.NEW)
    before = await take(queue, "w")
    clock.advance(hours=1)
    now = await take(queue, "w")
    assert not await queue.done(before)
    assert await queue.done(now)


async def test_a_lease_that_ran_out_still_counts_while_nobody_else_took_the_item(
    queue: TableQueue, clock: Clock
) -> None:
    await queue.put(scan("v1"), Lane.NEW)
    item = await take(queue)
    clock.advance(hours=1)
    assert await queue.done(item)


async def test_an_extended_lease_lasts(queue: TableQueue, clock: Clock) -> None:
    await queue.put(scan("v1"), Lane.NEW)
    item = await take(queue)
    for _ in range(5):
        clock.advance(minutes=4)
        assert await queue.extend(item)
    assert await queue.take("other", ALL_LANES) is None
    clock.advance(minutes=5)
    assert await queue.take("other", ALL_LANES) is not None


async def test_retry_waits_and_keeps_the_reason_and_the_count(queue: TableQueue, clock: Clock) -> None:
    await queue.put(scan("v1"), Lane.NEW)
    assert await queue.retry(await take(queue), START + timedelta(minutes=15), "429 " + "x" * 1000)
    assert await queue.take("w", ALL_LANES) is None
    clock.advance(minutes=15)
    item = await take(queue)
    assert item.attempts == 2
    assert item.error.startswith("429 x")
    assert len(item.error) == 500


async def test_release_gives_back_as_if_never_taken(queue: TableQueue) -> None:
    await queue.put(scan("v1"), Lane.NEW)
    assert await queue.release(await take(queue))
    assert (await take(queue)).attempts == 1


async def test_a_new_start_frees_what_a_killed_process_held_at_once(queue: TableQueue, storage: Storage) -> None:
    for name in ("held", "waiting", "unreadable"):
        await queue.put(scan(name), Lane.NOW)
    lost = await take(queue)
    async with storage.transaction() as connection:
        await connection.execute(update(WORK).where(WORK.c.key == key_of(scan("unreadable"))).values(payload="?"))
    assert tag_of(await queue.take("w", ALL_LANES)) == "waiting"
    assert await queue.take("w", ALL_LANES) is None
    assert await queue.recover() == 2
    again = await take(queue)
    assert (tag_of(again), again.attempts, again.crashes) == ("held", 2, 1)
    assert not await queue.done(lost)
    assert (await queue.counts())[Lane.NOW] == LaneCounts(waiting=1, taken=1, unreadable=1, oldest=START)


async def test_deaths_in_a_row_are_counted_until_the_work_ends_otherwise(queue: TableQueue) -> None:
    await queue.put(scan("poison"), Lane.NOW)
    for died in range(3):
        assert (await take(queue)).crashes == died
        await queue.recover()
    item = await take(queue)
    assert item.crashes == 3
    await queue.retry(item, START, "set aside")
    assert (await take(queue)).crashes == 0


async def test_a_sweep_asked_for_while_it_runs_runs_once_more(queue: TableQueue) -> None:
    await queue.put(SweepRequest(registry="main"), Lane.NEW)
    running = await take(queue)
    assert not await queue.put(SweepRequest(registry="main", reason="push"), Lane.NOW)
    assert not await queue.put(SweepRequest(registry="main", reason="push again"), Lane.NOW)
    assert await queue.take("other", ALL_LANES) is None
    assert await queue.done(running)
    again = await take(queue)
    assert again.work == SweepRequest(registry="main", reason="push again")
    assert (again.lane, again.attempts) == (Lane.NOW, 1)
    assert await queue.done(again)
    assert await queue.take("w", ALL_LANES) is None


async def test_a_digest_asked_for_while_it_is_scanned_is_not_scanned_again(queue: TableQueue) -> None:
    await queue.put(scan("v1"), Lane.NEW)
    running = await take(queue)
    await queue.put(scan("v1"), Lane.NOW)
    assert await queue.done(running)
    assert await queue.take("w", ALL_LANES) is None


async def test_a_record_that_cannot_be_read_is_set_aside_and_the_rest_goes_on(
    queue: TableQueue, storage: Storage
) -> None:
    for name in ("v1", "v2", "v3"):
        await queue.put(scan(name), Lane.NOW)
    async with storage.transaction() as connection:
        await connection.execute(
            update(WORK).where(WORK.c.key == key_of(scan("v1"))).values(payload='{"type":"from the future"}')
        )
        await connection.execute(update(WORK).where(WORK.c.key == key_of(scan("v2"))).values(payload="[" * 5000))
    assert tag_of(await queue.take("w", ALL_LANES)) == "v3"
    assert await queue.take("w", ALL_LANES) is None
    assert (await queue.counts())[Lane.NOW].unreadable == 2
    async with storage.reading() as connection:
        errors = (await connection.execute(select(WORK.c.error).where(WORK.c.taken_by == ""))).scalars().all()
    assert all(error.startswith("unreadable: ") for error in errors)

    await queue.put(scan("v1"), Lane.NOW)
    assert tag_of(await queue.take("w", ALL_LANES)) == "v1"


async def test_counts_tell_lanes_and_states_apart(queue: TableQueue, clock: Clock) -> None:
    assert await queue.counts() == dict.fromkeys(Lane, LaneCounts())
    await queue.put(scan("taken"), Lane.NOW)
    await take(queue)
    await queue.put(scan("oldest"), Lane.NEW)
    clock.advance(minutes=1)
    await queue.put(scan("newer"), Lane.NEW)
    await queue.put(scan("later"), Lane.NEW, not_before=clock.now + timedelta(hours=1))
    counts = await queue.counts()
    assert counts[Lane.NOW] == LaneCounts(taken=1)
    assert counts[Lane.NEW] == LaneCounts(waiting=2, later=1, oldest=START)
    assert counts[Lane.AGAIN] == LaneCounts()


async def test_waiting_ends_when_something_is_put(queue: TableQueue) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(queue.wait(60))
        await asyncio.sleep(0)
        await queue.put(scan("v1"), Lane.NEW)
    assert waiting.done()
    await queue.wait(0.001)


async def test_the_queue_survives_a_restart(tmp_path: Path, clock: Clock) -> None:
    first = await open_storage(tmp_path)
    await TableQueue(first, clock).put(scan("v1"), Lane.NEW)
    await take(TableQueue(first, clock))
    await first.close()
    clock.advance(minutes=5)
    second = await open_storage(tmp_path)
    assert tag_of(await TableQueue(second, clock).take("w", ALL_LANES)) == "v1"
    await second.close()


# --- nothing is given out twice -------------------------------------------------------------------------------------------

JOBS = 300
WORKERS = 4


async def fill(storage: Storage) -> None:
    async with storage.transaction() as connection:
        queue = TableQueue(storage, Clock())
        for number in range(JOBS):
            await queue.put(scan(str(number)), Lane.NEW, connection=connection)


async def drain(storage: Storage, worker: str) -> list[str]:
    queue = TableQueue(storage, Clock())
    taken = []
    while (item := await queue.take(worker, ALL_LANES)) is not None:
        # not done: an item that came back would be counted twice, as one given out twice would
        taken.append(tag_of(item))
    return taken


async def test_four_workers_take_each_job_once(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    await fill(storage)
    workers = [await open_storage(tmp_path, shared=True) for _ in range(WORKERS)]
    taken = await asyncio.gather(*(drain(each, f"w{number}") for number, each in enumerate(workers)))
    for each in (*workers, storage):
        await each.close()
    assert sorted(tag for tags in taken for tag in tags) == sorted(map(str, range(JOBS)))


PROCESS = """
import asyncio, json, sys
from pathlib import Path
from sqlalchemy import text
import tests.work.test_queue as t
async def main():
    storage = await t.open_storage(Path(sys.argv[1]), shared=True)
    async with storage.reading() as connection:
        pragmas = {name: (await connection.execute(text(f"PRAGMA {name}"))).scalar_one() for name in t.PRAGMAS}
    print("ready", flush=True)
    sys.stdin.readline()
    taken = await t.drain(storage, sys.argv[2])
    await storage.close()
    print(json.dumps([pragmas, taken]), flush=True)
asyncio.run(main())
"""


async def test_four_processes_take_each_job_once(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    await fill(storage)
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROCESS,
            str(tmp_path),
            f"p{number}",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        for number in range(WORKERS)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    await storage.close()
    answers = [json.loads(out) for out, _ in outputs]
    assert [pragmas for pragmas, _ in answers] == [PRAGMAS] * WORKERS
    assert Counter(tag for _, tags in answers for tag in tags) == Counter(map(str, range(JOBS)))


def meet_after_looking(engine: AsyncEngine) -> None:
    """Make two workers look for work before either takes it, if the database lets them: what chance does now and then, every time."""
    both_looked = asyncio.Barrier(2)

    async def meet() -> None:
        with contextlib.suppress(TimeoutError, asyncio.BrokenBarrierError):
            async with asyncio.timeout(0.5):
                await both_looked.wait()

    def looked(_c: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("SELECT work.number"):
            await_only(meet())

    event.listen(engine.sync_engine, "after_cursor_execute", looked)


async def taken_by_two(storage: Storage) -> int:
    await TableQueue(storage, Clock()).put(scan("v1"), Lane.NEW)
    meet_after_looking(storage._engine)
    takes = (TableQueue(storage, Clock()).take(name, ALL_LANES) for name in ("a", "b"))
    items = await asyncio.gather(*takes, return_exceptions=True)  # both must have ended before the storage is closed
    for item in items:
        if isinstance(item, BaseException):
            raise item
    return sum(item is not None for item in items)


async def test_two_that_look_at_once_do_not_both_get_the_job(storage: Storage) -> None:
    assert await taken_by_two(storage) == 1


async def test_without_the_settings_both_would_get_it(tmp_path: Path) -> None:
    """The counter-test: the same queue over the driver's defaults. Did it give the job once, the test above would prove nothing."""
    await (await open_storage(tmp_path)).close()
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'state.db'}")
    assert await taken_by_two(Storage(engine, tmp_path / "state.db")) == 2
    await engine.dispose()


async def test_a_begin_that_takes_no_lock_would_be_noticed(tmp_path: Path) -> None:
    """The counter-test for one planted fault: everything as in production, but BEGIN in place of BEGIN IMMEDIATE."""
    storage = await open_storage(tmp_path)
    event.remove(storage._engine.sync_engine, "begin", storage_module._begin)
    event.listen(storage._engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with pytest.raises(StateError, match="is locked"):
        await taken_by_two(storage)
    await storage.close()


async def test_postponing_one_new_digest_puts_off_its_registry_and_counts_no_attempt(
    queue: TableQueue, clock: Clock
) -> None:
    other = ScanRequest(registry="main-2", repository="a", tag="x", digest=sha256_digest(b"x"))
    await queue.put(scan("pushed"), Lane.NOW)
    for work in (other, scan("v1"), scan("v2"), scan("v3")):
        await queue.put(work, Lane.NEW)
    pushed, item = await take(queue), await take(queue)
    assert tag_of(item) == "v3"
    until = START + timedelta(hours=1)
    assert await queue.postpone(item, until, "its windows are closed") == 2
    assert tag_of(await take(queue)) == "x"
    assert await queue.take("w", ALL_LANES) is None
    assert await queue.done(pushed)
    clock.now = until
    again = await take(queue)
    assert (tag_of(again), again.attempts, again.error) == ("v3", 1, "its windows are closed")


async def test_postponing_does_not_bring_forward_what_waits_longer(queue: TableQueue, clock: Clock) -> None:
    await queue.put(scan("late"), Lane.NEW, not_before=START + timedelta(hours=9))
    await queue.put(scan("v1"), Lane.NEW)
    assert await queue.postpone(await take(queue), START + timedelta(hours=1), "wait") == 0
    clock.now = START + timedelta(hours=8)
    assert tag_of(await take(queue)) == "v1"
    assert await queue.take("w", ALL_LANES) is None


async def test_what_became_urgent_while_it_was_held_is_not_put_off(queue: TableQueue, clock: Clock) -> None:
    await queue.put(scan("v1"), Lane.NEW)
    item = await take(queue)
    await queue.put(scan("v1"), Lane.NOW)
    await queue.postpone(item, START + timedelta(hours=1), "its windows are closed")
    again = await take(queue)
    assert (tag_of(again), again.lane, again.attempts) == ("v1", Lane.NOW, 1)
    await queue.postpone(again, START + timedelta(hours=1), "slow down")
    assert await queue.take("w", ALL_LANES) is None


async def test_many_digests_are_put_as_one_by_one(queue: TableQueue, storage: Storage) -> None:
    await queue.put(scan("v3"), Lane.NOW)
    await queue.put(scan("v5"), Lane.AGAIN, not_before=START + timedelta(days=1))
    names = [f"v{number}" for number in range(12_000)]
    async with storage.transaction() as connection:
        await queue.put_all((scan(name) for name in names), Lane.NEW, connection=connection)
    counts = await queue.counts()
    assert (counts[Lane.NOW].waiting, counts[Lane.NEW].waiting, counts[Lane.AGAIN].waiting) == (1, 11_999, 0)
    assert tag_of(await take(queue)) == "v3"
    assert [tag_of(await take(queue)) for _ in range(2)] == ["v11999", "v11998"]
    async with storage.transaction() as connection:
        await queue.put_all([], Lane.NEW, connection=connection)
        await queue.put_all([scan("v3")], Lane.NEW, connection=connection)
    assert (await queue.counts())[Lane.NEW].taken == 2


async def test_what_was_only_put_off_may_start_again_and_what_failed_waits(queue: TableQueue, clock: Clock) -> None:
    other = ScanRequest(registry="main-2", repository="a", tag="x", digest=sha256_digest(b"x"))
    for work in (other, scan("v1"), scan("v2"), scan("failed")):
        await queue.put(work, Lane.NEW)
    failed = await take(queue)
    await queue.retry(failed, START + timedelta(hours=2), "no route")
    assert await queue.postpone(await take(queue), START + timedelta(hours=1), "paused") == 1
    assert await queue.ripen("main") == 2
    assert {tag_of(await take(queue)) for _ in range(3)} == {"v1", "v2", "x"}
    assert await queue.take("w", ALL_LANES) is None
