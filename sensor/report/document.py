"""From a judged image to the envelope that a control plane stores (sections 5.3, 5.4 and 9 of its wire contract). Pure.

The server trusts what it is sent and fails half-way on what its database refuses, so everything is made right here: text without NUL and lone
surrogates, indexed text short, integers integral, counts of exactly the rows that are uploaded, and a body below the server's cut. What had to be
shortened is said in the document's own gaps, and makes it PARTIAL.

`image.name` is the repository path *without* the host, in full: the dashboard names its own rows so, and an upload renames the row that owns the
digest. The last path segment alone (`app`) would make different images one; a name with the host would split one image in two. The host is kept
in `image.ref`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import msgspec

from sensor.control_plane import wire
from sensor.control_plane.wire import clean_text
from sensor.errors import DataError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.model.finding import SEVERITIES, Finding, ImageResult, Severity
from sensor.model.package import Gap, InstalledPackage, LayerSummary
from sensor.model.reference import parse_reference

_DESCRIPTION_CAPS = (4000, 1000, 200, 0)
_TITLE_CAPS = (200, 60, 0)
_LONGEST_COMMAND = 4096
_MOST_LAYERS = 1024
_MOST_GAPS = 1000
_LONGEST_GAP = 1000
_LARGEST_INTEGER = 2**53 - 1
"""What a JavaScript server reads exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A finished envelope. `shortened` says in words what did not fit; it stands in the envelope's gaps too."""

    body: bytes
    shortened: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What lies in a bucket under the scan's id, or why nothing does."""

    artifacts: wire.Artifacts | None = None
    trouble: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """The lists of an envelope while it is cut to size."""

    vulnerabilities: tuple[wire.Vulnerability, ...]
    packages: tuple[wire.PackageRow, ...]
    gaps: tuple[wire.GapRow, ...]
    shortened: tuple[str, ...] = ()


_Assemble: TypeAlias = Callable[[_Parts], bytes]


