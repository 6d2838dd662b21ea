"""Entries of the outbox: their table, their values, and how one is put in. Their life is `outbox`'s business."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import Column, ColumnElement, Float, Index, Integer, LargeBinary, Row, String, Table, and_, delete
from sqlalchemy.ext.asyncio import AsyncConnection

from sensor.control_plane.wire import JobOutcome, clean_text
from sensor.errors import DataError
from sensor.storage import METADATA

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


_MOST_INFLATED = 64 * 2**20


class Kind(StrEnum):
    """A result of a sweep (an id of its own), or the answer to a job (the job's id)."""

    STANDALONE = "standalone"
    JOB = "job"


class State(StrEnum):
    """Where an entry stands; see the module's picture."""

    WAITING = "waiting"
    SENDING = "sending"
    UNKNOWN = "unknown"
    REPORTING = "reporting"
    DELIVERED = "delivered"
    DEAD = "dead"
    EXPORTED = "exported"
    """In a file that somebody carries to a connected machine: not sent from here."""


outbox_table = Table(
    "outbox",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("link", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("scan_id", String, nullable=False),
    Column("reference", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("strikes", Integer, nullable=False, default=0),
    Column("lost", Integer, nullable=False, default=0),
    Column("burnt", Integer, nullable=False, default=0),
    Column("not_before", Float, nullable=False),
    Column("last_error", String, nullable=False, default=""),
    Column("outcome", String, nullable=False),
    Column("job_error", String, nullable=False),
    Column("settles_as", String, nullable=False, default=State.DELIVERED.value),
    Column("created", Float, nullable=False),
    Column("changed", Float, nullable=False),
    Column("size", Integer, nullable=False),
    Column("checksum", String, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("outbox_by_link", "link", "state", "not_before"),
    Index("outbox_by_image", "link", "digest", "reference"),
    sqlite_autoincrement=True,
)
WITHOUT_BODY = tuple(column for column in outbox_table.c if column.name != "body")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEntry:
    """What is to be delivered. For a job `scan_id` is the job's id, and `outcome` and `error` become its status after the upload.

    An empty body (a job that was no scan) means that only the status is sent.
    """

    link: str
    kind: Kind
    scan_id: str
    reference: str
    digest: str = ""
    body: bytes = b""
    outcome: JobOutcome = "completed"
    error: str = ""
    lost: bool = False
    burnt: bool = False
    """What is known of former uploads under this id, elsewhere; see `Entry`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A stored entry without its body. Times are seconds since the epoch.

    `lost`: an upload under the present `scan_id` was never answered. `burnt`: that id may hold half a result, a new one is needed.
    `strikes` count failures that are this entry's own, not its link's. `settles_as` is the state after the job's status was given.
    """

    id: int
    link: str
    kind: Kind
    scan_id: str
    reference: str
    digest: str
    state: State
    attempts: int
    strikes: int
    lost: bool
    burnt: bool
    not_before: float
    last_error: str
    outcome: JobOutcome
    job_error: str
    settles_as: State
    created: float
    changed: float
    size: int
    checksum: str


async def put(connection: AsyncConnection, new: NewEntry, *, now: float) -> int:
    """Store an entry inside the caller's transaction, and drop older results of the same image that were not delivered; its number."""
    if new.kind is Kind.STANDALONE:
        await connection.execute(
            delete(outbox_table).where(
                same_image(new.link, new.digest, new.reference),
                outbox_table.c.state.in_((State.WAITING.value, State.DEAD.value, State.EXPORTED.value)),
            )
        )
    packed = zstd.compress(new.body, level=3) if new.body else b""
    result = await connection.execute(
        outbox_table.insert().values(
            link=new.link,
            kind=new.kind.value,
            scan_id=new.scan_id,
            reference=clean_text(new.reference),
            digest=new.digest,
            state=(State.WAITING if new.body else State.REPORTING).value,
            lost=int(new.lost),
            burnt=int(new.burnt),
            not_before=now,
            outcome=new.outcome,
            job_error=clean_text(new.error),
            created=now,
            changed=now,
            size=len(packed),
            checksum=hashlib.sha256(packed).hexdigest(),
            body=packed,
        )
    )
    key = result.inserted_primary_key
    return int(key[0]) if key is not None else 0


def unpacked(entry: Entry, packed: bytes) -> bytes:
    """The envelope from its stored form.

    Raises:
        DataError: it is gone or damaged.
    """
    if not packed or hashlib.sha256(packed).hexdigest() != entry.checksum:
        message = f"the stored result of {entry.reference} is damaged"
        raise DataError(message, "scan the image again")
    return inflated(packed)


def inflated(packed: bytes, most: int = _MOST_INFLATED) -> bytes:
    """The bytes behind stored ones.

    Raises:
        DataError: not our compression, or more than an envelope can be.
    """
    try:
        body = zstd.ZstdDecompressor().decompress(packed, max_length=most + 1)
    except zstd.ZstdError as error:
        raise DataError("a stored result cannot be unpacked") from error
    if len(body) > most:
        raise DataError("a stored result is larger than any envelope")
    return bytes(body)


def same_image(link: str, digest: str, reference: str) -> ColumnElement[bool]:
    """Condition: results of sweeps of one image."""
    table = outbox_table
    return and_(
        table.c.kind == Kind.STANDALONE.value,
        table.c.link == link,
        table.c.digest == digest,
        table.c.reference == clean_text(reference),
    )


def entry_of(row: Row[Any]) -> Entry:
    """The entry of a row without body."""
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for a row as a mapping
    values |= {
        "kind": Kind(values["kind"]),
        "state": State(values["state"]),
        "settles_as": State(values["settles_as"]),
        "lost": bool(values["lost"]),
        "burnt": bool(values["burnt"]),
    }
    return Entry(**values)
