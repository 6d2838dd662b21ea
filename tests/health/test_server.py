from datetime import UTC, datetime

import pytest
from aiohttp import ClientSession

from sensor import events
from sensor.errors import StateError
from sensor.health.server import serve_health
from sensor.status import StatusBoard

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def clock() -> datetime:
    return NOW


async def test_liveness_readiness_status_and_metrics() -> None:
    board = StatusBoard()
    async with serve_health(board, clock, "127.0.0.1:0") as base, ClientSession() as client:
        async with client.get(f"{base}/healthz") as answer:
            assert (answer.status, await answer.json()) == (200, {"ok": True})
        async with client.get(f"{base}/readyz") as answer:
            assert answer.status == 503
            assert "advisory database" in " ".join((await answer.json())["problems"])
        board.handle(events.SensorStarted(at=NOW, version="1", registries=()))
        board.handle(events.AdvisoriesChanged(at=NOW, revision="r", records=1, newest=NOW))
        async with client.get(f"{base}/readyz") as answer:
            assert (answer.status, (await answer.json())["ready"]) == (200, True)
        async with client.get(f"{base}/status") as answer:
            assert (await answer.json())["version"] == "1"
        async with client.get(f"{base}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert "harborguard_sensor_ready 1.0" in await answer.text()
        async with client.post(f"{base}/status") as answer:
            assert answer.status == 405


async def test_off_listens_nowhere() -> None:
    async with serve_health(StatusBoard(), clock, "off") as base:
        assert base == ""


async def test_a_taken_port_is_an_error_with_advice() -> None:
    async with serve_health(StatusBoard(), clock, "127.0.0.1:0") as base:
        taken = base.rpartition(":")[2]
        with pytest.raises(StateError, match=r"health\.listen"):
            async with serve_health(StatusBoard(), clock, f"127.0.0.1:{taken}"):
                pass
