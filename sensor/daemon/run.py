"""Runs what `app` built: one task group for all loops, a bounded drain, and a dead loop stops the daemon.

A half-dead daemon is worse than a restarted one: whatever ends a loop unexpectedly ends the process, and the service manager starts it
again on the same durable state. SIGTERM and SIGINT drain; SIGHUP reloads; systemd is told by `notify`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, assert_never

import structlog

from sensor import events
from sensor.advisories.update import update
from sensor.catalog.snapshots import Place
from sensor.config.load import Loaded
from sensor.config.schema import Config, Schedule
from sensor.daemon.app import App
from sensor.daemon.notify import notify, watchdog_seconds
from sensor.errors import ConfigError, SensorError, StateError
from sensor.health.server import serve_health
from sensor.model.request import JobRequest, Lane, RematchRequest, ScanRequest, SweepRequest
from sensor.transport import Route, Transport
from sensor.version import VERSION
from sensor.work.lanes import lanes_for
from sensor.work.queue import Item

DRAIN_SECONDS = 30.0
"""How long running work may go on after a stop was asked for; what is not done then is taken up again at the next start."""
_ADVISORY_LOOK_SECONDS = 15.0
_EXTEND_SECONDS = 60.0
_IDLE_SECONDS = 5.0
_HOUSEKEEPING_SECONDS = 3600.0

_Loop: TypeAlias = Coroutine[Any, Any, None]

log = structlog.get_logger()


class Daemon:
    """The running sensor. `reload` gives a new configuration, or raises ConfigError."""

    def __init__(self, app: App, *, reload: Callable[[], Loaded]) -> None:
        self._app = app
        self._reload = reload
        self._stop = asyncio.Event()
        self._ready = asyncio.Event()
        self._hung_up = asyncio.Event()
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.health_url = ""

    def stop(self) -> None:
        """Ask for a drain."""
        self._stop.set()

    async def started(self) -> None:
        """Wait until everything runs."""
        await self._ready.wait()

    async def run(self) -> None:
        """Work until stopped.

        Raises:
            ExceptionGroup: a loop ended by an error; the process must end too.
            StateError: the health endpoint cannot listen.
        """
        app = self._app
        async with contextlib.AsyncExitStack() as stack:
            self.health_url = await stack.enter_async_context(
                serve_health(app.board, app.clock, app.config.health.listen)
            )
            await stack.enter_async_context(_signals(self.stop, self._hung_up.set))
            app.schedules.start()
            stack.callback(app.schedules.stop)
            await self._settle_start()
            async with asyncio.TaskGroup() as group:
                loops = [group.create_task(loop, name=name) for name, loop in self._loops()]
                self._plan_schedules()
                self._ready.set()
                notify("READY=1")
                await self._stop.wait()
                notify("STOPPING=1")
                log.info("draining", busy=self._busy)
                app.schedules.stop()
                await self._drain()
                for task in loops:
                    task.cancel()
        log.info("stopped")

    def _loops(self) -> list[tuple[str, _Loop]]:
        app = self._app
        workers = app.config.concurrency.images + 1
        loops: list[tuple[str, _Loop]] = [
            (f"worker {number}", self._work(f"worker-{os.getpid()}-{number}", lanes_for(number, workers)))
            for number in range(workers)
        ]
        for parts in app.links:
            loops.append((f"heartbeat {parts.link.name}", parts.keeper.run()))
            loops.append((f"jobs {parts.link.name}", parts.poller.run(parts.keeper)))
        loops.append(("delivery", app.deliverer.run()))
        loops.append(("advisories", self._watch_advisories()))
        loops.append(("housekeeping", self._keep_house()))
        loops.append(("reload", self._reload_on_demand()))
        if (interval := watchdog_seconds()) is not None:
            loops.append(("watchdog", _feed_watchdog(interval)))
        return loops

    async def _settle_start(self) -> None:
        """Before anything new: say what is there, and put again what the queue may have lost."""
        app = self._app
        # the state is locked for this process alone: whatever is leased was held by one that died
        await app.queue.recover()
        await app.engine.judge.layers.store.recover()
        names = app.engine.sites.names()
        app.publish(events.SensorStarted(at=app.clock(), version=VERSION, registries=names))
        self._tell_advisories()
        for name in names:
            for place in await app.engine.snapshots.queued(name):
                await app.queue.put(_scan_request(name, place), Lane.NEW)
            app.publish(events.LedgerChanged(registry=name, ledger=await app.engine.snapshots.ledger(name)))
            settings = app.engine.sites.registry(name)[0]
            known = await app.engine.snapshots.known(name)
            if settings.schedule != "manual" and not known.tags:
                # a new registry is looked at now, not at its next turn
                await app.queue.put(SweepRequest(registry=name, reason="first sweep"), Lane.NOW)
        if app.engine.shelf.revision:
            await app.queue.put(RematchRequest(revision=app.engine.shelf.revision), Lane.AGAIN)

    def _plan_schedules(self) -> None:
        app = self._app
        config = app.engine.sites.config
        wanted: dict[str, tuple[Schedule, Callable[[], Awaitable[None]]]] = {
            registry.name: (registry.schedule, partial(self.submit_sweep, registry.name, "schedule"))
            for registry in config.registries
        }
        if config.advisories.sources:
            wanted["advisories"] = (config.advisories.update, self._update_advisories)
        app.schedules.replace(wanted)

    async def submit_sweep(self, registry: str, reason: str) -> None:
        """Put a sweep into the queue."""
        lane = Lane.NOW if reason != "schedule" else Lane.NEW
        await self._app.queue.put(SweepRequest(registry=registry, reason=reason), lane)
        self._app.queue.wake()

    async def _work(self, worker: str, lanes: tuple[Lane, ...]) -> None:
        queue = self._app.queue
        while not self._stop.is_set():
            try:
                item = await queue.take(worker, lanes)
            except StateError as error:
                if not error.retryable:
                    raise
                log.warning("work waits for the state database", error=error.message, advice=error.advice)
                item = None
            if item is None:
                await queue.wait(_IDLE_SECONDS)
                continue
            self._busy += 1
            self._idle.clear()
            try:
                async with _keeping(self._app, item):
                    await self._do(item)
            except asyncio.CancelledError:
                await asyncio.shield(queue.release(item))
                raise
            except ConfigError as error:
                # its registry or link left the configuration
                log.info("work dropped", key=item.key, reason=error.message)
                await queue.done(item)
            except SensorError as error:
                log.warning(
                    "work failed", key=item.key, error=error.message, advice=error.advice, attempt=item.attempts
                )
                pause = timedelta(seconds=min(3600, 30 * 2 ** min(item.attempts, 7)))
                await queue.retry(item, self._app.clock() + pause, error.message)
            finally:
                self._busy -= 1
                if not self._busy:
                    self._idle.set()

    async def _do(self, item: Item) -> None:
        pipeline = self._app.pipeline
        match item.work:
            case SweepRequest():
                await pipeline.sweep(item.work, item)
            case ScanRequest():
                await pipeline.scan(item.work, item)
            case JobRequest():
                await pipeline.job(item.work, item)
            case RematchRequest():
                await pipeline.rematch(item)
            case _:
                assert_never(item.work)

    async def _watch_advisories(self) -> None:
        """Notice a swapped database, whoever swapped it, and match everything again."""
        app = self._app
        while True:
            if await app.engine.shelf.refresh():
                self._tell_advisories()
                await app.queue.put(RematchRequest(revision=app.engine.shelf.revision), Lane.AGAIN)
                app.queue.wake()
            await asyncio.sleep(_ADVISORY_LOOK_SECONDS)

    def _tell_advisories(self) -> None:
        summary = self._app.engine.shelf.summary
        if summary is None:
            problem = self._app.engine.shelf.problem
            log.warning(
                "no advisories", error=problem.message if problem else "", advice=problem.advice if problem else ""
            )
            return
        try:
            newest: datetime | None = datetime.fromisoformat(summary.newest)
        except ValueError:
            newest = None
        self._app.publish(
            events.AdvisoriesChanged(
                at=self._app.clock(), revision=summary.revision, records=summary.records, newest=newest
            )
        )

    async def _update_advisories(self) -> None:
        """Fetch what changed; the swap is noticed by `_watch_advisories`."""
        config = self._app.engine.sites.config
        settings, http = config.advisories, config.http
        route = Route(
            ca_file=settings.ca_file or http.ca_file, proxy=settings.proxy or http.proxy, no_proxy=http.no_proxy
        )
        transport = Transport(route, limits=self._app.engine.sites.limits)
        try:
            report = await update(
                settings, transport, Path(config.state.directory), limits=self._app.engine.sites.limits
            )
            log.info("advisories updated", changed=report.changed, revision=report.revision)
        except SensorError as error:
            log.warning("advisories not updated", error=error.message, advice=error.advice)
        finally:
            await transport.close()

    async def _keep_house(self) -> None:
        """Forget what has been gone for long."""
        app = self._app
        while True:
            await asyncio.sleep(_HOUSEKEEPING_SECONDS)
            before = app.clock() - timedelta(seconds=app.config.state.retain_gone)
            try:
                keep = await app.engine.snapshots.digests()
                async with app.engine.storage.transaction() as connection:
                    await app.engine.snapshots.prune(connection, before)
                    await app.engine.judge.images.prune(connection, keep, before)
                await app.engine.storage.compact()
            except StateError as error:
                log.warning("housekeeping failed", error=error.message, advice=error.advice)

    async def _drain(self) -> None:
        """Let running work end; what takes too long is given back when its worker is cancelled."""
        self._app.queue.wake()
        self._app.deliverer.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._idle.wait()

    async def _reload_on_demand(self) -> None:
        """SIGHUP: take a new configuration, or keep the old one and say why."""
        app = self._app
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            notify("RELOADING=1")
            try:
                loaded = await asyncio.to_thread(self._reload)
                changes = _changes(app.engine.sites.config, loaded.config)
                await app.engine.sites.replace(loaded.config)
                self._plan_schedules()
            except ConfigError as error:
                app.publish(events.ConfigReloaded(at=app.clock(), error=error.message))
                log.error("configuration kept", error=error.message, advice=error.advice)  # noqa: TRY400
            else:
                names = app.engine.sites.names()
                app.publish(events.SensorStarted(at=app.clock(), version=VERSION, registries=names))
                app.publish(events.ConfigReloaded(at=app.clock(), changes=changes))
                log.info("configuration reloaded", changes=list(changes))
            notify("READY=1")


def _changes(before: Config, after: Config) -> tuple[str, ...]:
    """What a reload changed, in words; some things need a restart, and that is said."""
    found = [
        f"{name}: changed"
        for name in ("platforms", "http", "advisories")
        if getattr(before, name) != getattr(after, name)
    ]
    old = {registry.name: registry for registry in before.registries}
    new = {registry.name: registry for registry in after.registries}
    found += [f"registry {name}: removed" for name in old if name not in new]
    found += [f"registry {name}: added" for name in new if name not in old]
    found += [f"registry {name}: changed" for name in new if name in old and old[name] != new[name]]
    found += [
        f"{name}: changed, but in force only after a restart"
        for name in ("control_plane", "concurrency", "limits", "state", "health", "logging")
        if getattr(before, name) != getattr(after, name)
    ]
    return tuple(found)


def _scan_request(registry: str, place: Place) -> ScanRequest:
    return ScanRequest(registry=registry, repository=place.repository, tag=place.tag, digest=place.digest)


@contextlib.asynccontextmanager
async def _keeping(app: App, item: Item) -> AsyncIterator[None]:
    """Hold an item's lease while it is worked on."""

    async def extend() -> None:
        while True:
            await asyncio.sleep(_EXTEND_SECONDS)
            with contextlib.suppress(StateError):
                await app.queue.extend(item)

    task = asyncio.ensure_future(extend())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@contextlib.asynccontextmanager
async def _signals(stop: Callable[[], None], hang_up: Callable[[], None]) -> AsyncIterator[None]:
    """Take the signals while the daemon runs, and leave them as they were found."""
    loop = asyncio.get_running_loop()
    wanted = ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, hang_up))
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.getsignal(number)) for number, _ in wanted]
    for number, handler in wanted:
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number, found in before:
            loop.remove_signal_handler(number)
            signal.signal(number, found)


async def _feed_watchdog(interval: float) -> None:
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)
