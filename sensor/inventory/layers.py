"""Inventories of layers: kept for ever under the layer's digest, and each layer fetched once, however many images want it at a time.

Two images of one process take turns by a lock, two processes by a lease in the database. A reading counts only when the bytes' digest is
the one that the manifest names. Leaves reading the bytes to `reader`, and what an image is to `image`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sys
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeAlias, TypeVar

import msgspec
from sqlalchemy import Column, Float, Integer, LargeBinary, Table, Text, delete, func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from sensor.errors import DataError
from sensor.limits import Limits
from sensor.model.digest import Digest
from sensor.model.manifest import Descriptor
from sensor.model.package import Gap, LayerInventory
from sensor.pacing import Bandwidth
from sensor.registry.port import Registry
from sensor.scan.child import LayerReading
from sensor.storage import METADATA, Storage

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Clock: TypeAlias = Callable[[], datetime]
_Kept = TypeVar("_Kept", bound=msgspec.Struct)
Progress: TypeAlias = Callable[[int], None]
"""Is told the compressed bytes done since the last call."""

LAYERS = Table(
    "layer_inventories",
    METADATA,
    Column("digest", Text, primary_key=True),
    Column("catalogers", Text, primary_key=True),
    Column("limits", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("compressed_bytes", Integer, nullable=False),
    Column("inflated_bytes", Integer, nullable=False),
    Column("stored_at", Float, nullable=False),
)
"""`body` is the inventory as MessagePack in zstd, `limits` the mark of the limits it ran into (see `limits_mark`)."""

LEASES = Table(
    "layer_leases",
    METADATA,
    Column("digest", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("until", Float, nullable=False),
)

LEASE = timedelta(minutes=5)
"""How long a silent fetch keeps others waiting. It is longer than the registry (60 s) and the scanning process (120 s) may be silent."""

_POLL_SECONDS = 0.5
"""Pause between looks at a layer that another process fetches."""

_ASKED_AT_ONCE = 500


class LayerCorrupt(DataError):
    """The bytes of a layer are not those that its manifest names. Trying again helps when the transfer was at fault."""

    retryable = True


class ReadLayer(Protocol):
    """What `reader.read_layer` does: the bytes of one layer in, its inventory and their SHA-256 out."""

    def __call__(
        self, chunks: AsyncIterator[bytes], *, limits: Limits, progress: Progress | None = None
    ) -> Awaitable[LayerReading]:
        """Read one layer; whatever `chunks` raises comes out unchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedLayer:
    """A layer's inventory, and the bytes that had to be fetched for it (0: it was known)."""

    inventory: LayerInventory
    bytes_fetched: int = 0


