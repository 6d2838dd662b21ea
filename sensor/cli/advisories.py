"""`advisories status|update|import`: the vulnerability data, on a connected site and on one without a network."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from sensor.advisories.build import BuildReport
from sensor.advisories.build import Progress as BuildProgress
from sensor.advisories.database import AdvisoryDatabase, database_path
from sensor.advisories.update import UpdateReport, demo_advisories, import_sources, route_to, update
from sensor.cli.options import ConfigOption, OutputOption, StateOption, load, state_directory
from sensor.cli.output import (
    ExitCode,
    OutputFormat,
    clean,
    err,
    grid,
    leave,
    out,
    plain,
    print_json,
    printable,
    reporting_errors,
    show_bytes,
    show_table,
)
from sensor.config.schema import Config
from sensor.errors import ConfigError
from sensor.transport import Transport

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, add_completion=False, help="Look after the advisory database."
)


@app.command("status", short_help="What the database holds, and how old it is.")
def show_status(
    config: ConfigOption = None, state: StateOption = None, output: OutputOption = OutputFormat.TEXT
) -> None:
    """Show what the database holds, where it came from and how old it is. Exit status 3 when there is none."""
    with reporting_errors(output):
        loaded = load(config, required=False)
        database = AdvisoryDatabase.open(database_path(state_directory(loaded, state)))
    try:
        summary = database.summary()
    finally:
        database.close()
    if output is OutputFormat.JSON:
        print_json(
            {
                "path": str(database.path),
                "revision": summary.revision,
                "records": summary.records,
                "newest": summary.newest,
                "imported": summary.imported,
                "ecosystems": {entry.name: entry.records for entry in summary.ecosystems},
                "sources": [
                    {"name": s.name, "origin": s.origin, "sha256": s.sha256, "records": s.records, "newest": s.newest}
                    for s in summary.sources
                ],
            }
        )
        return
    age = summary.age(datetime.now(UTC))
    out.print(
        f"{summary.records} records, revision {summary.revision[:12]}, {_age(summary.newest, age)}, imported {summary.imported}"
    )
    table = grid("ecosystem", "records", "newest")
    for ecosystem in summary.ecosystems:
        table.add_row(plain(ecosystem.name), str(ecosystem.records), plain(ecosystem.newest[:10]))
    show_table(table)
    if age.total_seconds() > loaded.config.advisories.max_age:
        err.print("[yellow]warning:[/] the data is older than advisories.max_age: import a newer set")


@app.command("import", short_help="Build the database from files, offline.")
def import_advisories(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PATH", help="Directories in OSV's bulk layout (<Ecosystem>/all.zip), or zip files."),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Import the small extract that comes with the sensor, for a try.")
    ] = False,
    config: ConfigOption = None,
    state: StateOption = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Build the database from files; opens no connection. It replaces what was there; on a failure the old one stays.

    A running sensor notices the new database and matches all known images again.
    """
    with reporting_errors(output):
        loaded = load(config, required=False)
        paths = [*(sources or []), *([demo_advisories()] if demo else [])]
        if not paths:
            raise ConfigError(
                "there is nothing to import", "name a directory with <Ecosystem>/all.zip or a zip file, or say --demo"
            )
        target = database_path(state_directory(loaded, state))
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with BuildBar(err) as bar:
            report = import_sources(paths, target, progress=bar.follow)
    _show_build(report, output)


@app.command("update", short_help="Fetch what changed, and rebuild.")
def update_advisories(
    config: ConfigOption = None, state: StateOption = None, output: OutputOption = OutputFormat.TEXT
) -> None:
    """Fetch what changed from `advisories.sources` and rebuild the database. Exit status 3 when a source failed."""
    with reporting_errors(output):
        loaded = load(config, required=False)
        if not loaded.config.advisories.sources:
            raise ConfigError(
                "no source of advisories is configured", "set advisories.sources, or use `advisories import`"
            )
        with BuildBar(err) as bar:
            report = asyncio.run(_update(loaded.config, state_directory(loaded, state), bar))
    failed = [outcome for outcome in report.outcomes if outcome.state in {"failed", "kept"}]
    if output is OutputFormat.JSON:
        print_json(
            {
                "changed": report.changed,
                "revision": report.revision,
                "sources": [
                    {"name": o.name, "source": o.source, "state": o.state, "reason": o.reason} for o in report.outcomes
                ],
            }
        )
    else:
        for outcome in report.outcomes:
            reason = f": {clean(outcome.reason)}" if outcome.reason else ""
            out.print(f"{clean(outcome.name)} from {clean(outcome.source)}: {outcome.state}{reason}")
        if report.build is not None:
            _show_build(report.build, output)
        else:
            out.print("nothing changed")
    if failed:
        leave(ExitCode.FAILED)


async def _update(config: Config, directory: Path, bar: BuildBar) -> UpdateReport:
    transport = Transport(route_to(config.advisories, config.http))
    try:
        return await update(config.advisories, transport, directory, progress=bar.follow)
    finally:
        await transport.close()


def _show_build(report: BuildReport, output: OutputFormat) -> None:
    if output is OutputFormat.JSON:
        print_json(
            {
                "path": str(report.path),
                "revision": report.revision,
                "records": report.records,
                "entries": report.entries,
                "seconds": round(report.seconds, 2),
                "bytes": report.size,
                "sources": [
                    {
                        "name": s.name,
                        "records": s.records,
                        "dropped": dict(s.dropped),
                        "unreadable": s.unreadable,
                        "examples": s.examples,
                    }
                    for s in report.sources
                ],
            }
        )
        return
    for source in report.sources:
        dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(source.dropped.items()))
        unreadable = source.unreadable + source.too_large
        notes = "; ".join(text for text in (dropped, f"{unreadable} not readable" if unreadable else "") if text)
        out.print(f"{clean(source.name)}: {source.records} records" + (f" ({clean(notes)})" if notes else ""))
        for example in source.examples:
            err.print(f"  [yellow]not read:[/] {clean(example)}")
    out.print(
        f"[green]database ready[/]: {report.records} records about {report.entries} packages, {show_bytes(report.size)}, "
        f"{report.seconds:.1f} s, revision {report.revision[:12]}"
    )


class BuildBar:
    """The bar of a build of the advisory database, fed from whatever thread builds."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("advisories", total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def follow(self, how_far: BuildProgress) -> None:
        """Show how far the build is."""
        self._progress.update(
            self._task, description=printable(how_far.archive), completed=how_far.done, total=how_far.total
        )


def _age(newest: str, age: timedelta) -> str:
    return f"newest {age.days} days old" if newest else "of unknown age"
