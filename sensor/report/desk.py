"""What an operator sees of the outbox, and may do with it: look, try again, take out for a parcel, put in from one.

Works beside a running sensor: entries that are being sent, or whose conversation has begun, are not touched. A link that left the configuration
keeps its entries, and they are shown. Delivery is `deliver`'s, the format of parcels is `parcel`'s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from datetime import UTC, datetime
from itertools import groupby

from sqlalchemy import Column, ColumnElement, Float, Index, String, Table, and_, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from sensor.model.delivery import OutboxPart
from sensor.report.entries import WITHOUT_BODY, Entry, Kind, NewEntry, State, entry_of, outbox_table, put
from sensor.storage import METADATA, Storage

IMPORTS = Table(
    "outbox_imports",
    METADATA,
    Column("scan_id", String, primary_key=True),
    Column("link", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("reference", String, nullable=False),
    Column("created", Float, nullable=False),
    Column("imported", Float, nullable=False),
    Index("imports_by_image", "link", "digest", "reference"),
)
"""What came in parcels, so that the same file, or an older one, changes nothing. `created`: when the result was made."""

KEEP_IMPORTS = 400 * 86_400.0
_OPEN = (State.WAITING.value, State.SENDING.value, State.UNKNOWN.value, State.REPORTING.value)


async def parts_of(storage: Storage) -> tuple[OutboxPart, ...]:
    """The outbox by links, those that left the configuration included.

    Raises:
        StateError: the state database cannot be used.
    """
    table = outbox_table
    query = select(
        table.c.link, table.c.state, func.count(), func.coalesce(func.sum(table.c.size), 0), func.min(table.c.created)
    ).group_by(table.c.link, table.c.state)
    async with storage.reading() as connection:
        rows = (await connection.execute(query.order_by(table.c.link))).all()
    parts = []
    for link, group in groupby(rows, key=lambda row: row[0]):
        found = list(group)
        oldest = min((row[4] for row in found if row[1] in _OPEN), default=None)
        parts.append(
            OutboxPart(
                link=link,
                counts={row[1]: int(row[2]) for row in found},
                bytes=sum(int(row[3]) for row in found),
                oldest=None if oldest is None else datetime.fromtimestamp(oldest, UTC),
            )
        )
    return tuple(parts)


async def entries_of(
    storage: Storage, *, link: str = "", states: Collection[State] = (), most: int = 1000
) -> tuple[Entry, ...]:
    """Entries, oldest first; with `link` of that link only, with `states` in these only.

    Raises:
        StateError: the state database cannot be used.
    """
    table = outbox_table
    conditions: list[ColumnElement[bool]] = []
    if link:
        conditions.append(table.c.link == link)
    if states:
        conditions.append(table.c.state.in_([state.value for state in states]))
    query = select(*WITHOUT_BODY).where(*conditions).order_by(table.c.id).limit(most)
    async with storage.reading() as connection:
        return tuple(entry_of(row) for row in await connection.execute(query))


async def try_again(storage: Storage, now: float, ids: Collection[int] = ()) -> tuple[int, ...]:
    """Try entries again now (all refused and waiting ones, without ids) after somebody removed the cause; which ones.

    A refused result goes out under a new id. A refused answer to a job goes out as a result of its own: its job has been reported failed, and
    a second upload for it would double what was stored. An exported entry is taken back as it was, only by its id; if its parcel was
    delivered after all, the control plane knows the id. What waits for its next try is due at once.
    """
    table = outbox_table
    chosen = [table.c.id.in_(ids)] if ids else []
    present = {"state": State.WAITING.value, "strikes": 0, "not_before": now, "changed": now}
    afresh = {**present, "kind": Kind.STANDALONE.value, "settles_as": State.DELIVERED.value, "lost": 0, "burnt": 1}
    dead = and_(table.c.state == State.DEAD.value, table.c.size > 0)
    later = and_(table.c.state.in_(_OPEN), table.c.state != State.SENDING.value, table.c.not_before > now)
    updates = [
        update(table).where(dead, *chosen).values(afresh),
        update(table).where(later, *chosen).values(not_before=now),
    ]
    if ids:
        updates.append(
            update(table).where(table.c.state == State.EXPORTED.value, *chosen).values({**present, "lost": 1})
        )
    async with storage.transaction() as connection:
        found = [(await connection.execute(one.returning(table.c.id))).scalars().all() for one in updates]
    return tuple(sorted(number for numbers in found for number in numbers))


async def packed_bodies(
    connection: AsyncConnection, *, link: str = "", states: Collection[State], with_jobs: bool = False
) -> AsyncIterator[tuple[Entry, bytes]]:
    """What a parcel takes along, with the stored form of its envelopes: results in these states, and answers to jobs if asked for."""
    table = outbox_table
    conditions = [table.c.state.in_([state.value for state in states]), table.c.size > 0]
    conditions += [table.c.link == link] if link else []
    conditions += [] if with_jobs else [table.c.kind == Kind.STANDALONE.value]
    numbers = (await connection.execute(select(table.c.id).where(*conditions).order_by(table.c.id))).scalars().all()
    for number in numbers:
        # one body in memory at a time
        row = (await connection.execute(select(*WITHOUT_BODY).where(table.c.id == number))).one()
        body = (await connection.execute(select(table.c.body).where(table.c.id == number))).scalar_one()
        yield entry_of(row), body


async def mark_exported(connection: AsyncConnection, ids: Collection[int], now: float) -> None:
    """In the caller's transaction: these are in a parcel now, and are not sent from here."""
    state = update(outbox_table).where(outbox_table.c.id.in_(ids))
    await connection.execute(state.values(state=State.EXPORTED.value, changed=now))


async def put_imported(connection: AsyncConnection, new: NewEntry, *, created: float, now: float) -> str:
    """Put in an entry of a parcel, in the caller's transaction; empty, or why it was left out: it is known, or something newer is."""
    known = select(IMPORTS.c.scan_id).where(IMPORTS.c.scan_id == new.scan_id)
    present = select(outbox_table.c.id).where(outbox_table.c.scan_id == new.scan_id, outbox_table.c.link == new.link)
    for query in (known, present):
        if (await connection.execute(query.limit(1))).first() is not None:
            return "known already"
    values = {"link": new.link, "digest": new.digest, "reference": new.reference, "created": created, "imported": now}
    if new.kind is Kind.STANDALONE:
        newer = select(IMPORTS.c.scan_id).where(
            IMPORTS.c.link == new.link,
            IMPORTS.c.digest == new.digest,
            IMPORTS.c.reference == new.reference,
            IMPORTS.c.created > created,
        )
        if (await connection.execute(newer.limit(1))).first() is not None:
            return "a newer result of the image came before"
    await connection.execute(delete(IMPORTS).where(IMPORTS.c.imported < now - KEEP_IMPORTS))
    await connection.execute(IMPORTS.insert().values(scan_id=new.scan_id, **values))
    await put(connection, new, now=now)
    return ""
