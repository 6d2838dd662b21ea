"""Progress bars: one a running image, counting compressed bytes. Only on a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from sensor import events
from sensor.cli.output import printable


class ImageBars:
    """Bars on a console; also where there is no terminal, when nothing is drawn."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def handle(self, event: events.Event) -> None:
        """Follow one event."""
        match event:
            case events.ImageStarted():
                self._end(event.digest)
                name = printable(event.reference if len(event.reference) <= 60 else f"…{event.reference[-59:]}")
                self._tasks[event.digest] = self.progress.add_task(name, total=event.bytes_total)
            case events.ImageProgressed() if event.digest in self._tasks:
                self.progress.update(self._tasks[event.digest], completed=event.bytes_done)
            case events.ImageScanned() | events.ImageStopped() | events.ImageFailed():
                self._end(event.digest)
            case _:
                pass

    def _end(self, digest: str) -> None:
        task = self._tasks.pop(digest, None)
        if task is not None:
            self.progress.remove_task(task)
