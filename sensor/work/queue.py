"""The durable queue: what is to be done survives a crash, is done at least once, and waits only once under one key.

A taken item is leased, not removed: a worker that was killed loses its lease, and the item returns. Leaves the choice of lanes to `lanes`,
the doing to the pipeline, and the meaning of a failure (again, and when) to whoever did the work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TypeAlias, assert_never

import msgspec
from sqlalchemy import (
    Column,
    ColumnElement,
    Delete,
    Float,
    Index,
    Integer,
    Table,
    Text,
    Update,
    and_,
    cast,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import Insert, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from sensor.model.request import JobRequest, Lane, RematchRequest, ScanRequest, SweepRequest, Work
from sensor.storage import METADATA, Storage
from sensor.work.port import Item, LaneCounts

Clock: TypeAlias = Callable[[], datetime]

WORK = Table(
    "work",
    METADATA,
    Column("number", Integer, primary_key=True),  # order of arrival, for what came within one tick of the clock
    Column("key", Text, nullable=False, unique=True),
    Column("lane", Integer, nullable=False),
    Column("payload", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("not_before", Float, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("taken_by", Text, nullable=False, default=""),
    Column("taken_until", Float, nullable=False, default=0.0),
    Column("version", Integer, nullable=False, default=1),
    Column("error", Text, nullable=False, default=""),
    Column("crashes", Integer, nullable=False, default=0),  # times the process died while it held the item
    Index("work_order", "lane", "number"),
)
"""Times are seconds since 1970 (UTC). `version` counts what was put under the key: see `done`."""

LEASE = timedelta(minutes=5)
"""How long an item stays with a silent worker. Workers extend it while they make progress."""


def key_of(work: Work) -> str:
    """What makes two requests the same: an image is judged by its digest, so its repository and tag do not count."""
    match work:
        case SweepRequest():
            return f"sweep {work.registry}"
        case ScanRequest():
            return f"scan {work.registry} {work.digest}"
        case JobRequest():
            return job_key(work.link, work.job)
        case RematchRequest():
            return f"rematch {work.revision}"
        case _:
            assert_never(work)


def job_key(link: str, job: str) -> str:
    """The key of a link's job."""
    return f"job {link} {job}"


