"""The state database: engine, pragmas, transactions, schema version; and the atomic swap of a file.

Tables stay beside the code that owns them; each owner declares them on the one `METADATA` below. Every connection runs in WAL mode with
full synchronisation and begins with BEGIN IMMEDIATE: with the driver's defaults four workers were seen to take 490 jobs out of 300.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sqlalchemy import MetaData, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from sensor.errors import StateError

METADATA = MetaData()
"""All tables of the state database; the owners add theirs at import."""

SCHEMA_VERSION = 1
"""Stored in PRAGMA user_version. New tables need no new version (missing ones are made at every start); a changed table does, and then
`open_storage` runs the steps of `sensor/migrations` (Alembic, imported only when the stored version is behind)."""

BUSY_MILLISECONDS = 30_000
"""How long a connection waits for another's write lock. The longest transaction here writes one crawl, some seconds at most."""

PRAGMAS = {
    "journal_mode": "wal",  # readers never wait for the writer, nor it for them
    "synchronous": 2,  # FULL: a commit survives a power cut, not only a crash
    "foreign_keys": 1,
    "busy_timeout": BUSY_MILLISECONDS,
}
"""What holds on every connection, as SQLite answers when asked."""

_CONNECTIONS = 8


class StateInUse(StateError):
    """Another sensor has the state directory."""


class Storage:
    """The state database. Open it once, pass it down, close it last."""

    def __init__(self, engine: AsyncEngine, path: Path, lock: int | None = None) -> None:
        self._engine = engine
        self._lock = lock
        self.path = path

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """All or nothing; holds the write lock from the start, so what is read inside stays true until the end.

        Keep it short, and open no second one inside: the second would wait for the first.

        Raises:
            StateError: the disk is full, the database locked for too long, or damaged.
        """
        try:
            async with self._engine.begin() as connection:
                yield connection
        except (DBAPIError, PoolTimeoutError) as error:
            raise translate(error, self.path) from error

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view for reading; takes no lock, and writing in it is an error.

        Raises:
            StateError: the database cannot be read, or something tried to write.
        """
        try:
            async with self._engine.connect() as connection:
                await connection.execution_options(sensor_read_only=True)
                yield connection
        except (DBAPIError, PoolTimeoutError) as error:
            raise translate(error, self.path) from error

    async def compact(self) -> None:
        """Give pages that pruning has freed back to the file system, and empty the write-ahead log.

        Raises:
            StateError: as for `transaction`.
        """
        try:
            await asyncio.to_thread(_compact, self.path)
        except sqlite3.Error as error:
            raise translate(error, self.path) from error

    async def close(self) -> None:
        """Close all connections and let another sensor have the directory."""
        await self._engine.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


async def open_storage(
    directory: Path, *, shared: bool = False, file: str = "state.db", metadata: MetaData = METADATA
) -> Storage:
    """Open (or make) `state.db` in a directory of mode 0700, and bring its schema up to date.

    One sensor at a time may have a directory. `shared` joins in beside it: for commands that read or add a little while the daemon runs,
    and for further worker processes. `file` and `metadata` are for a database of other tables (the console's).

    Raises:
        StateError: the directory cannot be made or written, another sensor has it, or the database is damaged or was made by a newer version.
    """
    path = directory / file
    lock = _prepare(directory, shared=shared)
    storage = Storage(_engine(path), path, lock)
    opening = asyncio.ensure_future(_bring_up(storage, metadata))
    try:
        await asyncio.shield(opening)
    except BaseException:
        # the driver's thread must not be cut off while it connects: it would outlive the event loop, and complain
        await asyncio.wait([opening])
        opening.exception()  # whatever it was, the first reason counts
        await storage.close()
        raise
    return storage


async def _bring_up(storage: Storage, metadata: MetaData) -> None:
    async with storage.transaction() as connection:
        _refuse_newer((await connection.execute(text("PRAGMA user_version"))).scalar_one(), storage.path)
        await connection.run_sync(metadata.create_all)
        await connection.execute(text(f"PRAGMA user_version = {SCHEMA_VERSION}"))


def translate(error: DBAPIError | PoolTimeoutError | sqlite3.Error, path: Path) -> StateError:
    """Turn a driver's error into a StateError that says what to do."""
    if isinstance(error, PoolTimeoutError):
        return StateError(
            f"the state database {path} is busy: no connection became free", "the disk may be too slow", retryable=True
        )
    cause = error.orig if isinstance(error, DBAPIError) else error
    reason = str(cause)
    # the low byte is the primary code; a driver's own complaint has none
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
        return StateError(
            f"the disk under {path} is full or failing: {reason}",
            "free space there; nothing stored is lost",
            retryable=True,
        )
    if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StateError(
            f"the state database {path} is locked: {reason}", "is another sensor using this directory?", retryable=True
        )
    if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return StateError(
            f"the state database {path} is damaged: {reason}", "move it aside and restart; images are scanned again"
        )
    if code in {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}:
        return StateError(
            f"the state database {path} cannot be written: {reason}", "check the owner and mode of state.directory"
        )
    return StateError(f"the state database {path} failed: {reason}")


def swap_file(new: Path, target: Path) -> None:
    """Put a finished file in another's place: after a power cut there is the old one or the new one, never half of one.

    Raises:
        StateError: the rename failed; the target is as it was.
    """
    try:
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(target)
        # the rename itself is in the directory, which has a cache of its own
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        message = f"cannot put {new} in place of {target}: {error.strerror}"
        raise StateError(message, "check space and permissions there") from error


def _prepare(directory: Path, *, shared: bool) -> int | None:
    """Make the directory and lock it. The lock is the kernel's: it goes with the process, however that ends."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shared:
            return None
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = f"cannot use the state directory {directory}: {error.strerror}"
        raise StateError(message, "set state.directory to a directory that this user may write") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        message = f"another sensor (process {holder}) is using the state directory {directory}"
        raise StateInUse(message, "stop it, or give this one its own state.directory") from error
    except OSError as error:
        os.close(lock)
        message = f"cannot lock the state directory {directory}: {error.strerror}"
        raise StateError(message, "free space there, or put state.directory on a local disk", retryable=True) from error
    return lock


def _refuse_newer(version: int, path: Path) -> None:
    if version > SCHEMA_VERSION:
        message = (
            f"the state database {path} was made by a newer version (schema {version}, this one knows {SCHEMA_VERSION})"
        )
        raise StateError(message, "run the newer version, or give this one its own state.directory")


def _engine(path: Path) -> AsyncEngine:
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{path}",
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=BUSY_MILLISECONDS / 1000,
    )
    event.listen(engine.sync_engine, "connect", _set_pragmas)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _set_pragmas(connection: Any, _record: object) -> None:
    # autocommit off the table: SQLAlchemy's own BEGIN (below) decides when a transaction starts
    connection.isolation_level = None
    cursor = connection.cursor()
    # only a database without tables takes this one; it lets `compact` shrink the file
    cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
    # first of all, for even the change to WAL may meet another process's lock
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_MILLISECONDS}")
    for name, value in PRAGMAS.items():
        cursor.execute(f"PRAGMA {name} = {value}")
    cursor.close()


def _compact(path: Path) -> None:
    with contextlib.closing(
        sqlite3.connect(path, timeout=BUSY_MILLISECONDS / 1000, isolation_level=None)
    ) as connection:
        # as a script: the first pragma gives one page back a step, and a plain execute takes one step only
        connection.executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")


def _begin(connection: Any) -> None:
    read_only = connection.get_execution_options().get("sensor_read_only", False)
    connection.exec_driver_sql(f"PRAGMA query_only = {int(read_only)}")
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