class LayerStore:
    """The two tables. All methods raise StateError when the database fails."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock

    async def get(self, digests: Iterable[Digest], catalogers: str, limits: Limits) -> dict[Digest, LayerInventory]:
        """The inventories that are known for these catalogers. One that cannot be read any more is as good as unknown."""
        wanted = list(dict.fromkeys(digests))
        found: dict[Digest, LayerInventory] = {}
        async with self._storage.reading() as connection:
            for start in range(0, len(wanted), _ASKED_AT_ONCE):
                query = select(LAYERS.c.digest, LAYERS.c.body).where(
                    LAYERS.c.digest.in_(wanted[start : start + _ASKED_AT_ONCE]),
                    LAYERS.c.catalogers == catalogers,
                    LAYERS.c.limits.in_(("", limits_fingerprint(limits))),
                )
                for digest, body in await connection.execute(query):
                    with contextlib.suppress(DataError):
                        found[digest] = unpack(body, LayerInventory)
        return found

    async def put(
        self, connection: AsyncConnection, digest: Digest, inventory: LayerInventory, catalogers: str, limits: Limits
    ) -> None:
        """Keep an inventory, in the caller's transaction."""
        await connection.execute(
            insert(LAYERS)
            .prefix_with("OR REPLACE")
            .values(
                digest=digest,
                catalogers=catalogers,
                limits=limits_mark(inventory.gaps, *(each.gaps for each in inventory.evidence), limits=limits),
                body=pack(inventory),
                compressed_bytes=inventory.compressed_bytes,
                inflated_bytes=inventory.inflated_bytes,
                stored_at=self._clock().timestamp(),
            )
        )

    async def claim(self, connection: AsyncConnection, digest: Digest, owner: str, lease: timedelta) -> bool:
        """Take the sole right to fetch a layer, or renew it. False: another has it, and its lease has not run out."""
        now = self._clock()
        statement = insert(LEASES).values(digest=digest, owner=owner, until=(now + lease).timestamp())
        taken = statement.on_conflict_do_update(
            index_elements=[LEASES.c.digest],
            set_={"owner": statement.excluded.owner, "until": statement.excluded.until},
            where=(LEASES.c.owner == owner) | (LEASES.c.until <= now.timestamp()),
        )
        return (await connection.execute(taken)).rowcount == 1

    async def release(self, connection: AsyncConnection, digest: Digest, owner: str) -> None:
        """Give the right back, if it is still this owner's."""
        await connection.execute(delete(LEASES).where(LEASES.c.digest == digest, LEASES.c.owner == owner))

    async def recover(self) -> None:
        """Drop the leases of a former process. Only for a process that has the state to itself."""
        async with self._storage.transaction() as connection:
            await connection.execute(delete(LEASES))

    async def totals(self) -> dict[str, int]:
        """How many layers are kept, and their bytes: as registries store them, inflated, and what their inventories take here."""
        columns = (
            func.count(),
            func.coalesce(func.sum(LAYERS.c.compressed_bytes), 0),
            func.coalesce(func.sum(LAYERS.c.inflated_bytes), 0),
            func.coalesce(func.sum(func.length(LAYERS.c.body)), 0),
        )
        async with self._storage.reading() as connection:
            row = (await connection.execute(select(*columns))).one()
        return dict(zip(("layers", "compressed_bytes", "inflated_bytes", "stored_bytes"), row, strict=True))


