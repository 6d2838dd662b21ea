"""`demo`: the whole main job on this machine, with no configuration and no network.

Starts an embedded registry over images built from this machine, the console's control-plane endpoints, and the daemon against both; shows
what happens and how to look further. The daemon is the real one, with the schema's defaults.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from sensor import events
from sensor.advisories.update import database_path, demo_advisories, import_sources
from sensor.cli.machine import build_machine_layout, machine_architecture
from sensor.cli.options import OutputOption
from sensor.cli.output import ExitCode, OutputFormat, clean, err, leave, out, plain, print_json, reporting_errors
from sensor.cli.progress import ImageBars
from sensor.cli.run import first_error
from sensor.config.schema import Config, ControlPlane, Globs, Health, Registry, Repositories, State
from sensor.console.server import Console, run_console
from sensor.console.store import NewRegistry
from sensor.daemon.app import build_app
from sensor.daemon.run import Daemon
from sensor.errors import SensorError
from sensor.log import configure_logging
from sensor.model.finding import SEVERITIES
from sensor.registry.serve import serve
from sensor.secret import InPlace
from sensor.transport import Transport

_SHOWN = 12
"""Findings in the table; the console has them all."""
_SETTLE_SECONDS = 300.0
"""Longest wait of `--once` for everything to be scanned and delivered."""


@dataclass(slots=True)
class _Story:
    """What happened so far, told line by line."""

    bars: ImageBars
    told: bool
    scanned: list[events.ImageScanned] = field(default_factory=list)
    delivered: list[events.ResultDelivered] = field(default_factory=list)
    sweeps: list[events.SweepFinished] = field(default_factory=list)
    ledger: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    beats: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def handle(self, event: events.Event) -> None:
        self.bars.handle(event)
        line = self._line(event)
        if line and self.told:
            self.bars.progress.console.print(line)
        self.changed.set()

    def _line(self, event: events.Event) -> str:
        match event:
            case events.AdvisoriesChanged():
                return f"advisories   {event.records} records in force"
            case events.LinkChanged(state="registered"):
                return f"registered   at the control plane {clean(event.link)}"
            case events.LinkChanged():
                self.failed.append(event.error)
                return f"[red]link {event.state}[/]: {clean(event.error)}"
            case events.HeartbeatSent():
                self.beats += 1
                return "heartbeat    accepted" if self.beats == 1 else ""
            case events.SweepStarted():
                return f"sweep        of registry {clean(event.registry)} ({clean(event.reason)})"
            case events.TagSkipped():
                return f"[dim]dropped      {clean(event.repository)}:{clean(event.tag)}: {clean(event.rule)}[/]"
            case events.SweepFinished():
                self.sweeps.append(event)
                self.ledger = dict(event.ledger)
                return f"enumerated   {event.repositories} repositories, {event.tags} tags, {event.requests} requests"
            case events.LedgerChanged():
                self.ledger = dict(event.ledger)
            case events.ImageScanned():
                self.scanned.append(event)
                return (
                    f"scanned      {clean(event.reference)}: {event.packages} packages, {sum(event.counts.values())} findings, "
                    f"{event.layers_fetched} layers read, {event.layers_cached} known, {event.seconds:.2f} s"
                )
            case events.ImageFailed():
                self.failed.append(event.error)
                return f"[red]failed[/]       {clean(event.reference)}: {clean(event.error)}"
            case events.ResultDelivered():
                self.delivered.append(event)
                return f"delivered    {clean(event.reference)} as scan {clean(event.remote_id or event.scan_id)}"
            case events.ResultRefused():
                self.failed.append(event.error)
                return f"[red]refused[/]      {clean(event.reference)}: {clean(event.error)}"
            case _:
                pass
        return ""

    @property
    def settled(self) -> bool:
        """Whether one sweep is over, nothing is queued, and every scanned image was delivered."""
        return (
            bool(self.sweeps)
            and not self.ledger.get("queued", 0)
            and len(self.delivered) >= len(self.scanned)
            and bool(self.scanned)
        )


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
    text = output is OutputFormat.TEXT
    configure_logging("error", "auto", sys.stderr)
    with reporting_errors(), tempfile.TemporaryDirectory(prefix="harborguard-demo-") as room:
        try:
            summary = asyncio.run(_demo(Path(room), once=once, advisories=advisories, told=text))
        except* SensorError as group:
            raise first_error(group) from group
    if not text:
        print_json(summary)
    if summary["failed"] or not summary["settled"]:
        leave(ExitCode.FAILED)


async def _demo(room: Path, *, once: bool, advisories: Path | None, told: bool) -> dict[str, Any]:
    story = _Story(bars=ImageBars(out if told else err), told=told)
    layout, state = room / "layout", room / "state"
    state.mkdir(mode=0o700)
    await asyncio.to_thread(build_machine_layout, layout)
    await asyncio.to_thread(import_sources, [advisories or demo_advisories()], database_path(state))
    async with contextlib.AsyncExitStack() as stack:
        registry_url = await stack.enter_async_context(serve(layout))
        console = await stack.enter_async_context(run_console("127.0.0.1", 0, room / "console"))
        made = await console.store.connect_registry("demo", registry_url, "distribution")
        if told:
            out.print(f"registry     {clean(registry_url)}, images built from this machine")
            out.print(f"console      {clean(console.url)}, the control-plane side")
        config = demo_config(registry_url, console.url, made, state)
        app = await stack.enter_async_context(build_app(config, listeners=(story.handle,)))
        daemon = Daemon(app, reload=_no_reload)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(daemon.run())
            with story.bars if told else contextlib.nullcontext():
                await _until_settled(running, story)
            if told and not running.done():
                await _conclude(story, console, daemon.health_url, once=once)
            if once:
                daemon.stop()
    return {
        "images": len(story.scanned),
        "packages": sum(event.packages for event in story.scanned),
        "findings": sum(sum(event.counts.values()) for event in story.scanned),
        "delivered": len(story.delivered),
        "ledger": story.ledger,
        "failed": story.failed,
        "settled": story.settled,
    }


async def _until_settled(running: asyncio.Task[None], story: _Story) -> None:
    """Wait for the first sweep to be scanned and delivered; not for ever, and not when the daemon ended (Ctrl-C)."""
    running.add_done_callback(lambda _task: story.changed.set())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SETTLE_SECONDS):
            while not story.settled and not running.done():
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


def _no_reload() -> Any:
    message = "the demo has no configuration file to reload"
    raise SensorError(message)


async def _conclude(story: _Story, console: Console, health_url: str, *, once: bool) -> None:
    """The findings as the console has them, where they were delivered, and how to look further."""
    out.print()
    table = Table("severity", "vulnerability", "package", "installed", "fixed in", "image", box=None, pad_edge=False)
    findings = await _ask(console, f"/api/findings?limit={_SHOWN}")
    for found in findings["findings"]:
        fixed = found.get("fixedVersion") or "no fix known"
        row = (
            found["severity"],
            found["cveId"],
            found["packageName"],
            found.get("installedVersion", ""),
            fixed,
            found["image"],
        )
        table.add_row(*(plain(str(cell)) for cell in row))
    out.print(table)
    if findings["total"] > _SHOWN:
        out.print(f"[dim]... and {findings['total'] - _SHOWN} more[/]")
    counts = {severity: sum(event.counts.get(severity, 0) for event in story.scanned) for severity in SEVERITIES}
    shown = ", ".join(f"{count} {severity.lower()}" for severity, count in counts.items())
    out.print(
        f"\n[bold]{len(story.scanned)} images scanned, {len(story.delivered)} results delivered[/] to {clean(console.url)}: {shown}"
    )
    ledger = dict(story.ledger)
    listed = ledger.pop("listed", 0)
    out.print(f"ledger: {listed} tags listed = " + " + ".join(f"{count} {state}" for state, count in ledger.items()))
    if once or console.admin_key is None:
        out.print("look further: `make demo` keeps everything running and says where to look")
        return
    key = f"-H 'X-API-Key: {console.admin_key.reveal()}'"
    out.print("\nlook further (Ctrl-C ends it, and removes everything):")
    for url in (
        f"{key} {console.url}/api/findings?severity=HIGH",
        f"{key} {console.url}/api/images",
        f"{health_url}/status",
        f"{health_url}/metrics",
    ):
        out.print(f"  curl {clean(url)}")


async def _ask(console: Console, path: str) -> dict[str, Any]:
    """A JSON view of the console, asked for as anybody else would."""
    transport = Transport()
    key = console.admin_key.reveal() if console.admin_key is not None else ""
    try:
        reply = await transport.fetch("GET", console.url + path, headers={"X-API-Key": key})
    finally:
        await transport.close()
    return msgspec.json.decode(reply.body, type=dict[str, Any])
