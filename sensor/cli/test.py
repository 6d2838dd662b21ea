"""`test`: Test Connection, with the engine that the wizard uses."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from sensor.cli.connect import registry_named
from sensor.cli.options import ConfigOption, OutputOption, load, show_warnings
from sensor.cli.output import ExitCode, OutputFormat, clean, leave, out, print_json, reporting_errors
from sensor.config.schema import Config, Registry
from sensor.registry.check import Report, check_registry
from sensor.registry.kinds import detect, find_kind, open_registry
from sensor.transport import Retry

_IMPATIENT = Retry(attempts=2, first=0.5)
"""Somebody waits: one more try tells a blip from a fault."""
_MARKS = {"ok": "[green]ok[/]", "failed": "[red]failed[/]", "skipped": "[dim]skipped[/]"}


def test(
    target: Annotated[
        str | None,
        typer.Argument(metavar="REGISTRY|URL", help="A registry's name or address; without it, all configured."),
    ] = None,
    config: ConfigOption = None,
    output: OutputOption = OutputFormat.TEXT,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Allow plain HTTP, for an address that is not configured.")
    ] = False,
) -> None:
    """Reach a registry, log in, list repositories and tags, and read a manifest and a layer's first byte, step by step.

    Reports reachable, authenticated and latencyMs. Exit status 3 when a sweep would not work.
    """
    with reporting_errors(output):
        loaded = load(config, required=target is None)
        chosen = (registry_named(loaded.config, target, insecure=insecure),) if target else loaded.config.registries
        reports = asyncio.run(_check_all(loaded.config, chosen))
    if output is OutputFormat.JSON:
        print_json([_document(registry, report) for registry, report in zip(chosen, reports, strict=True)])
    else:
        if target is None:
            show_warnings(loaded)
        for registry, report in zip(chosen, reports, strict=True):
            _show(registry, report)
        if not chosen:
            out.print("no registries are configured")
    if not all(report.usable for report in reports):
        leave(ExitCode.FAILED)


async def _check_all(config: Config, registries: tuple[Registry, ...]) -> list[Report]:
    return [await _check(config, registry) for registry in registries]


async def _check(config: Config, settings: Registry) -> Report:
    registry = open_registry(settings, config.http, retry=_IMPATIENT)
    try:
        return await check_registry(registry, next(iter(settings.repositories.names), None))
    finally:
        await registry.close()


def _provider(registry: Registry) -> tuple[str, str]:
    if registry.provider == "auto":
        kind, reason = detect(registry.url)
        return kind.name, reason
    return find_kind(registry).name, "as configured"


def _document(registry: Registry, report: Report) -> dict[str, object]:
    provider, reason = _provider(registry)
    return {
        "registry": registry.name,
        "url": registry.url,
        "provider": provider,
        "providerReason": reason,
        "reachable": report.reachable,
        "authenticated": report.authenticated,
        "latencyMs": report.latency_ms,
        "detail": report.detail,
        "usable": report.usable,
        "steps": [
            {"name": step.name, "outcome": step.outcome, "detail": step.detail, "advice": step.advice}
            for step in report.steps
        ],
    }


def _show(registry: Registry, report: Report) -> None:
    provider, reason = _provider(registry)
    out.print(f"[bold]{clean(registry.name)}[/] {clean(registry.url)}: {provider} ({clean(reason)})")
    for step in report.steps:
        detail = f"  {clean(step.detail)}" if step.detail else ""
        out.print(f"  {step.name:<9} {_MARKS[step.outcome]}{detail}")
        if step.advice and step.outcome == "failed":
            out.print(f"            [bold]try:[/] {clean(step.advice)}")
    latency = "" if report.latency_ms is None else f", latencyMs {report.latency_ms:.0f}"
    yes = {True: "yes", False: "no"}
    out.print(
        f"  reachable {yes[report.reachable]}, authenticated {yes[report.authenticated]}{latency}: {clean(report.detail)}"
    )
