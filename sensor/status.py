"""What is going on: events folded into one picture that the health page, the metrics and `status` show.

Pure but for the lock-free mutation of its own fields: events arrive on the event loop's thread only. Decides nothing.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import assert_never

import msgspec

from sensor import events


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


class LinkStatus(msgspec.Struct, kw_only=True, omit_defaults=False):
    """One link to a control plane."""

    name: str
    state: str = "connecting"
    """connecting, registered, down, refused."""
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
    running: list[RunningImage]
    failures: list[Failure]
    advisories: AdvisoryStatus
    images: dict[str, int]
    findings: dict[str, int]
    layers: dict[str, int]
    jobs: dict[str, int]
    rematched: int


_KEPT_FAILURES = 50
"""Failures shown; the ledger counts all of them."""


class StatusBoard:
    """Folds events. `advisory_age` is the age above which data is called old."""

    def __init__(self, *, advisory_age: timedelta = timedelta(days=7)) -> None:
        self._advisory_age = advisory_age
        self._version = ""
        self._started: datetime | None = None
        self._registries: dict[str, RegistryStatus] = {}
        self._links: dict[str, LinkStatus] = {}
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

    def handle(self, event: events.Event) -> None:  # noqa: C901, PLR0912 - one branch an event keeps the fold readable
        """Fold one event."""
        match event:
            case events.SensorStarted():
                self._version, self._started = event.version, event.at
                self._show(event.registries)
            case events.SweepStarted():
                self._registry(event.registry).state = "sweeping"
            case events.SweepFinished():
                self._finish_sweep(event)
            case events.LedgerChanged():
                self._registry(event.registry).ledger = dict(event.ledger)
            case events.RepositoryVanished():
                self._registry(event.registry).vanished.append(f"{event.repository}: {event.reason}")
            case events.TagSkipped():
                pass
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
            case events.ConfigReloaded():
                if event.registries is not None:
                    self._show(event.registries)
            case _:
                assert_never(event)

    def snapshot(self, now: datetime) -> Snapshot:
        """The picture at `now`."""
        uptime = int((now - self._started).total_seconds()) if self._started else 0
        return Snapshot(
            version=self._version,
            started=self._started,
            uptime_seconds=uptime,
            ready=self._started is not None and bool(self._advisories.revision),
            problems=self.problems(now),
            registries=[self._registries[name] for name in sorted(self._registries)],
            links=[self._links[name] for name in sorted(self._links)],
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
            _sentence(f"registry {registry.name}: {registry.error}", registry.advice)
            for registry in self._registries.values()
            if registry.error
        ]
        return found

    def _finish_sweep(self, event: events.SweepFinished) -> None:
        registry = self._registry(event.registry)
        registry.state = "ok" if event.complete else "failed" if event.error and not event.tags else "partial"
        registry.last_sweep, registry.complete = event.at, event.complete
        registry.repositories, registry.tags = event.repositories, event.tags
        registry.ledger, registry.requests = dict(event.ledger), event.requests
        registry.error, registry.advice = event.error, event.advice

    def _finish_image(self, event: events.ImageScanned) -> None:
        self._running.pop(event.digest, None)
        self._failures.pop(event.digest, None)
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


def _sentence(text: str, advice: str) -> str:
    return f"{text} ({advice})" if advice else text
