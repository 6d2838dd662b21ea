"""What happens during `demo`, told line by line: events in, sentences and counts out. Prints through the progress bars' console."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import singledispatch

from sensor import events
from sensor.cli.output import clean
from sensor.cli.progress import ImageBars


@dataclass(slots=True)
class Story:
    """What happened so far. `told` says whether it is printed as it happens."""

    bars: ImageBars
    told: bool
    scanned: list[events.ImageScanned] = field(default_factory=list)
    delivered: list[events.ResultDelivered] = field(default_factory=list)
    refused: int = 0
    sweeps: int = 0
    ledger: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _beats: int = 0

    def handle(self, event: events.Event) -> None:
        """Follow one event."""
        self.bars.handle(event)
        self._note(event)
        line = sentence(event)
        # one heartbeat is news, the next ones are not
        if line and self.told and not (isinstance(event, events.HeartbeatSent) and self._beats > 1):
            self.bars.progress.console.print(line)
        self.changed.set()

    def _note(self, event: events.Event) -> None:
        match event:
            case events.SweepFinished():
                self.sweeps += 1
                self.ledger = dict(event.ledger)
                if event.error:
                    self.failed.append(event.error)
            case events.LedgerChanged():
                self.ledger = dict(event.ledger)
            case events.ImageScanned():
                self.scanned.append(event)
            case events.ResultDelivered():
                self.delivered.append(event)
            case events.HeartbeatSent():
                self._beats += 1
            case events.ResultRefused():
                self.refused += 1
                self.failed.append(event.error)
            case events.ImageFailed():
                self.failed.append(event.error)
            case events.LinkChanged() if event.state != "registered":
                self.failed.append(event.error)
            case _:
                pass

    @property
    def over(self) -> bool:
        """Whether a sweep ended, nothing is queued, and there is nothing left to deliver."""
        answered = len(self.delivered) + self.refused
        return self.sweeps > 0 and not self.ledger.get("queued", 0) and answered >= len(self.scanned)

    @property
    def succeeded(self) -> bool:
        """Whether it is over and everything went well."""
        return self.over and bool(self.scanned) and not self.failed

    @property
    def trouble(self) -> str:
        """What went wrong, in words; empty when nothing did."""
        if self.failed:
            return self.failed[0]
        queued = self.ledger.get("queued", 0)
        waiting = len(self.scanned) - len(self.delivered) - self.refused
        return "" if self.succeeded else f"{queued} images still to scan, {waiting} results still to deliver"


@singledispatch
def sentence(_event: events.Event) -> str:
    """The event in words, as console markup; empty for events that are not told."""
    return ""


@sentence.register
def _(event: events.AdvisoriesChanged) -> str:
    return f"advisories   {event.records} records in force"


@sentence.register
def _(event: events.LinkChanged) -> str:
    if event.state == "registered":
        return f"registered   at the control plane {clean(event.link)}"
    return f"[red]link {clean(event.state)}[/]: {clean(event.error)}"


@sentence.register
def _(_event: events.HeartbeatSent) -> str:
    return "heartbeat    accepted"


@sentence.register
def _(event: events.SweepStarted) -> str:
    return f"sweep        of registry {clean(event.registry)} ({clean(event.reason)})"


@sentence.register
def _(event: events.TagSkipped) -> str:
    return f"[dim]dropped      {clean(event.repository)}:{clean(event.tag)}: {clean(event.rule)}[/]"


@sentence.register
def _(event: events.SweepFinished) -> str:
    line = f"enumerated   {event.repositories} repositories, {event.tags} tags, {event.requests} requests"
    return f"{line}; [red]not complete[/]: {clean(event.error)}" if event.error else line


@sentence.register
def _(event: events.ImageScanned) -> str:
    return (
        f"scanned      {clean(event.reference)}: {event.packages} packages, {sum(event.counts.values())} findings, "
        f"{event.layers_fetched} layers read, {event.layers_cached} known, {event.seconds:.2f} s"
    )


@sentence.register
def _(event: events.ImageFailed) -> str:
    return f"[red]failed[/]       {clean(event.reference)}: {clean(event.error)}"


@sentence.register
def _(event: events.ResultDelivered) -> str:
    return f"delivered    {clean(event.reference)} as scan {clean(event.remote_id or event.scan_id)}"


@sentence.register
def _(event: events.ResultRefused) -> str:
    return f"[red]refused[/]      {clean(event.reference)}: {clean(event.error)}"
