"""`scan`: one image, now. Also honours the drop-in contract of the dashboard's bundled scanner (`--source`, `--scanners`, `--output json`).

Finds the registry, judges the image with the daemon's own engine, keeps the inventory, decides the exit status. How the result looks is in
`findings`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sensor.cli.connect import locate_image, usable
from sensor.cli.findings import (
    Scanned,
    envelope_text,
    failure_text,
    findings_table,
    full_text,
    no_findings,
    show_summary,
)
from sensor.cli.options import ConfigOption, StateOption, load, state_directory
from sensor.cli.output import ExitCode, as_text, clean, err, leave, out, reporting_errors, show_table, write
from sensor.cli.progress import ImageBars
from sensor.config.load import Loaded
from sensor.config.notation import on_disk
from sensor.config.schema import Registry
from sensor.control_plane.jobs import scanner_notes
from sensor.daemon.engine import Engine, build_engine, utc_now
from sensor.errors import AdvisoryError, ConfigError, DataError, SensorError
from sensor.events import Event
from sensor.judge import Judged, Place, Verdict
from sensor.model.finding import SEVERITIES, Severity
from sensor.model.manifest import Platform, parse_platform
from sensor.model.reference import Reference
from sensor.report.cyclonedx import cyclonedx
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
class _Request:
    """What the command line asks for."""

    image: str
    config: Path | None
    state: Path | None
    platform: str
    insecure: bool
    quiet: bool
    source: str
    scanners: str


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class _Work:
    """What came of an image, and in how many seconds from an open state to a stored inventory.

    Has no repr of its own: at the end asyncio's runner looks its signal handler up, and that writes the task's result out as text to
    throw it away, 0.07 s for a large image.
    """

    verdict: Verdict
    seconds: float


def scan(
    image: Annotated[
        str,
        typer.Argument(
            help="registry/repository:tag or @sha256:..., or oci:/layout or archive:/image.tar with [:repository][:tag]."
        ),
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
    fail_on_partial: Annotated[
        bool, typer.Option("--fail-on-partial", help="Exit with status 3 when not everything could be judged.")
    ] = False,
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

    A registry of the configuration is used with its credentials; any other one anonymously, or as this machine where that is in a cloud and
    the registry is the cloud's. Without an advisory database the result is
    PARTIAL: see `advisories`. Exit status 3 when the image could not be judged; with `--output json` or `envelope` there is a document all
    the same, with status FAILED.
    """
    request = _Request(
        image=image,
        config=config,
        state=state,
        platform=platform,
        insecure=insecure,
        quiet=quiet,
        source=source,
        scanners=scanners,
    )
    began = utc_now()
    with reporting_errors():
        try:
            scanned = _scan(request)
        except SensorError as error:
            if output in {ScanOutput.JSON, ScanOutput.ENVELOPE}:
                full = output is ScanOutput.JSON
                write(failure_text(image, error, began, utc_now(), full=full), output_file)
            raise
        _emit(scanned, output, output_file)
        if not quiet:
            show_summary(scanned)
        if fail_on is not None and _fails(scanned.judged, fail_on):
            leave(ExitCode.FINDINGS)
        if scanned.judged.result.status == "PARTIAL" and (fail_on_partial or fail_on is not None):
            # a gate that opens for want of data must at least say so
            what = "the result is PARTIAL: not everything could be judged"
            err.print(what if fail_on_partial else f"{what}; --fail-on-partial makes that status 3")
            if fail_on_partial:
                leave(ExitCode.FAILED)


def _scan(request: _Request) -> Scanned:
    loaded = load(request.config, required=False)
    if request.source not in {"registry", ""}:
        message = f"this sensor reads images from registries, not from {request.source!r}"
        raise ConfigError(
            message,
            "push it to a registry, or give an OCI layout or what `docker save` writes: oci:/path:tag, archive:/path.tar:tag",
        )
    reference, settings = locate_image(loaded.config, request.image, insecure=request.insecure)
    wanted = usable(parse_platform, request.platform or loaded.config.platforms_of(settings)[0])
    work = asyncio.run(_judge(loaded, settings, reference, wanted, request))
    if not work.verdict.judged:
        message = f"{reference} was not scanned: {work.verdict.skip_reason}"
        raise DataError(message)
    judged = work.verdict.judged[0]
    if request.platform:
        _check_platform(judged, wanted)
    names = tuple(name for name in request.scanners.split(",") if name)
    return Scanned(judged=judged, seconds=work.seconds, notes=scanner_notes(names))


