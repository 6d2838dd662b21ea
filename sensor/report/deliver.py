"""Empties the outbox: one task a link, so that one control plane that is down does not hold up another.

Two kinds of trouble are kept apart. The *link's* (no answer, wrong key, demo mode, plan, wrong URL) pauses the link and leaves the entry untouched,
however long it lasts. The *entry's* own is decided by `steps.next_step`, a pure table over what the server answered and what was tried before.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import structlog

from sensor.control_plane import wire
from sensor.control_plane.errors import (
    AlreadyDone,
    Forbidden,
    NotFound,
    NothingStored,
    OutcomeUnknown,
    Refused,
    TooLarge,
    Unavailable,
)
from sensor.errors import ControlPlaneError, DataError, SecretError, SensorError, StateError
from sensor.events import JobFinished, LinkChanged, Publish, ResultDelivered, ResultRefused
from sensor.report.document import has_rows, without_rows
from sensor.report.outbox import Entry, Kind, Outbox, State
from sensor.report.steps import MOST_STRIKES, Answer, History, Step, next_step

_LOST_PAUSE = 30.0
"""Seconds before an upload without an answer is repeated under its id: the server may still be storing it."""
_ENTRY_CAP, _LINK_CAP, _REFUSED_PAUSE = 900.0, 300.0, 60.0
_IDLE = 60.0
"""Seconds between two looks at an idle outbox: for its bounds, and for what another process put or revived (`outbox retry`, `import`)."""

log = structlog.get_logger()


class Uploader(Protocol):
    """What delivery needs of a control plane; `control_plane.client` implements it."""

    async def probe(self) -> bool:
        """Whether the server is ready; raises Unavailable if it is not."""

    async def upload(self, body: bytes) -> wire.UploadAnswer:
        """Upload an envelope, once."""

    async def report_job(self, job: str, outcome: wire.JobOutcome, error: str = "") -> None:
        """Finalise a job."""


class _LinkFault(Exception):
    def __init__(self, error: SensorError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(slots=True)
class _Line:
    """One link's state of the moment."""

    client: Uploader
    state: str = ""
    failures: int = 0
    paused_until: float = 0.0
    is_interrupted: bool = True
    """Something may count as being sent that is not: a former process ended meanwhile, or the disk filled up."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Deliverer:
    """Delivers for a fixed set of links. `clock` gives seconds since the epoch, `jitter` a number between its two arguments."""

    def __init__(
        self,
        outbox: Outbox,
        clients: Mapping[str, Uploader],
        publish: Publish,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._outbox = outbox
        self._lines = {name: _Line(client) for name, client in clients.items()}
        self._publish = publish
        self._clock = clock
        self._jitter = jitter
        self._stopping = False

    def wake(self) -> None:
        """Something was put into the outbox."""
        for line in self._lines.values():
            line.wake.set()

    def resume(self, link: str) -> None:
        """A link works again, under another key or address perhaps: its pause is over."""
        self._lines[link].paused_until = 0.0
        self._lines[link].wake.set()

    def stop(self) -> None:
        """Let `run` end once the uploads under way have ended."""
        self._stopping = True
        self.wake()

    async def run(self) -> None:
        """Settle what a former process left, then deliver until stopped or cancelled.

        Raises:
            StateError: the state database cannot be used, and waiting does not help (as the one member of an exception group).
        """
        async with asyncio.TaskGroup() as group:
            for name in self._lines:
                group.create_task(self._run_link(name))

    async def deliver_once(self, link: str) -> float | None:
        """Deliver all that is due on a link; seconds until the next look, or None when nothing waits.

        Raises:
            StateError: the state database cannot be used.
        """
        line = self._lines[link]
        if (pause := line.paused_until - self._clock()) > 0:
            return pause
        for dropped in await self._outbox.trim(self._clock()):
            self._refused(dropped, "dropped: the outbox is full, or the result was too old")
        is_sure = False
        while not self._stopping and (entry := await self._outbox.due(link, self._clock())) is not None:
            try:
                if not is_sure:
                    # costs nothing and tells a dead link from a message that is at fault, before anything is at stake
                    await _probe(line.client)
                is_sure = await self._advance(line.client, entry)
            except _LinkFault as fault:
                return self._pause(link, line, fault.error)
            self._announce(link, line, "registered")
            line.failures = 0
        due = await self._outbox.next_due(link)
        return None if due is None else max(0.0, due - self._clock())

    async def _run_link(self, link: str) -> None:
        line = self._lines[link]
        while not self._stopping:
            line.wake.clear()
            try:
                if line.is_interrupted:
                    await self._outbox.recover(self._clock(), link)
                    line.is_interrupted = False
                pause = await self.deliver_once(link)
            except StateError as error:
                if not error.retryable:
                    raise
                log.warning("delivery paused", link=link, error=error.message, advice=error.advice)
                # what was being sent when the disk filled up counts as interrupted, as after a crash
                line.is_interrupted = True
                pause = _LOST_PAUSE
            await _wait(line.wake, _IDLE if pause is None else min(pause, _IDLE))

    async def _advance(self, client: Uploader, entry: Entry) -> bool:
        """One step of one entry; whether the link surely works."""
        if entry.state is State.REPORTING:
            return await self._report(client, entry)
        now = self._clock()
        try:
            body = await self._outbox.body(entry)
            entry = await self._outbox.begin(entry, now)
            body = without_rows(body, entry.last_error) if entry.state is State.UNKNOWN else body
            body = body if entry.kind is Kind.JOB else wire.with_scan_id(body, entry.scan_id)
        except DataError as error:
            await self._outbox.give_up(entry, now, error.message)
            self._refused(entry, error.message)
            return True
        remote = ""
        try:
            uploaded = await client.upload(body)
        except (ControlPlaneError, SecretError) as error:
            failure: SensorError | None = error
            answer = await _classify(client, error)
        else:
            failure, answer, remote = None, Answer.STORED, uploaded.scan_id
        history = History(
            lost=entry.lost,
            burnt=entry.burnt,
            strikes=entry.strikes,
            closing=entry.state is State.UNKNOWN,
            has_rows=entry.kind is Kind.JOB and has_rows(body),
        )
        step = next_step(entry.kind, history, answer)
        if step is Step.SETTLE:
            await self._settle(entry, remote)
            return True
        if failure is not None:
            await self._take(step, entry, answer, failure)
        return False

    async def _settle(self, entry: Entry, remote: str) -> None:
        await self._outbox.uploaded(entry, self._clock())
        if entry.settles_as is State.DEAD:
            self._refused(entry, entry.job_error)
            return
        self._publish(
            ResultDelivered(
                at=self._now(), link=entry.link, reference=entry.reference, scan_id=entry.scan_id, remote_id=remote
            )
        )

    async def _take(self, step: Step, entry: Entry, answer: Answer, failure: SensorError) -> None:
        now = self._clock()
        match step:
            case Step.WAIT:
                await self._outbox.put_back(entry, now, failure.message)
                raise _LinkFault(failure)
            case Step.CLOSE:
                await self._outbox.close(entry, now, failure.message)
            case Step.GIVE_UP:
                await self._outbox.give_up(entry, now, str(failure))
                self._refused(entry, str(failure))
            case _:
                is_lost = answer is Answer.LOST
                await self._outbox.retry(
                    entry,
                    now,
                    not_before=now + self._entry_pause(entry, failure, _LOST_PAUSE if is_lost else 1.0),
                    error=failure.message,
                    lost=is_lost,
                    burnt=step is Step.AGAIN_NEW_ID,
                )

    async def _report(self, client: Uploader, entry: Entry) -> bool:
        """Give a job its status. It may be sent any number of times."""
        now, note = self._clock(), ""
        try:
            await client.report_job(entry.scan_id, entry.outcome, entry.job_error)
        except AlreadyDone:
            pass
        except (Refused, NotFound) as error:
            if isinstance(error, NotFound) and error.is_route:
                raise _LinkFault(error) from error
            # the job is gone: there is nobody left to tell
            note = error.message
        except (Unavailable, Forbidden) as error:
            if isinstance(error, Forbidden) and error.is_demo:
                raise _LinkFault(error) from error
            await _probe(client)
            if entry.strikes + 1 < MOST_STRIKES and "not assigned" not in error.message:
                pause = self._entry_pause(entry, error, 1.0)
                await self._outbox.retry(entry, now, not_before=now + pause, error=error.message)
                return False
            note = error.message
        except (ControlPlaneError, SecretError) as error:
            raise _LinkFault(error) from error
        await self._outbox.finish(entry, now, note)
        self._publish(
            JobFinished(
                at=self._now(), link=entry.link, job=entry.scan_id, status=entry.outcome, error=entry.job_error or note
            )
        )
        return True

    def _entry_pause(self, entry: Entry, failure: SensorError, least: float) -> float:
        jittered = self._jitter(0.0, min(_ENTRY_CAP, 10.0 * 2 ** min(entry.strikes, 10)))
        return max(jittered, least, failure.retry_after or 0.0)

    def _pause(self, link: str, line: _Line, error: SensorError) -> float:
        """Leave a link alone for a while: longer and longer while it is down, a minute or so while it refuses."""
        is_down = isinstance(error, (Unavailable, NothingStored))
        growing = min(_LINK_CAP, 2.0 * 2 ** min(line.failures, 10))
        pause = max(1.0, self._jitter(0.0, growing)) if is_down else _REFUSED_PAUSE * self._jitter(0.5, 1.0)
        pause = max(pause, error.retry_after or 0.0)
        line.failures += 1
        line.paused_until = self._clock() + pause
        self._announce(link, line, "down" if is_down else "refused", error)
        return pause

    def _announce(self, link: str, line: _Line, state: str, error: SensorError | None = None) -> None:
        # a link that was never in trouble is announced by whoever registered it
        if state not in {line.state, "registered" if not line.state else ""}:
            message, advice = (error.message, error.advice) if error is not None else ("", "")
            self._publish(LinkChanged(at=self._now(), link=link, state=state, error=message, advice=advice))
            line.state = state

    def _refused(self, entry: Entry, reason: str) -> None:
        self._publish(
            ResultRefused(
                at=self._now(), link=entry.link, reference=entry.reference, scan_id=entry.scan_id, error=reason
            )
        )

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


async def _probe(client: Uploader) -> None:
    try:
        await client.probe()
    except ControlPlaneError as error:
        raise _LinkFault(error) from error


async def _classify(client: Uploader, error: SensorError) -> Answer:
    """What an upload's error means for the entry. A server that could not read it, and is not ready either, is a link at fault."""
    simple: Iterable[tuple[type[SensorError], Answer]] = (
        (AlreadyDone, Answer.ALREADY_THERE),
        (Refused, Answer.REFUSED),
        (TooLarge, Answer.TOO_LARGE),
    )
    if isinstance(error, NothingStored):
        try:
            await client.probe()
        except ControlPlaneError:
            return Answer.LINK_AT_FAULT
        return Answer.NOTHING_STORED
    if isinstance(error, OutcomeUnknown):
        return Answer.HALF_STORED if error.is_half else Answer.LOST
    return next((answer for kind, answer in simple if isinstance(error, kind)), Answer.LINK_AT_FAULT)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
