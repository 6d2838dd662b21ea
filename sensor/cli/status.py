"""`status`: what the running sensor is doing, from its health endpoint."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from sensor.cli.options import ConfigOption, OutputOption, load
from sensor.cli.output import (
    OutputFormat,
    ago,
    clean,
    grid,
    out,
    plain,
    print_json,
    reporting_errors,
    show_bytes,
    show_table,
)
from sensor.control_plane.links import links_of
from sensor.errors import ConfigError, DataError, NetworkError
from sensor.status import Snapshot
from sensor.transport import NO_RETRY, Transport

ProbeOption = Annotated[
    bool, typer.Option("--probe", help="Say nothing; exit 0 when the sensor lives (container health checks).")
]
OutboxOption = Annotated[
    bool, typer.Option("--outbox", help="Only what is to be delivered, link by link; also without a running sensor.")
]


def status(
    config: ConfigOption = None,
    output: OutputOption = OutputFormat.TEXT,
    probe: ProbeOption = False,
    outbox: OutboxOption = False,
) -> None:
    """Show what the running sensor is doing: registries with their ledgers, links, images in work, failures, problems.

    Asks the local health endpoint (`health.listen`). Exit status 3 when no sensor answers there. With --outbox the state database is
    asked instead.
    """
    if outbox:
        _show_outbox(config, output)
        return
    with reporting_errors(output):
        listen = load(config, required=False).config.health.listen
        if listen == "off":
            raise ConfigError(
                "health.listen is off, so the sensor cannot be asked", "set health.listen to 127.0.0.1:9180"
            )
        body = asyncio.run(ask(f"http://{listen}{'/healthz' if probe else '/status'}"))
        if probe:
            return
        snapshot = _parse(body)
    if output is OutputFormat.JSON:
        print_json(snapshot)
    else:
        show(snapshot, datetime.now(UTC))


def _show_outbox(config: Path | None, output: OutputFormat) -> None:
    from sensor.cli.outbox import parts_of  # noqa: PLC0415 - a container's health check must not pay for it

    with reporting_errors(output):
        settings = load(config, required=False).config
        parts = parts_of(settings)
        known = {link.name: link for link in links_of(settings)}
    if output is OutputFormat.JSON:
        print_json([{**msgspec.to_builtins(part), "configured": part.link in known} for part in parts])
        return
    if not parts:
        out.print("the outbox is empty")
        return
    now = datetime.now(UTC)
    states = ("waiting", "sending", "unknown", "reporting", "dead", "exported", "delivered")
    table = grid("control plane", *states, "size", "oldest to deliver", "")
    for part in parts:
        counts = [str(part.counts.get(state, 0)) for state in states]
        oldest = ago(now, part.oldest) if part.oldest else "-"
        note = "not configured any more" if part.link not in known else "offline" if known[part.link].is_offline else ""
        table.add_row(plain(part.link), *counts, show_bytes(part.bytes), oldest, note)
    show_table(table)


async def ask(url: str) -> bytes:
    """What the health endpoint answers.

    Raises:
        NetworkError: nobody answers there, or not with a 200.
    """
    transport = Transport()
    try:
        reply = await transport.fetch("GET", url, retry=NO_RETRY)
    except NetworkError as error:
        message = f"no sensor answers at {url.rpartition('/')[0]}: {error.message}"
        raise NetworkError(message, "is it running, and with this health.listen?") from error
    finally:
        await transport.close()
    if reply.status != 200:
        message = f"{url} answered {reply.status}"
        raise NetworkError(message, "another program may have the port of health.listen")
    return reply.body


def _parse(body: bytes) -> Snapshot:
    try:
        return msgspec.json.decode(body, type=Snapshot)
    except msgspec.DecodeError as error:
        raise DataError(
            "the answer is not a sensor's status", "another program may have the port of health.listen"
        ) from error


def show(snapshot: Snapshot, now: datetime) -> None:
    """Print a snapshot for people."""
    ready = "[green]ready[/]" if snapshot.ready else "[red]not ready[/]"
    out.print(f"sensor {clean(snapshot.version)}, up {snapshot.uptime_seconds} s, {ready}")
    for problem in snapshot.problems:
        out.print(f"  [yellow]![/] {clean(problem)}")
    if snapshot.advisories.revision:
        newest = snapshot.advisories.newest
        age = f", newest {ago(now, newest)}" if newest else ""
        out.print(f"advisories: {snapshot.advisories.records} records{age}")
    if snapshot.registries:
        show_table(_registries(snapshot, now))
    for registry in snapshot.registries:
        if registry.held:
            again = f", looked at again {registry.held_until:%Y-%m-%d %H:%M}" if registry.held_until else ""
            out.print(f"[yellow]held[/] {clean(registry.name)}: {clean(registry.held)}{again}")
        elif registry.done_by is not None:
            out.print(
                f"{clean(registry.name)}: {registry.ledger.get('queued', 0)} images wait, {registry.scanned_last_hour} scanned "
                f"in the last hour; done about {registry.done_by:%Y-%m-%d %H:%M} UTC at this pace"
            )
    _show_withheld(snapshot)
    for quota in snapshot.quotas:
        source = f" for {clean(quota.source)}" if quota.source else ""
        out.print(
            f"quota of {clean(quota.host)}{source}: {quota.remaining} of {quota.limit} left, {ago(now, quota.read)}"
        )
    if snapshot.links:
        show_table(_links(snapshot, now))
    for image in snapshot.running:
        done, total = show_bytes(image.bytes_done), show_bytes(image.bytes_total)
        out.print(f"scanning {clean(image.reference)}: {done} of {total}")
    for failure in snapshot.failures[:10]:
        again = f", next try {failure.next_try:%Y-%m-%d %H:%M}" if failure.next_try else ", not tried again"
        out.print(f"[red]failed[/] {clean(failure.reference)}: {clean(failure.error)}{again}")
        if failure.advice:
            out.print(f"  [bold]try:[/] {clean(failure.advice)}")


def _show_withheld(snapshot: Snapshot) -> None:
    for registry in snapshot.registries:
        for reason, tags in sorted(registry.withheld.items()):
            out.print(f"[dim]skipped[/] {clean(registry.name)}: {tags} tags {clean(reason)}")


def _registries(snapshot: Snapshot, now: datetime) -> Table:
    states = ("listed", "scanned", "skipped", "failed", "queued", "gone")
    table = grid("registry", "state", "last sweep", *states, "requests")
    for registry in snapshot.registries:
        table.add_row(
            plain(registry.name),
            plain(registry.state),
            ago(now, registry.last_sweep) if registry.last_sweep else "never",
            *(str(registry.ledger.get(state, 0)) for state in states),
            str(registry.requests or "-"),
        )
    return table


def _links(snapshot: Snapshot, now: datetime) -> Table:
    table = grid("control plane", "state", "address", "last heartbeat", "delivered", "refused", "clock")
    for link in snapshot.links:
        beat = ago(now, link.last_heartbeat) if link.last_heartbeat else "never"
        clock = "-" if link.clock_skew is None else f"{link.clock_skew:+.0f} s"
        table.add_row(
            plain(link.name),
            plain(link.state),
            plain(link.address or "-"),
            beat,
            str(link.delivered),
            str(link.refused),
            clock,
        )
    return table
