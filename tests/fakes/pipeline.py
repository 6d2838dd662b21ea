"""A pipeline over real parts (state database, queue, layers with their scanning process, advisories), registries in memory and a clock that is set.

async with bench(tmp_path) as b:
    b.registry.image("team/app", "v1", [python_layer("jinja2", "2.10")])
    await b.sweep()
    await b.work()
    b.sent()
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import event, text

from sensor import events
from sensor.advisories.database import database_path
from sensor.advisories.shelf import AdvisoryShelf
from sensor.advisories.update import import_sources
from sensor.catalog.credentials import CredentialWatch
from sensor.catalog.ledgers import Ledgers
from sensor.catalog.snapshots import Snapshots
from sensor.config.schema import Globs
from sensor.config.schema import Registry as Settings
from sensor.control_plane import wire
from sensor.control_plane.links import Link
from sensor.errors import ConfigError, StateError
from sensor.inventory.images import ImageStore
from sensor.inventory.layers import Layers, LayerStore
from sensor.inventory.reader import read_layer
from sensor.judge import Judge
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.model.manifest import Platform, parse_platform
from sensor.model.reference import Reference
from sensor.model.request import JobRequest, Lane, RematchRequest, ScanRequest, SweepRequest, Work
from sensor.pipeline import Pipeline
from sensor.registry.port import Registry
from sensor.report.entries import Entry
from sensor.report.outbox import Outbox
from sensor.scan.packages import ECOSYSTEMS
from sensor.scan.stream import catalogers_key
from sensor.secret import FromEnv
from sensor.storage import Storage, open_storage
from sensor.work.intake import Intake
from sensor.work.lanes import ALL_LANES
from sensor.work.port import Item
from sensor.work.queue import TableQueue
from tests.advisories.archives import archive, entry, record
from tests.fakes.layers import file, layer
from tests.fakes.memory_registry import MemoryRegistry

START = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
_E = TypeVar("_E")


def python_layer(name: str, version: str, *more: bytes) -> bytes:
    """A layer with one installed Python distribution; `more` makes it another layer with the same packages."""
    data = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n".encode() + b"".join(more)
    return layer(file(f"app/site-packages/{name}-{version}.dist-info/METADATA", data))


def link(name: str, *registries: str, is_default: bool = False) -> Link:
    """A link of that name."""
    return Link(
        name=name, url=f"http://{name}.test", api_key=FromEnv("K"), registries=registries, is_default=is_default
    )


def write_advisories(state: Path, fixed: dict[str, str]) -> None:
    """An advisory database: PyPI package to the version in which its one vulnerability is fixed."""
    records = [record(f"GHSA-{name}", entry("PyPI", name, version)) for name, version in fixed.items()]
    made = archive(state / "archives" / f"{len(list(state.glob('archives/*')))}.zip", *records)
    import_sources([made.path], database_path(state))


@dataclass(slots=True)
class FakeSites:
    """Registries and links as values; a registry reports over the link that names it."""

    registries: dict[str, Registry]
    links: list[Link]
    wanted: tuple[str, ...] = ("linux/amd64",)
    more: dict[str, Any] = field(default_factory=dict)
    """Further settings of every registry."""

    def names(self) -> tuple[str, ...]:
        return tuple(self.registries)

    def registry(self, name: str) -> tuple[Settings, Registry]:
        if name not in self.registries:
            message = f"there is no registry {name!r} in the configuration"
            raise ConfigError(message)
        settings = Settings.model_validate(
            {"name": name, "url": self.registries[name].host, "tags": Globs(exclude=("*.sig",)), **self.more}
        )
        return settings, self.registries[name]

    async def registry_for(self, reference: Reference, link: str) -> tuple[Settings, Registry]:
        for name, client in self.registries.items():
            if client.host == reference.registry:
                return self.registry(name)
        message = f"{reference.registry} is not one of this link's registries"
        raise ConfigError(message, "add it")

    def platforms(self, settings: Settings) -> tuple[Platform, ...]:
        return tuple(parse_platform(each) for each in self.wanted)

    def link_for(self, registry: str) -> Link | None:
        return next((each for each in self.links if registry in each.registries), None)

    def identity(self, link: str) -> wire.Sensor:
        return wire.Sensor(version="1", scanner_versions={"harborguard-sensor": "1"}, name=f"sensor of {link}")


@dataclass(slots=True)
class Clock:
    """Stands still until it is told."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, span: timedelta) -> None:
        self.now += span


@dataclass(slots=True)
class Disk:
    """The disk under a state database. While `full`, nothing can be written; `writes_left` writes still succeed before."""

    full: bool = False
    writes_left: int | None = None

    def attach(self, storage: Storage) -> None:
        event.listen(storage._engine.sync_engine, "begin", self._begin)

    def _begin(self, connection: Any) -> None:
        if connection.get_execution_options().get("sensor_read_only", False):
            return
        if self.writes_left is not None:
            self.full = self.writes_left <= 0
            self.writes_left -= 1
        if self.full:
            raise StateError("the disk is full: planted", "free space there", retryable=True)


