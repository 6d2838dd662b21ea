"""When a control plane asks for something: claims its jobs and puts them on disk. Decides nothing about how a job is done.

A claim is for ever and a poll claims up to five, so it polls only with room for five, stores everything in one transaction before
anything else happens, and never repeats a poll whose answer was lost. What could not be stored is kept in memory and stored before the next
poll. A job that cannot be done is answered at once, through the outbox.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

import structlog

from sensor import events
from sensor.control_plane import wire
from sensor.control_plane.client import ControlPlaneClient
from sensor.control_plane.errors import Forbidden
from sensor.control_plane.jobs import Refusal, request_of
from sensor.errors import ControlPlaneError, SecretError, StateError
from sensor.events import Publish
from sensor.judge import rfc3339
from sensor.model.request import Lane
from sensor.repeats import States
from sensor.report.document import FailedScan, failed_envelope
from sensor.report.entries import Kind, NewEntry, put
from sensor.storage import Storage
from sensor.work.queue import TableQueue

MOST_CLAIMED = 5
"""Jobs that one poll may hand out (control plane, section 4.1)."""
MOST_WAITING = 20
"""Jobs that may wait here before the sensor stops claiming more: another sensor may be free."""
_LONGEST_PAUSE = 60.0

log = structlog.get_logger()


class Membership(Protocol):
    """What polling needs of a link's registration."""

    @property
    def agent(self) -> str:
        """The agent id; empty where the control plane gives none."""

    async def registered(self) -> None:
        """Wait until the control plane knows this sensor."""


class JobPoller:
    """Polls one link. `answered` is told when the outbox holds an answer."""

    def __init__(  # noqa: PLR0913 - the composition root fills it once
        self,
        client: ControlPlaneClient,
        storage: Storage,
        queue: TableQueue,
        *,
        identity: Callable[[], wire.Sensor],
        publish: Publish,
        clock: Callable[[], datetime],
        answered: Callable[[], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._storage = storage
        self._queue = queue
        self._identity = identity
        self._publish = publish
        self._clock = clock
        self._answered = answered
        self._sleep = sleep
        self._claimed: tuple[wire.Job, ...] = ()
        """Claimed and not stored yet."""
        self._states = States()
        self._stopping = False
        self._between = asyncio.Event()
        self._between.set()

    async def stop(self) -> None:
        """Poll no more, and wait for a poll under way: what it claims would be lost with it."""
        self._stopping = True
        await self._between.wait()

    async def run(self, membership: Membership) -> None:
        """Poll until stopped or cancelled, whenever the control plane knows this sensor."""
        failures = 0
        while True:
            await membership.registered()
            if self._stopping:
                return
            self._between.clear()
            try:
                claimed = await self.poll(membership.agent)
                failures = 0
                if self._states.change("poll", ""):
                    log.info("job poll recovered", link=self._client.link.name)
            except (ControlPlaneError, SecretError, StateError) as error:
                # a server in demo mode hands out jobs but takes no answers: polling it would only lose them
                failures = 10 if isinstance(error, Forbidden) else failures + 1
                claimed = 0
                if self._states.change("poll", error.message):
                    log.warning(
                        "job poll failed", link=self._client.link.name, error=error.message, advice=error.advice
                    )
            finally:
                self._between.set()
            # jitter, so that sensors do not poll in step and starve each other; at once after work, which may have more behind it
            pause = self._client.link.poll * random.uniform(0.7, 1.3)
            if failures:
                pause = min(_LONGEST_PAUSE, pause * 2 ** min(failures, 6))
            await self._sleep(pause if not claimed else random.uniform(0.2, 1.0))

    async def poll(self, agent: str) -> int:
        """Claim jobs if there is room for them; how many were claimed.

        Raises:
            ControlPlaneError: the poll failed. SecretError: the key cannot be read.
            StateError: the jobs could not be stored. The next call tries that again first; if the process ends before, the log has their names.
        """
        if self._claimed:
            return await self._store()
        counts = (await self._queue.counts())[Lane.NOW]
        if counts.waiting + counts.taken + counts.later + MOST_CLAIMED > MOST_WAITING:
            return 0
        poll = await self._client.poll_jobs(agent)
        if poll.unreadable:
            log.warning("jobs without a usable id", link=self._client.link.name, count=poll.unreadable)
        if not poll.jobs:
            return 0
        self._claimed = poll.jobs
        return await self._store()

    async def _store(self) -> int:
        link, jobs = self._client.link, self._claimed
        requests = [request_of(job, link=link.name, default_registry=link.default_registry) for job in jobs]
        answers = [self._answer(request) for request in requests if isinstance(request, Refusal)]
        try:
            async with self._storage.transaction() as connection:
                for request in requests:
                    if not isinstance(request, Refusal):
                        await self._queue.put(request, Lane.NOW, connection=connection)
                for answer in answers:
                    await put(connection, answer, now=self._clock().timestamp())
        except StateError:
            log.error("claimed jobs could not be stored", link=link.name, jobs=[job.id for job in jobs])  # noqa: TRY400 - the caller shows the error
            raise
        self._claimed = ()
        self._queue.wake()
        if answers:
            self._answered()
        now = self._clock()
        for job in jobs:
            reference = job.scan.image_ref if job.scan is not None else ""
            self._publish(events.JobClaimed(at=now, link=link.name, job=job.id, type=job.type, reference=reference))
        return len(jobs)

    def _answer(self, refusal: Refusal) -> NewEntry:
        now = rfc3339(self._clock())
        body = b""
        if refusal.has_scan:
            failed = FailedScan(reference=refusal.reference, error=refusal.reason, started_at=now, finished_at=now)
            body = failed_envelope(failed, scan_id=refusal.job, sensor=self._identity()).body
        return NewEntry(
            link=self._client.link.name,
            kind=Kind.JOB,
            scan_id=refusal.job,
            reference=refusal.reference,
            body=body,
            outcome="failed",
            error=refusal.reason,
        )
