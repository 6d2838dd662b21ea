"""`scan`: one image, now. Also honours the drop-in contract of the dashboard's bundled scanner (`--source`, `--scanners`, `--output json`)."""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from sensor.cli.connect import registry_named
from sensor.cli.options import ConfigOption, StateOption, load, state_directory
from sensor.cli.output import ExitCode, clean, err, leave, out, plain, print_json, reporting_errors, show_bytes
from sensor.cli.progress import ImageBars
from sensor.config.load import Loaded
from sensor.config.schema import Registry
from sensor.control_plane import wire
from sensor.control_plane.jobs import scanner_notes
from sensor.daemon.app import build_engine, utc_now
from sensor.errors import ConfigError, DataError, SensorError
from sensor.events import Event
from sensor.inventory.images import result_fingerprint
from sensor.judge import Judged, Place, Verdict, rfc3339
from sensor.model.finding import SEVERITIES, ImageResult, ScanStatus, Severity
from sensor.model.manifest import parse_platform
from sensor.model.reference import Reference, parse_reference
from sensor.report.cyclonedx import cyclonedx
from sensor.report.document import FailedScan, envelope, failed_envelope
from sensor.version import VERSION


class ScanOutput(StrEnum):
    """What `scan` writes to stdout."""

    TABLE = "table"
    JSON = "json"
    ENVELOPE = "envelope"
    CYCLONEDX = "cyclonedx"


