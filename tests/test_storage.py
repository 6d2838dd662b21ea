"""The state database: pragmas on every connection, one sensor a directory, and every fault told in words."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, LargeBinary, Table, Text, func, insert, select, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from sensor.errors import StateError
from sensor.storage import METADATA, PRAGMAS, SCHEMA_VERSION, Storage, open_storage, swap_file, translate

ROOT = Path(__file__).parent.parent

NOTES = Table(
    "test_notes",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("note", Text, nullable=False),
    Column("body", LargeBinary),
)


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = await open_storage(tmp_path / "state")
    yield storage
    await storage.close()


async def count(storage: Storage) -> int:
    async with storage.reading() as connection:
        return int((await connection.execute(select(func.count()).select_from(NOTES))).scalar_one())


async def note(storage: Storage, text: str, size: int = 0) -> None:
    async with storage.transaction() as connection:
        await connection.execute(insert(NOTES).values(note=text, body=os.urandom(size)))


async def test_every_connection_has_the_pragmas_the_queue_relies_on(storage: Storage) -> None:
    connections = 8
    all_open = asyncio.Barrier(connections)

    async def look() -> dict[str, object]:
        async with storage.reading() as connection:
            # all at once, so that each look is at a connection of its own
            await all_open.wait()
            return {name: (await connection.execute(text(f"PRAGMA {name}"))).scalar_one() for name in PRAGMAS}

    found = await asyncio.gather(*(look() for _ in range(connections)))

    assert found == [PRAGMAS] * connections
    assert PRAGMAS["journal_mode"] == "wal"
    assert PRAGMAS["synchronous"] == 2
    assert PRAGMAS["foreign_keys"] == 1
    assert PRAGMAS["busy_timeout"] >= 10_000


async def test_a_transaction_takes_the_write_lock_at_its_beginning(storage: Storage) -> None:
    async with storage.transaction():
        other = sqlite3.connect(storage.path, timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


async def test_what_fails_inside_a_transaction_leaves_nothing(storage: Storage) -> None:
    async def fail() -> None:
        async with storage.transaction() as connection:
            await connection.execute(insert(NOTES).values(note="lost"))
            raise LookupError

    with pytest.raises(LookupError):
        await fail()

    assert await count(storage) == 0
    await note(storage, "kept")
    assert await count(storage) == 1


async def test_a_cancelled_transaction_leaves_nothing_and_no_lock(storage: Storage) -> None:
    async def write(started: asyncio.Event) -> None:
        async with storage.transaction() as connection:
            await connection.execute(insert(NOTES).values(note="cancelled"))
            started.set()
            await asyncio.Event().wait()

    for _ in range(20):
        started = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(write(started))
            await started.wait()
            task.cancel()

    await note(storage, "after")
    assert await count(storage) == 1


async def test_reading_sees_one_moment_and_cannot_write(storage: Storage) -> None:
    async with storage.reading() as connection:
        before = (await connection.execute(select(func.count()).select_from(NOTES))).scalar_one()
        await note(storage, "meanwhile")
        assert (await connection.execute(select(func.count()).select_from(NOTES))).scalar_one() == before

    with pytest.raises(StateError, match="cannot be written"):
        async with storage.reading() as connection:
            await connection.execute(insert(NOTES).values(note="no"))
    # the connection goes back to the pool and must be able to write again
    await asyncio.gather(*(note(storage, "yes") for _ in range(8)))
    assert await count(storage) == 9


async def test_what_was_committed_is_there_after_a_new_start(tmp_path: Path) -> None:
    first = await open_storage(tmp_path)
    await note(first, "kept")
    await first.close()

    second = await open_storage(tmp_path)
    assert await count(second) == 1
    await second.close()


async def test_the_directory_is_private(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    await storage.close()


async def test_tables_of_modules_that_were_loaded_later_are_made_at_the_next_start(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    async with storage.transaction() as connection:
        await connection.execute(text("DROP TABLE test_notes"))
    await storage.close()

    again = await open_storage(tmp_path)
    assert await count(again) == 0
    await again.close()


async def test_a_second_sensor_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    first = await open_storage(tmp_path)
    with pytest.raises(StateError) as refused:
        await open_storage(tmp_path)
    assert f"process {os.getpid()}" in refused.value.message
    assert "state.directory" in refused.value.advice

    beside = await open_storage(tmp_path, shared=True)
    await note(beside, "a command may join in")
    await beside.close()
    await first.close()

    free = await open_storage(tmp_path)
    assert await count(free) == 1
    await free.close()


async def test_the_lock_goes_with_a_killed_process(tmp_path: Path) -> None:
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, str(tmp_path), stdout=subprocess.PIPE, cwd=ROOT
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"open\n"
    with pytest.raises(StateError, match=f"process {holder.pid}"):
        await open_storage(tmp_path)
    holder.kill()
    await holder.communicate()

    storage = await open_storage(tmp_path)
    assert await count(storage) == 1
    await storage.close()


HOLD = """
import asyncio, sys
from pathlib import Path
import tests.test_storage as t
async def main():
    storage = await t.open_storage(Path(sys.argv[1]))
    await t.note(storage, "by the holder")
    print("open", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    await (await open_storage(tmp_path)).close()
    raw = sqlite3.connect(tmp_path / "state.db")
    assert raw.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    raw.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    raw.close()

    with pytest.raises(StateError, match="made by a newer version") as refused:
        await open_storage(tmp_path)
    assert not refused.value.retryable


@pytest.mark.parametrize("damage", [b"this was never a database" * 400, b"SQLite format 3\x00" + b"\xff" * 8000])
async def test_a_damaged_database_is_told_from_a_full_disk(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "state.db").write_bytes(damage)
    with pytest.raises(StateError, match="damaged") as refused:
        await open_storage(tmp_path)
    assert "move it aside" in refused.value.advice
    assert not refused.value.retryable
    # and the directory is not left locked
    (tmp_path / "state.db").unlink()
    await (await open_storage(tmp_path)).close()


async def test_a_table_damaged_underneath_is_told(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    for _ in range(4):
        await note(storage, "x" * 3000)
    await storage.compact()
    await storage.close()
    data = bytearray((tmp_path / "state.db").read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    (tmp_path / "state.db").write_bytes(data)

    async def use() -> None:
        storage = await open_storage(tmp_path)
        try:
            await count(storage)
        finally:
            await storage.close()

    with pytest.raises(StateError, match="damaged"):
        await use()


async def test_a_file_in_the_way_of_the_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StateError, match="cannot use the state directory") as refused:
        await open_storage(tmp_path / "state")
    assert "state.directory" in refused.value.advice


async def test_a_locked_database_is_told(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    async with storage.transaction() as connection:
        await connection.execute(text("PRAGMA busy_timeout = 0"))
    other = sqlite3.connect(storage.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateError, match="is locked") as refused:
        await note(storage, "no")
    assert refused.value.retryable
    other.close()
    await storage.close()


async def test_a_pool_without_a_free_connection_is_told(tmp_path: Path) -> None:
    error = translate(PoolTimeoutError("none free"), tmp_path)
    assert error.retryable
    assert "busy" in error.message


async def test_a_lock_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(StateError, match="cannot use the state directory"):
        await open_storage(tmp_path)


async def test_an_impossible_statement_is_a_state_error_too(storage: Storage) -> None:
    with pytest.raises(StateError, match="failed"):
        async with storage.transaction() as connection:
            await connection.execute(insert(NOTES).values(note=None))


async def test_compact_gives_space_back(storage: Storage) -> None:
    for _ in range(50):
        await note(storage, "large", 40_000)
    await storage.compact()
    full = storage.path.stat().st_size
    assert full > 2_000_000
    async with storage.transaction() as connection:
        await connection.execute(text("DELETE FROM test_notes"))
    await storage.compact()
    assert storage.path.stat().st_size < full / 4
    assert storage.path.with_name("state.db-wal").stat().st_size == 0


async def test_compact_of_a_damaged_file_is_told(tmp_path: Path) -> None:
    storage = await open_storage(tmp_path)
    await storage.close()
    (tmp_path / "state.db").write_bytes(b"nothing like a database" * 300)
    with pytest.raises(StateError, match="damaged"):
        await storage.compact()


ON_A_FULL_DISK = """
import asyncio, os, sys
from pathlib import Path
import tests.test_storage as t
from sensor.errors import StateError
async def main():
    disk = Path(sys.argv[1])
    storage = await t.open_storage(disk / "state")
    await t.note(storage, "before")
    (disk / "reserve").write_bytes(b"x" * 600_000)
    written = 1
    try:
        while True:
            await t.note(storage, "more", 60_000)
            written += 1
    except StateError as error:
        print(error.retryable, error, flush=True)
    assert written > 2, written
    assert await t.count(storage) == written, "what was acknowledged is there, and nothing else"
    (disk / "reserve").unlink()
    await t.note(storage, "after", 60_000)
    assert await t.count(storage) == written + 1
    await storage.close()
    again = await t.open_storage(disk / "state")
    assert await t.count(again) == written + 1
    await again.close()
    (disk / "ballast").write_bytes(b"")
    try:
        with open(disk / "ballast", "ab", buffering=0) as ballast:
            while True:
                ballast.write(b"x" * 4096)
    except OSError:
        pass
    try:
        await t.open_storage(disk / "other")
    except StateError as error:
        print(error.retryable, error, flush=True)
asyncio.run(main())
"""


MOUNT = 'mount -t tmpfs -o size=1m tmpfs "$1"; exec "$2" "$3" "$1"'


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = tmp_path / "script.py"
    script.write_text(ON_A_FULL_DISK)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", MOUNT, "sh", str(disk), sys.executable, str(script)],
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("True the disk under")
    assert "free space" in first
    assert second.startswith("True ")
    assert "free space" in second


AS_ANOTHER_USER = """
import asyncio, sys
from pathlib import Path
from sensor.errors import StateError
from sensor.storage import open_storage
async def main():
    for directory in sys.argv[1:]:
        try:
            await open_storage(Path(directory))
        except StateError as error:
            print(error, flush=True)
asyncio.run(main())
"""


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that other users may enter; pytest closes the parents of its own again and again."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


async def test_a_directory_of_another_user_is_told(open_to_all: Path) -> None:
    closed = open_to_all / "closed"
    closed.mkdir(mode=0o755)
    owned = open_to_all / "owned"
    await (await open_storage(owned)).close()
    owned.chmod(0o755)
    (owned / "lock").chmod(0o666)
    done = await asyncio.create_subprocess_exec(
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        sys.executable,
        "-c",
        AS_ANOTHER_USER,
        str(closed),
        str(owned),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    out, err = await done.communicate()
    assert done.returncode == 0, err.decode()
    first, second = out.decode().splitlines()
    assert "cannot use the state directory" in first
    assert "Permission denied" in first
    assert "cannot be written" in second
    assert "owner and mode" in second


def test_swap_file_replaces_whole(tmp_path: Path) -> None:
    target, new = tmp_path / "target", tmp_path / "new"
    target.write_bytes(b"old")
    new.write_bytes(b"new")
    swap_file(new, target)
    assert target.read_bytes() == b"new"
    assert not new.exists()


def test_swap_file_keeps_the_old_one_when_it_fails(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with pytest.raises(StateError, match="in place of"):
        swap_file(tmp_path / "never written", target)
    assert target.read_bytes() == b"old"
    occupied = tmp_path / "directory"
    (occupied / "full").mkdir(parents=True)
    with pytest.raises(StateError, match="in place of"):
        swap_file(target, occupied)
    assert target.read_bytes() == b"old"


SWAP_FOREVER = """
import sys
from pathlib import Path
from sensor.storage import swap_file
directory = Path(sys.argv[1])
print("go", flush=True)
number = 0
while True:
    number += 1
    beside = directory / "beside"
    beside.write_bytes(b"%d " % (number % 10) * 50_000)
    swap_file(beside, directory / "target")
"""


def test_swap_file_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"0 " * 50_000)
    for moment in range(5):
        swapper = subprocess.Popen(
            [sys.executable, "-c", SWAP_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
        )
        assert swapper.stdout is not None
        swapper.stdout.readline()
        seen = set()
        while len(seen) < 2 + moment:
            seen.add(target.read_bytes()[:2])
        swapper.send_signal(signal.SIGKILL)
        swapper.wait()
        swapper.stdout.close()
        data = target.read_bytes()
        assert data == data[:2] * 50_000
