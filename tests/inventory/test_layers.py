"""Layers: fetched once, kept under their digest, and never believed without it."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from sensor.errors import DataError, NetworkError
from sensor.inventory.layers import (
    LAYERS,
    LEASES,
    FetchedLayer,
    LayerCorrupt,
    Layers,
    LayerStore,
    limits_fingerprint,
    limits_mark,
    pack,
    unpack,
)
from sensor.inventory.reader import read_layer
from sensor.limits import Limits
from sensor.model.advisory import Range
from sensor.model.digest import Digest
from sensor.model.manifest import Descriptor
from sensor.model.package import Evidence, Gap, LayerInventory, OsRelease, Package
from sensor.pacing import Bandwidth
from sensor.registry.errors import RegistryUnavailable
from sensor.scan.child import LayerReading
from sensor.storage import Storage, open_storage
from tests.fakes.layers import file, layer
from tests.fakes.memory_registry import MemoryRegistry

ROOT = Path(__file__).parent.parent.parent
START = datetime(2026, 5, 1, 12, tzinfo=UTC)
LIMITS = Limits()
KEY = "stream-1 dpkg-1"


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


class Reader:
    """Reads layers in place of the scanning process: hashes the bytes, and "finds" what they say."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.read = 0
        self.at_once = 0
        self.most_at_once = 0
        self.seconds_a_chunk = 0.0
        self.clock = clock
        self.gate: asyncio.Event | None = None
        self.meeting: asyncio.Barrier | None = None
        self.started = asyncio.Event()
        self.gaps: tuple[Gap, ...] = ()
        self.fails: list[Exception] = []

    async def __call__(
        self, chunks: AsyncIterator[bytes], *, limits: Limits, progress: Callable[[int], None] | None = None
    ) -> LayerReading:
        self.read += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.started.set()
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.meeting is not None:
                await self.meeting.wait()
            hashed, size, data = hashlib.sha256(), 0, b""
            async for chunk in chunks:
                hashed.update(chunk)
                size += len(chunk)
                data = data or chunk
                if self.clock is not None:
                    self.clock.now += timedelta(seconds=self.seconds_a_chunk)
                if progress is not None:
                    progress(len(chunk))
            if self.fails:
                raise self.fails.pop(0)
        finally:
            self.at_once -= 1
        return LayerReading(
            digest=Digest(f"sha256:{hashed.hexdigest()}"), size=size, inventory=inventory_of(data, size, self.gaps)
        )


def inventory_of(data: bytes, size: int, gaps: tuple[Gap, ...] = ()) -> LayerInventory:
    package = Package(type="deb", name=data[:20].decode("latin-1"), version="1", path="var/lib/dpkg/status")
    return LayerInventory(
        evidence=(Evidence(cataloger="dpkg", path="var/lib/dpkg/status", packages=(package,)),),
        os_release={"etc/os-release": OsRelease(id="debian", version_id="12")},
        compressed_bytes=size,
        inflated_bytes=2 * size,
        gaps=gaps,
    )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = await open_storage(tmp_path / "state")
    yield storage
    await storage.close()


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


@pytest.fixture
def reader(clock: Clock) -> Reader:
    return Reader(clock)


def layers_of(storage: Storage, reader: Reader, clock: Clock, **more: object) -> Layers:
    options = {"catalogers": KEY, "limits": LIMITS, "clock": clock, **more}
    return Layers(LayerStore(storage, clock), storage, reader, **options)  # type: ignore[arg-type]


@pytest.fixture
def layers(storage: Storage, reader: Reader, clock: Clock) -> Layers:
    return layers_of(storage, reader, clock)


def blob(registry: MemoryRegistry, data: bytes) -> Descriptor:
    return Descriptor(
        media_type="application/vnd.oci.image.layer.v1.tar", digest=registry.blob_of(data), size=len(data)
    )


async def leases(storage: Storage) -> int:
    async with storage.reading() as connection:
        return len((await connection.execute(select(LEASES))).all())


