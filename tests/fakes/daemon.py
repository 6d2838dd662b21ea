"""The daemon inside the test's own event loop: its events can be waited for, its pauses end when they are told to, its registries are in memory.

async with running(config(tmp_path, plane.url), registries={"prod": registry}) as sensor:
    await sensor.until(lambda: sensor.told(events.ImageScanned))
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import text

from sensor import events
from sensor.config.load import Loaded
from sensor.config.schema import Config, ControlPlane, Health, Registry, Schedule, State
from sensor.daemon.app import App, build_app
from sensor.daemon.run import Daemon
from sensor.model.digest import Digest
from sensor.model.manifest import Descriptor
from sensor.secret import InPlace, Secret
from tests.fakes.control_plane import KEY
from tests.fakes.memory_registry import MemoryRegistry
from tests.fakes.pipeline import Disk

PATIENCE = 45.0
_E = TypeVar("_E")


class GatedRegistry(MemoryRegistry):
    """Layers flow only while the gate is open; `at_the_gate` is set when one waits."""

    def __init__(self, host: str = "registry.test") -> None:
        super().__init__(host)
        self.gate = asyncio.Event()
        self.at_the_gate = asyncio.Event()
        self.before_layer: Callable[[], object] = lambda: None

    async def blob(self, repository: str, descriptor: Descriptor) -> AsyncIterator[bytes]:
        self.at_the_gate.set()
        await self.gate.wait()
        self.before_layer()
        async for chunk in super().blob(repository, descriptor):
            yield chunk


class Pauses:
    """Takes the place of `asyncio.sleep` in the daemon: a pause ends when a test says so."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self._ends: dict[float, asyncio.Event] = {}

    async def __call__(self, seconds: float) -> None:
        self.begun.append(seconds)
        await self._ends.setdefault(seconds, asyncio.Event()).wait()
        del self._ends[seconds]

    def end(self, seconds: float) -> None:
        """Let pauses of this length end."""
        self._ends.setdefault(seconds, asyncio.Event()).set()


@dataclass(slots=True)
class Running:
    """A daemon at work."""

    app: App
    daemon: Daemon
    pauses: Pauses
    disk: Disk
    task: asyncio.Task[None]
    events: list[events.Event] = field(default_factory=list)
    reloads: list[Loaded | Exception] = field(default_factory=list)

    def told(self, kind: type[_E]) -> list[_E]:
        """Events of one kind."""
        return [each for each in self.events if isinstance(each, kind)]

    async def until(self, true: Callable[[], object]) -> None:
        """Wait for something that an event brings about, or that changes soon."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not true():
                    if self.task.done():
                        self.task.result()
                        raise AssertionError("the daemon ended")
                    await asyncio.sleep(0.01)
        except TimeoutError:
            seen = "\n".join(map(str, self.events[-20:]))
            raise AssertionError(f"waited in vain; the last events were:\n{seen}") from None

    async def sql(self, statement: str) -> list[Any]:
        """Look into, or do something to, the state database."""
        async with self.app.engine.storage.transaction() as connection:
            result = await connection.execute(text(statement))
            return list(result.all()) if result.returns_rows else []

    async def rows(self, statement: str, wanted: list[Any]) -> None:
        """Wait until a query gives these rows."""
        async with asyncio.timeout(PATIENCE):
            while (found := await self.sql(statement)) != wanted:
                assert not self.task.done(), found
                await asyncio.sleep(0.01)

    async def ended(self) -> None:
        """Wait for the end."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.shield(self.task)


def config(room: Path, plane: str = "", *registries: str, schedule: Schedule = "daily", **more: Any) -> Config:
    """A configuration for registries of these names (default: `prod`), at NAME.test (`prod`: registry.test)."""
    room.mkdir(mode=0o700, exist_ok=True)
    hosts = {"prod": "registry.test"}
    return Config(
        control_plane=ControlPlane(url=plane, api_key=InPlace(Secret(KEY)), heartbeat="0.05s", poll="0.05s")
        if plane
        else None,
        registries=tuple(
            Registry(name=name, url=hosts.get(name, f"{name}.test"), schedule=schedule)
            for name in registries or ("prod",)
        ),
        state=State(directory=str(room)),
        health=Health(listen="off"),
        **more,
    )


@contextlib.asynccontextmanager
async def running(
    settings: Config,
    registries: Mapping[str, MemoryRegistry],
    *,
    clock: Callable[[], datetime] | None = None,
    drain_seconds: float = 10.0,
    prepare: Callable[[App], Any] | None = None,
) -> AsyncIterator[Running]:
    """Run the daemon until the block ends; how it ended is the task's. `prepare` is awaited on what was built, before it runs."""
    told: list[events.Event] = []
    reloads: list[Loaded | Exception] = []

    def reload() -> Loaded:
        found = reloads.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    options: dict[str, Any] = {} if clock is None else {"clock": clock}
    async with build_app(settings, listeners=(told.append,), **options) as app:
        plug_in(app, registries)
        if prepare is not None:
            await prepare(app)
        disk, pauses = Disk(), Pauses()
        disk.attach(app.engine.storage)
        daemon = Daemon(app, reload=reload, drain_seconds=drain_seconds, sleep=pauses)
        task = asyncio.ensure_future(daemon.run())
        started = asyncio.ensure_future(daemon.started())
        try:
            await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
            yield Running(app, daemon, pauses, disk, task, told, reloads)
        finally:
            started.cancel()
            daemon.stop()
            await asyncio.wait({task}, timeout=PATIENCE)
            if not task.done():
                task.cancel()
        # a failure that the test has not looked at must not pass
        await task


def plug_in(app: App, registries: Mapping[str, MemoryRegistry]) -> None:
    """Let the daemon find these in the place of clients over the network."""
    for name, registry in registries.items():
        settings = app.engine.sites.config.registry(name)
        if settings is not None:
            app.engine.sites._clients[name] = (settings, registry)


def layer_of(registry: MemoryRegistry, data: bytes) -> Digest:
    """The digest of a layer."""
    return next(digest for digest, found in registry.blobs.items() if found == data)