async def _judge(
    loaded: Loaded, settings: Registry, reference: Reference, platform: Platform, request: _Request
) -> _Work:
    config = loaded.config if loaded.config.registry(settings.name) else loaded.config.with_registry(settings)
    bars = None if request.quiet or not err.is_terminal else ImageBars(err)

    def publish(event: Event) -> None:
        if bars is not None:
            bars.handle(event)

    async with build_engine(config, state_directory(loaded, request.state), publish, shared=True) as engine:
        if engine.shelf.problem is not None and not request.quiet:
            err.print(f"[yellow]warning:[/] {clean(str(engine.shelf.problem))}")
        began = time.monotonic()
        place = await _place(engine, settings, reference)
        with bars or contextlib.nullcontext():
            verdict = await engine.judge.judge(place, place.reference.target, (platform,), accept_gaps=True)
        for judged in verdict.judged:
            # only the inventory: what was last reported of an image is the daemon's to know
            if not judged.image.known:
                async with engine.storage.transaction() as connection:
                    await engine.judge.keep(connection, verdict.digest, judged)
        return _Work(verdict=verdict, seconds=time.monotonic() - began)


async def _place(engine: Engine, settings: Registry, reference: Reference) -> Place:
    """Where the image is. On disk the only repository needs no name, nor does its only tag."""
    _, client = engine.sites.registry(settings.name)
    place = on_disk(settings.url)
    if place is not None and not reference.repository:
        what = "layout" if place[0] == "oci" else "archive"
        listing = await client.repositories()
        names = listing.names
        if len(names) != 1:
            message = f"the {what} holds {len(names)} repositories: {', '.join(names[:10])}"
            message += f" ({listing.reason})" if listing.reason else ""
            raise ConfigError(message, f"name one: {place[0]}:/path:repository:tag")
        reference = Reference(registry="", repository=names[0], tag=reference.tag, digest=reference.digest)
    if place is not None and not reference.tag and reference.digest is None:
        tags = (await client.tags(reference.repository)).names
        if len(tags) == 1:
            reference = Reference(registry="", repository=reference.repository, tag=tags[0])
    return Place(name=settings.name, client=client, reference=reference)


def _check_platform(judged: Judged, wanted: Platform) -> None:
    """An image without an index is what it is: it must not pass for the platform that was asked for."""
    found = judged.result.inventory.platform
    if found and found.split("/")[:2] != str(wanted).split("/")[:2]:
        message = f"{judged.result.reference} is an image for {found}, not for {wanted}"
        raise DataError(message, "leave --platform out to scan it as it is")


def _emit(scanned: Scanned, output: ScanOutput, target: Path | None) -> None:
    result = scanned.judged.result
    match output:
        case ScanOutput.JSON:
            write(full_text(scanned), target)
        case ScanOutput.ENVELOPE:
            write(envelope_text(scanned), target)
        case ScanOutput.CYCLONEDX:
            write(cyclonedx(result, version=VERSION).decode() + "\n", target)
        case ScanOutput.TABLE if not result.match.findings:
            write(no_findings(result) + "\n", target)
        case ScanOutput.TABLE if target is not None:
            write(as_text(findings_table(result)), target)
        case ScanOutput.TABLE:
            show_table(findings_table(result, width=out.width))


def _fails(judged: Judged, least: FailOn) -> bool:
    """Whether there are findings of that severity or above.

    Raises:
        AdvisoryError: nothing was judged, so having no findings means nothing.
    """
    counts, revision = judged.result.counts(), judged.result.match.revision
    if not revision:
        raise AdvisoryError("--fail-on cannot decide without an advisory database", "see `advisories --help`")
    return any(counts[severity] for severity in SEVERITIES[: SEVERITIES.index(Severity(least.upper())) + 1])