@dataclass(slots=True)
class Bench:
    """Everything, and what happened."""

    state: Path
    storage: Storage
    clock: Clock
    queue: TableQueue
    snapshots: Snapshots
    outbox: Outbox
    shelf: AdvisoryShelf
    judge: Judge
    sites: FakeSites
    pipeline: Pipeline
    disk: Disk
    events: list[events.Event]
    filled: list[int] = field(default_factory=list)

    @property
    def registry(self) -> MemoryRegistry:
        """The first registry."""
        found = next(iter(self.sites.registries.values()))
        assert isinstance(found, MemoryRegistry)
        return found

    def told(self, kind: type[_E]) -> list[_E]:
        """Events of one kind."""
        return [each for each in self.events if isinstance(each, kind)]

    async def put(self, work: Work, lane: Lane = Lane.NOW) -> None:
        await self.queue.put(work, lane)

    async def take(self, worker: str = "w") -> Item | None:
        return await self.queue.take(worker, ALL_LANES)

    async def do(self, item: Item) -> None:
        """One piece of work, as a worker of the daemon calls for it."""
        match item.work:
            case SweepRequest():
                await self.pipeline.sweep(item.work, item)
            case ScanRequest():
                await self.pipeline.scan(item.work, item)
            case JobRequest():
                await self.pipeline.job(item.work, item)
            case RematchRequest():
                await self.pipeline.rematch(item)

    async def work(self) -> int:
        """Everything that may start now; how much that was."""
        done = 0
        while (item := await self.take()) is not None:
            await self.do(item)
            done += 1
        return done

    async def sweep(self, registry: str = "prod") -> None:
        """Look at a registry, and leave what that queues."""
        await self.put(SweepRequest(registry=registry))
        item = await self.take()
        assert item is not None
        assert isinstance(item.work, SweepRequest)
        await self.do(item)

    async def job(self, reference: str, *scanners: str, link: str = "cp", job: str = "job-1") -> None:
        """Queue a job."""
        await self.put(JobRequest(link=link, job=job, reference=reference, scanners=scanners))

    async def rematch(self) -> None:
        """Take the advisories that lie there, and match everything again."""
        await self.shelf.refresh()
        await self.put(RematchRequest(revision=self.shelf.revision), Lane.AGAIN)
        await self.work()

    async def ledger(self, registry: str = "prod") -> dict[str, int]:
        """The ledger without its zeroes; it must add up."""
        found = await self.snapshots.ledger(registry)
        assert found["listed"] == sum(count for name, count in found.items() if name != "listed")
        return {name: count for name, count in found.items() if count}

    async def entries(self, link: str = "cp") -> tuple[Entry, ...]:
        return await self.outbox.entries(link)

    async def envelopes(self, link: str = "cp") -> list[dict[str, Any]]:
        """The documents in the outbox, oldest first."""
        return [
            json.loads(await self.outbox.body(entry)) if entry.size else {} for entry in await self.outbox.entries(link)
        ]

    async def sql(self, statement: str) -> list[Any]:
        """Look into, or do something to, the database."""
        async with self.storage.transaction() as connection:
            result = await connection.execute(text(statement))
            return list(result.all()) if result.returns_rows else []


@contextlib.asynccontextmanager
async def bench(
    state: Path,
    *,
    registries: dict[str, Registry] | None = None,
    links: Iterable[Link] | None = None,
    advisories: dict[str, str] | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> AsyncIterator[Bench]:
    """A pipeline in a directory; a second one in the same directory goes on where the first ended."""
    state.mkdir(mode=0o700, exist_ok=True)  # noqa: ASYNC240
    if advisories is not None:
        await asyncio.to_thread(write_advisories, state, advisories)
    clock, told, disk = Clock(), list[events.Event](), Disk()
    storage = await open_storage(state)
    disk.attach(storage)
    shelf = AdvisoryShelf(database_path(state))
    await shelf.refresh()
    layers = Layers(
        LayerStore(storage, clock),
        storage,
        read_layer,
        catalogers=catalogers_key(ECOSYSTEMS),
        limits=limits,
        clock=clock,
    )
    judge = Judge(layers=layers, images=ImageStore(storage, clock), advisories=shelf, publish=told.append, clock=clock)
    queue = TableQueue(storage, clock)
    snapshots = Snapshots(storage)
    sites = FakeSites(
        registries or {"prod": MemoryRegistry()}, list(links if links is not None else [link("cp", "prod")])
    )
    filled: list[int] = []
    pipeline = Pipeline(
        storage=storage,
        queue=queue,
        snapshots=snapshots,
        ledgers=Ledgers(snapshots=snapshots, publish=told.append),
        judge=judge,
        sites=sites,
        intake=Intake(storage=storage, clock=clock, directory=state),
        credentials=CredentialWatch(clock=clock),
        filled=lambda: filled.append(1),
    )
    try:
        yield Bench(
            state, storage, clock, queue, snapshots, Outbox(storage), shelf, judge, sites, pipeline, disk, told, filled
        )
    finally:
        await shelf.close()
        await storage.close()
