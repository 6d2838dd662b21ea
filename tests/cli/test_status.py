import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from sensor import events
from sensor.cli.status import ago
from sensor.health.server import serve_health
from sensor.status import StatusBoard
from tests.cli.conftest import Run, in_thread

NOW = datetime.now(UTC)


def busy_board() -> StatusBoard:
    board = StatusBoard()
    for event in (
        events.SensorStarted(at=NOW, version="1.2.3", registries=("prod",)),
        events.AdvisoriesChanged(at=NOW, revision="r", records=12, newest=NOW - timedelta(hours=3)),
        events.SweepFinished(
            at=NOW,
            registry="prod",
            complete=True,
            repositories=1,
            tags=2,
            ledger={"listed": 2, "scanned": 2},
            requests=4,
        ),
        events.LinkChanged(at=NOW, link="hg.example-1", state="registered"),
        events.ImageStarted(
            at=NOW, registry="prod", reference="prod/app:[bold]1", digest="d", layers=1, bytes_total=2048
        ),
        events.ImageFailed(
            at=NOW,
            registry="prod",
            reference="prod/bad:1",
            digest="e",
            error="broken \x1b[31m",
            advice="mend it",
            next_try=NOW,
        ),
    ):
        board.handle(event)
    return board


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Path]:
    """A health endpoint in another thread, and a configuration that points to it."""
    with in_thread(lambda: serve_health(busy_board(), lambda: datetime.now(UTC), "127.0.0.1:0")) as base:
        path = tmp_path / "c.yaml"
        path.write_text(f'health: {{listen: "{base.removeprefix("http://")}"}}\n')
        yield path


def test_the_running_sensor_is_shown_and_its_text_is_inert(run: Run, running: Path) -> None:
    shown = run("status", "-c", str(running))
    assert shown.status == 0
    text = shown.stdout
    assert "sensor 1.2.3" in text
    assert "12 records, newest 3 h ago" in text
    assert "prod/app:[bold]1: 0 B of 2.0 KiB" in text
    assert "hg.example-1" in text
    assert "\x1b" not in text
    assert "try: mend it" in text


def test_json_is_the_snapshot(run: Run, running: Path) -> None:
    assert run("status", "-c", str(running), "-o", "json").json()["version"] == "1.2.3"


def test_a_probe_says_nothing(run: Run, running: Path) -> None:
    shown = run("status", "-c", str(running), "--probe")
    assert (shown.status, shown.stdout) == (0, "")


def test_no_sensor_is_status_3_with_advice(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text('health: {listen: "127.0.0.1:1"}\n')
    shown = run("status", "-c", str(path))
    assert shown.status == 3
    assert "is it running" in shown.stderr


def test_an_endpoint_that_is_off_cannot_be_asked(run: Run, config: Path) -> None:
    assert run("status", "-c", str(config)).status == 2


def empty_board() -> StatusBoard:
    board = StatusBoard()
    board.handle(events.SensorStarted(at=NOW, version="1.2.3", registries=()))
    board.handle(
        events.ImageFailed(
            at=NOW, registry="prod", reference="prod/bad:1", digest="e", error="broken", advice="", next_try=None
        )
    )
    return board


def test_a_sensor_with_nothing_to_do_says_what_is_missing(run: Run, tmp_path: Path) -> None:
    with in_thread(lambda: serve_health(empty_board(), lambda: NOW + timedelta(days=3), "127.0.0.1:0")) as base:
        path = tmp_path / "c.yaml"
        path.write_text(f'health: {{listen: "{base.removeprefix("http://")}"}}\n')
        shown = run("status", "-c", str(path)).stdout
    assert "not ready" in shown
    assert "no advisory database" in shown
    assert "prod/bad:1: broken, not tried again" in shown


@pytest.mark.parametrize(
    ("answer", "words"),
    [(web.Response(status=404), "answered 404"), (web.Response(text="<html>"), "is not a sensor's status")],
)
def test_another_program_on_the_port_is_noticed(run: Run, tmp_path: Path, answer: web.Response, words: str) -> None:
    @contextlib.asynccontextmanager
    async def serve() -> AsyncIterator[int]:
        async def reply(_request: web.Request) -> web.Response:
            return answer

        application = web.Application()
        application.router.add_get("/{any:.*}", reply)
        async with TestServer(application) as server:
            assert server.port is not None
            yield server.port

    with in_thread(serve) as port:
        path = tmp_path / "c.yaml"
        path.write_text(f'health: {{listen: "127.0.0.1:{port}"}}\n')
        shown = run("status", "-c", str(path))
    assert shown.status == 3
    assert words in shown.stderr
    assert "another program may have the port" in shown.stderr


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "5 s ago"), (61, "1 min ago"), (7200, "2 h ago"), (200000, "2 d ago")]
)
def test_ages_are_in_words(seconds: int, words: str) -> None:
    assert ago(NOW + timedelta(seconds=seconds), NOW) == words


def test_what_is_held_what_waits_and_what_is_left_of_quotas_is_shown(run: Run, tmp_path: Path) -> None:
    board = busy_board()
    ledger = {"listed": 50, "queued": 48, "scanned": 2}
    board.handle(events.SweepFinished(
        at=NOW, registry="prod", complete=True, repositories=1, tags=50, ledger=ledger, requests=4,
    ))  # fmt: skip
    board.handle(events.ImageScanned(
        at=NOW, registry="prod", reference="r", digest="x", status="SUCCESS", packages=1, counts={}, gaps=(),
        layers_fetched=1, layers_cached=0, bytes_fetched=1, seconds=1.0,
    ))  # fmt: skip
    board.handle(
        events.IntakeChanged(
            at=NOW, registry="night", reason="outside of its windows", until=datetime.now(UTC) + timedelta(hours=1)
        )
    )
    board.handle(events.QuotaChanged(
        at=NOW, host="registry-1.docker.io", limit=100, remaining=42, window_seconds=21600, source="203.0.113.9",
    ))  # fmt: skip
    with in_thread(lambda: serve_health(board, lambda: datetime.now(UTC), "127.0.0.1:0")) as base:
        path = tmp_path / "c.yaml"
        path.write_text(f'health: {{listen: "{base.removeprefix("http://")}"}}\n')
        shown = run("status", "--config", str(path)).stdout
    flat = " ".join(shown.split())
    assert "prod: 48 images wait, 1 scanned in the last hour; done about" in flat
    assert "held night: outside of its windows, looked at again" in flat
    assert "quota of registry-1.docker.io for 203.0.113.9: 42 of 100 left" in flat


def test_what_a_registry_holds_back_is_shown_with_its_reason(run: Run, tmp_path: Path) -> None:
    board = busy_board()
    for tag in ("1", "2"):
        board.handle(
            events.TagSkipped(
                at=NOW,
                registry="prod",
                repository="app",
                tag=tag,
                rule="withheld by the registry: archived",
                withheld=True,
            )
        )
    with in_thread(lambda: serve_health(board, lambda: datetime.now(UTC), "127.0.0.1:0")) as base:
        path = tmp_path / "c.yaml"
        path.write_text(f'health: {{listen: "{base.removeprefix("http://")}"}}\n')
        shown = run("status", "--config", str(path)).stdout
    assert "skipped prod: 2 tags withheld by the registry: archived" in " ".join(shown.split())
