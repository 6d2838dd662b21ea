"""The advisory database, read side: an SQLite file that is written once by `advisories.build`, swapped into place whole, and never changed.

Because the file never changes it is opened immutable and mapped into memory; a handle keeps reading the file that it opened when a newer one takes
its place. A look-up takes microseconds, but an image asks thousands: match in a thread (`asyncio.to_thread`). One handle may be used from several
threads at once; a lock orders them. The layout and the coding of its blobs are here for both sides.
"""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import quote

import msgspec
from isal import isal_zlib

from sensor.errors import AdvisoryError
from sensor.model.advisory import Advisory, Affected, Range
from sensor.versions import ORDERS

APPLICATION_ID: Final = 0x48_47_61_76
"""PRAGMA application_id: tells our file from any other SQLite file."""
SCHEMA_VERSION: Final = 1
"""PRAGMA user_version. A file of another version is not read: importing again takes seconds."""
IMPORTER_VERSION: Final = 1
"""Part of the revision: raise it whenever the importer or `normal_name` would give another result from the same archives."""

SCHEMA: Final = """
CREATE TABLE property(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE source(
    name TEXT NOT NULL, origin TEXT NOT NULL, sha256 TEXT NOT NULL, records INTEGER NOT NULL, newest TEXT NOT NULL, imported TEXT NOT NULL);
CREATE TABLE ecosystem(
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, records INTEGER NOT NULL, entries INTEGER NOT NULL, newest TEXT NOT NULL);
CREATE TABLE advisory(id INTEGER PRIMARY KEY, name TEXT NOT NULL, modified TEXT NOT NULL, facts BLOB NOT NULL, texts BLOB NOT NULL);
CREATE TABLE alias(name TEXT NOT NULL, advisory INTEGER NOT NULL, PRIMARY KEY(name, advisory)) WITHOUT ROWID;
CREATE TABLE affected(
    ecosystem INTEGER NOT NULL, name TEXT NOT NULL, advisory INTEGER NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY(ecosystem, name, advisory, seq)) WITHOUT ROWID;
"""
INDEX: Final = "CREATE UNIQUE INDEX advisory_name ON advisory(name)"
"""Made after loading."""

_ADVICE = "run harborguard-sensor advisories import DIR, or set advisories.sources and run harborguard-sensor advisories update"
_COMPRESSED = b"z"
_COMPRESS_FROM = 256
"""Bytes above which an entry's data is deflated: only long version lists gain."""
_MOST_OF_ONE_VULNERABILITY = 200
"""Records looked at for the severity and texts of one vulnerability; the largest seen is 14."""
_ENTRIES_CACHE = 1024
_RECORDS_CACHE = 8192