class FailOn(StrEnum):
    """The least severity that makes the exit status 1."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"
    INFO = "info"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scanned:
    verdict: Verdict
    seconds: float


def scan(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="registry/repository:tag or @sha256:..., or oci:/layout:tag.")
    ],
    config: ConfigOption = None,
    state: StateOption = None,
    output: Annotated[
        ScanOutput,
        typer.Option(
            "--output",
            "-o",
            help="table for people; json with everything; envelope as sent to a control plane; cyclonedx (an SBOM).",
        ),
    ] = ScanOutput.TABLE,
    output_file: Annotated[
        Path | None, typer.Option("--output-file", help="Write the result to this file instead of stdout.")
    ] = None,
    fail_on: Annotated[
        FailOn | None, typer.Option("--fail-on", help="Exit with status 1 from this severity on.")
    ] = None,
    platform: Annotated[
        str, typer.Option("--platform", help="os/architecture[/variant] (default: the configuration's first).")
    ] = "",
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plain HTTP, for a registry that is not configured.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary on stderr.")] = False,
    source: Annotated[str, typer.Option("--source", help="Accepted for compatibility: registry only.")] = "registry",
    scanners: Annotated[
        str, typer.Option("--scanners", help="Accepted for compatibility: comma-separated scanner names.")
    ] = "",
) -> None:
    """Scan one image: what is in it, and what is vulnerable in it. Layers and inventories are kept, so a second scan reads no layer.

    Without an advisory database the result is PARTIAL: see `advisories`. Exit status 3 when the image could not be judged; with
    `--output envelope` or as the dashboard's bundled scanner the document is written all the same.
    """
    began = rfc3339(utc_now())
    with reporting_errors():
        loaded = load(config, required=False)
        if source not in {"registry", ""}:
            message = f"this sensor reads images from registries, not from {source!r}"
            raise ConfigError(message, "push the image to a registry, or give an OCI layout: oci:/path:tag")
        reference, settings = _locate(loaded, image, insecure=insecure)
        wanted = platform or loaded.config.platforms_of(settings)[0]
        parse_platform(wanted)
    notes = scanner_notes(tuple(name for name in scanners.split(",") if name))
    try:
        scanned = asyncio.run(_scan(loaded, settings, reference, wanted, state_directory(loaded, state), quiet=quiet))
        if not scanned.verdict.judged:
            message = f"{reference} was not scanned: {scanned.verdict.skip_reason}"
            raise DataError(message)
    except SensorError as error:
        if output is ScanOutput.ENVELOPE:
            failed = FailedScan(
                reference=str(reference), error=str(error), started_at=began, finished_at=rfc3339(utc_now())
            )
            _write(failed_envelope(failed, scan_id=str(uuid.uuid4()), sensor=_identity()).body, output_file)
        err.print(f"[bold red]error:[/] {clean(error.message)}")
        if error.advice:
            err.print(f"  [bold]try:[/] {clean(error.advice)}")
        leave(ExitCode.FAILED)
    judged = scanned.verdict.judged[0]
    _emit(judged, scanned, output, output_file, notes)
    if not quiet:
        _summary(judged, scanned)
    if fail_on is not None and any(judged.result.counts()[severity] for severity in _at_or_above(fail_on)):
        leave(ExitCode.FINDINGS)


def _locate(loaded: Loaded, image: str, *, insecure: bool) -> tuple[Reference, Registry]:
    """The reference and the registry that serves it: a configured one where the host matches."""
    if image.startswith("oci:"):
        path, colon, tag = image.removeprefix("oci:").rpartition(":")
        path, name = (path, tag) if colon and "/" not in tag else (image.removeprefix("oci:"), "latest")
        # `oci:/path:repository:tag` names one of several images of a layout
        path, colon, repository = path.rpartition(":") if ":" in path else (path, "", "")
        settings = registry_named(loaded.config, f"oci:{path}")
        return Reference(registry="", repository=repository, tag=name), settings
    reference = parse_reference(image)
    if not reference.registry:
        default = loaded.config.control_plane.default_registry if loaded.config.control_plane else ""
        if not default:
            message = f"{image!r} names no registry, and guessing one could scan another image of the same name"
            raise ConfigError(message, f"write the full reference, such as registry.example.com/{reference}")
        reference = parse_reference(f"{default}/{reference}")
    return reference, registry_named(loaded.config, reference.registry, insecure=insecure)


async def _scan(
    loaded: Loaded, settings: Registry, reference: Reference, platform: str, directory: Path, *, quiet: bool
) -> _Scanned:
    bars = None if quiet or not err.is_terminal else ImageBars(err)

    def publish(event: Event) -> None:
        if bars is not None:
            bars.handle(event)

    config = loaded.config if loaded.config.registry(settings.name) else loaded.config.with_registry(settings)
    async with build_engine(config, directory, publish, shared=True) as engine:
        began = time.monotonic()
        _, client = engine.sites.registry(settings.name)
        if not reference.repository:
            listing = await client.repositories()
            if len(listing.names) != 1:
                message = f"the layout holds {len(listing.names)} repositories: {', '.join(listing.names[:10])}"
                raise ConfigError(message, "name one: oci:/path:repository:tag")
            reference = Reference(registry=client.host, repository=listing.names[0], tag=reference.tag)
        place = Place(name=settings.name, client=client, reference=reference)
        with bars or _Nothing():
            verdict = await engine.judge.judge(place, reference.target, (parse_platform(platform),), accept_gaps=True)
        for judged in verdict.judged:
            if judged.image.known:
                continue
            async with engine.storage.transaction() as connection:
                await engine.judge.images.put(
                    connection,
                    judged.result.inventory,
                    subject=verdict.digest,
                    reported=judged.result.digest,
                    catalogers=engine.judge.layers.catalogers,
                    limits=engine.judge.layers.limits,
                )
                fingerprint = result_fingerprint(judged.result.match, judged.result.inventory)
                await engine.judge.images.result_changed(
                    connection,
                    verdict.digest,
                    judged.result.inventory.manifest,
                    judged.result.match.revision,
                    fingerprint,
                )
        return _Scanned(verdict=verdict, seconds=time.monotonic() - began)


class _Nothing:
    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        return


def _emit(judged: Judged, scanned: _Scanned, output: ScanOutput, target: Path | None, notes: tuple[str, ...]) -> None:
    result = judged.result
    match output:
        case ScanOutput.JSON if target is None:
            print_json(_document(judged, scanned, notes))
        case ScanOutput.JSON | ScanOutput.ENVELOPE:
            document = envelope(result, scan_id=str(uuid.uuid4()), sensor=_identity(), notes=notes)
            _write(document.body, target)
        case ScanOutput.CYCLONEDX:
            _write(cyclonedx(result, version=VERSION), target)
        case ScanOutput.TABLE:
            out.print(_findings(result))


def _write(body: bytes, target: Path | None) -> None:
    if target is not None:
        target.write_bytes(body)
        return
    sys.stdout.buffer.write(body + b"\n")
    sys.stdout.flush()


def _document(judged: Judged, scanned: _Scanned, notes: tuple[str, ...]) -> dict[str, object]:
    """Everything, under the envelope's own names: the dashboard's bundled-scanner contract reads `scan` and `findings` from it."""
    result = judged.result
    wired = msgspec.json.decode(
        envelope(result, scan_id=str(uuid.uuid4()), sensor=_identity(), notes=notes).body, type=dict[str, object]
    )
    return {
        **wired,
        "packages": [
            {
                "name": installed.package.name,
                "version": installed.package.version,
                "purl": installed.purl,
                "path": installed.package.path,
                "layer": installed.layer,
                "owner": installed.owner,
            }
            for installed in result.inventory.packages
        ],
        "vulnerabilities": [msgspec.to_builtins(finding) for finding in result.match.findings],
        "gaps": [msgspec.to_builtins(gap) for gap in result.gaps],
        "work": {
            "seconds": round(scanned.seconds, 4),
            "known": judged.image.known,
            "layers_fetched": judged.image.layers_fetched,
            "layers_cached": judged.image.layers_cached,
            "bytes_fetched": judged.image.bytes_fetched,
        },
    }


_COLOURS = {
    Severity.CRITICAL: "bold white on red",
    Severity.HIGH: "red",
    Severity.MEDIUM: "yellow",
    Severity.LOW: "blue",
    Severity.INFO: "dim",
}


def _findings(result: ImageResult) -> Table:
    table = Table("severity", "vulnerability", "package", "installed", "fixed in", "title", box=None, pad_edge=False)
    for finding in result.match.findings:
        title = finding.title or finding.description.split("\n")[0]
        table.add_row(
            f"[{_COLOURS[finding.severity]}]{finding.severity}[/]",
            plain(finding.vulnerability),
            plain(finding.package_name),
            plain(finding.package_version),
            plain(finding.fixed_version or "no fix known"),
            plain(title[:70]),
        )
    return table


def _summary(judged: Judged, scanned: _Scanned) -> None:
    result = judged.result
    counts = result.counts()
    shown = ", ".join(f"{counts[severity]} {severity.lower()}" for severity in SEVERITIES)
    status = "[green]SUCCESS[/]" if result.status is ScanStatus.SUCCESS else f"[yellow]{result.status}[/]"
    err.print(f"{clean(result.reference)} {result.digest[:19]} {clean(result.inventory.platform)}: {status}")
    err.print(f"{len(result.inventory.packages)} packages, {len(result.match.findings)} findings: {shown}")
    for gap in result.gaps[:20]:
        err.print(f"  [yellow]not judged:[/] {clean(gap.subject)}: {clean(gap.reason)}")
    if len(result.gaps) > 20:
        err.print(f"  ... and {len(result.gaps) - 20} more gaps (--output json lists all)")
    image = judged.image
    err.print(
        f"{scanned.seconds:.2f} s, {image.layers_fetched} layers read ({show_bytes(image.bytes_fetched)}), {image.layers_cached} known"
    )


def _at_or_above(least: FailOn) -> tuple[Severity, ...]:
    return SEVERITIES[: SEVERITIES.index(Severity(least.upper())) + 1]


def _identity() -> wire.Sensor:
    return wire.Sensor(version=VERSION, scanner_versions={"harborguard-sensor": VERSION}, name=os.uname().nodename)
