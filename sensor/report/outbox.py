"""The durable outbox: results and answers to jobs that a control plane has not taken yet.

An entry is stored in the same transaction as the catalogue's advance (`put`), so a result is never known here and lost there. Its life:

    waiting ──begin──> sending ──stored──────────────> delivered            (a sweep's result)
       ^                 │  │                    └───> reporting ─> delivered  (a job's: the job's status follows the upload)
       └──── retry ──────┘  ├──nobody knows──> unknown ─> reporting ─> dead (a job's: closed without its findings, see docs/adr/0006)
                            └──refused───────> dead, for a job by way of reporting

What is kept: the answer to a job until it is given; the newest undelivered result of each image (an older one is superseded by it); refused
results, exported ones, and delivered ones without their body, for a while. `trim` bounds the rest by age and bytes. What to do next is
`deliver`'s decision; what an operator may do with entries is in `desk`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sensor.control_plane.wire import clean_text
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.report.entries import (
    WITHOUT_BODY,
    Entry,
    Kind,
    NewEntry,
    State,
    entry_of,
    outbox_table,
    put,
    same_image,
    unpacked,
)
from sensor.storage import Storage

__all__ = ["Entry", "Kind", "NewEntry", "Outbox", "State", "new_scan_id", "put"]

KEEP_DELIVERED = 7 * 86_400.0
"""Seconds for which a delivered entry stays visible, without its body."""
_LONGEST_ERROR = 2000
_DUE = (State.WAITING.value, State.UNKNOWN.value, State.REPORTING.value)


def new_scan_id() -> str:
    """A scan id for one standalone upload; never used for a second scan."""
    return str(uuid.uuid4())


class Outbox:
    """The entries of one state database. One process owns it; within that, one task a link."""

    def __init__(
        self, storage: Storage, *, limits: Limits = DEFAULT_LIMITS, new_id: Callable[[], str] = new_scan_id
    ) -> None:
        self._storage = storage
        self._limits = limits
        self._new_id = new_id

    async def recover(self, now: float, link: str | None = None) -> int:
        """Settle what was being sent when the process died; how many. To be called before anything is sent.

        The answer to a job becomes `unknown`. A sweep's result is sent again under a new id: what stopped this process may have
        stopped the control plane too, half-way through, and a refused old id (409) would then pass for a delivery.
        """
        table = outbox_table
        stuck = [table.c.state == State.SENDING.value, *([table.c.link == link] if link is not None else [])]
        async with self._storage.transaction() as connection:
            entries = [entry_of(row) for row in await connection.execute(select(*WITHOUT_BODY).where(*stuck))]
            for entry in entries:
                if entry.kind is Kind.JOB:
                    reason = "the sensor stopped while it uploaded this result"
                    await _set(connection, entry, now, _closing(reason))
                elif not await _is_superseded(connection, entry):
                    await _set(connection, entry, now, {"state": State.WAITING.value, "burnt": 1, "not_before": now})
        return len(entries)

    async def due(self, link: str, now: float) -> Entry | None:
        """The next entry of a link: answers to jobs first, then the oldest. One that must wait does not hold up the others."""
        table = outbox_table
        query = (
            select(*WITHOUT_BODY)
            .where(table.c.link == link, table.c.state.in_(_DUE), table.c.not_before <= now)
            .order_by(table.c.kind, table.c.id)
            .limit(1)
        )
        async with self._storage.reading() as connection:
            row = (await connection.execute(query)).first()
        return entry_of(row) if row is not None else None

    async def next_due(self, link: str) -> float | None:
        """When the next entry of a link may be tried; None without any."""
        table = outbox_table
        query = select(func.min(table.c.not_before)).where(table.c.link == link, table.c.state.in_(_DUE))
        async with self._storage.reading() as connection:
            found = (await connection.execute(query)).scalar_one()
        return None if found is None else float(found)

    async def body(self, entry: Entry) -> bytes:
        """The envelope of an entry, as it was put in.

        Raises:
            DataError: it is gone or damaged.
        """
        query = select(outbox_table.c.body).where(outbox_table.c.id == entry.id)
        async with self._storage.reading() as connection:
            packed = (await connection.execute(query)).scalar_one_or_none() or b""
        return unpacked(entry, packed)

    async def begin(self, entry: Entry, now: float) -> Entry:
        """An upload starts. A burnt id is replaced now, on disk, before anything is sent under the new one."""
        changes: dict[str, Any] = {"attempts": entry.attempts + 1}
        if entry.state is State.WAITING:
            changes["state"] = State.SENDING.value
        if entry.burnt and entry.kind is Kind.STANDALONE:
            changes |= {"scan_id": self._new_id(), "burnt": 0, "lost": 0}
        return await self._change(entry, now, changes)

    async def put_back(self, entry: Entry, now: float, error: str) -> None:
        """The upload never happened: the link is at fault, the entry keeps its place."""
        state = State.WAITING if entry.state is State.SENDING else entry.state
        await self._back(entry, now, {"state": state.value, "last_error": error})

    async def retry(
        self, entry: Entry, now: float, *, not_before: float, error: str, lost: bool = False, burnt: bool = False
    ) -> None:
        """Try again later; a strike for the entry. `lost` and `burnt` are remembered for its id."""
        state = State.WAITING if entry.state is State.SENDING else entry.state
        changes = {
            "state": state.value,
            "strikes": entry.strikes + 1,
            "not_before": not_before,
            "last_error": error,
            "lost": int(entry.lost or lost),
            "burnt": int(entry.burnt or burnt),
        }
        await self._back(entry, now, changes)

    async def close(self, entry: Entry, now: float, reason: str) -> None:
        """Nobody knows how much of a job's result was stored: never send it whole again (docs/adr/0006)."""
        await self._change(entry, now, {**_closing(reason), "not_before": now})

    async def uploaded(self, entry: Entry, now: float) -> Entry:
        """The upload is stored. A job's status is due next; anything else is delivered."""
        if entry.kind is Kind.JOB:
            return await self._change(
                entry, now, {"state": State.REPORTING.value, "strikes": 0, "not_before": now, "last_error": ""}
            )
        return await self.finish(entry, now)

    async def give_up(self, entry: Entry, now: float, reason: str) -> Entry:
        """The result will never be taken. It is kept with the reason; a job is told that it failed."""
        changes = {"last_error": reason, "settles_as": State.DEAD.value, "state": State.DEAD.value}
        if entry.kind is Kind.JOB and entry.state is not State.REPORTING:
            error = entry.job_error or reason
            changes |= {"state": State.REPORTING.value, "outcome": "failed", "job_error": error}
            return await self._change(entry, now, {**changes, "strikes": 0, "not_before": now})
        return await self._change(entry, now, changes)

    async def finish(self, entry: Entry, now: float, note: str = "") -> Entry:
        """Nothing is left to do. The body of a delivered entry is dropped."""
        changes: dict[str, Any] = {"state": entry.settles_as.value}
        if note:
            changes["last_error"] = note
        if entry.settles_as is State.DELIVERED:
            changes |= {"body": b"", "size": 0}
        return await self._change(entry, now, changes)

    async def trim(self, now: float) -> tuple[Entry, ...]:
        """Drop what is too old or too much; the undelivered results that went.

        By age: delivered entries after a week, refused and exported ones and results of sweeps after `outbox_seconds`. By bytes
        (`outbox_bytes`): refused ones first, then exported ones, then results of sweeps, oldest first. The answer to a job is never dropped
        before it is given.
        """
        table = outbox_table
        dead = table.c.state == State.DEAD.value
        exported = table.c.state == State.EXPORTED.value
        waiting = and_(table.c.state == State.WAITING.value, table.c.kind == Kind.STANDALONE.value)
        old = now - self._limits.outbox_seconds
        async with self._storage.transaction() as connection:
            await connection.execute(
                delete(table).where(table.c.state == State.DELIVERED.value, table.c.changed < now - KEEP_DELIVERED)
            )
            await connection.execute(delete(table).where(or_(dead, exported), table.c.changed < old))
            rows = await connection.execute(select(*WITHOUT_BODY).where(waiting, table.c.created < old))
            going = [entry_of(row) for row in rows]
            await connection.execute(delete(table).where(table.c.id.in_([entry.id for entry in going])))
            total = int((await connection.execute(select(func.coalesce(func.sum(table.c.size), 0)))).scalar_one())
            for condition in (dead, exported, waiting):
                if total <= self._limits.outbox_bytes:
                    break
                for row in (
                    await connection.execute(select(*WITHOUT_BODY).where(condition).order_by(table.c.id))
                ).all():
                    if total <= self._limits.outbox_bytes:
                        break
                    entry = entry_of(row)
                    await connection.execute(delete(table).where(table.c.id == entry.id))
                    total -= entry.size
                    going += [entry] if entry.state is State.WAITING else []
        return tuple(going)

    async def entries(self, link: str) -> tuple[Entry, ...]:
        """All entries of a link, oldest first."""
        query = select(*WITHOUT_BODY).where(outbox_table.c.link == link).order_by(outbox_table.c.id)
        async with self._storage.reading() as connection:
            return tuple(entry_of(row) for row in await connection.execute(query))

    async def _change(self, entry: Entry, now: float, changes: Mapping[str, Any]) -> Entry:
        async with self._storage.transaction() as connection:
            return await _set(connection, entry, now, changes)

    async def _back(self, entry: Entry, now: float, changes: Mapping[str, Any]) -> None:
        async with self._storage.transaction() as connection:
            if entry.kind is Kind.JOB or not await _is_superseded(connection, entry):
                await _set(connection, entry, now, changes)


