"""One scanned image, shown: the table and the summary for people, the documents for machines. Writes nowhere by itself but to stderr."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from datetime import datetime

import msgspec
from rich.table import Table

from sensor.cli.output import as_json, clean, err, grid, plain, show_bytes
from sensor.control_plane import wire
from sensor.errors import SensorError
from sensor.judge import Judged, rfc3339
from sensor.model.finding import SEVERITIES, ImageResult, ScanStatus, Severity
from sensor.report.document import FailedScan, envelope, failed_envelope
from sensor.version import VERSION

_COLOURS = {
    Severity.CRITICAL: "bold white on red",
    Severity.HIGH: "red",
    Severity.MEDIUM: "yellow",
    Severity.LOW: "blue",
    Severity.INFO: "dim",
}
_MOST_GAPS = 20
_LONGEST_TITLE = 70
_ROOM_FOR_TITLES = 120
"""Columns; on a narrower terminal the identifiers need the room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanned:
    """One image as `scan` judged it: the wall time in seconds, and notes on scanners that were asked for and do not exist here."""

    judged: Judged
    seconds: float
    notes: tuple[str, ...] = ()


def findings_table(result: ImageResult, *, width: int = _ROOM_FOR_TITLES) -> Table:
    """The findings, most severe first as they are; titles where there is room for them."""
    titled = width >= _ROOM_FOR_TITLES
    columns = ("severity", "vulnerability", "package", "installed", "fixed in")
    table = grid(*columns, "title") if titled else grid(*columns)
    for finding in result.match.findings:
        cells = [
            finding.vulnerability,
            finding.package_name,
            finding.package_version,
            finding.fixed_version or "no fix known",
        ]
        if titled:
            cells.append((finding.title or finding.description.split("\n")[0])[:_LONGEST_TITLE])
        shown = (plain(cell) for cell in cells)
        table.add_row(f"[{_COLOURS[finding.severity]}]{finding.severity}[/]", *shown)
    return table


def no_findings(result: ImageResult) -> str:
    """What stands in the place of an empty table: having found nothing is not the same as there being nothing."""
    if result.status is ScanStatus.SUCCESS:
        return "no findings"
    return "no findings, but not everything was judged"


def show_summary(scanned: Scanned) -> None:
    """Say on stderr what was found, what was not judged and what it took."""
    result, image = scanned.judged.result, scanned.judged.image
    counts = result.counts()
    shown = ", ".join(f"{counts[severity]} {severity.lower()}" for severity in SEVERITIES)
    status = "[green]SUCCESS[/]" if result.status is ScanStatus.SUCCESS else f"[yellow]{result.status}[/]"
    err.print(f"{clean(result.reference)} {result.digest[:19]} {clean(result.inventory.platform)}: {status}")
    err.print(f"{len(result.inventory.packages)} packages, {len(result.match.findings)} findings: {shown}")
    for gap in result.gaps[:_MOST_GAPS]:
        err.print(f"  [yellow]not judged:[/] {clean(gap.subject)}: {clean(gap.reason)}")
    if len(result.gaps) > _MOST_GAPS:
        err.print(f"  ... and {len(result.gaps) - _MOST_GAPS} more gaps (--output json lists all)")
    read = f"{image.layers_fetched} layers read ({show_bytes(image.bytes_fetched)}), {image.layers_cached} known"
    err.print(f"{scanned.seconds:.2f} s, {read}")


def envelope_text(scanned: Scanned) -> str:
    """The result as it is sent to a control plane."""
    document = envelope(scanned.judged.result, scan_id=str(uuid.uuid4()), sensor=_identity(), notes=scanned.notes)
    return document.body.decode() + "\n"


def full_text(scanned: Scanned) -> str:
    """Everything, under the envelope's own names: a dashboard that runs the sensor as its scanner reads `scan` and `findings` from it."""
    result, image = scanned.judged.result, scanned.judged.image
    document = _decoded(envelope_text(scanned))
    document["packages"] = [
        {
            "name": installed.package.name,
            "version": installed.package.version,
            "purl": installed.purl,
            "path": installed.package.path,
            "layer": installed.layer,
            "owner": installed.owner,
        }
        for installed in result.inventory.packages
    ]
    document["vulnerabilities"] = [msgspec.to_builtins(finding) for finding in result.match.findings]
    document["gaps"] = [msgspec.to_builtins(gap) for gap in result.gaps]
    document["work"] = {
        "seconds": round(scanned.seconds, 4),
        "known": image.known,
        "layers_fetched": image.layers_fetched,
        "layers_cached": image.layers_cached,
        "bytes_fetched": image.bytes_fetched,
    }
    return as_json(document)


def failure_text(reference: str, error: SensorError, began: datetime, ended: datetime, *, full: bool) -> str:
    """The envelope of a scan that failed; with `full` also the bare reason, as every command's JSON has it."""
    failed = FailedScan(reference=reference, error=str(error), started_at=rfc3339(began), finished_at=rfc3339(ended))
    text = failed_envelope(failed, scan_id=str(uuid.uuid4()), sensor=_identity()).body.decode()
    if not full:
        return text + "\n"
    return as_json({**_decoded(text), "error": error.message, "advice": error.advice})


def _decoded(text: str) -> dict[str, object]:
    return msgspec.json.decode(text, type=dict[str, object])


def _identity() -> wire.Sensor:
    return wire.Sensor(version=VERSION, scanner_versions={"harborguard-sensor": VERSION}, name=os.uname().nodename)
