"""Scan results at the console: envelopes in, images and findings out.

An upload is one transaction and replaces what came under the same scan id before, so a sensor may repeat it after a lost answer. Findings are
those of an image's latest scan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import (
    JSON,
    Column,
    Float,
    ForeignKey,
    Integer,
    RowMapping,
    String,
    Table,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from sensor.console.store import AGENTS, JOBS, METADATA, ConsoleError, ConsoleStore, new_id, show_time
from sensor.control_plane.wire import Envelope, Vulnerability
from sensor.model.digest import is_digest
from sensor.model.finding import SEVERITIES, Severity

IMAGES = Table(
    "images",
    METADATA,
    Column("id", String, primary_key=True),
    Column("digest", String, nullable=False, unique=True),
    Column("reference", String, nullable=False),
    Column("name", String, nullable=False, index=True),
    Column("tag", String, nullable=False),
    Column("platform", String, nullable=False),
    Column("size", Integer, nullable=False),
    Column("latest", String),
)
SCANS = Table(
    "scans",
    METADATA,
    Column("id", String, primary_key=True),
    Column("request", String, nullable=False, unique=True),
    Column("image", ForeignKey("images.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("agent", ForeignKey("agents.id", ondelete="SET NULL")),
    Column("status", String, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float, nullable=False),
    Column("received_at", Float, nullable=False),
    Column("risk", Integer, nullable=False),
    Column("counts", JSON, nullable=False),
    Column("packages", JSON, nullable=False),
    Column("details", JSON, nullable=False),
)
VULNERABILITIES = Table(
    "vulnerabilities",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("scan", ForeignKey("scans.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("cve", String, nullable=False, index=True),
    Column("severity", String, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("row", JSON, nullable=False),
)

_LARGEST = 2**53
"""Integers above are not exact in JavaScript, and the next power of two no longer fits SQLite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Where an upload went; `created` is false when it answered a job or replaced an earlier upload."""

    scan: str
    image: str
    created: bool


async def store_envelope(store: ConsoleStore, agent: str, envelope: Envelope) -> Stored:
    """Store a result. A repeated upload of one scan id replaces the first.

    Raises:
        ConsoleError: a value out of range (400), or a scan id that belongs to another sensor's job or scan (403).
    """
    _check_ranges(envelope)
    started, finished = _time(envelope.scan.started_at, "startedAt"), _time(envelope.scan.finished_at, "finishedAt")
    now = store.now()
    async with store.storage.transaction() as connection:
        is_job = await _check_owner(connection, agent, envelope.scan.id)
        same = SCANS.c.request == envelope.scan.id
        earlier = (await connection.execute(select(SCANS.c.id, SCANS.c.image).where(same))).mappings().first()
        scan = earlier["id"] if earlier is not None else new_id()
        if earlier is not None:
            await connection.execute(SCANS.delete().where(same))
        image = await _store_image(connection, envelope)
        await connection.execute(
            insert(SCANS).values(
                id=scan,
                request=envelope.scan.id,
                image=image,
                agent=agent,
                status=envelope.scan.status,
                started_at=started,
                finished_at=finished,
                received_at=now,
                risk=envelope.aggregates.risk_score,
                counts=msgspec.to_builtins(envelope.aggregates.vulnerability_counts),
                packages=msgspec.to_builtins(envelope.findings.packages),
                details=_details(envelope),
            )
        )
        rows = [_vulnerability_row(scan, row) for row in envelope.findings.vulnerabilities]
        if rows:
            await connection.execute(insert(VULNERABILITIES), rows)
        await _settle_images(connection, {image, *([earlier["image"]] if earlier is not None else [])})
        await connection.execute(update(AGENTS).where(AGENTS.c.id == agent).values(seen_at=now))
    return Stored(scan=scan, image=image, created=earlier is None and not is_job)


async def _check_owner(connection: AsyncConnection, agent: str, request: str) -> bool:
    """Whether the scan id is a job's. A key answers for its own jobs and scans only."""
    job = (await connection.execute(select(JOBS.c.agent).where(JOBS.c.id == request))).first()
    scan = (await connection.execute(select(SCANS.c.agent).where(SCANS.c.request == request))).first()
    if (job is not None and job[0] != agent) or (job is None and scan is not None and scan[0] != agent):
        raise ConsoleError(403, "The scan belongs to another agent", "scan.id")
    return job is not None


