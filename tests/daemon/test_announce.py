from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from structlog.contextvars import get_contextvars

from sensor import events
from sensor.daemon.announce import Announcer, forget_work, name_work
from sensor.model.digest import Digest
from sensor.model.request import JobRequest, RematchRequest, ScanRequest, SweepRequest

NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as found:
        yield found


@pytest.fixture
def announce() -> Announcer:
    return Announcer()


def swept(registry: str, error: str = "") -> events.SweepFinished:
    return events.SweepFinished(
        at=NOW, registry=registry, complete=not error, repositories=0, tags=0, ledger={}, requests=1, error=error
    )


def failed(digest: str, error: str) -> events.ImageFailed:
    return events.ImageFailed(at=NOW, registry="r", reference="a", digest=digest, error=error, advice="", next_try=None)


def scanned(digest: str) -> events.ImageScanned:
    return events.ImageScanned(
        at=NOW, registry="r", reference="a", digest=digest, status="SUCCESS", packages=0, counts={}, gaps=(),
        layers_fetched=0, layers_cached=0, bytes_fetched=0, seconds=0.0,
    )  # fmt: skip


def held(registry: str, reason: str = "") -> events.IntakeChanged:
    return events.IntakeChanged(at=NOW, registry=registry, reason=reason)


def said(lines: list[Any]) -> list[tuple[str, str]]:
    return [(line["event"], line["log_level"]) for line in lines]


def test_a_registry_that_fails_every_time_is_said_once_and_its_recovery_too(
    announce: Announcer, lines: list[Any]
) -> None:
    for event in (
        swept("a"),
        swept("a", "500 (request 7f3a9c21)"),
        swept("a", "500 (request 0b1c2d3e-aa)"),
        swept("b", "no route"),
        swept("a", "no route"),
        swept("a"),
        swept("a"),
    ):
        announce(event)
    assert said(lines) == [
        ("sweep finished", "info"),
        ("sweep finished", "warning"),
        ("sweep finished", "debug"),
        ("sweep finished", "warning"),
        ("sweep finished", "warning"),
        ("sweep finished", "info"),
        ("registry recovered", "info"),
        ("sweep finished", "info"),
    ]
    assert lines[6]["registry"] == "a"


def test_an_image_that_fails_every_time_is_said_once(announce: Announcer, lines: list[Any]) -> None:
    for event in (
        failed("d", "timeout after 30 s"),
        failed("d", "timeout after 31 s"),
        failed("e", "no"),
        scanned("d"),
    ):
        announce(event)
    announce(scanned("x"))
    assert said(lines) == [
        ("image failed", "error"),
        ("image failed", "debug"),
        ("image failed", "error"),
        ("image scanned", "info"),
        ("image recovered", "info"),
        ("image scanned", "info"),
    ]


def test_a_hold_is_said_once_and_not_for_each_image(announce: Announcer, lines: list[Any]) -> None:
    for event in (held("a", "paused"), held("a", "paused"), held("b", "paused"), held("a"), held("a", "paused")):
        announce(event)
    assert [level for _, level in said(lines)] == ["info", "debug", "info", "info", "info"]


def test_all_else_is_said_as_it_comes(announce: Announcer, lines: list[Any]) -> None:
    for _ in range(2):
        announce(events.LinkChanged(at=NOW, link="cp", state="down", error="no route"))
    assert said(lines) == [("link changed", "warning")] * 2


@pytest.mark.parametrize(
    ("work", "named"),
    [
        (
            ScanRequest(registry="r", repository="a", tag="1", digest=Digest("sha256:" + "ab" * 32)),
            {"image_id": "abababababab"},
        ),
        (JobRequest(link="cp", job="job-7", reference="a"), {"job_id": "job-7"}),
        (RematchRequest(revision="f" * 64), {"rematch_id": "f" * 12}),
    ],
)
def test_work_has_a_name_in_the_log_while_it_lasts(work: Any, named: dict[str, str]) -> None:
    name_work(SweepRequest(registry="r"))
    name_work(work)
    assert get_contextvars() == named
    forget_work()
    assert get_contextvars() == {}


def test_each_sweep_has_a_name_of_its_own() -> None:
    found = set()
    for _ in range(3):
        name_work(SweepRequest(registry="r"))
        found.add(get_contextvars()["sweep_id"])
    forget_work()
    assert len(found) == 3
