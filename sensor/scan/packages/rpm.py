"""Catalogs what rpm installed: Red Hat and its clones, Fedora, Amazon, SUSE, Photon, Azure Linux.

Reads databases in SQLite (rpm 4.16 and later) and the text manifest of distroless Azure Linux; those in Berkeley DB and NDB are left to
`rpm_files`. The SQLite file comes from an image, so the library is given no file, no write access, no function that a schema could call, and
a budget of steps. What stands in a record is read by `rpm_header`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

from sensor.errors import DataError
from sensor.limits import Limits
from sensor.model.package import Evidence
from sensor.scan.packages import rpm_header as tags
from sensor.scan.packages.ecosystem import Content, Ecosystem, Findings, clean_text
from sensor.scan.packages.rpm_files import header_reader
from sensor.scan.packages.rpm_header import RpmHeader

_DIRECTORIES = frozenset({"var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"})
_SQLITE, _BERKELEY, _NDB = "rpmdb.sqlite", "Packages", "Packages.db"
_LOG = f"{_SQLITE}-wal"
_MANIFEST = "var/lib/rpmmanifest/container-manifest-2"

_SQLITE_MAGIC = b"SQLite format 3\0"
_LOG_HEADER_BYTES = 32
_STEPS_AT_ONCE = 1_000
_ENGINE_LIMITS = (
    (sqlite3.SQLITE_LIMIT_SQL_LENGTH, 4_096),
    (sqlite3.SQLITE_LIMIT_COLUMN, 100),
    (sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 20),
    (sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 2),
    (sqlite3.SQLITE_LIMIT_VDBE_OP, 1_000),
    (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
    (sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 0),
    (sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50),
)
"""What our three statements and rpm's own schema (its longest line has 160 characters) need, and little more."""


def _wants(path: str) -> bool:
    directory, _, name = path.rpartition("/")
    return path == _MANIFEST or (directory in _DIRECTORIES and name in {_SQLITE, _BERKELEY, _NDB, _LOG})


def _read(path: str, content: Content, limits: Limits) -> Evidence:
    findings = Findings(ECOSYSTEM.name, path, limits)
    name = path.rpartition("/")[2]
    if path == _MANIFEST:
        _read_manifest(content.read(), findings)
    elif name == _SQLITE:
        for number, blob in _headers(path, content, limits, findings):
            _note(number, blob, limits, findings)
    elif name == _LOG:
        if content.size > _LOG_HEADER_BYTES:
            findings.gap(
                "unsupported",
                "the rpm database was not closed: its newest packages may be in this log only, which is not read",
            )
    else:
        read_headers = header_reader(content.view())
        if read_headers is None:
            message = f"{path} is neither a Berkeley DB nor an NDB file" if content.size else f"{path} is empty"
            raise DataError(message)
        for number, blob in read_headers(limits, findings):
            _note(number, blob, limits, findings)
    return findings.evidence()


def _headers(path: str, content: Content, limits: Limits, findings: Findings) -> Iterator[tuple[int, bytes]]:
    """Number and header of every package in a SQLite database."""
    try:
        with closing(sqlite3.connect(":memory:")) as database:
            database.deserialize(_without_log(path, content.view()))
            _confine(database, limits)
            _expect_plain_table(path, database)
            yield from _rows(database, content.size, limits, findings)
    except (
        sqlite3.Error,
        UnicodeDecodeError,
    ) as error:  # SQLite quotes the schema in its messages, whatever bytes are in it
        reason = (
            "" if isinstance(error, UnicodeDecodeError) else f": {clean_text(str(error), limits.record_text_chars)}"
        )
        message = f"{path} is not a readable rpm database{reason}"
        raise DataError(message) from error


def _without_log(path: str, view: memoryview) -> bytes:
    """The file as a database without a write-ahead log: bytes 18 and 19 of its header say how it may be opened, and memory has no log."""
    if view[:16] != _SQLITE_MAGIC or len(view) < 100:
        message = f"{path} is not a SQLite database"
        raise DataError(message)
    return b"".join((view[:18], b"\x01\x01", view[20:]))


def _confine(database: sqlite3.Connection, limits: Limits) -> None:
    """Leave SQLite nothing but reading: the schema is the image author's work."""
    budget = iter(range(limits.sqlite_steps // _STEPS_AT_ONCE))
    database.set_progress_handler(lambda: next(budget, None) is None, _STEPS_AT_ONCE)
    database.text_factory = bytes
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limits.package_file_bytes)
    for category, most in _ENGINE_LIMITS:
        database.setlimit(category, most)
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "query_only=ON", "mmap_size=0"):
        database.execute(f"PRAGMA {pragma}")


