import io
from datetime import UTC, datetime
from typing import get_args

import pytest
from rich.console import Console
from rich.text import Text

from sensor import events
from sensor.cli.progress import ImageBars
from sensor.cli.story import Story, sentence

NOW = datetime(2026, 11, 24, tzinfo=UTC)
EVIL = "x[red]\x1b[2J"


def scanned(reference: str = "r/app:1") -> events.ImageScanned:
    return events.ImageScanned(
        at=NOW, registry="r", reference=reference, digest="d", status="SUCCESS", packages=3, counts={"HIGH": 2},
        gaps=(), layers_fetched=1, layers_cached=2, bytes_fetched=10, seconds=1.5,
    )  # fmt: skip


def swept(*, error: str = "", queued: int = 0) -> events.SweepFinished:
    return events.SweepFinished(
        at=NOW, registry="r", complete=not error, repositories=1, tags=2, ledger={"listed": 2, "queued": queued},
        requests=4, error=error,
    )  # fmt: skip


def delivered() -> events.ResultDelivered:
    return events.ResultDelivered(at=NOW, link="l", reference="r/app:1", scan_id="s", remote_id="")


def refused() -> events.ResultRefused:
    return events.ResultRefused(at=NOW, link="l", reference=EVIL, scan_id="s", error=EVIL)


def failed() -> events.ImageFailed:
    return events.ImageFailed(at=NOW, registry="r", reference=EVIL, digest="d", error=EVIL, advice="", next_try=None)


def link(state: str) -> events.LinkChanged:
    return events.LinkChanged(at=NOW, link=EVIL, state=state, error="" if state == "registered" else EVIL)


def tell(*happened: events.Event, told: bool = True) -> tuple[Story, str]:
    page = io.StringIO()
    story = Story(bars=ImageBars(Console(file=page, width=200)), told=told)
    for event in happened:
        story.handle(event)
    return story, page.getvalue()


TOLD: list[tuple[events.Event, str]] = [
    (events.AdvisoriesChanged(at=NOW, revision="r", records=5, newest=None), "5 records in force"),
    (link("registered"), "registered"),
    (link("down"), "link down"),
    (events.HeartbeatSent(at=NOW, link="l"), "heartbeat    accepted"),
    (events.SweepStarted(at=NOW, registry=EVIL, reason="push"), "(push)"),
    (events.TagSkipped(at=NOW, registry="r", repository="a", tag="b", rule=EVIL), "a:b: "),
    (swept(), "1 repositories, 2 tags, 4 requests"),
    (swept(error=EVIL), "not complete"),
    (scanned(), "3 packages, 2 findings, 1 layers read, 2 known, 1.50 s"),
    (failed(), "failed"),
    (delivered(), "as scan s"),
    (refused(), "refused"),
]


@pytest.mark.parametrize(("event", "words"), TOLD)
def test_an_event_is_told_in_words_that_are_inert(event: events.Event, words: str) -> None:
    line = sentence(event)
    plain = Text.from_markup(line, emoji=False).plain
    assert words in plain
    assert plain.isprintable()
    assert "[red]\x1b" not in line


def test_what_is_of_no_interest_is_not_told() -> None:
    told = {type(event) for event, _ in TOLD}
    silent = {events.LedgerChanged, events.ImageStarted, events.ImageProgressed, events.ImageStopped}
    assert told | silent <= set(get_args(events.Event))
    assert sentence(events.LedgerChanged(registry="r", ledger={})) == ""


def test_only_the_first_heartbeat_is_news() -> None:
    beat = events.HeartbeatSent(at=NOW, link="l")
    _, text = tell(beat, beat, beat)
    assert text.count("heartbeat") == 1


def test_nothing_is_printed_for_machines() -> None:
    assert tell(swept(), scanned(), told=False)[1] == ""


def test_it_is_over_when_everything_was_scanned_and_delivered() -> None:
    story, _ = tell(swept(queued=1))
    assert not story.over
    assert "1 images still to scan" in story.trouble
    story.handle(scanned())
    story.handle(events.LedgerChanged(registry="r", ledger={"listed": 2, "scanned": 2, "queued": 0}))
    assert not story.over
    assert "1 results still to deliver" in story.trouble
    story.handle(delivered())
    assert (story.over, story.succeeded, story.trouble) == (True, True, "")


@pytest.mark.parametrize(
    "happened",
    [
        (swept(), failed()),
        (swept(), scanned(), refused()),
        (swept(error="denied"), scanned(), delivered()),
        (swept(), link("refused"), scanned(), delivered()),
        (swept(),),
    ],
)
def test_it_may_be_over_without_success(happened: tuple[events.Event, ...]) -> None:
    story, _ = tell(*happened)
    assert story.over
    assert not story.succeeded
    assert story.trouble
