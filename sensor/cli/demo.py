"""`demo`: the whole main job on this machine, with no configuration and no network.

Starts an embedded registry over images built from this machine, the console's control-plane endpoints, and the daemon against both; shows
what happens and how to look further. The daemon is the real one, with the schema's defaults.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import msgspec
import typer
from rich.table import Table

from sensor.advisories.database import database_path
from sensor.advisories.update import demo_advisories, import_sources
from sensor.cli.advisories import BuildBar
from sensor.cli.machine import build_machine_layout, machine_architecture
from sensor.cli.options import OutputOption
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
    reporting_errors,
    show_table,
)
from sensor.cli.progress import ImageBars
from sensor.cli.story import Story
from sensor.config.schema import Config, ControlPlane, Globs, Health, Registry, Repositories, State
from sensor.console.server import Console, run_console
from sensor.console.store import NewRegistry
from sensor.daemon.app import build_app
from sensor.daemon.run import Daemon
from sensor.errors import ConfigError, StateError
from sensor.log import configure_logging
from sensor.model.finding import SEVERITIES
from sensor.registry.serve import serve
from sensor.secret import InPlace
from sensor.transport import Transport

_SHOWN = 12
"""Findings in the table; the console has them all."""
_LONGEST_SECONDS = 300.0
"""Longest wait for everything to be scanned and delivered."""


def demo(
    once: Annotated[bool, typer.Option("--once", help="One sweep, then exit with a summary.")] = False,
    advisories: Annotated[
        Path | None,
        typer.Option("--advisories", help="A full set in OSV's bulk layout, instead of the small extract shipped."),
    ] = None,
    output: OutputOption = OutputFormat.TEXT,
) -> None:
    """Run everything on this machine: a registry with images built from it, a control plane, and the sensor between them.

    Nothing is configured, nothing leaves the machine, and everything is removed at the end. Ctrl-C ends it.
    """
    told = output is OutputFormat.TEXT
    configure_logging("error", "auto", sys.stderr)
    with reporting_errors(output):
        story = Story(bars=ImageBars(out if told else err), told=told)
        interrupted = _in_a_room(partial(_demo, story=story, once=once, advisories=advisories))
        if not told:
            print_json(_summary(story))
        if interrupted and not story.failed:
            leave(ExitCode.FINE if story.succeeded else ExitCode.INTERRUPTED)
    if not story.succeeded:
        err.print(f"[bold red]error:[/] the demo did not end well: {clean(story.trouble)}")
        leave(ExitCode.FAILED)


def _in_a_room(work: Callable[[Path], Coroutine[None, None, bool]]) -> bool:
    """Do the work in a directory that is gone afterwards, also after Ctrl-C and SIGTERM. True when one of them ended it."""
    try:
        with tempfile.TemporaryDirectory(prefix="harborguard-demo-") as room:
            return asyncio.run(work(Path(room)))
    except asyncio.CancelledError:
        return True
    except OSError as error:
        message = f"the demo cannot write its files: {error.strerror or error}"
        raise StateError(message, "TMPDIR names a directory with some free megabytes") from error


async def _demo(room: Path, *, story: Story, once: bool, advisories: Path | None) -> bool:
    """Run everything; True when a signal ended it before it was asked to end."""
    this = asyncio.current_task()
    assert this is not None  # noqa: S101 - a coroutine runs in a task
    # until the daemon takes the signals; Ctrl-C does the same by itself
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    layout, state = room / "layout", room / "state"
    state.mkdir(mode=0o700)
    await asyncio.to_thread(build_machine_layout, layout)
    with BuildBar(err) as bar:
        sources = [advisories or demo_advisories()]
        await asyncio.to_thread(import_sources, sources, database_path(state), progress=bar.follow)
    async with contextlib.AsyncExitStack() as stack:
        registry_url = await stack.enter_async_context(serve(layout))
        console = await stack.enter_async_context(run_console("127.0.0.1", 0, room / "console"))
        made = await console.store.connect_registry("demo", registry_url, "distribution")
        if story.told:
            out.print(f"registry     {clean(registry_url)}, images built from this machine")
            out.print(f"console      {clean(console.url)}, the control-plane side")
        config = demo_config(registry_url, console.url, made, state)
        app = await stack.enter_async_context(build_app(config, listeners=(story.handle,)))
        daemon = Daemon(app, reload=_no_reload)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(daemon.run())
            with story.bars if story.told else contextlib.nullcontext():
                await _until_over(running, story)
            interrupted = running.done()
            if story.told and not interrupted:
                await _conclude(story, console, daemon.health_url, once=once)
            # nobody reads on after `| head`
            if once or out.quiet:
                daemon.stop()
            else:
                await asyncio.wait((running,))
                interrupted = True
        return interrupted


def _summary(story: Story) -> dict[str, object]:
    return {
        "images": len(story.scanned),
        "packages": sum(event.packages for event in story.scanned),
        "findings": sum(sum(event.counts.values()) for event in story.scanned),
        "delivered": len(story.delivered),
        "ledger": story.ledger,
        "failed": story.failed,
        "settled": story.succeeded,
    }


async def _until_over(running: asyncio.Task[None], story: Story) -> None:
    """Wait for the first sweep to be scanned and delivered; not for ever, and not when the daemon ended (Ctrl-C)."""
    running.add_done_callback(lambda _task: story.changed.set())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LONGEST_SECONDS):
            while not story.over and not running.done():
                story.changed.clear()
                await story.changed.wait()


def demo_config(registry_url: str, console_url: str, made: NewRegistry, state: Path) -> Config:
    """The schema's defaults, pointed at the embedded registry and console, with filters that have something to drop."""
    return Config(
        control_plane=ControlPlane(url=console_url, api_key=InPlace(made.key), name="demo"),
        registries=(
            Registry(
                name="demo",
                url=registry_url,
                insecure=True,
                repositories=Repositories(exclude=("scratch/**",)),
                tags=Globs(exclude=("*-dev",)),
            ),
        ),
        platforms=(f"linux/{machine_architecture()}",),
        state=State(directory=str(state)),
        health=Health(listen="127.0.0.1:0"),
    )