async def _store_image(connection: AsyncConnection, envelope: Envelope) -> str:
    image = envelope.image
    # a failed scan may never have learned the digest
    digest = image.digest or f"sensor:{envelope.scan.id}"
    values = {
        "reference": image.ref,
        "name": image.name,
        "tag": image.tag,
        "platform": image.platform,
        "size": image.size_bytes,
    }
    known = (await connection.execute(select(IMAGES.c.id).where(IMAGES.c.digest == digest))).first()
    if known is None:
        identity = new_id()
        await connection.execute(insert(IMAGES).values(id=identity, digest=digest, **values))
        return identity
    found = {key: value for key, value in values.items() if value}
    await connection.execute(update(IMAGES).where(IMAGES.c.id == known[0]).values(found))
    return str(known[0])


async def _settle_images(connection: AsyncConnection, images: set[str]) -> None:
    """Point images at their latest scan, and drop those that have none left."""
    for image in sorted(images):
        newest = (
            select(SCANS.c.id)
            .where(SCANS.c.image == image)
            .order_by(SCANS.c.finished_at.desc(), SCANS.c.received_at.desc())
        )
        found = (await connection.execute(newest.limit(1))).first()
        here = IMAGES.c.id == image
        await connection.execute(
            IMAGES.delete().where(here) if found is None else update(IMAGES).where(here).values(latest=found[0])
        )


def _details(envelope: Envelope) -> dict[str, Any]:
    return {
        "sensor": msgspec.to_builtins(envelope.sensor),
        "layers": msgspec.to_builtins(envelope.layers),
        "gaps": msgspec.to_builtins(envelope.gaps),
        "compliance": msgspec.to_builtins(envelope.findings.compliance),
        "efficiency": msgspec.to_builtins(envelope.findings.efficiency),
    }


def _vulnerability_row(scan: str, row: Vulnerability) -> dict[str, Any]:
    word = row.severity.upper()
    severity = word if word in SEVERITIES else Severity.INFO.value
    shown = {**msgspec.to_builtins(row), "severity": severity}
    return {
        "scan": scan,
        "cve": row.cve_id,
        "severity": severity,
        "rank": SEVERITIES.index(Severity(severity)),
        "row": shown,
    }


def _check_ranges(envelope: Envelope) -> None:
    counts = msgspec.to_builtins(envelope.aggregates.vulnerability_counts)
    numbers: dict[str, int] = {
        "image.sizeBytes": envelope.image.size_bytes,
        "aggregates.riskScore": envelope.aggregates.risk_score,
        "aggregates.totalPackages": envelope.aggregates.total_packages,
        **{f"aggregates.vulnerabilityCounts.{name}": value for name, value in counts.items()},
        **{f"findings.efficiency[{i}].sizeBytes": row.size_bytes for i, row in enumerate(envelope.findings.efficiency)},
        **{f"layers[{i}].sizeBytes": layer.size_bytes for i, layer in enumerate(envelope.layers)},
        **{f"layers[{i}].fileCount": layer.file_count for i, layer in enumerate(envelope.layers)},
    }
    for field, value in numbers.items():
        if not 0 <= value <= _LARGEST:
            raise ConsoleError(400, "Expected an integer from 0 to 2^53", field)
    for i, row in enumerate(envelope.findings.vulnerabilities):
        if row.cvss_score is not None and not 0 <= row.cvss_score <= 10:
            raise ConsoleError(400, "Expected a number from 0 to 10", f"findings.vulnerabilities[{i}].cvssScore")
    if not envelope.scan.id or len(envelope.scan.id) > 256:
        raise ConsoleError(400, "Missing scan.id in envelope", "scan.id")
    if envelope.image.digest and not is_digest(envelope.image.digest):
        raise ConsoleError(400, "Expected sha256:<64 hex> without a repository", "image.digest")


def _time(text: str, field: str) -> float:
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise ConsoleError(400, "Expected a time such as 2026-05-22T18:04:20Z", f"scan.{field}") from error


# --- views ------------------------------------------------------------------------------------------------------------------------