async def _is_superseded(connection: AsyncConnection, entry: Entry) -> bool:
    """Drop an entry if a newer result of its image came while it was being sent: an old result must not arrive after a new one."""
    newer = (same_image(entry.link, entry.digest, entry.reference), outbox_table.c.id > entry.id)
    if (await connection.execute(select(outbox_table.c.id).where(*newer).limit(1))).first() is None:
        return False
    await connection.execute(delete(outbox_table).where(outbox_table.c.id == entry.id))
    return True


async def _set(connection: AsyncConnection, entry: Entry, now: float, changes: Mapping[str, Any]) -> Entry:
    values = {**changes, "changed": now}
    for name in ("last_error", "job_error"):
        if name in values:
            values[name] = clean_text(values[name])[:_LONGEST_ERROR]
    await connection.execute(update(outbox_table).where(outbox_table.c.id == entry.id).values(**values))
    query = select(*WITHOUT_BODY).where(outbox_table.c.id == entry.id)
    return entry_of((await connection.execute(query)).one())


def _closing(reason: str) -> dict[str, Any]:
    return {
        "state": State.UNKNOWN.value,
        "strikes": 0,
        "last_error": reason,
        "outcome": "failed",
        "job_error": f"upload outcome unknown: {reason}; the counts are right, but findings may be missing: start the scan again",
        "settles_as": State.DEAD.value,
    }
