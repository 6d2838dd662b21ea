"""What is going on: events folded into one picture that the health page, the metrics and `status` show.

Pure but for the lock-free mutation of its own fields: events arrive on the event loop's thread only. Decides nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from datetime import datetime, timedelta
from typing import assert_never

import msgspec

from sensor import events
from sensor.model.delivery import OutboxPart


class RegistryStatus(msgspec.Struct, kw_only=True, omit_defaults=False):
    """One registry. The ledger adds up: listed = scanned + skipped + failed + queued + gone."""

    name: str
    state: str = "waiting"
    """waiting, sweeping, ok, partial, failed."""
    last_sweep: datetime | None = None
    complete: bool = False
    repositories: int = 0
    tags: int = 0
    ledger: dict[str, int] = msgspec.field(default_factory=dict)
    requests: int = 0
    error: str = ""
    advice: str = ""
    vanished: list[str] = msgspec.field(default_factory=list)
    withheld: dict[str, int] = msgspec.field(default_factory=dict)
    """Why the registry holds tags back (quarantine, policy, archive), with the tags; since the last sweep."""
    method: str = ""
    """How it is logged in to, in words."""
    identity: str = ""
    """Who it takes us for."""
    credential_expires: datetime | None = None
    may_write: bool | None = None
    """Whether the credential could push or delete, which a sensor does not need; None: not told."""
    held: str = ""
    """Why no new image is scanned now; empty: they are."""
    held_until: datetime | None = None
    """When that is looked at again."""
    scanned_last_hour: int = 0
    done_by: datetime | None = None
    """When the queued images will have been scanned, at the pace of the last hour; None: nothing waits, or nothing can be said."""


class QuotaStatus(msgspec.Struct, kw_only=True, omit_defaults=False):
    """A quota as a host told it last. A registry and its API have different hosts."""

    host: str
    limit: int
    remaining: int
    window_seconds: float
    source: str
    read: datetime


class LinkStatus(msgspec.Struct, kw_only=True, omit_defaults=False):
    """One link to a control plane."""

    name: str
    state: str = "connecting"
    """connecting, registered, down, refused."""
    address: str = ""
    """Where it is spoken to: its URL, or one of its fallbacks."""
    clock_skew: float | None = None
    """Seconds by which its clock is ahead of ours; None: not known yet."""
    last_heartbeat: datetime | None = None
    delivered: int = 0
    refused: int = 0
    error: str = ""
    advice: str = ""


class RunningImage(msgspec.Struct, kw_only=True, omit_defaults=False):
    """An image that is being scanned. Bytes are compressed bytes."""

    registry: str
    reference: str
    digest: str
    started: datetime
    bytes_done: int = 0
    bytes_total: int = 0


class Failure(msgspec.Struct, kw_only=True, omit_defaults=False):
    """The last failure of one digest."""

    at: datetime
    registry: str
    reference: str
    digest: str
    error: str
    advice: str
    next_try: datetime | None = None


class AdvisoryStatus(msgspec.Struct, kw_only=True, omit_defaults=False):
    """The advisory database in force. No revision: there is none, and nothing is a SUCCESS."""

    revision: str = ""
    records: int = 0
    newest: datetime | None = None


class Snapshot(msgspec.Struct, kw_only=True, omit_defaults=False):
    """Everything at one moment, as JSON shows it."""

    version: str
    started: datetime | None
    uptime_seconds: int
    ready: bool
    problems: list[str]
    registries: list[RegistryStatus]
    links: list[LinkStatus]
    outbox: list[OutboxPart]
    quotas: list[QuotaStatus]
    running: list[RunningImage]
    failures: list[Failure]
    advisories: AdvisoryStatus
    images: dict[str, int]
    findings: dict[str, int]
    layers: dict[str, int]
    jobs: dict[str, int]
    rematched: int


EXPIRY_NOTICE = timedelta(days=14)
"""How long before the end of a credential it is a problem."""
SKEW_NOTICE = 60.0
"""Seconds by which two clocks may differ; some clouds refuse requests from five minutes on."""
_HOUR = timedelta(hours=1)
_STALE_HOLD = timedelta(minutes=1)
"""Workers look for work more often than that."""
_MOST_QUOTAS = 1000
_MOST_FINISHED = 100_000
"""An hour's worth of scans, with room; no machine does more."""
_MOST_REASONS = 20
_KEPT_FAILURES = 50
"""Failures shown; the ledger counts all of them."""