class TableQueue:
    """The queue as a table of the state database. Every method raises StateError when that cannot be used."""

    def __init__(self, storage: Storage, clock: Clock, *, lease: timedelta = LEASE) -> None:
        self._storage = storage
        self._clock = clock
        self._lease = lease
        self._woken = asyncio.Event()

    async def put(
        self, work: Work, lane: Lane, *, not_before: datetime | None = None, connection: AsyncConnection | None = None
    ) -> bool:
        """Add work. The same key collapses: the more urgent lane and the earlier start win, and the newest payload.

        A sweep that is asked for while the same sweep runs is run once more afterwards, because the running one may have passed the
        place that changed. A digest or a job cannot change, so asking for it again while it runs adds nothing.

        In a caller's transaction nobody is woken: call `wake` once it is committed. Returns False when the key was there already.
        """
        now = self._clock().timestamp()
        entry = insert(WORK).values(
            key=key_of(work),
            lane=int(lane),
            payload=_ENCODER.encode(work).decode(),
            created=now,
            not_before=now if not_before is None else not_before.timestamp(),
        )
        collapse = _collapsing(entry, again=int(isinstance(work, SweepRequest)))
        if connection is not None:
            return await _put(connection, key_of(work), collapse)
        async with self._storage.transaction() as own:
            is_new = await _put(own, key_of(work), collapse)
        self.wake()
        return is_new

    async def put_all(
        self,
        works: Iterable[ScanRequest],
        lane: Lane,
        *,
        not_before: datetime | None = None,
        connection: AsyncConnection,
    ) -> None:
        """Add many digests as `put` adds one, in the caller's transaction: a first look at a registry may bring a hundred thousand.

        New digests are taken from the last one on, so the newest belongs at the end.
        """
        now = self._clock().timestamp()
        rows = (
            {
                "key": key_of(work),
                "lane": int(lane),
                "payload": _ENCODER.encode(work).decode(),
                "created": now,
                "not_before": now if not_before is None else not_before.timestamp(),
            }
            for work in works
        )
        while batch := list(islice(rows, _PUT_AT_ONCE)):
            await connection.execute(_COLLAPSE, batch)

    async def take(self, worker: str, lanes: Sequence[Lane]) -> Item | None:
        """Lease the most urgent item whose time has come: by lane, new digests newest first, everything else in order of arrival.

        A payload that this version cannot read is set aside with its reason and not offered again: a bad record must not stop the rest.
        """
        while True:
            now = self._clock()
            async with self._storage.transaction() as connection:
                number = await _next(connection, now.timestamp(), lanes)
                if number is None:
                    return None
                until = now + self._lease
                lease = (
                    update(WORK)
                    .where(WORK.c.number == number)
                    .values(taken_by=worker, taken_until=until.timestamp(), attempts=WORK.c.attempts + 1)
                    .returning(*WORK.c)
                )
                row = (await connection.execute(lease)).one()
                try:
                    work = _DECODER.decode(row.payload)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    aside = {"taken_until": _NEVER, "taken_by": "", "error": f"unreadable: {error}"[:500]}
                    await connection.execute(update(WORK).where(WORK.c.number == number).values(aside))
                    continue
            return Item(
                key=row.key,
                work=work,
                lane=Lane(row.lane),
                attempts=row.attempts,
                created=datetime.fromtimestamp(row.created, UTC),
                worker=worker,
                taken_until=until,
                version=row.version,
                error=row.error,
                crashes=row.crashes,
            )

    async def extend(self, item: Item) -> bool:
        """Renew the lease of an item that takes long. False: another worker has taken it since."""
        until = (self._clock() + self._lease).timestamp()
        async with self._storage.transaction() as connection:
            return await _changed(connection, update(WORK).where(_held(item)).values(taken_until=until))

    async def done(self, item: Item, *, connection: AsyncConnection | None = None) -> bool:
        """Remove a finished item, or set it free when it was asked for again meanwhile. False: another worker has taken it since."""

        async def finish(connection: AsyncConnection) -> bool:
            same = WORK.c.version == item.version
            if await _changed(connection, delete(WORK).where(_held(item), same)):
                return True
            fresh = {**_FREE, "attempts": 0, "crashes": 0, "error": ""}
            return await _changed(connection, update(WORK).where(_held(item)).values(fresh))

        if connection is not None:
            return await finish(connection)
        async with self._storage.transaction() as own:
            held = await finish(own)
        self.wake()
        return held

    async def retry(self, item: Item, at: datetime, error: str, *, connection: AsyncConnection | None = None) -> bool:
        """Give a failed item back until `at`, with the reason. False: another worker has taken it since."""
        later = (
            update(WORK)
            .where(_held(item))
            .values({**_FREE, "not_before": at.timestamp(), "error": error[:500], "crashes": 0})
        )
        if connection is not None:
            return await _changed(connection, later)
        async with self._storage.transaction() as own:
            return await _changed(own, later)

    async def release(self, item: Item) -> bool:
        """Give an item back untouched, as if it had never been taken: when the sensor stops."""
        free = update(WORK).where(_held(item)).values({**_FREE, "attempts": WORK.c.attempts - 1})
        async with self._storage.transaction() as connection:
            return await _changed(connection, free)

    async def postpone(self, item: Item, until: datetime, reason: str) -> int:
        """Put off a new digest, as if it had never been taken, and with it all new digests of its registry; how many.

        Not a failure: the registry is held as a whole, and taking each of a hundred thousand in turn only to put it off would be a storm.
        """
        prefix = item.key.rpartition(" ")[0] + " "
        later = {**_FREE, "not_before": until.timestamp(), "error": reason[:500]}
        # asked for by hand or pushed again since it was taken: then it is no longer this hold's
        urgent = func.iif(WORK.c.lane < int(item.lane), WORK.c.not_before, until.timestamp())
        own = {**later, "not_before": urgent, "attempts": WORK.c.attempts - 1}
        others = (
            WORK.c.key > prefix,
            WORK.c.key < prefix[:-1] + chr(ord(" ") + 1),
            WORK.c.lane == int(Lane.NEW),
            WORK.c.taken_by == "",
            WORK.c.not_before < until.timestamp(),
        )
        async with self._storage.transaction() as connection:
            await connection.execute(update(WORK).where(_held(item)).values(own))
            return (await connection.execute(update(WORK).where(*others).values(later))).rowcount

    async def ripen(self, registry: str) -> int:
        """Let the new digests of a registry start now that were put off before they were ever tried; how many."""
        now = self._clock().timestamp()
        waiting = (_new_of(registry), WORK.c.taken_by == "", WORK.c.attempts == 0, WORK.c.not_before > now)
        async with self._storage.transaction() as connection:
            count = (await connection.execute(update(WORK).where(*waiting).values(not_before=now, error=""))).rowcount
        self.wake()
        return count

    async def withdraw(self, key: str, *, connection: AsyncConnection) -> Work | None:
        """Take out what nobody has taken, in the caller's transaction. None: it is not there, taken, or unreadable."""
        free = delete(WORK).where(WORK.c.key == key, WORK.c.taken_until <= self._clock().timestamp())
        payload = (await connection.execute(free.returning(WORK.c.payload))).scalar_one_or_none()
        return None if payload is None else _DECODER.decode(payload)

    async def is_taken(self, key: str) -> bool:
        """Whether a worker has it now."""
        now = self._clock().timestamp()
        query = select(WORK.c.number).where(WORK.c.key == key, WORK.c.taken_until > now, WORK.c.taken_until < _NEVER)
        async with self._storage.reading() as connection:
            return (await connection.execute(query)).first() is not None

    async def recover(self) -> int:
        """Free what a former process held when it died; how many items. Only for a process that has the state to itself."""
        freed = {**_FREE, "crashes": WORK.c.crashes + 1}
        held = update(WORK).where(WORK.c.taken_by != "", WORK.c.taken_until < _NEVER).values(freed)
        async with self._storage.transaction() as connection:
            return (await connection.execute(held)).rowcount

    async def counts(self) -> dict[Lane, LaneCounts]:
        """What waits in each lane. Every lane is present."""
        now = self._clock().timestamp()
        aside = WORK.c.taken_until == _NEVER
        taken = (WORK.c.taken_until > now) & ~aside
        later = (WORK.c.taken_until <= now) & (WORK.c.not_before > now)
        waiting = (WORK.c.taken_until <= now) & (WORK.c.not_before <= now)
        statement = select(
            WORK.c.lane,
            *(func.coalesce(func.sum(cast(state, Integer)), 0) for state in (waiting, later, taken, aside)),
            func.min(func.iif(waiting, WORK.c.created, None)),
        ).group_by(WORK.c.lane)
        async with self._storage.reading() as connection:
            rows = (await connection.execute(statement)).all()
        found = dict.fromkeys(Lane, LaneCounts())
        for lane, waits, delayed, held, unreadable, oldest in rows:
            found[Lane(lane)] = LaneCounts(
                waiting=waits,
                later=delayed,
                taken=held,
                unreadable=unreadable,
                oldest=None if oldest is None else datetime.fromtimestamp(oldest, UTC),
            )
        return found

    def wake(self) -> None:
        """Tell waiting workers of this process that there may be work."""
        self._woken.set()
        self._woken = asyncio.Event()

    def next_wake(self) -> asyncio.Event:
        """The next call of `wake`. Ask for it before looking for work, so that a call in between is not missed."""
        return self._woken

    async def wait(self, seconds: float, woken: asyncio.Event | None = None) -> None:
        """Return when `wake` is called, or after some seconds: leases expire, delays end and other processes put without a call."""
        try:
            async with asyncio.timeout(seconds):
                await (woken or self._woken).wait()
        except TimeoutError:
            pass