def _no_reload() -> NoReturn:
    raise ConfigError("the demo has no configuration file to reload")


async def _conclude(story: Story, console: Console, health_url: str, *, once: bool) -> None:
    """The findings as the console has them, where they were delivered, and how to look further."""
    out.print()
    findings = await _ask(console, f"/api/findings?limit={_SHOWN}")
    show_table(_findings(findings["findings"]))
    if findings["total"] > _SHOWN:
        out.print(f"[dim]... and {findings['total'] - _SHOWN} more[/]")
    counts = {severity: sum(event.counts.get(severity, 0) for event in story.scanned) for severity in SEVERITIES}
    shown = ", ".join(f"{count} {severity.lower()}" for severity, count in counts.items())
    delivered = f"{len(story.scanned)} images scanned, {len(story.delivered)} results delivered"
    out.print(f"\n[bold]{delivered}[/] to {clean(console.url)}: {shown}")
    ledger = dict(story.ledger)
    listed = ledger.pop("listed", 0)
    out.print(f"ledger: {listed} tags listed = " + " + ".join(f"{count} {state}" for state, count in ledger.items()))
    if once or console.admin_key is None:
        out.print("look further: without --once everything keeps running, and you are told where to look")
        return
    key = f"-H 'X-API-Key: {console.admin_key.reveal()}'"
    out.print("\nlook further (Ctrl-C ends it, and removes everything):")
    for url in (
        f"{key} '{console.url}/api/findings?severity=HIGH'",
        f"{key} {console.url}/api/images",
        f"{health_url}/status",
        f"{health_url}/metrics",
    ):
        out.print(f"  curl {clean(url)}")


def _findings(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = grid("severity", "vulnerability", "package", "installed", "fixed in", "image")
    for row in rows:
        cells = (
            row["severity"],
            row["cveId"],
            row["packageName"],
            row.get("installedVersion", ""),
            row.get("fixedVersion") or "no fix known",
            row["image"],
        )
        table.add_row(*(plain(str(cell)) for cell in cells))
    return table


async def _ask(console: Console, path: str) -> dict[str, Any]:
    """A JSON view of the console, asked for as anybody else would."""
    transport = Transport()
    key = console.admin_key.reveal() if console.admin_key is not None else ""
    try:
        reply = await transport.fetch("GET", console.url + path, headers={"X-API-Key": key})
    finally:
        await transport.close()
    return msgspec.json.decode(reply.body, type=dict[str, Any])
