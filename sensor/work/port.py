"""What the rest of the sensor asks of a queue of work. `queue` keeps it in a table; another engine may stand in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from sensor.model.request import Lane, Work


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
    crashes: int = 0
    """Times in a row that the process died while it held the item."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneCounts:
    """How many items of a lane could start, wait for their time, are being done, or were set aside as unreadable."""

    waiting: int = 0
    later: int = 0
    taken: int = 0
    unreadable: int = 0
    oldest: datetime | None = None
    """Arrival of the oldest that could start: the queue's age."""


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

    async def retry(self, item: Item, at: datetime, error: str, *, connection: AsyncConnection | None = None) -> bool:
        """Give an item back, to be taken again at a time. False: the lease was lost."""
