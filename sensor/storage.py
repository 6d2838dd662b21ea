"""The state database: engine, pragmas, transactions, migrations; and the atomic swap of a file.

Tables stay beside the code that owns them; each owner calls `table(...)` on the one `METADATA` below. Every connection runs in WAL mode with full
synchronisation and begins with BEGIN IMMEDIATE: with the driver's defaults four workers were seen to take 490 jobs out of 300.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from sqlalchemy import MetaData, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from sensor.errors import StateError

METADATA = MetaData()
"""All tables of the state database; the owners add theirs at import."""

SCHEMA_VERSION = 1
"""Stored in PRAGMA user_version."""

BUSY_MILLISECONDS = 30_000


class Storage:
    """The state database. Open it once, pass it down, close it last."""

    def __init__(self, engine: AsyncEngine, path: Path) -> None:
        self._engine = engine
        self.path = path

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """All or nothing; holds the write lock from the start, so what is read inside stays true until the end.

        Raises:
            StateError: the disk is full, the database locked for too long, or damaged.
        """
        try:
            async with self._engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise translate(error, self.path) from error

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view for reading; takes no lock.

        Raises:
            StateError: the database cannot be read.
        """
        try:
            async with self._engine.connect() as connection:
                connection = await connection.execution_options(sensor_read_only=True)
                yield connection
        except DBAPIError as error:
            raise translate(error, self.path) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._engine.dispose()


async def open_storage(directory: Path) -> Storage:
    """Open (or make) `state.db` in a directory of mode 0700, and bring its schema up to date.

    Raises:
        StateError: the directory cannot be made or written, or the database was made by a newer version.
    """
    path = directory / "state.db"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        message = f"cannot make the state directory {directory}: {error.strerror}"
        raise StateError(message, "set state.directory to a directory that this user may write") from error
    engine = create_async_engine(
        f"sqlite+aiosqlite:///{path}", pool_size=8, max_overflow=0, pool_timeout=BUSY_MILLISECONDS / 1000
    )
    event.listen(engine.sync_engine, "connect", _set_pragmas)
    event.listen(engine.sync_engine, "begin", _begin)
    storage = Storage(engine, path)
    try:
        async with storage.transaction() as connection:
            version = (await connection.execute(text("PRAGMA user_version"))).scalar_one()
            if version > SCHEMA_VERSION:
                message = f"the state database {path} was made by a newer version (schema {version}, this one knows {SCHEMA_VERSION})"
                raise StateError(message, "run the newer version, or give this one its own state.directory")
            if version == 0:
                await connection.run_sync(METADATA.create_all)
                await connection.execute(text(f"PRAGMA user_version = {SCHEMA_VERSION}"))
    except BaseException:
        await storage.close()
        raise
    return storage


def translate(error: DBAPIError, path: Path) -> StateError:
    """Turn a driver's error into a StateError that says what to do."""
    reason = str(error.orig)
    if "full" in reason or "disk I/O" in reason:
        return StateError(
            f"the disk under {path} is full or failing: {reason}",
            "free space there; nothing stored is lost",
            retryable=True,
        )
    if "locked" in reason:
        return StateError(
            f"the state database {path} is locked", "is another sensor using this directory?", retryable=True
        )
    if "malformed" in reason or "not a database" in reason:
        return StateError(
            f"the state database {path} is damaged: {reason}", "move it aside and restart; images are scanned again"
        )
    if "readonly" in reason or "unable to open" in reason:
        return StateError(
            f"the state database {path} cannot be written: {reason}", "check the owner and mode of state.directory"
        )
    return StateError(f"the state database {path} failed: {reason}")


def _set_pragmas(connection: object, _record: object) -> None:
    # autocommit off the table: SQLAlchemy's own BEGIN (below) decides when a transaction starts
    connection.isolation_level = None  # type: ignore[attr-defined]
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_MILLISECONDS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: object) -> None:
    read_only = connection.get_execution_options().get("sensor_read_only", False)  # type: ignore[attr-defined]
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")  # type: ignore[attr-defined]


def swap_file(new: Path, target: Path) -> None:
    """Put a finished file in another's place: after a power cut there is the old one or the new one, never half of one.

    Raises:
        StateError: the rename failed.
    """
    try:
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(target)
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        message = f"cannot put {new} in place of {target}: {error.strerror}"
        raise StateError(message, "check space and permissions there") from error
