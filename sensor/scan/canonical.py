"""What the vulnerabilities of a record are called, so that several records of one vulnerability give one finding.

The canonical id is the CVE where a record and its aliases hold exactly one, else the record's own id (OSV schema 1.7, "aliases", "upstream").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sensor.model.advisory import Advisory

_CVE = re.compile(r"CVE-[0-9]{4}-[0-9]{4,}")
_TRACKER_RECORD = re.compile(r"(?:[A-Za-z0-9_]+-)?(CVE-[0-9]{4}-[0-9]{4,})")
_NO_SECURITY = re.compile(r"[A-Z]{2}(?:BA|EA)-")
"""Errata for bugs and enhancements (ALBA, RHEA, ...): vulnerabilities only where they name CVEs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VulnerabilityName:
    """One vulnerability of a record: `group` is equal in all records of the same vulnerability, `id` is what people call it."""

    group: str
    id: str


def tracker_cve(advisory_id: str) -> str:
    """The CVE that a record is named after (`CVE-…`, `DEBIAN-CVE-…`, `UBUNTU-CVE-…`, `ALPINE-CVE-…`), empty for all others.

    Such a record is a tracker's word about exactly this CVE; an erratum that lists several says less.
    """
    match = _TRACKER_RECORD.fullmatch(advisory_id)
    return match[1] if match else ""


def vulnerability_names(advisory: Advisory, *, is_distro: bool) -> tuple[VulnerabilityName, ...]:
    """The vulnerabilities that a record is about; none for an erratum that fixes no vulnerability.

    A distribution's advisory (DSA, USN, ALSA, RHSA) covers several CVEs: each is a vulnerability of its own. Older exports wrote them into
    `aliases`, so both fields are read.
    """
    own = tracker_cve(advisory.id)
    if own:
        return (VulnerabilityName(group=own, id=own),)
    cves = sorted({name for name in (*advisory.aliases, *advisory.upstream) if _CVE.fullmatch(name)})
    if not advisory.is_malware and (len(cves) == 1 or (cves and is_distro)):
        return tuple(VulnerabilityName(group=cve, id=cve) for cve in cves)
    if is_distro and _NO_SECURITY.match(advisory.id):
        return ()
    return (VulnerabilityName(group=min((advisory.id, *advisory.aliases)), id=advisory.id),)


def other_names(advisory: Advisory, vulnerability: str) -> set[str]:
    """Names of the same vulnerability that a record adds: its own and its aliases, but not the other CVEs that an erratum covers."""
    names = {advisory.id, *advisory.aliases}
    return {
        name for name in names if name != vulnerability and not (_CVE.fullmatch(name) and _CVE.fullmatch(vulnerability))
    }