async def list_images(store: ConsoleStore, limit: int, offset: int) -> dict[str, Any]:
    """All images with their latest scan, by name and tag."""
    wanted = select(IMAGES, *_SCAN_COLUMNS).outerjoin(SCANS, SCANS.c.id == IMAGES.c.latest)
    async with store.storage.reading() as connection:
        total = (await connection.execute(select(func.count()).select_from(IMAGES))).scalar_one()
        page = wanted.order_by(IMAGES.c.name, IMAGES.c.tag, IMAGES.c.digest).limit(limit).offset(offset)
        rows = (await connection.execute(page)).mappings().all()
    return {"images": [_show_image(row) for row in rows], "total": total}


async def show_image(store: ConsoleStore, digest: str) -> dict[str, Any]:
    """One image with everything its latest scan found.

    Raises:
        ConsoleError: there is no such image.
    """
    wanted = select(IMAGES, *_SCAN_COLUMNS, SCANS.c.packages, SCANS.c.details)
    async with store.storage.reading() as connection:
        chosen = wanted.join(SCANS, SCANS.c.id == IMAGES.c.latest).where(IMAGES.c.digest == digest)
        row = (await connection.execute(chosen)).mappings().first()
        if row is None:
            raise ConsoleError(404, "there is no such image")
        found = select(VULNERABILITIES.c.row).where(VULNERABILITIES.c.scan == row["latest"])
        ordered = found.order_by(VULNERABILITIES.c.rank, VULNERABILITIES.c.cve, VULNERABILITIES.c.id)
        rows = (await connection.execute(ordered)).scalars().all()
    return {**_show_image(row), "vulnerabilities": rows, "packages": row["packages"], **row["details"]}


async def list_findings(store: ConsoleStore, query: Mapping[str, str], limit: int, offset: int) -> dict[str, Any]:
    """Findings of the latest scans, most severe first. `query`: severity (words with commas), image (digest, name or reference), cve.

    Raises:
        ConsoleError: a word that is no severity.
    """
    conditions = [VULNERABILITIES.c.scan == IMAGES.c.latest]
    if words := [word.strip().upper() for word in query.get("severity", "").split(",") if word.strip()]:
        if unknown := [word for word in words if word not in SEVERITIES]:
            raise ConsoleError(400, f"Expected {', '.join(SEVERITIES)}, not {unknown[0][:40]}", "severity")
        conditions.append(VULNERABILITIES.c.severity.in_(words))
    if image := query.get("image", ""):
        named = IMAGES.c.name + ":" + IMAGES.c.tag
        columns = (IMAGES.c.digest, IMAGES.c.name, IMAGES.c.reference, named)
        conditions.append(or_(*(column == image for column in columns)))
    if cve := query.get("cve", ""):
        conditions.append(func.upper(VULNERABILITIES.c.cve) == cve.upper())
    joined = VULNERABILITIES.join(IMAGES, IMAGES.c.latest == VULNERABILITIES.c.scan)
    wanted = select(VULNERABILITIES.c.row, IMAGES.c.digest, IMAGES.c.reference).select_from(joined).where(*conditions)
    async with store.storage.reading() as connection:
        count = select(func.count()).select_from(joined).where(*conditions)
        total = (await connection.execute(count)).scalar_one()
        ordered = wanted.order_by(VULNERABILITIES.c.rank, VULNERABILITIES.c.cve, IMAGES.c.name, VULNERABILITIES.c.id)
        rows = (await connection.execute(ordered.limit(limit).offset(offset))).mappings().all()
    findings = [{**row["row"], "image": row["reference"], "digest": row["digest"]} for row in rows]
    return {"findings": findings, "total": total}


_SCAN_COLUMNS = (SCANS.c.request, SCANS.c.status, SCANS.c.started_at, SCANS.c.finished_at, SCANS.c.risk, SCANS.c.counts)


def _show_image(row: RowMapping) -> dict[str, Any]:
    return {
        "digest": row["digest"],
        "reference": row["reference"],
        "name": row["name"],
        "tag": row["tag"],
        "platform": row["platform"] or None,
        "sizeBytes": row["size"],
        "scan": {
            "id": row["request"],
            "status": row["status"],
            "startedAt": show_time(row["started_at"]),
            "finishedAt": show_time(row["finished_at"]),
            "riskScore": row["risk"],
            "vulnerabilityCounts": row["counts"],
        },
    }
