import io
from datetime import UTC, datetime

from rich.console import Console

from sensor import events
from sensor.advisories.build import Progress
from sensor.cli.advisories import BuildBar
from sensor.cli.progress import ImageBars

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def started(reference: str, digest: str = "d") -> events.ImageStarted:
    return events.ImageStarted(at=NOW, registry="r", reference=reference, digest=digest, layers=1, bytes_total=2048)


def test_a_running_image_has_a_bar_and_a_finished_one_has_none() -> None:
    bars = ImageBars(Console(file=io.StringIO(), force_terminal=True, width=120))
    with bars:
        bars.handle(started("a:1"))
        bars.handle(started("b:1", "e"))
        bars.handle(events.ImageProgressed(digest="d", bytes_done=1024, bytes_total=2048))
        bars.handle(events.ImageProgressed(digest="unknown", bytes_done=1, bytes_total=2))
        assert [(task.description, task.completed) for task in bars.progress.tasks] == [("a:1", 1024), ("b:1", 0)]
        bars.handle(events.ImageStopped(digest="d"))
        bars.handle(events.ImageStopped(digest="d"))
        assert [task.description for task in bars.progress.tasks] == ["b:1"]
        # a second attempt begins from nothing
        bars.handle(started("b:1", "e"))
        assert [task.completed for task in bars.progress.tasks] == [0]


def test_names_are_inert_and_of_bounded_length() -> None:
    page = io.StringIO()
    bars = ImageBars(Console(file=page, force_terminal=True, width=160))
    with bars:
        bars.handle(started("[red]:b:\x1b]0;x\x07"))
        bars.handle(started("long/" * 100 + "end", "e"))
        bars.progress.refresh()
    assert "[red]:b:\\x1b]0;x\\x07" in page.getvalue()
    assert "…" in page.getvalue()
    assert "\x1b]0" not in page.getvalue()


def test_nothing_is_drawn_where_there_is_no_terminal() -> None:
    page = io.StringIO()
    console = Console(file=page)
    with ImageBars(console) as bars:
        bars.handle(started("a:1"))
    with BuildBar(console) as bar:
        bar.follow(Progress(archive="Debian/all.zip", done=1, total=2, archives_done=0, archives=1))
    assert page.getvalue() == ""
