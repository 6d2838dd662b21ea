"""Builds everything once, in order: the one place where the parts meet. `run` drives what is built here."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from sensor.catalog.credentials import CredentialWatch
from sensor.catalog.ledgers import Ledgers
from sensor.catalog.snapshots import Snapshots
from sensor.config.schema import Config
from sensor.control_plane.client import ControlPlaneClient, transport_for
from sensor.control_plane.links import Link
from sensor.daemon.catalogue import CatalogueReporter
from sensor.daemon.engine import Engine, build_engine, utc_now
from sensor.daemon.link import LinkKeeper
from sensor.events import Event, Publish, SweepFinished
from sensor.identity.s3 import S3Bucket
from sensor.pipeline import Pipeline
from sensor.report.artifacts import NOWHERE, ArtifactStore
from sensor.report.deliver import Deliverer
from sensor.report.outbox import Outbox
from sensor.route import Route
from sensor.status import StatusBoard
from sensor.triggers.jobs import JobPoller
from sensor.triggers.schedule import Schedules
from sensor.version import VERSION
from sensor.work.intake import Intake
from sensor.work.queue import TableQueue
from sensor.work.running import Running


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkParts:
    """One link: its heartbeat, its job poll and its catalogue, each on connections of its own."""

    link: Link
    keeper: LinkKeeper
    poller: JobPoller
    catalogue: CatalogueReporter


@dataclass(frozen=True, slots=True, kw_only=True)
class App:
    """The daemon, built and not yet running."""

    config: Config
    engine: Engine
    snapshots: Snapshots
    board: StatusBoard
    queue: TableQueue
    running: Running
    pipeline: Pipeline
    outbox: Outbox
    deliverer: Deliverer
    links: tuple[LinkParts, ...]
    schedules: Schedules
    publish: Publish
    clock: Callable[[], datetime]


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

    links: list[LinkParts] = []

    def publish(event: Event) -> None:
        board.handle(event)
        if isinstance(event, SweepFinished):
            for parts in links:
                parts.catalogue.wake()
        for listener in listeners:
            listener(event)

    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            build_engine(config, Path(config.state.directory), publish, clock=clock)
        )
        queue, in_work = TableQueue(engine.storage, clock), Running()
        snapshots = Snapshots(engine.storage)
        clients: dict[str, ControlPlaneClient] = {}
        online = tuple(link for link in engine.sites.links if not link.is_offline)
        for link in online:
            transport = transport_for(link, engine.sites.limits)
            stack.push_async_callback(transport.close)
            clients[link.name] = ControlPlaneClient(link, transport, limits=engine.sites.limits)
        outbox = Outbox(engine.storage, limits=engine.sites.limits)
        deliverer = Deliverer(outbox, clients, publish)
        pipeline = Pipeline(
            storage=engine.storage,
            queue=queue,
            snapshots=snapshots,
            ledgers=Ledgers(snapshots=snapshots, publish=publish),
            judge=engine.judge,
            sites=engine.sites,
            intake=Intake(storage=engine.storage, clock=clock, directory=Path(config.state.directory)),
            credentials=CredentialWatch(clock=clock),
            filled=deliverer.wake,
            artifacts=_artifacts(config, engine),
        )
        agents: dict[str, str] = {}
        for link in online:
            # heartbeats have a transport of their own: they must not wait behind an upload
            beats = transport_for(link, engine.sites.limits)
            stack.push_async_callback(beats.close)
            patience = replace(
                engine.sites.limits,
                idle_seconds=min(engine.sites.limits.idle_seconds, engine.sites.limits.beat_seconds),
            )
            keeper = LinkKeeper(
                ControlPlaneClient(link, beats, limits=patience, addresses=clients[link.name].addresses),
                version=VERSION,
                active_scans=lambda: board.active_scans,
                publish=publish,
                clock=clock,
                registered_as=partial(_registered, agents, deliverer, link.name),
            )
            links.append(_link_parts(link, keeper, clients[link.name], engine, queue, in_work, deliverer))
        engine.sites.agents = agents
        yield App(
            config=config,
            engine=engine,
            snapshots=snapshots,
            board=board,
            queue=queue,
            running=in_work,
            pipeline=pipeline,
            outbox=outbox,
            deliverer=deliverer,
            links=tuple(links),
            schedules=Schedules(clock),
            publish=publish,
            clock=clock,
        )


def _artifacts(config: Config, engine: Engine) -> ArtifactStore:
    if config.s3 is None:
        return NOWHERE
    route = Route(
        ca_file=config.s3.ca_file or config.http.ca_file,
        proxy=config.s3.proxy or config.http.proxy,
        no_proxy=config.http.no_proxy,
    )
    return ArtifactStore(S3Bucket(config.s3, route, limits=engine.sites.limits), engine.sites.has_bucket)


def _registered(agents: dict[str, str], deliverer: Deliverer, link: str, agent: str) -> None:
    agents[link] = agent
    deliverer.resume(link)


def _link_parts(
    link: Link,
    keeper: LinkKeeper,
    client: ControlPlaneClient,
    engine: Engine,
    queue: TableQueue,
    in_work: Running,
    deliverer: Deliverer,
) -> LinkParts:
    poller = JobPoller(
        client,
        engine.storage,
        queue,
        identity=partial(engine.sites.identity, link.name),
        publish=engine.judge.publish,
        clock=engine.judge.clock,
        answered=deliverer.wake,
        running=in_work,
    )
    catalogue = CatalogueReporter(
        client, engine.storage, engine.sites, limits=engine.sites.limits, clock=engine.judge.clock
    )
    return LinkParts(link=link, keeper=keeper, poller=poller, catalogue=catalogue)
