"""The stored catalogue: which tags there are, which digest each points to, and where each digest stands. Owner of the ledger.

The unit of the ledger is the listed tag: whatever is listed ends as scanned, skipped, failed, queued or gone, and the five add up to
`listed`. Everything is written inside the caller's transaction, so that new digests and the work for them appear together or not at all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

from sqlalchemy import (
    Column,
    Float,
    Index,
    Integer,
    Row,
    Table,
    Text,
    and_,
    case,
    delete,
    exists,
    func,
    select,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from sensor.catalog.diff import Diff, DigestState, Kind, KnownTag, RepositoryState, Snapshot, TagChange, TagState
from sensor.catalog.keep import version_key
from sensor.model.digest import Digest
from sensor.model.manifest import ArtifactClass
from sensor.model.request import ScanRequest
from sensor.storage import METADATA, Storage

REPOSITORIES = Table(
    "repositories",
    METADATA,
    Column("registry", Text, primary_key=True),
    Column("repository", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("changed_at", Float, nullable=False),
)
TAGS = Table(
    "tags",
    METADATA,
    Column("registry", Text, primary_key=True),
    Column("repository", Text, primary_key=True),
    Column("tag", Text, primary_key=True),
    Column("digest", Text),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("missing", Integer, nullable=False, default=0),
    Column("first_seen", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    Index("tags_digest", "registry", "digest"),
)
DIGESTS = Table(
    "digests",
    METADATA,
    Column("registry", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    Column("media_type", Text, nullable=False, default=""),
    Column("artifact_class", Text, nullable=False, default=""),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, default=""),
    Column("next_try", Float),
    Column("first_seen", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    Column("scanned_at", Float),
    Index("digests_state", "registry", "state"),
)
"""Times are seconds since 1970 (UTC). Rows are written only when something about them changes."""

LEDGER_COLUMNS = tuple(DigestState)
_AT_ONCE = 1000
"""Digests of one query; SQLite takes at most 32 766 bound values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One tag that points to a digest."""

    repository: str
    tag: str
    digest: Digest

    def request(self, registry: str) -> ScanRequest:
        """The work of scanning what is there."""
        return ScanRequest(registry=registry, repository=self.repository, tag=self.tag, digest=self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """What an advance of the catalogue asks for: digests to scan, and digests whose last tag went.

    The digests are in the order of their pushes, the newest last; those whose push nobody told come first, in the order of their versions.
    """

    queued: tuple[Place, ...] = ()
    gone: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where one digest stands."""

    digest: Digest
    state: DigestState
    reason: str = ""
    next_try: datetime | None = None
    artifact_class: ArtifactClass | None = None
    scanned_at: datetime | None = None


