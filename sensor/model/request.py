"""Requests for work: what a trigger submits and the queue keeps. Plain data, stored as JSON."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from sensor.model.digest import Digest


class Lane(IntEnum):
    """Order of work: pushed or asked for by hand, then new digests, then re-scans."""

    NOW = 0
    NEW = 1
    AGAIN = 2


class SweepRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="sweep"):
    """Look at one registry of the configuration."""

    registry: str
    reason: str = "schedule"


class ScanRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="scan"):
    """Scan one digest that a crawl selected."""

    registry: str
    repository: str
    tag: str
    digest: Digest


class JobRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="job"):
    """Scan what a control plane's job names. `link` is the link's stable name, `job` the control plane's id."""

    link: str
    job: str
    reference: str
    scanners: tuple[str, ...] = ()
    """Scanner names that the job asked for; empty means the sensor's defaults."""
    fallbacks: tuple[str, ...] = ()
    """Further references, tried in this order while there is no such image."""


class RematchRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="rematch"):
    """Match all stored inventories against the advisory database of this revision."""

    revision: str


Work = SweepRequest | ScanRequest | JobRequest | RematchRequest