async def test_a_layer_is_fetched_once_and_then_known(
    layers: Layers, registry: MemoryRegistry, reader: Reader, storage: Storage
) -> None:
    registry.chunk = 3
    descriptor = blob(registry, b"a layer")
    counts: list[int] = []
    first = await layers.fetch(registry, "app", descriptor, counts.append)
    assert first == FetchedLayer(inventory=inventory_of(b"a l", 7), bytes_fetched=7)
    assert counts == [3, 3, 1]
    second = await layers.fetch(registry, "app", descriptor, counts.append)
    assert second == FetchedLayer(inventory=first.inventory, bytes_fetched=0)
    assert counts[3:] == [7]
    assert registry.requested("blob") == reader.read == 1
    assert await leases(storage) == 0
    assert await layers.store.totals() | {"stored_bytes": 0} == {
        "layers": 1,
        "compressed_bytes": 7,
        "inflated_bytes": 14,
        "stored_bytes": 0,
    }


async def test_a_known_layer_is_refused_where_the_manifest_lies_about_its_size(
    layers: Layers, registry: MemoryRegistry
) -> None:
    descriptor = blob(registry, b"a layer")
    await layers.fetch(registry, "app", descriptor)
    lie = Descriptor(media_type=descriptor.media_type, digest=descriptor.digest, size=1 << 40)
    with pytest.raises(LayerCorrupt, match="7 bytes, its manifest says"):
        await layers.fetch(registry, "app", lie)


async def test_many_images_that_want_one_layer_at_once_fetch_it_once(
    layers: Layers, registry: MemoryRegistry, reader: Reader
) -> None:
    descriptor = blob(registry, b"the base of all")
    found = await asyncio.gather(*(layers.fetch(registry, f"app{n}", descriptor) for n in range(20)))
    assert registry.requested("blob") == 1
    assert sum(each.bytes_fetched for each in found) == descriptor.size
    assert len({pack(each.inventory) for each in found}) == 1


