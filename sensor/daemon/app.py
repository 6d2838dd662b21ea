"""Builds everything once, in order: the one place where the parts meet. `run` drives what is built here."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from sensor.advisories.shelf import AdvisoryShelf
from sensor.advisories.update import database_path
from sensor.catalog.snapshots import Snapshots
from sensor.config.schema import Config, LimitSettings
from sensor.control_plane.client import ControlPlaneClient, transport_for
from sensor.control_plane.links import Link
from sensor.daemon.link import LinkKeeper
from sensor.daemon.sites import ConfiguredSites
from sensor.events import Event, Publish
from sensor.inventory.images import ImageStore
from sensor.inventory.layers import Layers, LayerStore
from sensor.inventory.reader import read_layer
from sensor.judge import Judge
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.pipeline import Pipeline
from sensor.report.deliver import Deliverer
from sensor.report.outbox import Outbox
from sensor.scan.packages import ECOSYSTEMS
from sensor.scan.stream import catalogers_key
from sensor.status import StatusBoard
from sensor.storage import Storage, open_storage
from sensor.triggers.jobs import JobPoller
from sensor.triggers.schedule import Schedules
from sensor.version import VERSION
from sensor.work.queue import TableQueue


def utc_now() -> datetime:
    """The clock of the daemon."""
    return datetime.now(UTC)


def limits_of(settings: LimitSettings) -> Limits:
    """The bounds, with what the operator moved."""
    return replace(
        DEFAULT_LIMITS,
        layer_bytes=settings.layer_bytes,
        layer_entries=settings.layer_entries,
        spool_bytes=settings.spool_bytes,
        idle_seconds=settings.idle_timeout,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What scanning needs, without links, clock and workers: the daemon's core, and all of the command `scan`."""

    storage: Storage
    snapshots: Snapshots
    sites: ConfiguredSites
    shelf: AdvisoryShelf
    judge: Judge


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkParts:
    """One link: its heartbeat and its job poll, each on connections of its own."""

    link: Link
    keeper: LinkKeeper
    poller: JobPoller


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """The daemon, built and not yet running."""

    config: Config
    engine: Engine
    board: StatusBoard
    queue: TableQueue
    pipeline: Pipeline
    deliverer: Deliverer
    links: tuple[LinkParts, ...]
    schedules: Schedules
    publish: Publish
    clock: Callable[[], datetime]


@contextlib.asynccontextmanager
async def build_engine(
    config: Config, directory: Path, publish: Publish, *, clock: Callable[[], datetime] = utc_now, shared: bool = False
) -> AsyncIterator[Engine]:
    """Open the state and build the core. `shared` allows other one-shot commands on the same directory.

    Raises:
        StateError: the state directory cannot be used, or another sensor uses it.
    """
    limits = limits_of(config.limits)
    async with contextlib.AsyncExitStack() as stack:
        storage = await open_storage(directory, shared=shared)
        stack.push_async_callback(storage.close)
        shelf = AdvisoryShelf(database_path(directory))
        stack.push_async_callback(shelf.close)
        await shelf.refresh()
        sites = ConfiguredSites(config=config, limits=limits)
        stack.push_async_callback(sites.close)
        layers = Layers(
            LayerStore(storage, clock),
            storage,
            read_layer,
            catalogers=catalogers_key(ECOSYSTEMS),
            limits=limits,
            clock=clock,
            concurrency=config.concurrency.layers,
        )
        judge = Judge(layers=layers, images=ImageStore(storage, clock), advisories=shelf, publish=publish, clock=clock)
        yield Engine(storage=storage, snapshots=Snapshots(storage), sites=sites, shelf=shelf, judge=judge)


@contextlib.asynccontextmanager
async def build_app(
    config: Config, *, listeners: tuple[Publish, ...] = (), clock: Callable[[], datetime] = utc_now
) -> AsyncIterator[App]:
    """Build the daemon. `listeners` are told every event besides the status board.

    Raises:
        StateError: the state directory cannot be used, or another sensor uses it.
        ConfigError: a link's URL is unusable.
    """
    board = StatusBoard(advisory_age=timedelta(seconds=config.advisories.max_age))

    def publish(event: Event) -> None:
        board.handle(event)
        for listener in listeners:
            listener(event)

    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            build_engine(config, Path(config.state.directory), publish, clock=clock)
        )
        queue = TableQueue(engine.storage, clock)
        clients: dict[str, ControlPlaneClient] = {}
        for link in engine.sites.links:
            transport = transport_for(link, engine.sites.limits)
            stack.push_async_callback(transport.close)
            clients[link.name] = ControlPlaneClient(link, transport, limits=engine.sites.limits)
        deliverer = Deliverer(Outbox(engine.storage, limits=engine.sites.limits), clients, publish)
        pipeline = Pipeline(
            storage=engine.storage,
            queue=queue,
            snapshots=engine.snapshots,
            judge=engine.judge,
            sites=engine.sites,
            filled=deliverer.wake,
        )
        links = []
        agents: dict[str, str] = {}
        for link in engine.sites.links:
            # heartbeats have a transport of their own: they must not wait behind an upload
            beats = transport_for(link, engine.sites.limits)
            stack.push_async_callback(beats.close)
            keeper = LinkKeeper(
                ControlPlaneClient(link, beats, limits=engine.sites.limits),
                version=VERSION,
                active_scans=lambda: board.active_scans,
                publish=publish,
                clock=clock,
                registered_as=partial(agents.__setitem__, link.name),
            )
            poller = JobPoller(
                clients[link.name],
                engine.storage,
                queue,
                identity=partial(engine.sites.identity, link.name),
                publish=publish,
                clock=clock,
                answered=deliverer.wake,
            )
            links.append(LinkParts(link=link, keeper=keeper, poller=poller))
        engine.sites.agents = agents
        yield App(
            config=config,
            engine=engine,
            board=board,
            queue=queue,
            pipeline=pipeline,
            deliverer=deliverer,
            links=tuple(links),
            schedules=Schedules(clock),
            publish=publish,
            clock=clock,
        )
