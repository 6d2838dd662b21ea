"""One sweep of a registry, one scan of a digest, one job, one re-match: the file to read first.

    sweep   crawl -> diff -> one transaction: the catalogue advances, new digests are queued
    scan    judge (manifest -> platforms -> layers not in the cache -> squash -> match) -> one transaction: the result is stored, the
            digest is done, the outbox is filled
    job     the same for what a control plane names; it is answered whatever happens
    rematch every stored inventory against new advisories, without a registry; changed results go to the outbox

Everything is passed in (see daemon/app.py). Decides nothing about when: triggers submit, workers call. A crash repeats work, never loses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from sensor import events
from sensor.catalog.crawl import crawl
from sensor.catalog.credentials import CredentialWatch
from sensor.catalog.diff import Crawl, Diff, DigestState, diff_catalogue
from sensor.catalog.ledgers import Ledgers
from sensor.catalog.listings import note_sweep
from sensor.catalog.news import news_of
from sensor.catalog.select import withheld
from sensor.catalog.snapshots import Snapshots, Standing
from sensor.config import schema
from sensor.control_plane.links import Link
from sensor.errors import ConfigError, DataError, SensorError, StateError
from sensor.inventory.images import StoredImage, result_fingerprint
from sensor.judge import Judge, Judged, Place, Sites, Verdict, place_of_job, rfc3339
from sensor.model.digest import Digest
from sensor.model.finding import ImageResult
from sensor.model.reference import Reference
from sensor.model.request import JobRequest, Lane, ScanRequest, SweepRequest
from sensor.registry.errors import ImageWithheld, RegistryNotFound, RegistryRateLimited
from sensor.registry.port import Registry
from sensor.report.answers import CANCELLED, answer, refusal, standalone
from sensor.report.artifacts import NOWHERE, ArtifactStore
from sensor.report.document import FailedScan
from sensor.report.entries import NewEntry, put
from sensor.report.outbox import new_scan_id
from sensor.scan.match import match_inventory
from sensor.storage import Storage
from sensor.work.intake import Hold, Intake
from sensor.work.port import Item
from sensor.work.queue import TableQueue

MOST_CRASHES = 3
"""Times in a row that the process may die over one piece of work before that is set aside: one bad image must not stop all others."""
LAST_ATTEMPT = 3
"""From this attempt on a layer that cannot be read is a gap, and a job is answered: somebody waits for it."""
_FIRST_RETRY, _LONGEST_RETRY = timedelta(minutes=1), timedelta(hours=6)
_HOPELESS_RETRY = timedelta(hours=24)
"""Errors that need a change of configuration are tried again daily: the change may have come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """The collaborators of all four lines of work."""

    storage: Storage
    queue: TableQueue
    snapshots: Snapshots
    ledgers: Ledgers
    judge: Judge
    sites: Sites
    intake: Intake
    credentials: CredentialWatch
    filled: Callable[[], None]
    """Told when something was put into the outbox."""
    artifacts: ArtifactStore = NOWHERE

    def _now(self) -> datetime:
        return self.judge.clock()

    def _publish(self, event: events.Event) -> None:
        self.judge.publish(event)

    async def sweep(self, work: SweepRequest, item: Item) -> None:
        """Look at one registry and queue what is new. What goes wrong in the registry is in the result, not raised."""
        settings, client = self.sites.registry(work.registry)
        name = settings.name
        self._publish(events.SweepStarted(at=self._now(), registry=name, reason=work.reason))
        known = await self.snapshots.known(name)
        seen = await crawl(client, settings, known=known)
        diff = diff_catalogue(known, seen)
        async with self._ending(item) as connection:
            advance = await self.snapshots.advance(connection, diff, self._now())
            new = (place.request(name) for place in advance.queued)
            await self.queue.put_all(new, Lane.NEW, connection=connection)
            error = next(seen.troubles(), "")
            await note_sweep(connection, name, self._now(), complete=seen.complete, error=error)
        await self._tell(seen, diff)
        if (checked := await self.credentials.look(name, client)) is not None:
            self._publish(checked)

    async def scan(self, work: ScanRequest, item: Item) -> None:
        """Judge one digest that a sweep selected, and report it. A copy in another repository is as good."""
        settings, client = self.sites.registry(work.registry)
        if not await self._is_due(work, item, settings):
            return
        failure: tuple[ScanRequest, RegistryNotFound | ImageWithheld] | None = None
        async for copy in self._copies(work):
            reference = Reference(registry=client.host, repository=copy.repository, tag=copy.tag)
            place = Place(name=copy.registry, client=client, reference=reference)
            last = item.attempts >= LAST_ATTEMPT
            try:
                verdict = await self.judge.judge(place, copy.digest, self.sites.platforms(settings), accept_gaps=last)
            except (RegistryNotFound, ImageWithheld) as error:
                if failure is None or not isinstance(failure[1], ImageWithheld):
                    failure = copy, error  # what is held back is there, whatever is not
                continue
            except StateError:
                raise  # a full disk here is not the image's failure
            except RegistryRateLimited as error:
                seconds = (self._next_try(item, error) - self._now()).total_seconds()
                await self._hold(copy, item, self.intake.wait(copy.registry, seconds, error.message))
            except SensorError as error:
                await self._fail_scan(copy, item, reference, error)
            else:
                await self._finish_scan(copy, item, verdict)
            failure = None
            break
        if failure is not None:
            await self._not_found(failure[0], item, client, failure[1])
        await self.ledgers.changed(work.registry)

    async def _is_due(self, work: ScanRequest, item: Item, settings: schema.Registry) -> bool:
        """Whether it is still wanted and may be done now; else it is dropped, or put off."""
        standing = await self.snapshots.standing(work.registry, work.digest)
        if standing is not None and standing.state is DigestState.GONE:
            # while it waited its last tag went, or the rules came to leave it out
            await self.queue.done(item)
            return False
        hold = await self.intake.admit(settings, first=item.attempts == 1) if item.lane is Lane.NEW else None
        if hold is not None:
            await self._hold(work, item, hold)
        elif item.lane is Lane.NEW and self.intake.is_back(work.registry):
            self._publish(events.IntakeChanged(at=self._now(), registry=work.registry))
        return hold is None

    async def _copies(self, work: ScanRequest) -> AsyncIterator[ScanRequest]:
        """The same for each repository that has the digest, beginning with the one that was asked for."""
        yield work
        places = await self.snapshots.places(work.registry, work.digest)
        for repository, tag in {place.repository: place.tag for place in places}.items():
            if repository != work.repository:
                yield msgspec.structs.replace(work, repository=repository, tag=tag)

    async def job(self, work: JobRequest, item: Item) -> None:
        """Judge what a control plane's job names. It always gets an answer: an envelope and a status, stored before the job is done."""
        started = self._now()
        is_last = item.attempts >= LAST_ATTEMPT
        absent: list[str] = []
        try:
            place, platforms = await place_of_job(self.sites, work, absent)
            verdict = await self.judge.judge(place, place.reference.target, platforms, accept_gaps=is_last)
        except StateError:
            raise
        except SensorError as error:
            if error.retryable and not is_last:
                await self.queue.retry(item, self._next_try(item, error), error.message)
                return
            reason = f"{(work.reference, *work.fallbacks)[len(absent)]}: {error}"
            await self._answer_failed(work, item, "; ".join((*absent, reason)), started)
            return
        found = msgspec.structs.replace(work, reference=str(place.reference))
        if verdict.judged:
            await self._answer(found, item, verdict, tuple(absent))
        else:
            reason = f"{found.reference}: {verdict.skip_reason}"
            await self._answer_failed(found, item, "; ".join((*absent, reason)), started, verdict.digest)

    async def rematch(self, item: Item) -> None:
        """Match all stored inventories against the advisories in force; a later revision than the one asked for is as good."""
        began = time.monotonic()
        images = changed = 0
        after = ("", "")
        revision = self.judge.advisories.revision
        while revision and (batch := await self.judge.images.outdated(revision, after=after)):
            after = (batch[-1].subject, batch[-1].inventory.manifest)
            for stored in batch:
                changed += await self._rematch_one(stored)
                images += 1
        await self.queue.done(item)
        self.filled()
        seconds = time.monotonic() - began
        self._publish(events.ImagesRematched(at=self._now(), images=images, changed=changed, seconds=seconds))

    async def _tell(self, seen: Crawl, diff: Diff) -> None:
        now = self._now()
        for event in news_of(seen, diff, now):
            self._publish(event)
        self._publish(
            events.SweepFinished(
                at=now,
                registry=seen.registry,
                complete=seen.complete,
                repositories=len(seen.repositories),
                tags=seen.tags,
                ledger=await self.snapshots.ledger(seen.registry),
                requests=seen.requests,
                error=next(seen.troubles(), ""),
                advice=seen.advice,
            )
        )

    async def _hold(self, work: ScanRequest, item: Item, hold: Hold) -> None:
        """Neither the image nor its registry has failed: it waits, and all other new ones with it."""
        await self.queue.postpone(item, hold.until, hold.reason)
        self._publish(
            events.IntakeChanged(at=self._now(), registry=work.registry, reason=hold.reason, until=hold.until)
        )

    async def _finish_scan(self, work: ScanRequest, item: Item, verdict: Verdict) -> None:
        link = self.sites.link_for(work.registry)
        # made before the transaction: a large envelope takes a while, and everybody waits for the write lock
        entries = [None if link is None else await self._entry(link, judged.result) for judged in verdict.judged]
        async with self._ending(item) as connection:
            for judged, entry in zip(verdict.judged, entries, strict=True):
                changed = await self._store(connection, verdict.digest, judged)
                # a digest that is new here is reported even if a job, or another registry with another link, brought the image before
                if entry is not None and (changed or item.lane is not Lane.AGAIN):
                    await put(connection, entry, now=self._now().timestamp())
            await self.snapshots.mark(connection, work.registry, verdict.standing, self._now())
        self.filled()

    async def _fail_scan(self, work: ScanRequest, item: Item, reference: Reference, error: SensorError) -> None:
        # a digest never changes: what is malformed stays so, and only another version of the sensor could read it
        hopeless = isinstance(error, DataError) and not error.retryable
        next_try = None if hopeless else self._next_try(item, error)
        standing = Standing(digest=work.digest, state=DigestState.FAILED, reason=error.message, next_try=next_try)
        async with self._ending(item, again=next_try, error=error.message) as connection:
            await self.snapshots.mark(connection, work.registry, standing, self._now())
        self._publish(
            events.ImageFailed(
                at=self._now(),
                registry=work.registry,
                reference=str(reference),
                digest=work.digest,
                error=error.message,
                advice=error.advice,
                next_try=next_try,
            )
        )

    async def _not_found(
        self, work: ScanRequest, item: Item, client: Registry, error: RegistryNotFound | ImageWithheld
    ) -> None:
        """Gone is what the registry no longer has; an image that it lists and that lacks a part has failed."""
        if isinstance(error, ImageWithheld):
            await self._withhold(work, item, error)
            return
        try:
            await client.manifest(work.repository, work.digest)
        except RegistryNotFound:
            gone = Standing(digest=work.digest, state=DigestState.GONE, reason=error.message)
            async with self._ending(item) as connection:
                await self.snapshots.mark(connection, work.registry, gone, self._now())
            return
        except SensorError:
            pass  # whether it is there could not be asked: then it has failed, and is tried again
        reference = Reference(registry=client.host, repository=work.repository, tag=work.tag)
        await self._fail_scan(work, item, reference, error)

    async def _withhold(self, work: ScanRequest, item: Item, error: ImageWithheld) -> None:
        """Skipped, not failed; asked for again daily, because nobody tells when the registry lets go of it."""
        again, rule = self._now() + _HOPELESS_RETRY, withheld(str(error)).rule
        standing = Standing(digest=work.digest, state=DigestState.SKIPPED, reason=rule, next_try=again)
        async with self._ending(item, again=again, error=error.message) as connection:
            await self.snapshots.mark(connection, work.registry, standing, self._now())
        skipped = events.TagSkipped(
            at=self._now(), registry=work.registry, repository=work.repository, tag=work.tag, rule=rule, withheld=True
        )
        self._publish(skipped)

    async def cancelled(self, item: Item) -> None:
        """Answer for a job that was stopped. When it was done a moment before, its result stands.

        Raises:
            StateError: the state database cannot be used, or the job is done.
        """
        if isinstance(item.work, JobRequest):
            await self._answer_failed(item.work, item, CANCELLED, self._now())

    async def set_aside(self, item: Item) -> None:
        """Put off what the process died over again and again, and say so where the work would have said its result."""
        times = f"the sensor died {item.crashes} times in a row while it worked on this"
        error = SensorError(times, "report this image to the sensor's authors; it is tried again in a day")
        match item.work:
            case ScanRequest() as work:
                host = self.sites.registry(work.registry)[1].host
                reference = Reference(registry=host, repository=work.repository, tag=work.tag)
                await self._fail_scan(work, item, reference, error)
            case JobRequest() as work:
                await self._answer_failed(work, item, f"{work.reference}: {times}", self._now())
            case _:
                await self.queue.retry(item, self._next_try(item, error), times)

    @contextlib.asynccontextmanager
    async def _ending(
        self, item: Item, *, again: datetime | None = None, error: str = ""
    ) -> AsyncIterator[AsyncConnection]:
        """The one transaction that ends a piece of work (or puts it off); when another worker has the work by now, nothing of it stays."""
        async with self.storage.transaction() as connection:
            if again is None:
                held = await self.queue.done(item, connection=connection)
            else:
                held = await self.queue.retry(item, again, error, connection=connection)
            if not held:
                message = f"{item.key!r} took so long that another worker has it now"
                raise StateError(message, "nothing is lost: it is done again", retryable=True)
            yield connection
        self.queue.wake()

    async def _store(self, connection: AsyncConnection, subject: Digest, judged: Judged) -> bool:
        """Keep an inventory and note what matching gave; True when that is news."""
        result, inventory = judged.result, judged.result.inventory
        await self.judge.keep(connection, subject, judged)
        fingerprint = result_fingerprint(result.match, inventory)
        return await self.judge.images.result_changed(
            connection, subject, inventory.manifest, result.match.revision, fingerprint
        )

    async def _entry(self, link: Link, result: ImageResult) -> NewEntry:
        """A result as the outbox takes it."""
        sensor, limits, scan_id = self.sites.identity(link.name), self.judge.layers.limits, new_scan_id()
        kept = await self.artifacts.keep(link.name, scan_id, result)
        make = partial(standalone, sensor=sensor, limits=limits, scan_id=scan_id, kept=kept)
        return await asyncio.to_thread(make, link.name, result)

    async def _answer(self, work: JobRequest, item: Item, verdict: Verdict, absent: tuple[str, ...] = ()) -> None:
        sensor, limits = self.sites.identity(work.link), self.judge.layers.limits
        remarks = (*absent, f"scanned instead: {work.reference}") if absent else ()
        result = verdict.judged[0].result
        kept = await self.artifacts.keep(work.link, work.job, result)
        make = partial(answer, sensor=sensor, limits=limits, remarks=remarks, kept=kept)
        entry = await asyncio.to_thread(make, work, result)
        async with self._ending(item) as connection:
            for judged in verdict.judged:
                await self._store(connection, verdict.digest, judged)
            await put(connection, entry, now=self._now().timestamp())
        self.filled()

    async def _answer_failed(
        self, work: JobRequest, item: Item, reason: str, started: datetime, digest: Digest | None = None
    ) -> None:
        failed = FailedScan(
            reference=work.reference,
            error=reason,
            digest=digest or "",
            started_at=rfc3339(started),
            finished_at=rfc3339(self._now()),
        )
        sensor, limits = self.sites.identity(work.link), self.judge.layers.limits
        entry = refusal(work, failed, digest=digest, sensor=sensor, limits=limits)
        async with self._ending(item) as connection:
            await put(connection, entry, now=self._now().timestamp())
        self.filled()

    async def _rematch_one(self, stored: StoredImage) -> bool:
        now = rfc3339(self._now())
        inventory = stored.inventory
        match = await self.judge.advisories.use(partial(match_inventory, inventory))
        result = ImageResult(
            reference="", digest=stored.reported, inventory=inventory, match=match, started_at=now, finished_at=now
        )
        fingerprint = result_fingerprint(match, inventory)
        entries = await self._news(stored, result) if fingerprint != stored.fingerprint else ()
        async with self.storage.transaction() as connection:
            changed = await self.judge.images.result_changed(
                connection, stored.subject, inventory.manifest, match.revision, fingerprint
            )
            for entry in entries if changed else ():
                await put(connection, entry, now=self._now().timestamp())
        return changed

    async def _news(self, stored: StoredImage, result: ImageResult) -> tuple[NewEntry, ...]:
        """A changed result for each link that knows the image; once, wherever else the same digest is."""
        entries: dict[str, NewEntry] = {}
        for registry in self.sites.names():
            link = self.sites.link_for(registry)
            places = () if link is None else await self.snapshots.places(registry, stored.subject)
            if link is None or not places or link.name in entries:
                continue
            with contextlib.suppress(ConfigError):  # it left the configuration a moment ago
                host = self.sites.registry(registry)[1].host
                reference = str(Reference(registry=host, repository=places[0].repository, tag=places[0].tag))
                entries[link.name] = await self._entry(link, msgspec.structs.replace(result, reference=reference))
        return tuple(entries.values())

    def _next_try(self, item: Item, error: SensorError) -> datetime:
        if not error.retryable:
            return self._now() + _HOPELESS_RETRY
        asked = timedelta(seconds=error.retry_after or 0.0)
        backoff: timedelta = _FIRST_RETRY * 2 ** min(item.attempts - 1, 12)
        return self._now() + max(asked, min(_LONGEST_RETRY, backoff))
