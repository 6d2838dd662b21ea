import logging
import typing
from datetime import UTC, datetime

import pytest
import structlog

from sensor import events
from sensor.daemon.journal import _LINES, log_event

NOW = datetime(2026, 5, 1, tzinfo=UTC)


def test_every_event_has_a_line_of_its_own() -> None:
    assert set(_LINES) == set(typing.get_args(events.Event))
    texts = [text for _, text in _LINES.values()]
    assert len(set(texts)) == len(texts)


def logged(event: events.Event) -> typing.MutableMapping[str, typing.Any]:
    with structlog.testing.capture_logs() as lines:
        log_event(event)
    (line,) = lines
    return line


def test_fields_are_kept_and_empty_ones_left_out() -> None:
    line = logged(events.JobClaimed(at=NOW, link="cp", job="j1", type="SCAN", reference=""))
    assert line == {"event": "job claimed", "log_level": "info", "link": "cp", "job": "j1", "type": "SCAN"}


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (events.LinkChanged(at=NOW, link="cp", state="registered"), "info"),
        (events.LinkChanged(at=NOW, link="cp", state="down", error="no route"), "warning"),
        (events.JobFinished(at=NOW, link="cp", job="j", status="failed", error="no"), "warning"),
        (events.HeartbeatSent(at=NOW, link="cp"), "debug"),
        (
            events.ImageFailed(at=NOW, registry="r", reference="a", digest="d", error="no", advice="", next_try=None),
            "error",
        ),
    ],
)
def test_an_event_with_an_error_is_at_least_a_warning(event: events.Event, level: str) -> None:
    assert logged(event)["log_level"] == level


def test_numbers_that_are_zero_are_no_empty_fields() -> None:
    line = logged(events.ImagesRematched(at=NOW, images=0, changed=0, seconds=0.0))
    assert (line["images"], line["changed"]) == (0, 0)


def test_levels_are_those_of_logging() -> None:
    assert {level for level, _ in _LINES.values()} <= {logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR}
