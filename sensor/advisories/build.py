"""Archives of advisories to one database file: read, parse, keep the newest copy of each record, close over aliases, sort, swap.

All or nothing: the new file takes the old one's place only when every archive was read to its end, so a broken archive, a full disk or a kill in the
middle leaves the old database as it was. Records are streamed through a staging file; memory holds one batch of them. Finding archives is
`advisories.update`'s business, the meaning of a record that of `advisories.feeds`.
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from sensor.advisories import database
from sensor.advisories.aliases import VulnerabilityNames
from sensor.advisories.archive import Archive, File, broken, opened, sources_of
from sensor.advisories.feeds import FEEDS
from sensor.advisories.feeds.feed import Dropped, Record
from sensor.errors import AdvisoryError, DataError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.storage import swap_file

_BATCH: Final = 1000
_EXAMPLES: Final = 5
_STAGING_SCHEMA: Final = """
CREATE TABLE staging.copy(name TEXT PRIMARY KEY, modified TEXT NOT NULL, advisory INTEGER) WITHOUT ROWID;
CREATE TABLE staging.alias(name TEXT NOT NULL, advisory INTEGER NOT NULL);
CREATE TABLE staging.affected(
    ecosystem INTEGER NOT NULL, name TEXT NOT NULL, advisory INTEGER NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL);
"""
"""`copy` holds the id of every record, with the number of the copy that counts; none for a record that holds nothing to match."""
_UPSERT: Final = """
INSERT INTO staging.copy(name, modified, advisory) VALUES(?, ?, ?)
ON CONFLICT(name) DO UPDATE SET modified = excluded.modified, advisory = excluded.advisory
WHERE rtrim(excluded.modified, 'Z') > rtrim(copy.modified, 'Z')
"""
"""The later copy wins (OSV schema, "modified"); what was written of the earlier is deleted at the end. Without its Z a time with a fraction
sorts after the same one without."""
_CLOCK_SKEW: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a build is: files read of one archive, and archives done of all."""

    archive: str
    done: int
    total: int
    archives_done: int
    archives: int


@dataclass(slots=True, kw_only=True)
class SourceReport:
    """What one archive held.

    `records` were readable; of these `dropped` hold nothing to match, by reason. `unsupported` counts entries by ecosystem.
    """

    name: str
    origin: str
    sha256: str = ""
    records: int = 0
    newest: str = ""
    dropped: Counter[str] = field(default_factory=Counter)
    unsupported: Counter[str] = field(default_factory=Counter)
    empty_entries: int = 0
    unreadable: int = 0
    too_large: int = 0
    examples: list[str] = field(default_factory=list)
    """The first few records that were not read, each with the reason."""

    def note(self, name: str, reason: str) -> None:
        """Remember a record that was not read, if it is among the first."""
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{name}: {reason}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildReport:
    """A finished database: `records` distinct advisories with `entries` about packages. `duplicates` are further copies of a record."""

    path: Path
    revision: str
    records: int
    entries: int
    duplicates: int
    sources: tuple[SourceReport, ...]
    seconds: float
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """`distinct` ids, of which `records` hold something to match or to tell about it."""

    distinct: int
    records: int
    entries: int


def build_database(
    target: Path,
    archives: Iterable[Archive],
    *,
    now: datetime | None = None,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[Progress], None] | None = None,
) -> BuildReport:
    """Make a database of all archives and put it in `target`'s place. An exception out of `progress` ends the build and leaves the old database.

    Raises:
        AdvisoryError: an archive is broken or breaks a limit, none holds anything usable, another build is running, or the disk is full.
        StateError: the finished file could not be moved into place.
    """
    started = time.monotonic()
    moment = now or datetime.now(UTC)
    chosen = tuple(archives)
    if not chosen:
        raise AdvisoryError(
            "there are no advisories to import", "name a directory with <Ecosystem>/all.zip, or a zip file"
        )
    new = target.with_name(f"{target.name}.new")
    staging = target.with_name(f"{target.name}.staging")
    with _only_build(target, new, staging):
        try:
            with contextlib.closing(_create(new, staging)) as connection:
                build = _Build(connection, limits, moment)
                reports = tuple(
                    build.read(archive, _reporter(progress, archive, number, len(chosen)))
                    for number, archive in enumerate(chosen)
                )
                revision = database.revision_of(((r.name, r.sha256) for r in reports), _feed_versions())
                counts = build.finish(reports, revision=revision, imported=rfc3339(moment))
        except sqlite3.Error as error:
            raise _translate(error, target) from error
        size = new.stat().st_size
        swap_file(new, target)
    return BuildReport(
        path=target,
        revision=revision,
        records=counts.records,
        entries=counts.entries,
        duplicates=sum(report.records for report in reports) - counts.distinct,
        sources=reports,
        seconds=time.monotonic() - started,
        size=size,
    )


