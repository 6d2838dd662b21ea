"""What the last look at a registry kept: repositories with their tags, in one order, as a control plane is told. Pages and fingerprint are pure.

When a registry was looked at last, and what went wrong then, is a row of its own, written in the sweep's transaction: whoever tells others
about the catalogue can go on after a crash without having seen the sweep.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby

from sqlalchemy import Column, Float, Integer, Table, Text, delete, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from sensor.catalog.diff import TagState
from sensor.catalog.snapshots import TAGS
from sensor.storage import METADATA, Storage

SWEEPS = Table(
    "sweeps",
    METADATA,
    Column("registry", Text, primary_key=True),
    Column("at", Float, nullable=False),
    Column("complete", Integer, nullable=False),
    Column("error", Text, nullable=False, default=""),
)
"""The last sweep of each registry."""

_KEPT = (TagState.SELECTED.value, TagState.FAILED.value)
"""A tag whose look-up failed is there all the same."""
_LONGEST_ERROR = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """One repository, or on the border of two pages a part of one."""

    name: str
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """What the filters kept of one registry. `error`: why the look was not complete; the rest is from earlier ones."""

    registry: str
    at: datetime
    repositories: tuple[Repository, ...]
    error: str = ""

    @property
    def fingerprint(self) -> str:
        """The same for the same names and the same error, whenever they were seen."""
        digest = hashlib.sha256(self.error.encode())
        for repository in self.repositories:
            digest.update(f"\0\0{repository.name}".encode())
            for tag in repository.tags:
                digest.update(f"\0{tag}".encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Sweep:
    """One look at a registry."""

    at: datetime
    complete: bool
    error: str


async def note_sweep(connection: AsyncConnection, registry: str, at: datetime, *, complete: bool, error: str) -> None:
    """Remember in the caller's transaction when a registry was looked at."""
    values = {"at": at.timestamp(), "complete": int(complete), "error": error[:_LONGEST_ERROR]}
    statement = insert(SWEEPS).values(registry=registry, **values)
    await connection.execute(statement.on_conflict_do_update(index_elements=["registry"], set_=values))


async def last_sweep(storage: Storage, registry: str) -> Sweep | None:
    """The last look at a registry; None before the first.

    Raises:
        StateError: the state database cannot be used.
    """
    async with storage.reading() as connection:
        row = (await connection.execute(select(SWEEPS).where(SWEEPS.c.registry == registry))).one_or_none()
    return None if row is None else Sweep(datetime.fromtimestamp(row.at, UTC), bool(row.complete), row.error)


async def keep_only(connection: AsyncConnection, registries: Collection[str]) -> None:
    """Forget all registries but these. Their tags go at the same time: a look without tags would pass for an empty registry."""
    await connection.execute(delete(SWEEPS).where(SWEEPS.c.registry.not_in(registries)))


async def listing_of(storage: Storage, registry: str) -> Listing | None:
    """What the last sweep of a registry kept; None before the first.

    Raises:
        StateError: the state database cannot be used.
    """
    kept = (
        select(TAGS.c.repository, TAGS.c.tag)
        .where(TAGS.c.registry == registry, TAGS.c.state.in_(_KEPT))
        .order_by(TAGS.c.repository, TAGS.c.tag)
    )
    async with storage.reading() as connection:
        sweep = (await connection.execute(select(SWEEPS).where(SWEEPS.c.registry == registry))).one_or_none()
        if sweep is None:
            return None
        rows = (await connection.execute(kept)).all()
    return Listing(
        registry=registry,
        at=datetime.fromtimestamp(sweep.at, UTC),
        repositories=tuple(
            Repository(name=name, tags=tuple(tag for _, tag in group))
            for name, group in groupby(rows, key=lambda row: row[0])
        ),
        error=sweep.error,
    )


def pages_of(repositories: Iterable[Repository], most_bytes: int) -> Iterator[tuple[Repository, ...]]:
    """The repositories in pages of about so many bytes; at least one page, which may be empty. A large repository goes on in the next page."""
    page: list[Repository] = []
    left = most_bytes
    for repository in repositories:
        tags: list[str] = []
        left -= _cost(repository.name)
        for tag in repository.tags:
            if (cost := _cost(tag)) > left and (tags or page):
                yield (*page, *_part(repository.name, tags))
                page, tags, left = [], [], most_bytes - _cost(repository.name)
            tags.append(tag)
            left -= cost
        page += _part(repository.name, tags)
    yield tuple(page)


def _part(name: str, tags: list[str]) -> list[Repository]:
    return [Repository(name=name, tags=tuple(tags))] if tags else []


def _cost(text: str) -> int:
    # quotes, a comma; what JSON escapes is not in names of repositories and tags
    return len(text.encode()) + 3