async def test_a_waiter_tries_itself_when_the_first_one_fails(
    layers: Layers, registry: MemoryRegistry, reader: Reader, storage: Storage
) -> None:
    descriptor = blob(registry, b"data")
    reader.fails = [DataError("the scanning process died", retryable=True)]
    found = await asyncio.gather(*(layers.fetch(registry, "app", descriptor) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in found] == [DataError, FetchedLayer, FetchedLayer]
    assert reader.read == 2
    assert await leases(storage) == 0


async def test_a_waiter_takes_over_when_the_first_one_is_cancelled(
    layers: Layers, registry: MemoryRegistry, reader: Reader, storage: Storage
) -> None:
    descriptor = blob(registry, b"data")
    reader.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(layers.fetch(registry, "app", descriptor))
        await reader.started.wait()
        second = group.create_task(layers.fetch(registry, "app", descriptor))
        first.cancel()
        reader.gate.set()
    assert first.cancelled()
    assert second.result().bytes_fetched == 4
    assert await leases(storage) == 0


async def test_streams_are_bounded_over_all_images(
    storage: Storage, registry: MemoryRegistry, reader: Reader, clock: Clock
) -> None:
    layers = layers_of(storage, reader, clock, concurrency=2)
    reader.meeting = asyncio.Barrier(2)
    descriptors = [blob(registry, b"layer %d" % number) for number in range(10)]
    await asyncio.gather(*(layers.fetch(registry, "app", each) for each in descriptors))
    assert reader.most_at_once == 2
    assert reader.read == 10


# --- what the bytes must be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"tampered", b"", b"a laye", b"a layer and more", b"a layeR"])
async def test_other_bytes_than_the_manifest_names_are_refused_and_not_kept(
    layers: Layers, registry: MemoryRegistry, storage: Storage, sent: bytes
) -> None:
    descriptor = blob(registry, b"a layer")
    registry.blobs[descriptor.digest] = sent
    with pytest.raises(LayerCorrupt) as refused:
        await layers.fetch(registry, "app", descriptor)
    assert descriptor.digest in refused.value.message
    assert refused.value.retryable
    assert await layers.store.get([descriptor.digest], KEY, LIMITS) == {}
    assert await leases(storage) == 0

    registry.blobs[descriptor.digest] = b"a layer"
    assert (await layers.fetch(registry, "app", descriptor)).bytes_fetched == 7


async def test_a_registry_that_sends_without_end_is_stopped(layers: Layers, registry: MemoryRegistry) -> None:
    descriptor = blob(registry, b"short")
    sent = 0

    class Endless(MemoryRegistry):
        async def blob(self, repository: str, descriptor: Descriptor) -> AsyncIterator[bytes]:
            nonlocal sent
            while True:
                sent += 1
                yield b"short"

    with pytest.raises(LayerCorrupt, match="longer than the 5 bytes"):
        await layers.fetch(Endless(), "app", descriptor)
    assert sent == 2


async def test_a_sha512_digest_is_checked_as_well(layers: Layers, registry: MemoryRegistry) -> None:
    digest = Digest("sha512:" + hashlib.sha512(b"data").hexdigest())
    registry.blobs[digest] = b"data"
    descriptor = Descriptor(digest=digest, size=4)
    assert (await layers.fetch(registry, "app", descriptor)).bytes_fetched == 4
    wrong = Descriptor(digest=Digest("sha512:" + "0" * 128), size=4)
    registry.blobs[wrong.digest] = b"data"
    with pytest.raises(LayerCorrupt, match="sha512:"):
        await layers.fetch(registry, "app", wrong)


@pytest.mark.parametrize("error", [NetworkError("reset"), RegistryUnavailable("502")])
async def test_what_the_registry_says_comes_out_unchanged(
    layers: Layers, registry: MemoryRegistry, storage: Storage, error: NetworkError
) -> None:
    descriptor = blob(registry, b"data")
    registry.fail("blob", descriptor.digest, error, None)
    with pytest.raises(type(error)) as raised:
        await layers.fetch(registry, "app", descriptor)
    assert raised.value is error
    assert await leases(storage) == 0
    assert (await layers.fetch(registry, "app", descriptor)).bytes_fetched == 4


# --- between processes ----------------------------------------------------------------------------------------------------


async def test_another_process_that_fetches_the_layer_is_waited_for(
    storage: Storage, registry: MemoryRegistry, reader: Reader, clock: Clock
) -> None:
    descriptor = blob(registry, b"data")
    other = layers_of(storage, Reader(), clock)
    pauses = 0

    async def pause(seconds: float) -> None:
        nonlocal pauses
        assert 0 < seconds <= 5
        pauses += 1
        if pauses == 3:
            async with storage.transaction() as connection:
                await other.store.put(connection, descriptor.digest, inventory_of(b"other", 4), KEY, LIMITS)
                await other.store.release(connection, descriptor.digest, "other")

    async with storage.transaction() as connection:
        assert await other.store.claim(connection, descriptor.digest, "other", timedelta(minutes=5))
    layers = layers_of(storage, reader, clock, pause=pause)
    found = await layers.fetch(registry, "app", descriptor)
    assert found == FetchedLayer(inventory=inventory_of(b"other", 4))
    assert pauses == 3
    assert registry.requested("blob") == 0


async def test_a_killed_process_keeps_nobody_waiting_for_long(
    storage: Storage, registry: MemoryRegistry, reader: Reader, clock: Clock
) -> None:
    descriptor = blob(registry, b"data")

    async def pause(_seconds: float) -> None:
        clock.now += timedelta(minutes=1)

    layers = layers_of(storage, reader, clock, pause=pause)
    async with storage.transaction() as connection:
        await layers.store.claim(connection, descriptor.digest, "killed", timedelta(minutes=5))
    assert (await layers.fetch(registry, "app", descriptor)).bytes_fetched == 4
    assert clock.now == START + timedelta(minutes=5)


async def test_a_lease_belongs_to_one(storage: Storage, layers: Layers, clock: Clock) -> None:
    digest = Digest("sha256:" + "a" * 64)
    lease = timedelta(minutes=5)
    async with storage.transaction() as connection:
        store = layers.store
        assert await store.claim(connection, digest, "one", lease)
        assert await store.claim(connection, digest, "one", lease)
        assert not await store.claim(connection, digest, "two", lease)
        await store.release(connection, digest, "two")
        assert not await store.claim(connection, digest, "two", lease)
        await store.release(connection, digest, "one")
        assert await store.claim(connection, digest, "two", lease)
        clock.now += lease
        assert await store.claim(connection, digest, "one", lease)


async def test_a_new_start_waits_for_no_former_process(
    storage: Storage, registry: MemoryRegistry, layers: Layers
) -> None:
    descriptor = blob(registry, b"data")
    async with storage.transaction() as connection:
        assert await layers.store.claim(connection, descriptor.digest, "killed", timedelta(minutes=5))
    await layers.store.recover()
    assert await leases(storage) == 0
    assert (await layers.fetch(registry, "app", descriptor)).bytes_fetched == 4


async def test_the_lease_of_a_slow_fetch_is_renewed(
    storage: Storage, registry: MemoryRegistry, reader: Reader, clock: Clock
) -> None:
    registry.chunk = 1
    reader.seconds_a_chunk = 60
    descriptor = blob(registry, b"x" * 30)
    seen: list[float] = []

    class Watched(LayerStore):
        async def claim(self, connection, digest, owner, lease):  # type: ignore[no-untyped-def]
            taken = await super().claim(connection, digest, owner, lease)
            until = (await connection.execute(select(LEASES.c.until))).scalar_one()
            seen.append(until - self._clock().timestamp())
            return taken

    layers = Layers(Watched(storage, clock), storage, reader, catalogers=KEY, limits=LIMITS, clock=clock)
    await layers.fetch(registry, "app", descriptor)
    assert clock.now - START == timedelta(minutes=30)
    assert len(seen) >= 10
    assert set(seen) == {300.0}


async def test_what_another_process_stored_in_the_last_moment_is_not_fetched_again(
    storage: Storage, registry: MemoryRegistry, reader: Reader, clock: Clock
) -> None:
    descriptor = blob(registry, b"data")

    class Late(LayerStore):
        async def claim(self, connection, digest, owner, lease):  # type: ignore[no-untyped-def]
            await self.put(connection, digest, inventory_of(b"other", 4), KEY, LIMITS)
            return await super().claim(connection, digest, owner, lease)

    layers = Layers(Late(storage, clock), storage, reader, catalogers=KEY, limits=LIMITS, clock=clock)
    counts: list[int] = []
    found = await layers.fetch(registry, "app", descriptor, counts.append)
    assert found == FetchedLayer(inventory=inventory_of(b"other", 4))
    assert counts == [4]
    assert reader.read == 0
    assert await leases(storage) == 0


ONE_OF_SEVERAL = """
import asyncio, sys
from pathlib import Path
import tests.inventory.test_layers as t
async def main():
    storage = await t.open_storage(Path(sys.argv[1]), shared=True)
    registry = t.MemoryRegistry()
    descriptor = t.blob(registry, b"the base of all" * 1000)
    clock = lambda: t.datetime.now(t.UTC)
    reader = t.Reader()
    layers = t.layers_of(storage, reader, clock)
    print("ready", flush=True)
    sys.stdin.readline()
    found = await layers.fetch(registry, "app", descriptor)
    print(reader.read, found.inventory.compressed_bytes, flush=True)
    await storage.close()
asyncio.run(main())
"""


async def test_several_processes_fetch_a_layer_once(storage: Storage) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            ONE_OF_SEVERAL,
            str(storage.path.parent),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    assert sorted(out for out, _ in outputs) == [b"0 15000\n", b"0 15000\n", b"1 15000\n"]


# --- what is kept ---------------------------------------------------------------------------------------------------------


async def test_other_catalogers_have_inventories_of_their_own(
    storage: Storage, registry: MemoryRegistry, reader: Reader, clock: Clock, layers: Layers
) -> None:
    descriptor = blob(registry, b"data")
    await layers.fetch(registry, "app", descriptor)
    newer = layers_of(storage, reader, clock, catalogers="stream-1 dpkg-2")
    assert (await newer.fetch(registry, "app", descriptor)).bytes_fetched == 4
    assert (await layers.fetch(registry, "app", descriptor)).bytes_fetched == 0


@pytest.mark.parametrize(
    ("gap", "again"),
    [
        (Gap(kind="limit", subject="layer", reason="more than 3 entries"), True),
        (Gap(kind="unreadable", subject="layer", reason="damaged"), False),
    ],
)
async def test_a_raised_limit_brings_what_was_left_out(
    storage: Storage, registry: MemoryRegistry, reader: Reader, clock: Clock, gap: Gap, again: bool
) -> None:
    descriptor = blob(registry, b"data")
    reader.gaps = (gap,)
    tight = layers_of(storage, reader, clock, limits=Limits(layer_entries=3))
    await tight.fetch(registry, "app", descriptor)
    assert (await tight.fetch(registry, "app", descriptor)).bytes_fetched == 0
    wide = layers_of(storage, reader, clock)
    assert bool((await wide.fetch(registry, "app", descriptor)).bytes_fetched) is again


def test_gaps_of_evidence_count_as_well() -> None:
    hit = Gap(kind="limit", subject="x", reason="too large")
    assert limits_mark((), (hit,), limits=LIMITS) == limits_fingerprint(LIMITS)
    assert limits_mark((), (), limits=LIMITS) == ""
    assert limits_fingerprint(LIMITS) != limits_fingerprint(Limits(layer_entries=3))


async def test_a_damaged_inventory_is_as_good_as_none(
    layers: Layers, registry: MemoryRegistry, storage: Storage
) -> None:
    descriptor = blob(registry, b"data")
    await layers.fetch(registry, "app", descriptor)
    for body in (b"not zstd", pack(Range(type="SEMVER", events=()))):
        async with storage.transaction() as connection:
            await connection.execute(update(LAYERS).values(body=body))
        assert (await layers.fetch(registry, "app", descriptor)).bytes_fetched == 4
    with pytest.raises(DataError, match="cannot be read"):
        unpack(b"", LayerInventory)


async def test_many_layers_are_found_in_one_call(layers: Layers, storage: Storage) -> None:
    digests = [Digest(f"sha256:{number:064x}") for number in range(1200)]
    async with storage.transaction() as connection:
        for digest in digests[::2]:
            await layers.store.put(connection, digest, inventory_of(digest.encode()[-6:], 1), KEY, LIMITS)
    found = await layers.store.get([*digests, *digests], KEY, LIMITS)
    assert list(found) == digests[::2]


async def test_a_real_scanning_process_reads_what_the_registry_sends(
    storage: Storage, registry: MemoryRegistry, clock: Clock
) -> None:
    data = layer(
        file("etc/os-release", b'ID=debian\nVERSION_ID="12"\n'),
        file(
            "var/lib/dpkg/status",
            b"Package: bash\nStatus: install ok installed\nVersion: 5.2-1\nArchitecture: amd64\n\n",
        ),
    )
    descriptor = blob(registry, data)
    layers = Layers(LayerStore(storage, clock), storage, read_layer, catalogers=KEY, limits=LIMITS)
    found = (await layers.fetch(registry, "app", descriptor)).inventory
    assert [package.name for each in found.evidence for package in each.packages] == ["bash"]
    assert found.os_release["etc/os-release"].version_id == "12"
    assert found.compressed_bytes == len(data)
    registry.blobs[descriptor.digest] = data[:-8]
    other = Layers(LayerStore(storage, clock), storage, read_layer, catalogers="other", limits=LIMITS)
    with pytest.raises(LayerCorrupt):
        await other.fetch(registry, "app", descriptor)


async def test_layers_are_read_no_faster_than_the_operator_allows(
    storage: Storage, registry: MemoryRegistry, reader: Reader, clock: Clock
) -> None:
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    registry.chunk = 1000
    line = Bandwidth(1000, clock=lambda: 0.0)
    layers = layers_of(storage, reader, clock, bandwidth=line, pause=pause)
    await layers.fetch(registry, "app", blob(registry, b"a" * 3000))
    assert pauses == [1.0, 2.0, 3.0]
    await layers.fetch(registry, "app", blob(registry, b"b" * 1000))
    assert pauses[-1] == 4.0
