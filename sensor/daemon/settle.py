"""Puts again what the work queue may have lost: at the start, and for a registry that comes into the configuration.

The catalogue says what is to be done; the queue only holds it. Work for a registry that was not configured for a while has been dropped, and
a new version of the sensor reads images again that a former one read less well.
"""

from __future__ import annotations

import structlog

from sensor import events
from sensor.catalog.diff import DigestState
from sensor.catalog.listings import last_sweep
from sensor.daemon.app import App
from sensor.errors import StateError
from sensor.model.request import Lane, SweepRequest
from sensor.triggers.schedule import is_overdue

log = structlog.get_logger()


async def settle(app: App, name: str) -> None:
    """Queue what the catalogue of a registry holds as queued or failed, and a sweep if it was never looked at or a turn was missed.

    Raises:
        StateError: the state database cannot be used.
    """
    snapshots = app.snapshots
    settings = app.engine.sites.config.registry(name)
    is_new = not (await snapshots.known(name)).tags
    sweep = await last_sweep(app.engine.storage, name)
    queued = await snapshots.queued(name)
    failed = [
        (standing, place)
        for standing in await snapshots.standings(name, DigestState.FAILED)
        for place in (await snapshots.places(name, standing.digest))[:1]
    ]
    async with app.engine.storage.transaction() as connection:
        waiting = (place.request(name) for place in queued)
        await app.queue.put_all(waiting, Lane.NEW, connection=connection)
        for standing, place in failed:
            # what has no next try may be readable for this version of the sensor
            lane = Lane.AGAIN if standing.next_try is None else Lane.NEW
            await app.queue.put(place.request(name), lane, not_before=standing.next_try, connection=connection)
        if is_new and settings is not None and settings.schedule != "manual":
            # now, not at its next turn
            await app.queue.put(SweepRequest(registry=name, reason="first sweep"), Lane.NOW, connection=connection)
        elif settings is not None and sweep is not None and is_overdue(settings.schedule, name, sweep.at, app.clock()):
            await app.queue.put(SweepRequest(registry=name, reason="missed turn"), Lane.NEW, connection=connection)
    app.queue.wake()
    if sweep is not None:
        app.publish(events.SweepRemembered(at=sweep.at, registry=name, complete=sweep.complete, error=sweep.error))
    app.publish(events.LedgerChanged(registry=name, ledger=await snapshots.ledger(name)))


async def put_stale(app: App) -> None:
    """Queue images that the catalogers of a former version read: they are scanned again when there is nothing else to do."""
    judge, snapshots = app.engine.judge, app.snapshots
    try:
        stale = await judge.images.stale(judge.layers.catalogers)
        for name in app.engine.sites.names():
            for subject in sorted(stale):
                for place in (await snapshots.places(name, subject))[:1]:
                    await app.queue.put(place.request(name), Lane.AGAIN)
    except StateError as error:
        log.warning("images of a former version wait for the next start", error=error.message, advice=error.advice)
