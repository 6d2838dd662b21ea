"""The durable queue: what is to be done survives a crash, is done at least once, and waits only once under one key.

A taken item is leased, not removed: a worker that was killed loses its lease, and the item returns. Leaves the choice of lanes to `lanes`,
the doing to the pipeline, and the meaning of a failure (again, and when) to whoever did the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeAlias, assert_never

import msgspec
from sqlalchemy import Column, Float, Index, Integer, Table, Text, delete, func, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from sensor.errors import DataError
from sensor.model.request import JobRequest, Lane, RematchRequest, ScanRequest, SweepRequest, Work
from sensor.storage import METADATA, Storage

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
    Index("work_order", "lane", "not_before"),
)
"""Times are seconds since 1970 (UTC). `version` counts what was put under the key: see `done`."""

LEASE = timedelta(minutes=5)
"""How long an item stays with a silent worker. Workers extend it while they make progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One piece of work in the hands of one worker, until `taken_until`."""

    key: str
    work: Work
    lane: Lane
    attempts: int
    """Times it was taken, this one included."""
    created: datetime
    worker: str
    taken_until: datetime
    version: int
    error: str = ""
    """Why the last attempt failed."""


class WorkQueue(Protocol):
    """The port: at least once, deduplicated by key. Any engine that can do this may stand behind it."""

    async def put(
        self, work: Work, lane: Lane, *, not_before: datetime | None = None, connection: AsyncConnection | None = None
    ) -> bool:
        """Add work, in the caller's transaction if one is given. False: it was waiting already."""

    async def take(self, worker: str, lanes: Sequence[Lane]) -> Item | None:
        """Lease the most urgent item that may start now, or None."""

    async def extend(self, item: Item) -> bool:
        """Keep an item that takes long. False: the lease was lost, another worker may have it."""

    async def done(self, item: Item, *, connection: AsyncConnection | None = None) -> bool:
        """Remove a finished item. False: the lease was lost."""

    async def retry(
        self, item: Item, at: datetime, error: str, *, connection: AsyncConnection | None = None
    ) -> bool:
        """Give an item back, to be taken again at a time. False: the lease was lost."""


def key_of(work: Work) -> str:
    """What makes two requests the same: an image is judged by its digest, so its repository and tag do not count."""
    match work:
        case SweepRequest():
            return f"sweep {work.registry}"
        case ScanRequest():
            return f"scan {work.registry} {work.digest}"
        case JobRequest():
            return f"job {work.link} {work.job}"
        case RematchRequest():
            return f"rematch {work.revision}"
        case _:
            assert_never(work)


class TableQueue:
    """The queue as a table of the state database. Every method raises StateError when that cannot be used."""

    def __init__(self, storage: Storage, clock: Clock, *, lease: timedelta = LEASE) -> None:
        self._storage = storage
        self._clock = clock
        self._lease = lease

    async def put(
        self, work: Work, lane: Lane, *, not_before: datetime | None = None, connection: AsyncConnection | None = None
    ) -> bool:
        """Add work. The same key collapses: the more urgent lane and the earlier start win, and the newest payload.

        A sweep that is asked for while the same sweep runs is run once more afterwards, because the running one may have passed the
        place that changed. A digest or a job cannot change, so asking for it again while it runs adds nothing.

        Returns False when the key was there already.
        """
        now = self._clock().timestamp()
        start = now if not_before is None else not_before.timestamp()
        key = key_of(work)
        entry = insert(WORK).values(
            key=key,
            lane=int(lane),
            payload=msgspec.json.encode(work).decode(),
            created=now,
            not_before=start,
        )
        runs_again = int(isinstance(work, SweepRequest))
        entry_again = entry.on_conflict_do_update(
            index_elements=[WORK.c.key],
            set_={
                "lane": func.min(WORK.c.lane, entry.excluded.lane),
                "not_before": func.min(WORK.c.not_before, entry.excluded.not_before),
                "payload": entry.excluded.payload,
                "version": WORK.c.version + runs_again,
            },
        ).returning(WORK.c.created, WORK.c.version, WORK.c.attempts)
        if connection is not None:
            return await self._put(connection, key, entry_again)
        async with self._storage.transaction() as own:
            return await self._put(own, key, entry_again)

    async def take(self, worker: str, lanes: Sequence[Lane]) -> Item | None:
        """Lease the most urgent item whose time has come: by lane, then (new digests) newest first, then oldest first.

        A payload that this version cannot read is set aside with its reason and not offered again: a bad record must not stop the rest.
        """
        while True:
            now = self._clock()
            stamp, until = now.timestamp(), now + self._lease
            free = (
                select(WORK.c.key)
                .where(
                    WORK.c.lane.in_([int(lane) for lane in lanes]),
                    WORK.c.not_before <= stamp,
                    WORK.c.taken_until <= stamp,
                )
                .order_by(
                    WORK.c.lane,
                    # newest first among new digests only: what was asked for by hand is served in the order of asking
                    func.iif(WORK.c.lane == int(Lane.NEW), -WORK.c.number, WORK.c.number),
                )
                .limit(1)
            )
            async with self._storage.transaction() as connection:
                key = (await connection.execute(free)).scalar_one_or_none()
                if key is None:
                    return None
                row = (
                    await connection.execute(
                        update(WORK)
                        .where(WORK.c.key == key)
                        .values(taken_by=worker, taken_until=until.timestamp(), attempts=WORK.c.attempts + 1)
                        .returning(*WORK.c)
                    )
                ).one()
                try:
                    work = _payload(row.payload)
                except DataError as error:
                    await connection.execute(
                        update(WORK).where(WORK.c.key == key).values(taken_until=_NEVER, error=error.message)
                    )
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
            )