def revision_of(archives: Iterable[Archive], limits: Limits = DEFAULT_LIMITS) -> str:
    """The revision that a database made of these archives has.

    Raises:
        AdvisoryError: one cannot be read.
    """
    return database.revision_of(sources_of(archives, limits), _feed_versions())


def _feed_versions() -> list[tuple[str, int]]:
    return [(feed.name, feed.version) for feed in FEEDS]


class _Build:
    """One connection to the new file with the staging file attached."""

    def __init__(self, connection: sqlite3.Connection, limits: Limits, now: datetime) -> None:
        self._connection = connection
        self._limits = limits
        self._latest = rfc3339(now + _CLOCK_SKEW)
        self._ecosystems: dict[str, int] = {}
        self._records: list[tuple[int, str, str, bytes, bytes]] = []
        self._entries: list[tuple[int, str, int, int, bytes]] = []
        self._number = 0

    def read(self, archive: Archive, report: Callable[[int, int], None]) -> SourceReport:
        """Stage all records of one archive."""
        with opened(archive, self._limits) as contents:
            source = SourceReport(name=archive.name, origin=archive.origin, sha256=contents.sha256)
            for done, file in enumerate(contents.files):
                if done % _BATCH == 0:
                    self._flush()
                    report(done, contents.total)
                self._read_file(file, source)
            self._flush()
            report(contents.total, contents.total)
        if not source.records:
            example = f": {source.examples[0]}" if source.examples else ""
            raise broken(archive, f"it holds no readable record{example}")
        return source

    def _read_file(self, file: File, source: SourceReport) -> None:
        if file.size > self._limits.advisory_record_bytes:
            source.too_large += 1
            source.note(file.name, f"it is larger than {self._limits.advisory_record_bytes} bytes")
            return
        data = file.read()
        try:
            parsed = file.feed.parse(data, self._limits)
        except DataError as error:
            source.unreadable += 1
            source.note(file.name, error.message)
            return
        source.records += 1
        source.unsupported.update(parsed.unsupported)
        source.empty_entries += parsed.empty
        if isinstance(parsed, Dropped):
            source.dropped[parsed.reason] += 1
            self._see(parsed.modified, source)
            self._connection.execute(_UPSERT, (parsed.id, parsed.modified, None))
        else:
            self._see(parsed.advisory.modified, source)
            self._stage(parsed)

    def _see(self, modified: str, source: SourceReport) -> None:
        """Remember the newest change. Records dated in the future exist, and would hide how old the data is."""
        if source.newest < modified <= self._latest:
            source.newest = modified

    def _stage(self, record: Record) -> None:
        advisory = record.advisory
        self._number += 1
        if not self._connection.execute(_UPSERT, (advisory.id, advisory.modified, self._number)).rowcount:
            return
        facts = database.Facts(
            published=advisory.published,
            aliases=advisory.aliases,
            upstream=advisory.upstream,
            severity=advisory.severity,
            rating=advisory.rating,
            url=advisory.url,
            is_malware=advisory.is_malware,
        )
        packed, texts = database.pack_facts(facts), database.pack_texts(advisory.summary, advisory.details)
        self._records.append((self._number, advisory.id, advisory.modified, packed, texts))
        for seq, entry in enumerate(record.affected):
            ecosystem = self._ecosystems.setdefault(entry.ecosystem, len(self._ecosystems) + 1)
            self._entries.append((ecosystem, entry.name, self._number, seq, database.pack_entry(entry)))

    def _flush(self) -> None:
        self._connection.executemany("INSERT INTO advisory VALUES(?, ?, ?, ?, ?)", self._records)
        self._connection.executemany("INSERT INTO staging.affected VALUES(?, ?, ?, ?, ?)", self._entries)
        self._records.clear()
        self._entries.clear()

    def finish(self, sources: Sequence[SourceReport], *, revision: str, imported: str) -> _Counts:
        """Write the final tables, each in the order of its key."""
        run, run_many = self._connection.execute, self._connection.executemany
        run("DELETE FROM advisory WHERE id NOT IN (SELECT advisory FROM staging.copy WHERE advisory IS NOT NULL)")
        run(database.INDEX)
        self._close_names()
        run(
            "INSERT INTO affected SELECT e.* FROM staging.affected e CROSS JOIN advisory a ON a.id = e.advisory"
            " ORDER BY e.ecosystem, e.name, e.advisory, e.seq"
        )
        run_many(
            "INSERT INTO ecosystem SELECT ?1, ?2, count(DISTINCT e.advisory), count(*),"
            " coalesce(max(a.modified) FILTER (WHERE a.modified <= ?3), '')"
            " FROM affected e CROSS JOIN advisory a ON a.id = e.advisory WHERE e.ecosystem = ?1 HAVING count(*) > 0",
            [(number, name, self._latest) for name, number in self._ecosystems.items()],
        )
        counts = _Counts(
            distinct=run("SELECT count(*) FROM staging.copy").fetchone()[0],
            records=run("SELECT count(*) FROM advisory").fetchone()[0],
            entries=run("SELECT coalesce(sum(entries), 0) FROM ecosystem").fetchone()[0],
        )
        if not counts.entries:
            raise AdvisoryError(
                "the archives hold nothing about any ecosystem that this sensor can judge",
                "import the zip files of the distributions and languages of your images",
            )
        run_many(
            "INSERT INTO source VALUES(?, ?, ?, ?, ?, ?)",
            [(s.name, s.origin, s.sha256, s.records, s.newest, imported) for s in sources],
        )
        properties = {"revision": revision, "imported": imported, "records": str(counts.records)}
        run_many("INSERT INTO property VALUES(?, ?)", list(properties.items()))
        run("COMMIT")
        return counts

    def _close_names(self) -> None:
        """Give each record all names of its vulnerability, and make each record findable by them."""
        names = VulnerabilityNames(self._connection, self._limits)
        changed: list[tuple[bytes, int]] = []
        aliases: list[tuple[str, int]] = []
        for number, name, packed in self._connection.execute("SELECT id, name, facts FROM advisory"):
            facts = database.unpack_facts(packed)
            closed = msgspec.structs.replace(
                facts, aliases=names.aliases(name, facts.aliases), upstream=names.upstream(name, facts.upstream)
            )
            if closed != facts:
                changed.append((database.pack_facts(closed), number))
            aliases += ((other, number) for other in {*closed.aliases, *closed.upstream})
            if len(aliases) >= _BATCH:
                self._connection.executemany("INSERT INTO staging.alias VALUES(?, ?)", aliases)
                aliases.clear()
        self._connection.executemany("INSERT INTO staging.alias VALUES(?, ?)", aliases)
        self._connection.executemany("UPDATE advisory SET facts = ? WHERE id = ?", changed)
        self._connection.execute("INSERT INTO alias SELECT name, advisory FROM staging.alias ORDER BY name, advisory")


