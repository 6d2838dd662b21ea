"""Builds what scanning needs, and no more: the daemon's core, and all of the command `scan`.

Apart from `app` because one image must not pay for the daemon: scheduler, outbox and links cost a fifth of a second at start.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from sensor.advisories.database import database_path
from sensor.advisories.shelf import AdvisoryShelf
from sensor.config.schema import Config, LimitSettings, Outbox
from sensor.daemon.sites import ConfiguredSites
from sensor.events import Publish, QuotaChanged
from sensor.inventory.images import ImageStore
from sensor.inventory.layers import Layers, LayerStore
from sensor.inventory.reader import read_layer
from sensor.judge import Judge
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.pacing import Bandwidth, Budgets, Quota
from sensor.scan.packages import ECOSYSTEMS
from sensor.scan.stream import catalogers_key
from sensor.storage import Storage, open_storage


def utc_now() -> datetime:
    """The clock of the daemon."""
    return datetime.now(UTC)


def limits_of(settings: LimitSettings, outbox: Outbox | None = None) -> Limits:
    """The bounds, with what the operator moved."""
    outbox = outbox or Outbox()
    return replace(
        DEFAULT_LIMITS,
        layer_bytes=settings.layer_bytes,
        layer_entries=settings.layer_entries,
        spool_bytes=settings.spool_bytes,
        idle_seconds=settings.idle_timeout,
        outbox_bytes=outbox.size,
        outbox_seconds=outbox.age,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """What scanning needs, without links, clock and workers."""

    storage: Storage
    sites: ConfiguredSites
    shelf: AdvisoryShelf
    judge: Judge


@contextlib.asynccontextmanager
async def build_engine(
    config: Config, directory: Path, publish: Publish, *, clock: Callable[[], datetime] = utc_now, shared: bool = False
) -> AsyncIterator[Engine]:
    """Open the state and build the core. `shared` allows other one-shot commands on the same directory.

    Raises:
        StateError: the state directory cannot be used, or another sensor uses it.
    """
    limits = limits_of(config.limits, config.outbox)
    async with contextlib.AsyncExitStack() as stack:
        storage = await open_storage(directory, shared=shared)
        stack.push_async_callback(storage.close)
        shelf = AdvisoryShelf(database_path(directory))
        stack.push_async_callback(shelf.close)
        await shelf.refresh()

        def told(host: str, quota: Quota) -> None:
            publish(
                QuotaChanged(
                    at=clock(),
                    host=host,
                    limit=quota.limit,
                    remaining=quota.remaining,
                    window_seconds=quota.window,
                    source=quota.source,
                )
            )

        sites = ConfiguredSites(
            config=config, limits=limits, advisories=lambda: shelf.label, budgets=Budgets(told=told)
        )
        stack.push_async_callback(sites.close)
        layers = Layers(
            LayerStore(storage, clock),
            storage,
            read_layer,
            catalogers=catalogers_key(ECOSYSTEMS),
            limits=limits,
            clock=clock,
            concurrency=config.concurrency.layers,
            bandwidth=Bandwidth(config.limits.bandwidth),
        )
        judge = Judge(layers=layers, images=ImageStore(storage, clock), advisories=shelf, publish=publish, clock=clock)
        yield Engine(storage=storage, sites=sites, shelf=shelf, judge=judge)
