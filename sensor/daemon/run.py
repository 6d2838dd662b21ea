"""Runs what `app` built: one task group for all loops, a bounded drain, and a dead loop stops the daemon.

A half-dead daemon is worse than a restarted one: whatever ends a loop unexpectedly ends the process, and the service manager starts it
again on the same durable state. SIGTERM and SIGINT drain; SIGHUP reloads; SIGUSR1 sweeps; systemd is told by `notify`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, assert_never

import structlog

from sensor import events
from sensor.advisories.update import update
from sensor.config.load import Loaded
from sensor.config.schema import Config, Schedule
from sensor.daemon.announce import forget_work, name_work
from sensor.daemon.app import App
from sensor.daemon.notify import feed_watchdog, notify, watchdog_seconds
from sensor.daemon.pauses import follow_pauses
from sensor.daemon.settle import put_stale, settle
from sensor.daemon.signals import signals
from sensor.daemon.sites import changes_between
from sensor.errors import ConfigError, SensorError, StateError
from sensor.health.server import serve_health
from sensor.model.request import JobRequest, Lane, RematchRequest, ScanRequest, SweepRequest
from sensor.pipeline import MOST_CRASHES
from sensor.route import Route
from sensor.transport import Transport
from sensor.version import VERSION
from sensor.work.lanes import lanes_for
from sensor.work.port import Item

DRAIN_SECONDS = 30.0
"""How long running work may go on after a stop was asked for; what is not done then is taken up again at the next start."""
_ADVISORY_LOOK_SECONDS = 15.0
_LEDGER_SECONDS = 10.0
_EXTEND_SECONDS = 60.0
_IDLE_SECONDS = 5.0
_HOUSEKEEPING_SECONDS = 3600.0
_STATE_SECONDS = 30.0
"""Pause before something is tried again that a full disk or a locked database did not let happen."""

_Loop: TypeAlias = Coroutine[Any, Any, None]

log = structlog.get_logger()


class Daemon:
    """The running sensor. `reload` gives a new configuration, or raises ConfigError."""

    def __init__(
        self,
        app: App,
        *,
        reload: Callable[[], Loaded],
        drain_seconds: float = DRAIN_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._app = app
        self._reload = reload
        self._drain_seconds = drain_seconds
        self._sleep = sleep
        self._stop = asyncio.Event()
        self._ready = asyncio.Event()
        self._hung_up = asyncio.Event()
        self._asked = asyncio.Event()
        self._held: set[Item] = set()
        """What is being worked on."""
        self._updating = asyncio.Lock()
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
            await stack.enter_async_context(signals(stop=self.stop, reload=self._hung_up.set, sweep=self._asked.set))
            app.schedules.start()
            stack.callback(app.schedules.stop)
            await self._settle_start()
            async with asyncio.TaskGroup() as group:
                loops = {name: group.create_task(_noticed(name, loop), name=name) for name, loop in self._loops()}
                self._plan_schedules(app.engine.sites.config)
                self._ready.set()
                notify("READY=1")
                await self._stop.wait()
                notify("STOPPING=1")
                log.info("draining", busy=len(self._held))
                app.schedules.stop()
                pollers = [group.create_task(parts.poller.stop()) for parts in app.links]
                ending = [task for name, task in loops.items() if name == "delivery" or name.startswith("worker ")]
                await self._drain([*ending, *pollers])
                for task in (*loops.values(), *pollers):
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
        loops.append(("leases", self._keep_leases()))
        loops.append(("ledgers", self._tell_ledgers()))
        loops.append(("stale", put_stale(app)))
        loops.append(("advisories", self._watch_advisories()))
        loops.append(("housekeeping", self._keep_house()))
        loops.append(("reload", self._reload_on_demand()))
        loops.append(("sweep", self._sweep_on_demand()))
        if (interval := watchdog_seconds()) is not None:
            loops.append(("watchdog", feed_watchdog(interval)))
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
            await settle(app, name)
        if app.engine.shelf.revision:
            await app.queue.put(RematchRequest(revision=app.engine.shelf.revision), Lane.AGAIN)

    def _plan_schedules(self, config: Config) -> None:
        wanted: dict[str, tuple[Schedule, Callable[[], Awaitable[None]]]] = {
            registry.name: (registry.schedule, partial(self.submit_sweep, registry.name, "schedule"))
            for registry in config.registries
        }
        if config.advisories.sources:
            # no registry can have this name
            wanted["advisories:"] = (config.advisories.update, self._update_advisories)
        self._app.schedules.replace(wanted)

    async def submit_sweep(self, registry: str, reason: str) -> None:
        """Put a sweep into the queue, as soon as the state database lets it."""
        lane = Lane.NOW if reason != "schedule" else Lane.NEW
        await self._surely(partial(self._app.queue.put, SweepRequest(registry=registry, reason=reason), lane))

    async def _surely(self, write: Callable[[], Awaitable[object]]) -> None:
        """Write to the state database, if need be again until it works."""
        while True:
            try:
                await write()
            except StateError as error:
                if not error.retryable:
                    raise
                log.warning("the state database is waited for", error=error.message, advice=error.advice)
                await self._sleep(_STATE_SECONDS)
            else:
                return

    async def _work(self, worker: str, lanes: tuple[Lane, ...]) -> None:
        queue = self._app.queue
        while not self._stop.is_set():
            woken = queue.next_wake()
            try:
                item = await queue.take(worker, lanes)
            except StateError as error:
                if not error.retryable:
                    raise
                log.warning("work waits for the state database", error=error.message, advice=error.advice)
                item = None
            if item is None:
                await queue.wait(_IDLE_SECONDS, woken)
                continue
            self._held.add(item)
            name_work(item.work)
            try:
                await self._do(item)
            except asyncio.CancelledError:
                await asyncio.shield(self._let_go(item, queue.release(item)))
                raise
            except ConfigError as error:
                # its registry or link left the configuration
                log.info("work dropped", key=item.key, reason=error.message)
                await self._let_go(item, queue.done(item))
            except SensorError as error:
                if isinstance(error, StateError) and not error.retryable:
                    raise
                log.warning(
                    "work failed", key=item.key, error=error.message, advice=error.advice, attempt=item.attempts
                )
                pause = timedelta(seconds=min(3600, 30 * 2 ** min(item.attempts, 7)))
                await self._let_go(item, queue.retry(item, self._app.clock() + pause, error.message))
            finally:
                self._held.discard(item)
                forget_work()

    async def _let_go(self, item: Item, ending: Awaitable[bool]) -> None:
        """Give an item back, or away. If the state database does not let it, the item comes back when its lease has run out."""
        try:
            await ending
        except StateError as error:
            if not error.retryable:
                raise
            log.warning("work comes back later", key=item.key, error=error.message, advice=error.advice)

    async def _keep_leases(self) -> None:
        """Hold what is being worked on, however long it takes."""
        while True:
            await self._sleep(_EXTEND_SECONDS)
            for item in tuple(self._held):
                try:
                    await self._app.queue.extend(item)
                except StateError as error:
                    log.warning("lease not renewed", key=item.key, error=error.message, advice=error.advice)

    async def _tell_ledgers(self) -> None:
        """Tell what was too dear to count after every image, and what was paused or resumed by hand."""
        while True:
            await self._sleep(_LEDGER_SECONDS)
            try:
                await self._app.pipeline.ledgers.catch_up()
                await follow_pauses(self._app)
            except StateError as error:
                log.warning("ledger not counted", error=error.message, advice=error.advice)

    async def _do(self, item: Item) -> None:
        pipeline = self._app.pipeline
        if item.crashes >= MOST_CRASHES:
            log.error("work set aside", key=item.key, crashes=item.crashes)
            await pipeline.set_aside(item)
            return
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
        if app.engine.sites.config.advisories.sources and not app.engine.shelf.revision:
            # without data nothing can be judged: do not wait for the schedule
            await self._update_advisories()
        while True:
            if await app.engine.shelf.refresh():
                self._tell_advisories()
                request = RematchRequest(revision=app.engine.shelf.revision)
                await self._surely(partial(app.queue.put, request, Lane.AGAIN))
            await self._sleep(_ADVISORY_LOOK_SECONDS)

    def _tell_advisories(self) -> None:
        summary = self._app.engine.shelf.summary
        if summary is None:
            problem = self._app.engine.shelf.problem
            log.warning(
                "no advisories", error=problem.message if problem else "", advice=problem.advice if problem else ""
            )
            return
        self._app.publish(
            events.AdvisoriesChanged(
                at=self._app.clock(),
                revision=summary.revision,
                records=summary.records,
                newest=_moment(summary.newest),
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
            async with self._updating:
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
            await self._sleep(_HOUSEKEEPING_SECONDS)
            before = app.clock() - timedelta(seconds=app.config.state.retain_gone)
            try:
                keep = await app.snapshots.digests()
                async with app.engine.storage.transaction() as connection:
                    await app.snapshots.keep_only(connection, app.engine.sites.names())
                    await app.snapshots.prune(connection, before)
                    await app.engine.judge.images.prune(connection, keep, before)
                await app.engine.storage.compact()
            except StateError as error:
                log.warning("housekeeping failed", error=error.message, advice=error.advice)

    async def _sweep_on_demand(self) -> None:
        """SIGUSR1: look at every registry now, also at those without a schedule."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            for name in self._app.engine.sites.names():
                await self.submit_sweep(name, "asked by hand")

    async def _drain(self, ending: Iterable[asyncio.Task[None]]) -> None:
        """Let running scans, uploads and polls end; a scan that takes too long is given back when its worker is cancelled."""
        self._app.queue.wake()
        self._app.deliverer.stop()
        await asyncio.wait(ending, timeout=self._drain_seconds)

    async def _reload_on_demand(self) -> None:
        """SIGHUP: take a new configuration, or keep the old one and say why."""
        app = self._app
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            notify("RELOADING=1")
            before = app.engine.sites.config
            try:
                config = (await asyncio.to_thread(self._reload)).config
                self._plan_schedules(config)
                app.engine.sites.replace(config)
            except SensorError as error:
                self._plan_schedules(before)
                app.publish(events.ConfigReloaded(at=app.clock(), error=error.message))
            else:
                names = app.engine.sites.names()
                app.publish(
                    events.ConfigReloaded(at=app.clock(), changes=changes_between(before, config), registries=names)
                )
                for name in names:
                    former, now = before.registry(name), config.registry(name)
                    if former is None:
                        await self._surely(partial(settle, app, name))
                    elif former != now and now is not None and now.schedule != "manual":
                        await self.submit_sweep(name, "configuration changed")
            notify("READY=1")


async def _noticed(name: str, loop: _Loop) -> None:
    """Run a loop. A cancellation that nobody here asked for came from below; the task group would take it for a peaceful end."""
    try:
        await loop
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        message = f"{name} was cancelled from below"
        raise RuntimeError(message) from error


def _moment(text: str) -> datetime | None:
    """A time of the advisory database, if it is one."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
