"""Findings: one vulnerability in one package instance of one image, with everything a reader needs to check it."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from sensor.model.digest import Digest
from sensor.model.package import Gap, ImageInventory


class Severity(StrEnum):
    """The control plane's five words. NEGLIGIBLE and UNKNOWN of other tools are INFO there."""

    CRITICAL = "CRITICAL"
    HIGH = "HIGH"
    MEDIUM = "MEDIUM"
    LOW = "LOW"
    INFO = "INFO"


SEVERITIES = tuple(Severity)
"""Most severe first."""


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One vulnerability in one package instance.

    `vulnerability` is the canonical id (the CVE where the alias closure holds exactly one), `advisory` the record that
    matched, `affected_range` the matched range in words, `fixed_version` empty when no fix is known. `severity_source` says
    whose judgement `severity` is. `score` is the CVSS base score, None without a vector.
    """

    vulnerability: str
    advisory: str
    package_name: str
    package_version: str
    purl: str
    path: str
    layer: Digest
    severity: Severity
    severity_source: str = ""
    score: float | None = None
    vector: str = ""
    fixed_version: str = ""
    affected_range: str = ""
    matched_name: str = ""
    """The name the advisory uses (the source package, for distros)."""
    aliases: tuple[str, ...] = ()
    title: str = ""
    description: str = ""
    url: str = ""
    state: str = ""
    """fixed, unfixed, unimportant, malware."""


class MatchResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What matching one inventory against one advisory database gave. `ecosystems` are those that were consulted."""

    revision: str
    findings: tuple[Finding, ...] = ()
    gaps: tuple[Gap, ...] = ()
    ecosystems: tuple[str, ...] = ()


class ScanStatus(StrEnum):
    """How complete a result is: PARTIAL when anything could not be judged, FAILED when nothing could."""

    SUCCESS = "SUCCESS"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"


class ImageResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One judged image: what is reported, stored and shown."""

    reference: str
    """Full reference with tag, for people."""
    digest: Digest
    """Of the index where there is one, else of the manifest: the identity at the control plane."""
    inventory: ImageInventory
    match: MatchResult
    started_at: str
    finished_at: str

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """All gaps, of the inventory and of the matching."""
        return self.inventory.gaps + self.match.gaps

    @property
    def status(self) -> ScanStatus:
        """SUCCESS only without a gap."""
        return ScanStatus.PARTIAL if self.gaps else ScanStatus.SUCCESS

    def counts(self) -> dict[Severity, int]:
        """Findings by severity; every severity is present."""
        result = dict.fromkeys(SEVERITIES, 0)
        for finding in self.match.findings:
            result[finding.severity] += 1
        return result