class Snapshots:
    """The catalogue's tables. Methods that write take the caller's connection; all raise StateError when the database fails."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def known(self, registry: str) -> Snapshot:
        """The stored catalogue of a registry, for `diff_catalogue`. Tags that are gone are included until they are pruned."""
        tags: dict[str, dict[str, KnownTag]] = {}
        columns = (TAGS.c.repository, TAGS.c.tag, TAGS.c.state, TAGS.c.digest, TAGS.c.reason, TAGS.c.missing)
        answers = select(REPOSITORIES.c.repository, REPOSITORIES.c.state).where(REPOSITORIES.c.registry == registry)
        reasons: dict[str, str] = {}  # a few, which hundreds of thousands of tags share
        async with self._storage.reading() as connection:
            # a part at a time: all of them at once would be held twice
            result = await connection.stream(select(*columns).where(TAGS.c.registry == registry))
            async for rows in result.partitions(_AT_ONCE):
                for repository, tag, state, digest, reason, missing in rows:
                    tags.setdefault(repository, {})[tag] = KnownTag(
                        state=TagState(state),
                        digest=digest,
                        reason=reasons.setdefault(reason, reason),
                        missing=missing,
                    )
            repositories = {name: RepositoryState(state) for name, state in await connection.execute(answers)}
        return Snapshot(tags=tags, repositories=repositories)

    async def advance(self, connection: AsyncConnection, diff: Diff, now: datetime) -> Advance:
        """Write what a crawl changed. A digest that is new, or back after it was gone, becomes queued: put the work in the same transaction."""
        stamp = now.timestamp()
        answers: Iterator[dict[str, object]] = (
            {
                "registry": diff.registry,
                "repository": change.repository,
                "state": change.state.value,
                "reason": change.reason,
                "changed_at": stamp,
            }
            for change in diff.repositories
        )
        await _write(connection, REPOSITORIES, answers)
        tags = (_tag_row(diff.registry, change, stamp) for change in diff.changes)
        await _write(connection, TAGS, tags, kept=("first_seen",))
        return Advance(
            queued=await _queue(connection, diff, stamp),
            gone=await _let_go(connection, diff, stamp),
        )

    async def mark(self, connection: AsyncConnection, registry: str, standing: Standing, now: datetime) -> bool:
        """Say where a digest stands now. False, and nothing written, when the catalogue does not hold it: a job may ask for any image.

        When it is GONE its tags go with it, so that a listing that still has them makes them new, and the digest is tried again.
        """
        values: dict[str, object] = {
            "state": standing.state.value,
            "reason": standing.reason,
            "next_try": None if standing.next_try is None else standing.next_try.timestamp(),
            "changed_at": now.timestamp(),
        }
        if standing.state is DigestState.SCANNED:
            values["scanned_at"] = now.timestamp()
        if standing.artifact_class is not None:
            values["artifact_class"] = standing.artifact_class.value
        statement = update(DIGESTS).where(
            DIGESTS.c.registry == registry,
            DIGESTS.c.digest == standing.digest,
            # a scan that ends after its last tag went must not bring the digest back
            DIGESTS.c.state != DigestState.GONE.value,
        )
        if (await connection.execute(statement.values(values))).rowcount != 1:
            return False
        if standing.state is DigestState.GONE:
            tags = update(TAGS).where(
                TAGS.c.registry == registry, TAGS.c.digest == standing.digest, TAGS.c.state.in_(_HOLDING)
            )
            gone = {"state": TagState.GONE.value, "reason": standing.reason, "changed_at": now.timestamp()}
            await connection.execute(tags.values(gone))
        return True

    async def standing(self, registry: str, digest: Digest) -> Standing | None:
        """Where a digest stands, or None when the catalogue does not hold it."""
        statement = select(DIGESTS).where(DIGESTS.c.registry == registry, DIGESTS.c.digest == digest)
        async with self._storage.reading() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else _standing(row)

    async def standings(self, registry: str, state: DigestState, *, most: int = 1000) -> tuple[Standing, ...]:
        """The digests of one state, the latest change first: what failed and why, what was skipped."""
        statement = (
            select(DIGESTS)
            .where(DIGESTS.c.registry == registry, DIGESTS.c.state == state.value)
            .order_by(DIGESTS.c.changed_at.desc(), DIGESTS.c.digest)
            .limit(most)
        )
        async with self._storage.reading() as connection:
            return tuple(_standing(row) for row in await connection.execute(statement))

    async def queued(self, registry: str) -> tuple[Place, ...]:
        """One place of every queued digest, so that a start can put again what the work queue may have lost."""
        statement = (
            select(func.min(TAGS.c.repository), func.min(TAGS.c.tag), TAGS.c.digest)
            .join(DIGESTS, and_(TAGS.c.registry == DIGESTS.c.registry, TAGS.c.digest == DIGESTS.c.digest))
            .where(
                TAGS.c.registry == registry,
                TAGS.c.state == TagState.SELECTED.value,
                DIGESTS.c.state == DigestState.QUEUED.value,
            )
            .group_by(TAGS.c.digest, TAGS.c.repository)
        )
        async with self._storage.reading() as connection:
            rows = (await connection.execute(statement)).all()
        places = {digest: Place(repository=name, tag=tag, digest=digest) for name, tag, digest in rows}
        return tuple(places.values())

    async def places(self, registry: str, digest: Digest) -> tuple[Place, ...]:
        """All tags that point to a digest: one scan serves them all, and while one is left the result stays."""
        statement = (
            select(TAGS.c.repository, TAGS.c.tag)
            .where(TAGS.c.registry == registry, TAGS.c.digest == digest, TAGS.c.state.in_(_HOLDING))
            .order_by(TAGS.c.repository, TAGS.c.tag)
        )
        async with self._storage.reading() as connection:
            rows = (await connection.execute(statement)).all()
        return tuple(Place(repository=repository, tag=tag, digest=digest) for repository, tag in rows)

    async def ledger(self, registry: str) -> dict[str, int]:
        """Listed tags by where they ended: listed = scanned + skipped + failed + queued + gone. `listed` is counted for itself."""
        state = case((TAGS.c.state == TagState.SELECTED.value, DIGESTS.c.state), else_=TAGS.c.state)
        statement = (
            select(state, func.count())
            .select_from(
                TAGS.outerjoin(DIGESTS, and_(TAGS.c.registry == DIGESTS.c.registry, TAGS.c.digest == DIGESTS.c.digest))
            )
            .where(TAGS.c.registry == registry)
            .group_by(state)
        )
        listed = select(func.count()).select_from(TAGS).where(TAGS.c.registry == registry)
        async with self._storage.reading() as connection:
            ledger = {"listed": int((await connection.execute(listed)).scalar_one())}
            rows = (await connection.execute(statement)).all()
        counted = {DigestState(name): count for name, count in rows}
        return ledger | {column.value: counted.get(column, 0) for column in LEDGER_COLUMNS}

    async def prune(self, connection: AsyncConnection, before: datetime) -> int:
        """Forget tags and digests that have been gone since before a time, and repositories without tags. Gives the rows removed."""
        stamp = before.timestamp()
        removed = 0
        for table, gone in ((TAGS, TagState.GONE), (DIGESTS, DigestState.GONE)):
            statement = delete(table).where(table.c.state == gone.value, table.c.changed_at < stamp)
            removed += (await connection.execute(statement)).rowcount
        empty = delete(REPOSITORIES).where(
            REPOSITORIES.c.state == RepositoryState.MISSING.value,
            REPOSITORIES.c.changed_at < stamp,
            ~exists().where(TAGS.c.registry == REPOSITORIES.c.registry, TAGS.c.repository == REPOSITORIES.c.repository),
        )
        return removed + (await connection.execute(empty)).rowcount

    async def keep_only(self, connection: AsyncConnection, registries: Collection[str]) -> int:
        """Forget all registries but these: the others left the configuration. Gives the tags removed."""
        for table in (REPOSITORIES, DIGESTS):
            await connection.execute(delete(table).where(table.c.registry.not_in(registries)))
        return (await connection.execute(delete(TAGS).where(TAGS.c.registry.not_in(registries)))).rowcount

    async def digests(self) -> frozenset[Digest]:
        """Every digest of every registry that is not gone: what results and inventories are kept for."""
        statement = select(DIGESTS.c.digest).where(DIGESTS.c.state != DigestState.GONE.value).distinct()
        async with self._storage.reading() as connection:
            return frozenset((await connection.execute(statement)).scalars())


_POINTING = frozenset({Kind.ADDED, Kind.MOVED, Kind.SEEN})
_HOLDING = (TagState.SELECTED.value, TagState.FAILED.value)
"""Tags in these states hold their digest in the catalogue."""


async def _write(
    connection: AsyncConnection, table: Table, rows: Iterable[dict[str, object]], *, kept: tuple[str, ...] = ()
) -> None:
    """Insert rows; where the key is there already, replace everything but the columns to be kept. Holds few rows at a time."""
    source = iter(rows)
    keys = [column.name for column in table.primary_key]
    statement = insert(table)
    while batch := list(islice(source, _AT_ONCE)):
        replaced = {name: statement.excluded[name] for name in batch[0] if name not in keys and name not in kept}
        await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=replaced), batch)


def _tag_row(registry: str, change: TagChange, stamp: float) -> dict[str, object]:
    return {
        "registry": registry,
        "repository": change.repository,
        "tag": change.tag,
        "digest": change.digest,
        "state": change.state.value,
        "reason": change.reason,
        "missing": change.missing,
        "first_seen": stamp,
        "changed_at": stamp,
    }


async def _queue(connection: AsyncConnection, diff: Diff, stamp: float) -> tuple[Place, ...]:
    """Note the digests that tags point to; those that were unknown or gone are queued."""
    first: dict[Digest, TagChange] = {}
    for change in diff.changes:
        if change.kind in _POINTING and change.digest is not None:
            first.setdefault(change.digest, change)
    digests = list(first)
    for start in range(0, len(digests), _AT_ONCE):
        wanted = digests[start : start + _AT_ONCE]
        known = select(DIGESTS.c.digest).where(
            DIGESTS.c.registry == diff.registry,
            DIGESTS.c.digest.in_(wanted),
            DIGESTS.c.state != DigestState.GONE.value,
        )
        for digest in (await connection.execute(known)).scalars():
            del first[digest]
    rows: Iterator[dict[str, object]] = (
        {
            "registry": diff.registry,
            "digest": digest,
            "media_type": change.media_type,
            "state": DigestState.QUEUED.value,
            "reason": "",
            "first_seen": stamp,
            "changed_at": stamp,
        }
        for digest, change in first.items()
    )
    await _write(connection, DIGESTS, rows, kept=("first_seen",))
    places = sorted(first.items(), key=lambda one: _newness(one[1]))
    return tuple(Place(repository=change.repository, tag=change.tag, digest=digest) for digest, change in places)


def _newness(change: TagChange) -> tuple[float, tuple[int, object]]:
    """The later, the newer: by the push where the registry tells it, else by the version in the tag."""
    if change.pushed is not None:
        return change.pushed, (0, ())
    return 0.0, version_key(change.tag)


async def _let_go(connection: AsyncConnection, diff: Diff, stamp: float) -> tuple[Digest, ...]:
    """Digests that no tag holds any more are gone."""
    if not diff.of(Kind.MOVED, Kind.REMOVED, Kind.SKIPPED):
        return ()
    held = exists().where(
        TAGS.c.registry == DIGESTS.c.registry, TAGS.c.digest == DIGESTS.c.digest, TAGS.c.state.in_(_HOLDING)
    )
    statement = (
        update(DIGESTS)
        .where(DIGESTS.c.registry == diff.registry, DIGESTS.c.state != DigestState.GONE.value, ~held)
        .values(state=DigestState.GONE.value, reason="no tag points to it any more", next_try=None, changed_at=stamp)
        .returning(DIGESTS.c.digest)
    )
    return tuple(sorted((await connection.execute(statement)).scalars()))


def _standing(row: Row[tuple[object, ...]]) -> Standing:
    return Standing(
        digest=row.digest,
        state=DigestState(row.state),
        reason=row.reason,
        next_try=None if row.next_try is None else datetime.fromtimestamp(row.next_try, UTC),
        artifact_class=ArtifactClass(row.artifact_class) if row.artifact_class else None,
        scanned_at=None if row.scanned_at is None else datetime.fromtimestamp(row.scanned_at, UTC),
    )