class Layers:
    """Gives the inventories of layers, from the store or else from the registry. One for the whole process."""

    def __init__(  # noqa: PLR0913 - the composition root fills it once
        self,
        store: LayerStore,
        storage: Storage,
        read: ReadLayer,
        *,
        catalogers: str,
        limits: Limits,
        clock: Clock = lambda: datetime.now(UTC),
        concurrency: int = 2,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        lease: timedelta = LEASE,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self.store = store
        self.catalogers = catalogers
        self.limits = limits
        self.concurrency = concurrency
        self._storage = storage
        self._read = read
        self._clock = clock
        self._pause = pause
        self._lease = lease
        self._line = bandwidth or Bandwidth(0)
        self._owner = uuid.uuid4().hex
        self._streams = asyncio.Semaphore(concurrency)
        self._turns: dict[Digest, _Turn] = {}

    async def fetch(
        self, registry: Registry, repository: str, descriptor: Descriptor, progress: Progress = lambda _count: None
    ) -> FetchedLayer:
        """The inventory of one layer; it is fetched only if nobody has it, and nobody else is about to.

        Raises:
            LayerCorrupt: the bytes have another digest or are more than the manifest says; nothing was stored.
            DataError: the scanning process failed.
            NetworkError, RegistryError: the registry did not deliver.
            StateError: the database cannot be used.
        """
        digest = descriptor.digest
        async with self._turn(digest):
            while (known := await self._known(descriptor)) is None:
                # first a free slot, then the lease: a lease must not run out while its owner waits for a slot
                async with self._streams:
                    async with self._storage.transaction() as connection:
                        mine = await self.store.claim(connection, digest, self._owner, self._lease)
                    if mine:
                        return await self._fetch_claimed(registry, repository, descriptor, progress)
                await self._pause(_POLL_SECONDS)
        progress(descriptor.size)
        return FetchedLayer(inventory=known)

    async def _known(self, descriptor: Descriptor) -> LayerInventory | None:
        digest = descriptor.digest
        known = (await self.store.get([digest], self.catalogers, self.limits)).get(digest)
        if known is not None and known.compressed_bytes != descriptor.size:
            # as a fetch would have found out: the verdict must not depend on what is cached
            message = f"layer {digest} has {known.compressed_bytes} bytes, its manifest says {descriptor.size}"
            raise LayerCorrupt(message, "the manifest is wrong; push the image again", retryable=False)
        return known

    async def _fetch_claimed(
        self, registry: Registry, repository: str, descriptor: Descriptor, progress: Progress
    ) -> FetchedLayer:
        digest = descriptor.digest
        try:
            # another process may have stored it between the look and the claim
            if (known := await self._known(descriptor)) is not None:
                progress(descriptor.size)
                return FetchedLayer(inventory=known)
            inventory = await self._stream(registry, repository, descriptor, progress)
            async with self._storage.transaction() as connection:
                await self.store.put(connection, digest, inventory, self.catalogers, self.limits)
        finally:
            async with self._storage.transaction() as connection:
                await self.store.release(connection, digest, self._owner)
        return FetchedLayer(inventory=inventory, bytes_fetched=descriptor.size)

    async def _stream(
        self, registry: Registry, repository: str, descriptor: Descriptor, progress: Progress
    ) -> LayerInventory:
        checked = _Checked(descriptor)
        source = registry.blob(repository, descriptor)
        chunks = checked.pass_on(self._renewing(descriptor.digest, source))
        try:
            reading = await self._read(chunks, limits=self.limits, progress=progress)
        finally:
            # an abandoned generator would keep its connection until the garbage collector comes by
            for stream in (chunks, source):
                if isinstance(stream, AsyncGenerator):
                    await stream.aclose()
        checked.verify(reading)
        return reading.inventory

    async def _renewing(self, digest: Digest, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Keep the lease while bytes arrive, however slow the line, and keep to the bandwidth that the operator allows."""
        renew_at = self._clock() + self._lease / 3
        async for chunk in chunks:
            if self._clock() >= renew_at:
                async with self._storage.transaction() as connection:
                    await self.store.claim(connection, digest, self._owner, self._lease)
                renew_at = self._clock() + self._lease / 3
            if (wait := self._line.take(len(chunk))) > 0:
                await self._pause(wait)
            yield chunk

    @contextlib.asynccontextmanager
    async def _turn(self, digest: Digest) -> AsyncIterator[None]:
        """One at a time for a digest within this process. The second finds what the first stored, or tries itself if that failed."""
        turn = self._turns.setdefault(digest, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if turn.users == 0:
                del self._turns[digest]


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class _Checked:
    """Watches the bytes of a layer on their way to the reader."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor
        self._size = 0
        # the reader gives SHA-256; the other registered algorithm is rare enough to be computed here
        self._sha512 = hashlib.sha512() if descriptor.digest.startswith("sha512:") else None

    async def pass_on(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self._size += len(chunk)
            if self._size > self._descriptor.size:
                message = f"layer {self._descriptor.digest} is longer than the {self._descriptor.size} bytes its manifest names"
                raise LayerCorrupt(message, "the registry, or something before it, altered the layer")
            if self._sha512 is not None:
                self._sha512.update(chunk)
            yield chunk

    def verify(self, reading: LayerReading) -> None:
        found = reading.digest if self._sha512 is None else f"sha512:{self._sha512.hexdigest()}"
        if found != self._descriptor.digest or reading.size != self._size:
            message = (
                f"the registry sent {self._size} bytes with the digest {found} for layer {self._descriptor.digest} "
                f"of {self._descriptor.size} bytes"
            )
            raise LayerCorrupt(message, "the layer is damaged in the registry or on the way; push the image again")


def limits_fingerprint(limits: Limits) -> str:
    """Names one set of limits."""
    return hashlib.sha256(msgspec.json.encode(limits)).hexdigest()[:16]


def limits_mark(*gaps: Iterable[Gap], limits: Limits) -> str:
    """What limits an inventory with these gaps is good for: any ("") if none was hit, else only the same.

    So an operator who raises a limit gets what was left out, and nobody else pays for it.
    """
    hit = any(gap.kind == "limit" for each in gaps for gap in each)
    return limits_fingerprint(limits) if hit else ""


def pack(value: msgspec.Struct) -> bytes:
    """MessagePack in zstd, as the tables keep it."""
    return zstd.compress(msgspec.msgpack.encode(value), level=3)


def unpack(body: bytes, kind: type[_Kept]) -> _Kept:
    """Read what `pack` made.

    Raises:
        DataError: it is damaged, or of another version.
    """
    try:
        return msgspec.msgpack.decode(zstd.decompress(body), type=kind)
    except (zstd.ZstdError, msgspec.DecodeError) as error:
        message = f"a stored inventory cannot be read: {error}"
        raise DataError(message, "it is made again") from error