class StatusBoard:
    """Folds events. `advisory_age` is the age above which data is called old."""

    def __init__(self, *, advisory_age: timedelta = timedelta(days=7)) -> None:
        self._advisory_age = advisory_age
        self._version = ""
        self._started: datetime | None = None
        self._registries: dict[str, RegistryStatus] = {}
        self._sweeping: set[str] = set()
        """Registries whose sweep has told nothing yet."""
        self._links: dict[str, LinkStatus] = {}
        self._outbox: tuple[OutboxPart, ...] = ()
        self._quotas: dict[str, QuotaStatus] = {}
        self._finished: dict[str, deque[datetime]] = {}
        """When images of a registry were scanned, the last hour."""
        self._running: dict[str, RunningImage] = {}
        self._failures: dict[str, Failure] = {}
        self._advisories = AdvisoryStatus()
        self._images: Counter[str] = Counter(success=0, partial=0, failed=0)
        self._findings: Counter[str] = Counter()
        self._layers: Counter[str] = Counter(fetched=0, cached=0, bytes_fetched=0)
        self._jobs: Counter[str] = Counter(claimed=0, completed=0, failed=0)
        self._rematched = 0

    @property
    def active_scans(self) -> int:
        """Images in work, for the heartbeat."""
        return len(self._running)

    def ledgers(self) -> dict[str, dict[str, int]]:
        """The ledger of each registry, for the heartbeat."""
        return {name: dict(registry.ledger) for name, registry in self._registries.items()}

    def handle(self, event: events.Event) -> None:  # noqa: C901, PLR0912, PLR0915 - one branch an event keeps the fold readable
        """Fold one event."""
        match event:
            case events.SensorStarted():
                self._version, self._started = event.version, event.at
                self._show(event.registries)
            case events.SweepStarted():
                self._registry(event.registry).state = "sweeping"
                self._sweeping.add(event.registry)
            case events.SweepFinished():
                self._finish_sweep(event)
            case events.SweepRemembered():
                registry = self._registry(event.registry)
                registry.state = "ok" if event.complete else "partial"
                registry.last_sweep, registry.complete, registry.error = event.at, event.complete, event.error
            case events.LedgerChanged():
                self._registry(event.registry).ledger = dict(event.ledger)
            case events.RepositoryVanished():
                self._registry(event.registry).vanished.append(f"{event.repository}: {event.reason}")
            case events.TagSkipped():
                self._skip_tag(event)
            case events.CredentialChecked():
                self._check_credential(event)
            case events.IntakeChanged():
                self._change_intake(event)
            case events.QuotaChanged():
                self._read_quota(event)
            case events.ImageStarted():
                self._running[event.digest] = RunningImage(
                    registry=event.registry,
                    reference=event.reference,
                    digest=event.digest,
                    started=event.at,
                    bytes_total=event.bytes_total,
                )
            case events.ImageProgressed():
                if (running := self._running.get(event.digest)) is not None:
                    running.bytes_done, running.bytes_total = event.bytes_done, event.bytes_total
            case events.ImageStopped():
                self._running.pop(event.digest, None)
            case events.ImageScanned():
                self._finish_image(event)
            case events.ImageFailed():
                self._fail_image(event)
            case events.ImagesRematched():
                self._rematched += event.images
            case events.AdvisoriesChanged():
                self._advisories = AdvisoryStatus(revision=event.revision, records=event.records, newest=event.newest)
            case events.LinkChanged():
                link = self._link(event.link)
                link.state, link.error, link.advice = event.state, event.error, event.advice
                link.address = event.address or link.address
            case events.ClockCompared():
                self._link(event.link).clock_skew = event.seconds
            case events.HeartbeatSent():
                self._link(event.link).last_heartbeat = event.at
            case events.JobClaimed():
                self._jobs["claimed"] += 1
            case events.JobFinished():
                self._jobs[event.status] += 1
            case events.ResultDelivered():
                self._link(event.link).delivered += 1
            case events.ResultRefused():
                link = self._link(event.link)
                link.refused += 1
                link.error = event.error
            case events.OutboxCounted():
                self._outbox = event.parts
            case events.ConfigReloaded():
                if event.registries is not None:
                    self._show(event.registries)
            case _:
                assert_never(event)

    def snapshot(self, now: datetime) -> Snapshot:
        """The picture at `now`."""
        for registry in self._registries.values():
            self._estimate(registry, now)
        uptime = int((now - self._started).total_seconds()) if self._started else 0
        return Snapshot(
            version=self._version,
            started=self._started,
            uptime_seconds=uptime,
            ready=self._started is not None and bool(self._advisories.revision),
            problems=self.problems(now),
            registries=[self._registries[name] for name in sorted(self._registries)],
            links=[self._links[name] for name in sorted(self._links)],
            outbox=list(self._outbox),
            quotas=[self._quotas[host] for host in sorted(self._quotas)],
            running=sorted(self._running.values(), key=lambda image: image.started),
            failures=sorted(self._failures.values(), key=lambda failure: failure.at, reverse=True),
            advisories=self._advisories,
            images=dict(self._images),
            findings=dict(self._findings),
            layers=dict(self._layers),
            jobs=dict(self._jobs),
            rematched=self._rematched,
        )

    def problems(self, now: datetime) -> list[str]:
        """Everything that an operator should look at, a sentence each."""
        found: list[str] = []
        if self._started is None:
            found.append("the sensor has not finished starting")
        if not self._advisories.revision:
            found.append(
                "there is no advisory database, so every result is PARTIAL: run `harborguard-sensor advisories import DIR`"
            )
        elif self._advisories.newest is not None and now - self._advisories.newest > self._advisory_age:
            days = (now - self._advisories.newest).days
            found.append(f"the newest advisory is {days} days old: import a newer set")
        found += [
            _sentence(f"control plane {link.name} is {link.state}: {link.error}", link.advice)
            for link in self._links.values()
            if link.state in {"down", "refused"}
        ]
        found += [
            _sentence(_skewed(link.name, link.clock_skew), "tokens and certificates fail by the clock: synchronise it")
            for link in self._links.values()
            if link.clock_skew is not None and abs(link.clock_skew) > SKEW_NOTICE
        ]
        found += [
            _sentence(f"registry {registry.name}: {registry.error}", registry.advice)
            for registry in self._registries.values()
            if registry.error
        ]
        found += [
            _expiry(registry, registry.credential_expires, now)
            for registry in self._registries.values()
            if registry.credential_expires is not None and registry.credential_expires - now < EXPIRY_NOTICE
        ]
        found += [
            f"registry {registry.name}: its credential could push or delete as well; a sensor needs neither, so give it less"
            for registry in self._registries.values()
            if registry.may_write
        ]
        return found

    def _check_credential(self, event: events.CredentialChecked) -> None:
        registry = self._registry(event.registry)
        registry.method, registry.identity = event.method, event.identity
        registry.credential_expires, registry.may_write = event.expires, event.may_write

    def _change_intake(self, event: events.IntakeChanged) -> None:
        registry = self._registry(event.registry)
        registry.held, registry.held_until = event.reason, event.until

    def _read_quota(self, event: events.QuotaChanged) -> None:
        if event.host not in self._quotas and len(self._quotas) >= _MOST_QUOTAS:
            del self._quotas[next(iter(self._quotas))]
        self._quotas[event.host] = QuotaStatus(
            host=event.host,
            limit=event.limit,
            remaining=event.remaining,
            window_seconds=event.window_seconds,
            source=event.source,
            read=event.at,
        )

    def _estimate(self, registry: RegistryStatus, now: datetime) -> None:
        """When the queue of a registry will be empty. Windows and daily bounds are in the pace as far as they fell into the last hour."""
        if registry.held_until is not None and registry.held_until + _STALE_HOLD <= now:
            # whatever is held is tried again at its time and then says so; nothing is left that could
            registry.held, registry.held_until = "", None
        finished = self._finished.get(registry.name, deque())
        while finished and finished[0] <= now - _HOUR:
            finished.popleft()
        registry.scanned_last_hour = len(finished)
        waiting = registry.ledger.get("queued", 0)
        span = min(_HOUR, now - finished[0]) if finished else _HOUR
        pace = len(finished) / max(span.total_seconds(), 60.0)
        registry.done_by = now + timedelta(seconds=waiting / pace) if waiting and pace and not registry.held else None

    def _skip_tag(self, event: events.TagSkipped) -> None:
        registry = self._registry(event.registry)
        if event.registry in self._sweeping:
            # a sweep tells all of its skipped tags at its end: the first one makes the former sweep's old
            registry.withheld = {}
            self._sweeping.discard(event.registry)
        if event.withheld:
            known = event.rule in registry.withheld or len(registry.withheld) < _MOST_REASONS
            reason = event.rule if known else "withheld by the registry: other reasons"
            registry.withheld[reason] = registry.withheld.get(reason, 0) + 1

    def _finish_sweep(self, event: events.SweepFinished) -> None:
        registry = self._registry(event.registry)
        if event.registry in self._sweeping:
            registry.withheld = {}
            self._sweeping.discard(event.registry)
        registry.state = "ok" if event.complete else "failed" if event.error and not event.tags else "partial"
        registry.last_sweep, registry.complete = event.at, event.complete
        registry.repositories, registry.tags = event.repositories, event.tags
        registry.ledger, registry.requests = dict(event.ledger), event.requests
        registry.error, registry.advice = event.error, event.advice

    def _finish_image(self, event: events.ImageScanned) -> None:
        self._running.pop(event.digest, None)
        self._failures.pop(event.digest, None)
        self._finished.setdefault(event.registry, deque(maxlen=_MOST_FINISHED)).append(event.at)
        self._images[event.status.lower()] += 1
        self._findings.update(event.counts)
        self._layers["fetched"] += event.layers_fetched
        self._layers["cached"] += event.layers_cached
        self._layers["bytes_fetched"] += event.bytes_fetched

    def _fail_image(self, event: events.ImageFailed) -> None:
        self._running.pop(event.digest, None)
        self._images["failed"] += 1
        self._failures[event.digest] = Failure(
            at=event.at,
            registry=event.registry,
            reference=event.reference,
            digest=event.digest,
            error=event.error,
            advice=event.advice,
            next_try=event.next_try,
        )
        while len(self._failures) > _KEPT_FAILURES:
            del self._failures[min(self._failures, key=lambda digest: self._failures[digest].at)]

    def _show(self, names: tuple[str, ...]) -> None:
        self._registries = {name: self._registry(name) for name in names}

    def _registry(self, name: str) -> RegistryStatus:
        return self._registries.setdefault(name, RegistryStatus(name=name))

    def _link(self, name: str) -> LinkStatus:
        return self._links.setdefault(name, LinkStatus(name=name))


def _expiry(registry: RegistryStatus, expires: datetime, now: datetime) -> str:
    days = (expires - now).days
    when = f"ends in {days} days" if days > 1 else "ends within two days" if expires > now else "has ended"
    return f"registry {registry.name}: its credential {when} ({expires:%Y-%m-%d %H:%M} UTC): make a new one"


def _skewed(link: str, seconds: float) -> str:
    word = "behind" if seconds > 0 else "ahead of"
    return f"this machine's clock is {abs(seconds):.0f} s {word} that of control plane {link}"


def _sentence(text: str, advice: str) -> str:
    return f"{text} ({advice})" if advice else text