def rfc3339(moment: datetime) -> str:
    """A moment as OSV writes it."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _create(new: Path, staging: Path) -> sqlite3.Connection:
    """An empty database without any safety: a file that is not finished is thrown away."""
    connection = sqlite3.connect(new, isolation_level=None)
    connection.execute("ATTACH ? AS staging", (str(staging),))
    for schema in ("main", "staging"):
        connection.execute(f"PRAGMA {schema}.journal_mode = OFF")
        connection.execute(f"PRAGMA {schema}.synchronous = OFF")
        connection.execute(f"PRAGMA {schema}.locking_mode = EXCLUSIVE")
        connection.execute(f"PRAGMA {schema}.cache_size = -16384")
    if not _has_temporary_directory():
        connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA main.application_id = {database.APPLICATION_ID}")
    connection.execute(f"PRAGMA main.user_version = {database.SCHEMA_VERSION}")
    connection.executescript(database.SCHEMA + _STAGING_SCHEMA)
    connection.execute("BEGIN")
    return connection


def _has_temporary_directory() -> bool:
    """Whether sorting may spill to disk, where SQLite also looks. A container with a read-only root may have no such place."""
    try:
        return bool(tempfile.gettempdir())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _only_build(target: Path, *scratch: Path) -> Iterator[None]:
    """Hold the lock of this database's builds; the kernel lets go of it even after a kill. Removes scratch files before and after."""
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(target.with_name(f"{target.name}.lock").open("ab"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(*scratch)
        except BlockingIOError as error:
            raise AdvisoryError(
                "another import of advisories is running", "wait for its end", retryable=True
            ) from error
        except OSError as error:
            message = f"cannot write the advisory database in {target.parent}: {error.strerror}"
            raise AdvisoryError(message, "check that state.directory exists and may be written") from error
        stack.callback(_remove, *scratch)
        yield


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _reporter(
    progress: Callable[[Progress], None] | None, archive: Archive, number: int, archives: int
) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        if progress:
            progress(Progress(archive=archive.name, done=done, total=total, archives_done=number, archives=archives))

    return report


def _translate(error: sqlite3.Error, target: Path) -> AdvisoryError:
    if "full" in str(error) or "disk I/O" in str(error):
        return AdvisoryError(
            f"the disk under {target.parent} is full or failing: {error}",
            "free about four times the size of the archives; the old advisories stay in use",
            retryable=True,
        )
    return AdvisoryError(f"cannot make the advisory database {target}: {error}", "the old advisories stay in use")