def envelope(
    result: ImageResult,
    *,
    scan_id: str,
    sensor: wire.Sensor,
    notes: Iterable[str] = (),
    kept: Kept | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Document:
    """The envelope of one result. `notes` are things asked for and not done (see `jobs.scanner_notes`); each makes the result PARTIAL.

    `kept` says what of it lies in a bucket already; that it should and does not is a gap too.

    Raises:
        DataError: a time of the result is none.
    """
    name, tag = _name_and_tag(result.reference)
    sizes = [layer.compressed_bytes for layer in result.inventory.layers]
    image = wire.Image(
        ref=_cut(result.reference, _LONGEST_COMMAND),
        name=_indexed(name, limits.indexed_text_bytes),
        tag=_indexed(tag, limits.indexed_text_bytes),
        digest=result.digest,
        platform=clean_text(result.inventory.platform),
        size_bytes=_integer(sum(sizes)),
    )
    versions = sensor.scanner_versions | ({"advisories": result.match.revision} if result.match.revision else {})
    parts = _Parts(
        vulnerabilities=_vulnerabilities(result.match.findings, limits),
        packages=_packages(result.inventory.packages, limits),
        gaps=_gaps(
            [
                *result.gaps,
                *(Gap(kind="not-run", subject="scanner", reason=note) for note in notes),
                *(
                    [Gap(kind="artifacts", subject="s3", reason=kept.trouble)]
                    if kept is not None and kept.trouble
                    else []
                ),
            ]
        ),
    )

    def assemble(parts: _Parts) -> bytes:
        reasons = [wire.GapRow(kind="shortened", subject="envelope", reason=text) for text in parts.shortened]
        gaps = (*parts.gaps, *reasons)
        return wire.encode(
            wire.Envelope(
                version=wire.ENVELOPE_VERSION,
                sensor=_sensor(sensor, versions),
                image=image,
                scan=wire.Scan(
                    id=clean_text(scan_id),
                    started_at=_time(result.started_at),
                    finished_at=_time(result.finished_at),
                    status="PARTIAL" if gaps else "SUCCESS",
                ),
                findings=wire.Findings(vulnerabilities=parts.vulnerabilities, packages=parts.packages),
                aggregates=_aggregates(parts.vulnerabilities, len(parts.packages)),
                artifacts=kept.artifacts if kept is not None else None,
                layers=_layers(result.inventory.layers),
                gaps=gaps,
            )
        )

    fitted = _fit(parts, assemble, limits.envelope_bytes)
    return Document(body=assemble(fitted), shortened=fitted.shortened)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedScan:
    """A scan that found nothing out, and why. `digest` and `platform` are empty where they were not found out either."""

    reference: str
    error: str
    started_at: str
    finished_at: str
    digest: str = ""
    platform: str = ""


def failed_envelope(
    failed: FailedScan, *, scan_id: str, sensor: wire.Sensor, limits: Limits = DEFAULT_LIMITS
) -> Document:
    """The envelope of a failed scan. The operator reads the reason in the job's status; no server shows one from here yet.

    Raises:
        DataError: a time is none.
    """
    name, tag = _name_and_tag(failed.reference)
    document = wire.Envelope(
        version=wire.ENVELOPE_VERSION,
        sensor=_sensor(sensor, sensor.scanner_versions),
        image=wire.Image(
            ref=_cut(failed.reference, _LONGEST_COMMAND),
            name=_indexed(name, limits.indexed_text_bytes),
            tag=_indexed(tag, limits.indexed_text_bytes),
            digest=failed.digest,
            platform=clean_text(failed.platform),
        ),
        scan=wire.Scan(
            id=clean_text(scan_id),
            started_at=_time(failed.started_at),
            finished_at=_time(failed.finished_at),
            status="FAILED",
        ),
        findings=wire.Findings(),
        aggregates=_aggregates((), 0),
        gaps=_gaps([Gap(kind="failed", subject=failed.reference, reason=failed.error)]),
    )
    return Document(body=wire.encode(document))


def without_rows(body: bytes, reason: str) -> bytes:
    """The same envelope without its findings: it may be sent a second time, because it adds no row twice (section 5.7). The counts stay.

    Raises:
        DataError: not an envelope.
    """
    full = wire.read_envelope(body)
    status: Literal["PARTIAL", "FAILED"] = "FAILED" if full.scan.status == "FAILED" else "PARTIAL"
    return wire.encode(
        msgspec.structs.replace(
            full,
            scan=msgspec.structs.replace(full.scan, status=status),
            findings=wire.Findings(),
            layers=(),
            gaps=(*full.gaps, *_gaps([Gap(kind="upload", subject="envelope", reason=reason)])),
        )
    )


def has_rows(body: bytes) -> bool:
    """Whether an envelope would add rows, which a second upload of it would double.

    Raises:
        DataError: not an envelope.
    """
    found = wire.read_envelope(body).findings
    return bool(found.vulnerabilities or found.packages or found.compliance or found.efficiency)


def risk_score(counts: wire.Counts, scores: Iterable[float]) -> int:
    """Section 9.1: `min(100, round(25 C + 10 H + 3 M + L + 5 * mean score))`, halves up. INFO counts nothing."""
    known = list(scores)
    mean = sum(known) / len(known) if known else 0.0
    raw = 25 * counts.critical + 10 * counts.high + 3 * counts.medium + counts.low + 5 * mean
    return min(100, math.floor(raw + 0.5))


def _sensor(sensor: wire.Sensor, versions: dict[str, str]) -> wire.Sensor:
    return wire.Sensor(
        version=clean_text(sensor.version),
        scanner_versions={clean_text(key): clean_text(value) for key, value in versions.items()},
        id=clean_text(sensor.id),
        name=clean_text(sensor.name),
    )


def _vulnerabilities(findings: Iterable[Finding], limits: Limits) -> tuple[wire.Vulnerability, ...]:
    """One row for each (vulnerability, package, version): the same package at several paths is one row. The most severe wins, then the first."""
    rank = {severity: place for place, severity in enumerate(SEVERITIES)}
    best: dict[tuple[str, str, str], Finding] = {}
    for finding in findings:
        key = (finding.vulnerability, finding.package_name, finding.package_version)
        if key not in best or rank[finding.severity] < rank[best[key].severity]:
            best[key] = finding
    # the id and the source stand in one index together
    longest_id = limits.indexed_text_bytes - len(wire.NATIVE_SOURCE)
    return tuple(
        wire.Vulnerability(
            source=wire.NATIVE_SOURCE,
            cve_id=_indexed(finding.vulnerability, longest_id),
            package_name=_indexed(finding.package_name, limits.indexed_text_bytes),
            severity=finding.severity.value,
            installed_version=clean_text(finding.package_version),
            fixed_version=clean_text(finding.fixed_version),
            cvss_score=finding.score if finding.score is not None and math.isfinite(finding.score) else None,
            title=clean_text(finding.title),
            description=clean_text(finding.description),
            vulnerability_url=clean_text(finding.url),
        )
        for finding in best.values()
    )


def _packages(packages: Iterable[InstalledPackage], limits: Limits) -> tuple[wire.PackageRow, ...]:
    """One row for each distinct package: the row has no path, so the same package at two paths would be the same row twice."""
    rows = (
        wire.PackageRow(
            source=wire.NATIVE_SOURCE,
            name=_indexed(installed.package.name, limits.indexed_text_bytes),
            version=clean_text(installed.package.version),
            type=installed.package.type,
            purl=clean_text(installed.purl),
            license=clean_text(installed.package.license),
        )
        for installed in packages
    )
    return tuple(dict.fromkeys(rows))


def _layers(layers: Iterable[LayerSummary]) -> tuple[wire.Layer, ...]:
    return tuple(
        wire.Layer(
            index=index,
            digest=layer.digest,
            command=_cut(layer.command, _LONGEST_COMMAND),
            size_bytes=_integer(layer.inflated_bytes or layer.compressed_bytes),
            file_count=_integer(layer.entries),
            top_files=(),
        )
        for index, layer in enumerate(list(layers)[:_MOST_LAYERS])
    )


def _gaps(gaps: list[Gap]) -> tuple[wire.GapRow, ...]:
    rows = [
        wire.GapRow(
            kind=_cut(gap.kind, _LONGEST_GAP),
            subject=_cut(gap.subject, _LONGEST_GAP),
            reason=_cut(gap.reason, _LONGEST_GAP),
        )
        for gap in gaps[:_MOST_GAPS]
    ]
    if len(gaps) > _MOST_GAPS:
        rows.append(wire.GapRow(kind="more", subject="gaps", reason=f"{len(gaps) - _MOST_GAPS} more are not listed"))
    return tuple(rows)


def _aggregates(rows: tuple[wire.Vulnerability, ...], packages: int) -> wire.Aggregates:
    number = dict.fromkeys(SEVERITIES, 0)
    for row in rows:
        number[Severity(row.severity)] += 1
    counts = wire.Counts(**{severity.value.lower(): count for severity, count in number.items()})
    scores = (row.cvss_score for row in rows if row.cvss_score is not None)
    return wire.Aggregates(vulnerability_counts=counts, risk_score=risk_score(counts, scores), total_packages=packages)


def _fit(parts: _Parts, assemble: _Assemble, most: int) -> _Parts:
    """Cut until the body is small enough: descriptions, then titles, then packages, last the least severe findings."""
    for field, caps in (("description", _DESCRIPTION_CAPS), ("title", _TITLE_CAPS)):
        if len(assemble(parts)) <= most:
            return parts
        full = parts
        for cap in caps:
            rows = tuple(
                msgspec.structs.replace(row, **{field: _cut(getattr(row, field), cap)}) for row in full.vulnerabilities
            )
            said = (*full.shortened, f"{field}s of findings are cut to {cap} bytes" if cap else f"no {field}s")
            parts = _Parts(vulnerabilities=rows, packages=full.packages, gaps=full.gaps, shortened=said)
            if len(assemble(parts)) <= most:
                return parts
    return _drop_rows(parts, assemble, most)


def _drop_rows(parts: _Parts, assemble: _Assemble, most: int) -> _Parts:
    excess = len(assemble(parts)) - most
    if excess <= 0:
        return parts
    # room for the sentence itself and for counts that change their number of digits
    excess += 300
    kept = _keep(parts.packages, excess)
    dropped = len(parts.packages) - kept
    said = (*parts.shortened, f"{dropped} of {len(parts.packages)} packages are left out")
    fewer = _Parts(
        vulnerabilities=parts.vulnerabilities, packages=parts.packages[:kept], gaps=parts.gaps, shortened=said
    )
    excess = len(assemble(fewer)) - most
    if excess <= 0:
        return fewer
    rank = {severity.value: place for place, severity in enumerate(SEVERITIES)}
    rows = tuple(sorted(parts.vulnerabilities, key=lambda row: rank[row.severity]))
    kept = _keep(rows, excess + 300)
    said = (*said, f"{len(rows) - kept} of {len(rows)} findings are left out, the least severe first")
    return _Parts(vulnerabilities=rows[:kept], packages=fewer.packages, gaps=parts.gaps, shortened=said)


def _keep(rows: tuple[msgspec.Struct, ...], excess: int) -> int:
    """How many rows stay so that the others are worth at least `excess` bytes."""
    kept = len(rows)
    while kept and excess > 0:
        kept -= 1
        excess -= len(wire.encode(rows[kept])) + 1
    return kept


def _name_and_tag(text: str) -> tuple[str, str]:
    try:
        reference = parse_reference(text)
    except DataError:
        return clean_text(text), "latest"
    return reference.repository, reference.tag or (reference.digest or "latest")


def _indexed(text: str, most: int) -> str:
    """Text for an indexed column: too long a one is cut, with a digest at its end so that different ones stay different."""
    text = clean_text(text)
    data = text.encode()
    if len(data) <= most:
        return text
    mark = "~" + hashlib.sha256(data).hexdigest()[:16]
    return _cut_bytes(data, most - len(mark)) + mark


def _cut(text: str, most: int) -> str:
    text = clean_text(text)
    data = text.encode()
    if len(data) <= most:
        return text
    return _cut_bytes(data, most - 3) + "…" if most >= 3 else ""


def _cut_bytes(data: bytes, most: int) -> str:
    return data[:most].decode("utf-8", "ignore")


def _integer(number: int) -> int:
    return max(0, min(int(number), _LARGEST_INTEGER))


def _time(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        message = f"not a time: {text[:50]!r}"
        raise DataError(message) from error
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