class Facts(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What the matcher wants of a record; kept apart from the texts because the closure over aliases rewrites it."""

    published: str
    aliases: tuple[str, ...]
    upstream: tuple[str, ...]
    severity: tuple[tuple[str, str], ...]
    rating: str
    url: str
    is_malware: bool


class _Entry(msgspec.Struct, frozen=True, array_like=True, kw_only=True, omit_defaults=True):
    ranges: tuple[Range, ...] = ()
    versions: tuple[str, ...] = ()
    urgency: str = ""
    binaries: tuple[str, ...] = ()


_ENCODER = msgspec.msgpack.Encoder()
_ENTRY_DECODER = msgspec.msgpack.Decoder(_Entry)
_FACTS_DECODER = msgspec.msgpack.Decoder(Facts)
_TEXTS_DECODER = msgspec.msgpack.Decoder(tuple[str, str])


def pack_entry(entry: Affected) -> bytes:
    """What the key of an entry's row does not say."""
    packed = _ENCODER.encode(
        _Entry(ranges=entry.ranges, versions=entry.versions, urgency=entry.urgency, binaries=entry.binaries)
    )
    return packed if len(packed) < _COMPRESS_FROM else _COMPRESSED + isal_zlib.compress(packed, 1)


def pack_facts(facts: Facts) -> bytes:
    """The facts of a record."""
    return _ENCODER.encode(facts)


def unpack_facts(data: bytes) -> Facts:
    """The reverse of `pack_facts`."""
    return _FACTS_DECODER.decode(data)


def pack_texts(summary: str, details: str) -> bytes:
    """The prose of a record, deflated."""
    return isal_zlib.compress(_ENCODER.encode((summary, details)), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """Where data came from: an archive, its checksum, how many records it held, its newest `modified`, and when it was read."""

    name: str
    origin: str
    sha256: str
    records: int
    newest: str
    imported: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EcosystemInfo:
    """What there is about one ecosystem with suffix."""

    name: str
    records: int
    entries: int
    newest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What the database holds and how old it is. All times are RFC 3339 in UTC; `newest` is the newest change of any record."""

    revision: str
    imported: str
    newest: str
    records: int
    sources: tuple[SourceInfo, ...]
    ecosystems: tuple[EcosystemInfo, ...]

    def age(self, now: datetime) -> timedelta:
        """Time since the newest record changed. A date in the future counts as now, so that one bad record cannot hide old data for long."""
        return age_of(self.newest, now)


def age_of(moment: str, now: datetime) -> timedelta:
    """Time between an RFC 3339 moment and now; never negative, and the longest there is where there is no moment."""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return timedelta.max
    return max(now - (then if then.tzinfo else then.replace(tzinfo=UTC)), timedelta(0))


def revision_of(sources: Iterable[tuple[str, str]], feeds: Iterable[tuple[str, int]]) -> str:
    """Identity of the data made from (name, sha256) sources by this version of the importer.

    The ecosystems whose versions can be compared are part of it: entries of all others are left out.
    """
    identity = [SCHEMA_VERSION, IMPORTER_VERSION, sorted(feeds), sorted(ORDERS), sorted(sources)]
    return hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:32]


def database_path(state: Path) -> Path:
    """Where the database stands in the state directory."""
    return state / "advisories.db"


class AdvisoryDatabase:
    """An open database: implements `AdvisoryLookup`. Close it when done."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.Lock()
        self._revision = str(self._query("SELECT value FROM property WHERE name = 'revision'")[0][0])
        self._ecosystems: dict[str, int] = dict(self._query("SELECT name, id FROM ecosystem"))
        # sized by entries: one package (a kernel) may have thousands
        self._cached_affected = lru_cache(_ENTRIES_CACHE)(self._read_affected)
        self._cached_advisory = lru_cache(_RECORDS_CACHE)(self._read_advisory)
        self._cached_for = lru_cache(_RECORDS_CACHE)(self._read_for)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the database at a path.

        Raises:
            AdvisoryError: there is none, it is damaged, or it was made for another schema.
        """
        try:
            _check_file(path)
            connection = sqlite3.connect(
                f"file:{quote(str(path.absolute()))}?mode=ro&immutable=1",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
        except FileNotFoundError as error:
            message = f"there is no advisory database at {path}"
            raise AdvisoryError(message, _ADVICE) from error
        except (OSError, sqlite3.Error) as error:
            message = f"cannot read the advisory database {path}: {error}"
            raise AdvisoryError(message, "check the owner and mode of state.directory") from error
        try:
            for pragma in (
                "query_only=ON",
                f"mmap_size={path.stat().st_size}",
                "cache_size=-2048",
                "trusted_schema=OFF",
            ):
                connection.execute(f"PRAGMA {pragma}")
            _check_version(path, connection)
            return cls(path, connection)
        except (sqlite3.Error, IndexError) as error:
            connection.close()
            raise _damaged(path, error) from error
        except BaseException:
            connection.close()
            raise

    @property
    def revision(self) -> str:
        """Identity of the data: results made with another revision are matched again."""
        return self._revision

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def affected(self, ecosystem: str, name: str) -> Sequence[Affected]:
        """All entries for one package in one ecosystem (with suffix). The name must be normalised as `normal_name` does."""
        return self._cached_affected(ecosystem, name)

    def advisory(self, advisory_id: str) -> Advisory | None:
        """The record of an id."""
        return self._cached_advisory(advisory_id)

    def advisories_for(self, vulnerability: str) -> Sequence[Advisory]:
        """All records that are, alias or cover the vulnerability."""
        return self._cached_for(vulnerability)

    def has_ecosystem(self, ecosystem: str) -> bool:
        """Whether there is any data for this ecosystem with suffix; without it zero findings mean nothing."""
        return ecosystem in self._ecosystems

    def summary(self) -> Summary:
        """What there is, from where, and how old it is."""
        properties: dict[str, str] = dict(self._query("SELECT name, value FROM property"))
        sources = self._query(
            "SELECT name, origin, sha256, records, newest, imported FROM source ORDER BY name, origin"
        )
        ecosystems = self._query("SELECT name, records, entries, newest FROM ecosystem ORDER BY name")
        return Summary(
            revision=self._revision,
            imported=properties.get("imported", ""),
            newest=max((row[4] for row in sources), default=""),
            records=int(properties.get("records", "0")),
            sources=tuple(
                SourceInfo(name=row[0], origin=row[1], sha256=row[2], records=row[3], newest=row[4], imported=row[5])
                for row in sources
            ),
            ecosystems=tuple(
                EcosystemInfo(name=row[0], records=row[1], entries=row[2], newest=row[3]) for row in ecosystems
            ),
        )

    def _read_affected(self, ecosystem: str, name: str) -> tuple[Affected, ...]:
        number = self._ecosystems.get(ecosystem)
        if number is None:
            return ()
        rows = self._query(
            "SELECT advisory.name, affected.data FROM affected JOIN advisory ON advisory.id = affected.advisory"
            " WHERE affected.ecosystem = ? AND affected.name = ? ORDER BY affected.advisory, affected.seq",
            number,
            name,
        )
        return tuple(self._entry(advisory, ecosystem, name, data) for advisory, data in rows)

    def _read_advisory(self, advisory_id: str) -> Advisory | None:
        rows = self._query("SELECT name, modified, facts, texts FROM advisory WHERE name = ?", advisory_id)
        return self._advisory(*rows[0]) if rows else None

    def _read_for(self, vulnerability: str) -> tuple[Advisory, ...]:
        rows = self._query(
            "SELECT name, modified, facts, texts FROM advisory WHERE name = ?1 UNION ALL"
            " SELECT advisory.name, modified, facts, texts FROM alias JOIN advisory ON advisory.id = alias.advisory"
            " WHERE alias.name = ?1 LIMIT ?2",
            vulnerability,
            _MOST_OF_ONE_VULNERABILITY,
        )
        return tuple(self._advisory(*row) for row in rows)

    def _entry(self, advisory: str, ecosystem: str, name: str, data: bytes) -> Affected:
        try:
            entry = _ENTRY_DECODER.decode(zlib.decompress(data[1:]) if data[:1] == _COMPRESSED else data)
        except (msgspec.DecodeError, zlib.error) as error:
            raise _damaged(self.path, error) from error
        return Affected(
            advisory=advisory,
            ecosystem=ecosystem,
            name=name,
            ranges=entry.ranges,
            versions=entry.versions,
            urgency=entry.urgency,
            binaries=entry.binaries,
        )

    def _advisory(self, name: str, modified: str, packed: bytes, texts: bytes) -> Advisory:
        try:
            facts = unpack_facts(packed)
            summary, details = _TEXTS_DECODER.decode(zlib.decompress(texts))
        except (msgspec.DecodeError, zlib.error) as error:
            raise _damaged(self.path, error) from error
        return Advisory(
            id=name,
            modified=modified,
            published=facts.published,
            aliases=facts.aliases,
            upstream=facts.upstream,
            severity=facts.severity,
            rating=facts.rating,
            summary=summary,
            details=details,
            url=facts.url,
            is_malware=facts.is_malware,
        )

    def _query(self, statement: str, *values: object) -> list[Any]:
        try:
            with self._lock:
                return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _damaged(self.path, error) from error


def _check_file(path: Path) -> None:
    """Compare the file's size with what its header says (SQLite file format, 1.3): a file cut short would be noticed only at some look-up."""
    with path.open("rb") as file:
        header = file.read(100)
        size = file.seek(0, 2)
    if len(header) < 100 or not header.startswith(b"SQLite format 3\0"):
        raise _damaged(path, "it is not an SQLite file")
    page = int.from_bytes(header[16:18], "big")
    expected = (65536 if page == 1 else page) * int.from_bytes(header[28:32], "big")
    if size != expected:
        raise _damaged(path, f"it has {size} bytes instead of {expected}")


def _check_version(path: Path, connection: sqlite3.Connection) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        message = f"{path} is not an advisory database of this program"
        raise AdvisoryError(message, _ADVICE)
    if version != SCHEMA_VERSION:
        message = f"the advisory database {path} was made for schema {version}, this version reads {SCHEMA_VERSION}"
        raise AdvisoryError(message, _ADVICE)


def _damaged(path: Path, reason: object) -> AdvisoryError:
    return AdvisoryError(f"the advisory database {path} is damaged: {reason}", _ADVICE)
