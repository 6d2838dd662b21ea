"""What can happen, as plain values. Producers publish, `status` and the log fold; nothing is decided by an event.

An event is named noun + past verb. `publish` is a plain callable so that a test can pass `list.append`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from sensor.model.delivery import OutboxPart


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorStarted:
    """The daemon has built everything and begins to work."""

    at: datetime
    version: str
    registries: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepStarted:
    """One registry is being looked at."""

    at: datetime
    registry: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepFinished:
    """One registry has been looked at. The ledger: listed = scanned + skipped + failed + queued + gone."""

    at: datetime
    registry: str
    complete: bool
    repositories: int
    tags: int
    ledger: dict[str, int]
    requests: int
    error: str = ""
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRemembered:
    """A registry was looked at last at this time, by a former process."""

    at: datetime
    registry: str
    complete: bool
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerChanged:
    """A digest changed its column of the ledger."""

    registry: str
    ledger: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryVanished:
    """A repository of the previous complete crawl was missing, or refused, in this one."""

    at: datetime
    registry: str
    repository: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TagSkipped:
    """A tag was listed but will not be scanned; `rule` says why."""

    at: datetime
    registry: str
    repository: str
    tag: str
    rule: str
    withheld: bool = False
    """It was not the configuration: the registry holds it back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialChecked:
    """Who a registry takes us for. Never holds a secret."""

    at: datetime
    registry: str
    method: str
    identity: str
    expires: datetime | None
    """When the credential itself ends; None: never, or not told."""
    may_write: bool | None
    """Whether it could push or delete; None: not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IntakeChanged:
    """No new image of a registry is scanned for now; with an empty `reason`: they are again."""

    at: datetime
    registry: str
    reason: str = ""
    until: datetime | None = None
    """When that is looked at again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaChanged:
    """A host told how much of a quota is left."""

    at: datetime
    host: str
    limit: int
    remaining: int
    window_seconds: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStarted:
    """A digest is being scanned."""

    at: datetime
    registry: str
    reference: str
    digest: str
    layers: int
    bytes_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageProgressed:
    """Compressed bytes of the image read so far (cached layers count as read)."""

    digest: str
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStopped:
    """The scan of a digest ended without a result; `ImageFailed` or a job's answer says why."""

    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageScanned:
    """A digest was scanned. `status` is SUCCESS or PARTIAL; `counts` are findings by severity."""

    at: datetime
    registry: str
    reference: str
    digest: str
    status: str
    packages: int
    counts: dict[str, int]
    gaps: tuple[str, ...]
    layers_fetched: int
    layers_cached: int
    bytes_fetched: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFailed:
    """A digest could not be scanned; `next_try` is None when only a change of the image or the configuration helps."""

    at: datetime
    registry: str
    reference: str
    digest: str
    error: str
    advice: str
    next_try: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesRematched:
    """The advisory database changed and stored inventories were matched again, without registry traffic."""

    at: datetime
    images: int
    changed: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvisoriesChanged:
    """A new advisory database is in place."""

    at: datetime
    revision: str
    records: int
    newest: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChanged:
    """A control-plane link went up or down; `state` is one of registered, down, refused."""

    at: datetime
    link: str
    state: str
    error: str = ""
    advice: str = ""
    address: str = ""
    """Where the control plane is spoken to; empty: as before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockCompared:
    """A control plane's clock is so many seconds ahead of ours (negative: behind)."""

    at: datetime
    link: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeartbeatSent:
    """A heartbeat was accepted."""

    at: datetime
    link: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobClaimed:
    """A job of a control plane is stored on disk and will be worked on."""

    at: datetime
    link: str
    job: str
    type: str
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFinished:
    """A job was answered for: `status` is completed or failed."""

    at: datetime
    link: str
    job: str
    status: str
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultDelivered:
    """A result reached its control plane."""

    at: datetime
    link: str
    reference: str
    scan_id: str
    remote_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRefused:
    """A control plane refused a result for good; it is kept aside with the reason."""

    at: datetime
    link: str
    reference: str
    scan_id: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxCounted:
    """What is in the outbox, link by link."""

    at: datetime
    parts: tuple[OutboxPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigReloaded:
    """SIGHUP: a new configuration is in force, or (`error`) the old one was kept."""

    at: datetime
    error: str = ""
    changes: tuple[str, ...] = field(default=())
    registries: tuple[str, ...] | None = None
    """The registries in force now; None when they are as they were."""


Event: TypeAlias = (
    SensorStarted
    | SweepStarted
    | SweepFinished
    | SweepRemembered
    | LedgerChanged
    | RepositoryVanished
    | TagSkipped
    | CredentialChecked
    | IntakeChanged
    | QuotaChanged
    | ImageStarted
    | ImageProgressed
    | ImageStopped
    | ImageScanned
    | ImageFailed
    | ImagesRematched
    | AdvisoriesChanged
    | LinkChanged
    | ClockCompared
    | HeartbeatSent
    | JobClaimed
    | JobFinished
    | ResultDelivered
    | ResultRefused
    | OutboxCounted
    | ConfigReloaded
)

Publish: TypeAlias = Callable[[Event], None]