def _expect_plain_table(path: str, database: sqlite3.Connection) -> None:
    """Refuse a `Packages` that is a view, a virtual table, or computes its columns: reading those would run the image's code."""
    found = database.execute(
        "SELECT type, rootpage, sql FROM sqlite_master WHERE name = 'Packages' COLLATE NOCASE"
    ).fetchall()
    kind, page, statement = found[0] if len(found) == 1 else (b"", 0, b"")
    is_plain = (
        kind == b"table" and isinstance(page, int) and page > 0 and b"VIRTUAL" not in bytes(statement or b"").upper()
    )
    if is_plain:
        columns = {row[1].lower(): row[6] for row in database.execute("PRAGMA table_xinfo('Packages')")}
        is_plain = b"blob" in columns and not any(columns.values())
    if not is_plain:
        message = f"{path} holds no plain table of packages"
        raise DataError(message)


def _rows(database: sqlite3.Connection, size: int, limits: Limits, findings: Findings) -> Iterator[tuple[int, bytes]]:
    """One row after the other. Honest rows do not overlap, so together they cannot be larger than the file."""
    most = min(limits.package_file_bytes, size)
    query = "SELECT rowid, CASE WHEN typeof(blob) = 'blob' AND length(blob) <= ? THEN blob END FROM Packages NOT INDEXED LIMIT ?"
    left = size
    for count, (number, blob) in enumerate(database.execute(query, (most, limits.packages_per_layer + 1))):
        if count == limits.packages_per_layer:
            findings.gap("limit", f"the database has more than {count} packages; the rest is not read")
        elif blob is None:
            findings.gap("unreadable", f"record {number} is no header, or one of more than {most} bytes")
        else:
            left -= len(blob)
            if left < 0:
                raise DataError("the records of the rpm database overlap, which no rpm has written")
            yield number, blob


def _note(number: int, blob: bytes, limits: Limits, findings: Findings) -> None:
    try:
        header = RpmHeader(blob, limits)
        name, version, release = header.text(tags.NAME), header.text(tags.VERSION), header.text(tags.RELEASE)
        if name == "gpg-pubkey":  # a key that signs packages, kept among them
            return
        noted = findings.package(
            "rpm",
            name,
            _complete(header.number(tags.EPOCH), f"{version}-{release}" if version and release else version),
            arch=header.text(tags.ARCH),
            **_source(header.text(tags.SOURCERPM)),
            license=header.text(tags.LICENSE),
            vendor=header.text(tags.VENDOR),
            modularity=header.text(tags.MODULARITYLABEL),
        )
        if noted:
            for path in header.telling_files():
                findings.own(path, name.strip())
    except DataError as error:
        findings.gap("unreadable", f"record {number}: {error.message}")


def _complete(epoch: int, version: str) -> str:
    return f"{epoch}:{version}" if epoch and version else version


def _source(file_name: str) -> dict[str, str]:
    """Name and version-release of `NAME-VERSION-RELEASE.src.rpm`. It never tells the epoch; keys and local builds have none of it."""
    stem = file_name.removesuffix(".rpm").removesuffix(".src").removesuffix(".nosrc")
    name, _, release = stem.rpartition("-")
    name, _, version = name.rpartition("-")
    return {"source_name": name, "source_version": f"{version}-{release}"} if name and version and release else {}


def _read_manifest(data: bytes, findings: Findings) -> None:
    """Tab-separated: name, version-release, install and build time, vendor, epoch, size, architecture, epoch again as a number, source."""
    for count, line in enumerate(data.decode("utf-8", "replace").split("\n"), start=1):
        columns = line.strip("\r").split("\t")
        if columns == [""] or columns[0] == "gpg-pubkey":
            continue
        if len(columns) < 10 or not columns[8].isascii() or not columns[8].isdecimal():
            findings.gap("unreadable", f"line {count} does not describe a package")
            continue
        findings.package(
            "rpm",
            columns[0],
            _complete(int(columns[8][:10]), columns[1]),
            arch=columns[7],
            vendor=columns[4].removeprefix("(none)"),
            **_source(columns[9]),
        )


ECOSYSTEM = Ecosystem(
    name="rpm",
    version=2,
    read=_read,
    wants=_wants,
    directories=_DIRECTORIES | {"var/lib/rpmmanifest"},
    spooled=True,
    most_bytes=lambda limits: limits.spool_bytes,
)
