"""What the control plane's server does with an envelope: which bodies it fails on, when, and what is stored by then.

Written from observations of the running server (the wire contract's sections 5.3 to 5.7), in the order in which the server notices things.
`Crash` is its empty 500. What the server only ignores or repairs is not a fault here either.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

MOST_INDEXED = 2700
"""Bytes from which PostgreSQL refuses an indexed value. It compresses first, so real ones may be longer; the fake takes the worst case."""
MOST_INT = 2**31 - 1
SEVERITIES = {"CRITICAL", "HIGH", "MEDIUM", "LOW", "INFO"}
RAW_STATUSES = {"PENDING", "RUNNING", "SUCCESS", "PARTIAL", "FAILED", "CANCELLED"}


class Crash(Exception):
    """The handler throws: 500 with an empty body."""


@dataclass
class Scan:
    """A row of the server's scans, with the rows that hang on it."""

    id: str
    request_id: str
    image_id: str = ""
    status: str = "RUNNING"
    source: str = ""
    risk_score: int | None = None
    finished_at: str | None = None
    counts: dict[str, int] | None = None
    scanner_versions: Any = None
    s3_prefix: str | None = None
    rows: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {"vulnerabilities": [], "packages": [], "compliance": [], "efficiency": []}
    )


@dataclass
class Image:
    """A row of the server's images."""

    id: str
    name: str
    tag: str
    digest: str
    platform: str | None = None
    size_bytes: int | None = None


def require_whole_text(value: object) -> None:
    """No string anywhere may hold a lone surrogate."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise Crash("a lone surrogate") from error
    elif isinstance(value, dict):
        for key, member in value.items():
            require_whole_text(key)
            require_whole_text(member)
    elif isinstance(value, list):
        for member in value:
            require_whole_text(member)


def text(value: object, *, required: bool = False, indexed: str | None = None) -> str | None:
    """A text column; `indexed` is what shares its index ('' for nothing)."""
    if value is None:
        if required:
            raise Crash("a required text is missing")
        return None
    if not isinstance(value, str):
        raise Crash(f"not text: {value!r}")
    if "\0" in value:
        raise Crash("a NUL in text")
    if indexed is not None and len((value + indexed).encode()) >= MOST_INDEXED:
        raise Crash("an indexed text is too long")
    return value


def integer(value: object) -> int:
    """An Int column: a fraction is cut, anything else must be a number in range."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise Crash(f"not a number: {value!r}")
    if not -MOST_INT - 1 <= value <= MOST_INT:
        raise Crash("out of the range of an integer")
    return int(value)


def big_integer(value: object) -> int | None:
    """`BigInt(value)` for a truthy value."""
    if not value:
        return None
    if isinstance(value, float) and not value.is_integer():
        raise Crash("a fraction in a big integer")
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError) as error:
        raise Crash(f"no big integer: {value!r}") from error
    if not -(2**63) <= number < 2**63:
        raise Crash("out of the range of a big integer")
    return int(number)


def moment(scan: dict[str, Any], name: str) -> str:
    """`new Date(value)`: null is 1970, absent and unreadable are invalid."""
    value = scan.get(name, "absent")
    if value is None:
        return "1970-01-01T00:00:00.000Z"
    try:
        datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise Crash(f"no time: {value!r}") from error
    return str(value)


def final_status(raw: object) -> str:
    """Only two words stay, everything else becomes a success."""
    return str(raw) if raw in {"FAILED", "PARTIAL"} else "SUCCESS"


def severity(value: object) -> str:
    """Upper-cased; unknown and empty words are INFO."""
    if not value:
        return "INFO"
    if not isinstance(value, str):
        raise Crash("a severity that is no text")
    return value.upper() if value.upper() in SEVERITIES else "INFO"


def risk_score(envelope: dict[str, Any]) -> int | None:
    """Read before the scan is touched. A missing `aggregates` is noticed only later."""
    value = (envelope.get("aggregates") or {}).get("riskScore")
    return None if value is None else integer(value)


def ingest(scan: Scan, envelope: dict[str, Any]) -> None:
    """Metadata, then the four lists in order, each a statement of its own: what came before a failing one stays."""
    for name in ("sensor", "aggregates", "findings"):
        if not isinstance(envelope.get(name), dict):
            raise Crash(f"{name} is missing")
    if "finishedAt" not in envelope["scan"]:
        raise Crash("finishedAt is missing")
    aggregates = envelope["aggregates"]
    counts = aggregates.get("vulnerabilityCounts")
    if not isinstance(counts, dict):
        raise Crash("vulnerabilityCounts is missing")
    scan.counts = {name: integer(counts.get(name, 0)) for name in ("critical", "high", "medium", "low", "info")}
    if aggregates.get("complianceScore") is not None:
        integer(aggregates["complianceScore"])
    text(aggregates.get("complianceGrade"))
    scan.scanner_versions = envelope["sensor"].get("scannerVersions")
    scan.s3_prefix = text((envelope.get("artifacts") or {}).get("s3Prefix"))
    for name, check in ROWS.items():
        rows = envelope["findings"].get(name) or []
        if not isinstance(rows, list):
            raise Crash(f"{name} is no list")
        checked = []
        for row in rows:
            if not isinstance(row, dict):
                raise Crash(f"a row of {name} is no object")
            checked.append(check(row))
        scan.rows[name] += checked


def _vulnerability(row: dict[str, Any]) -> dict[str, Any]:
    source = text(row.get("source"), required=True, indexed="") or ""
    score = row.get("cvssScore")
    if score is not None and (isinstance(score, bool) or not isinstance(score, (int, float))):
        raise Crash("a score that is no number")
    return {
        "source": source,
        "cveId": text(row.get("cveId"), required=True, indexed=source),
        "packageName": text(row.get("packageName"), required=True, indexed=""),
        "severity": severity(row.get("severity")),
        "cvssScore": score,
        **{
            name: text(row.get(name))
            for name in ("installedVersion", "fixedVersion", "title", "description", "vulnerabilityUrl")
        },
    }


def _package(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "source": text(row.get("source"), required=True, indexed=""),
        "name": text(row.get("name"), required=True, indexed=""),
        "type": text(row.get("type") or "unknown", indexed=""),
        **{name: text(row.get(name)) for name in ("version", "purl", "license")},
    }


def _compliance(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "source": text(row.get("source"), required=True, indexed=""),
        "ruleId": text(row.get("ruleId"), required=True, indexed=""),
        "ruleName": text(row.get("ruleName"), required=True),
        "severity": severity(row.get("severity")),
        "category": text(row.get("category") or "General", indexed=""),
        "message": text(row.get("message") or ""),
    }


def _efficiency(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "source": text(row.get("source"), required=True, indexed=""),
        "findingType": text(row.get("findingType"), required=True, indexed=""),
        "severity": text(row.get("severity") or "INFO"),
        "sizeBytes": big_integer(row.get("sizeBytes")),
        "description": text(row.get("details") or row.get("title")),
    }


ROWS = {
    "vulnerabilities": _vulnerability,
    "packages": _package,
    "compliance": _compliance,
    "efficiency": _efficiency,
}