_NEVER = 1e18
"""The lease of what nobody may take."""
_PUT_AT_ONCE = 5000
"""Rows at a time, so that a large listing is not held in memory three times."""


def _collapsing(entry: Insert, *, again: int) -> Insert:
    """Insert, or merge into what waits under the key: the more urgent lane, the earlier start, the newest payload."""
    new = entry.excluded
    return entry.on_conflict_do_update(
        index_elements=[WORK.c.key],
        set_={
            "lane": func.min(WORK.c.lane, new.lane),
            "not_before": func.min(WORK.c.not_before, new.not_before),
            "payload": new.payload,
            "version": WORK.c.version + again,
            # a record that was set aside as unreadable has just been replaced
            "taken_until": func.iif(WORK.c.taken_until == _NEVER, 0.0, WORK.c.taken_until),
        },
    )


_COLLAPSE = _collapsing(insert(WORK), again=0)
_ENCODER = msgspec.json.Encoder()

_FREE = {"taken_by": "", "taken_until": 0.0}
_DECODER: msgspec.json.Decoder[Work] = msgspec.json.Decoder(Work)


async def _next(connection: AsyncConnection, now: float, lanes: Sequence[Lane]) -> int | None:
    # lane by lane, so that the index gives the order and the search ends at the first free item, however long the queue
    for lane in sorted(lanes):
        query = (
            select(WORK.c.number)
            .where(WORK.c.lane == int(lane), WORK.c.not_before <= now, WORK.c.taken_until <= now)
            .order_by(WORK.c.number.desc() if lane is Lane.NEW else WORK.c.number)
            .limit(1)
        )
        number: int | None = (await connection.execute(query)).scalar_one_or_none()
        if number is not None:
            return number
    return None


def _new_of(registry: str) -> ColumnElement[bool]:
    """The new digests of a registry, by the range of their keys."""
    prefix = f"scan {registry} "
    return and_(WORK.c.key > prefix, WORK.c.key < prefix[:-1] + chr(ord(" ") + 1), WORK.c.lane == int(Lane.NEW))


def _held(item: Item) -> ColumnElement[bool]:
    # `attempts` grows with every taking: together with the worker it names this one taking, even after the lease ran out
    return and_(WORK.c.key == item.key, WORK.c.taken_by == item.worker, WORK.c.attempts == item.attempts)


async def _put(connection: AsyncConnection, key: str, collapse: Insert) -> bool:
    known = (await connection.execute(select(WORK.c.number).where(WORK.c.key == key))).first()
    await connection.execute(collapse)
    return known is None


async def _changed(connection: AsyncConnection, statement: Update | Delete) -> bool:
    return (await connection.execute(statement)).rowcount == 1
