"""`test`: Test Connection, with the engine that the wizard uses."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated

import typer

from sensor.catalog.select import Selection
from sensor.cli.connect import registry_named
from sensor.cli.options import ConfigOption, OutputOption, load, show_warnings
from sensor.cli.output import ExitCode, OutputFormat, clean, leave, out, print_json, reporting_errors
from sensor.config.schema import Config, Registry
from sensor.registry.check import Report, Step, check_connection, describe_report
from sensor.registry.check_report import shown_time

_MARKS = {"ok": "[green]ok[/]     ", "failed": "[red]failed[/] ", "skipped": "[dim]skipped[/]"}
_WORDS = {True: "yes", False: "no", None: "unknown"}


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
    """Reach a registry, log in, list repositories and tags, and read a manifest and a blob's first byte, step by step.

    Reports reachable, authenticated and latencyMs, what the credential may do, and the first thing to do. Exit status 3 when a sweep
    would not work.
    """
    with reporting_errors(output):
        loaded = load(config, required=target is None)
        chosen = (_named(loaded.config, target, insecure=insecure),) if target else loaded.config.registries
        reports = asyncio.run(check_all(loaded.config, chosen))
    if output is OutputFormat.JSON:
        print_json([describe_report(report) for report in reports])
    else:
        if target is None:
            show_warnings(loaded)
        for report in reports:
            _show(report)
        if not chosen:
            out.print("no registries are configured")
    if not all(report.usable for report in reports):
        leave(ExitCode.FAILED)


def _named(config: Config, target: str, *, insecure: bool) -> Registry:
    """The registry that is meant. An address with http:// is tested even where that is not allowed: without a credential."""
    plain = target.lower().startswith("http://") and not insecure
    registry = registry_named(config, target, insecure=insecure or plain)
    if plain and registry not in config.registries:
        return registry.model_copy(update={"insecure": False})
    return registry


async def check_all(config: Config, registries: tuple[Registry, ...]) -> list[Report]:
    """What Test Connection says of each registry, one after the other."""
    return [await _check(config, settings) for settings in registries]


async def _check(config: Config, settings: Registry) -> Report:
    selection = Selection(settings)
    return await check_connection(settings, config.http, wanted=lambda name: selection.repository(name).selected)


def _show(report: Report) -> None:
    facts = "".join(f"; {name}: {value}" for name, value in report.facts.items())
    out.print(
        f"[bold]{clean(report.name)}[/] {clean(report.url)}: {clean(report.provider)} ({clean(report.provider_reason + facts)})"
    )
    first = report.advice or next((notice.advice for notice in report.notices if notice.advice), "")
    for name, step in _shown_steps(report.steps):
        out.print(f"  {name:<9} {_MARKS[step.outcome]} {clean(step.detail)}".rstrip())
        if step.advice and step.outcome == "failed" and step.advice != first:
            out.print(f"                    [bold]try:[/] {clean(step.advice)}")
    latency = "" if report.latency_ms is None else f", latencyMs {report.latency_ms:.0f}"
    said = any(step.outcome == "failed" and report.detail and report.detail in step.detail for step in report.steps)
    detail = "" if said else f": {clean(report.detail)}"
    out.print(f"  reachable {_WORDS[report.reachable]}, authenticated {_WORDS[report.authenticated]}{latency}{detail}")
    for name, text in _facts(report):
        out.print(f"  {name:<9} {clean(text)}")
    for notice in report.notices:
        if notice.message in first:
            continue
        advice = f"; {notice.advice}" if notice.advice and notice.advice != first else ""
        out.print(f"  [yellow]warning[/]   {clean(notice.message + advice)}")
    if first:
        out.print(f"  [bold]try:[/]      {clean(first)}")


def _shown_steps(steps: tuple[Step, ...]) -> Iterator[tuple[str, Step]]:
    """The steps by name; those at the end that were not reached for one reason share a line."""
    rest = 0
    while rest < len(steps) and steps[-1 - rest].outcome == "skipped" and steps[-1 - rest].detail == steps[-1].detail:
        rest += 1
    yield from ((step.name, step) for step in steps[: len(steps) - rest])
    if rest:
        yield ("the rest" if rest > 1 else steps[-1].name), steps[-1]


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    """What is worth a line of its own, where it is known."""
    rights = f"can list {_WORDS[report.can_list]}, can pull {_WORDS[report.can_pull]}"
    if report.reachable:
        writes = f", may write {_WORDS[report.may_write]}" if report.access == "authenticated" else ""
        yield "access", f"{report.access}; {rights}{writes}"
    if report.method:
        identity = report.identity.removeprefix(f"{report.method} ")
        who = f", as {identity}" if identity else ""
        expires = shown_time(report.credential_expires)
        yield "login by", report.method + who + (f", until {expires}" if expires else "")
    if report.other is not None:
        ends = shown_time(report.other.expires)
        who = f"{report.other.identity}{f', until {ends}' if ends else ''}; {report.other.detail}"
        yield report.other.whose, who
    if report.source is not None and report.source.name:
        why = report.source.reason  # the step says it, too, where there is no other list
        reason = f" ({why})" if why and not any(why in step.detail for step in report.steps) else ""
        yield "listing", f"{report.source.name}{reason}"
    if report.quota is not None:
        quota = report.quota
        window = f" in {quota.window / 3600:g} h" if quota.window else ""
        source = f", counted for {quota.source}" if quota.source else ""
        yield "quota", f"{quota.remaining} of {quota.limit} left{window}{source}"
