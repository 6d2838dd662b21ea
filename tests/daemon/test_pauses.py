"""Pausing and resuming by hand is seen by the running daemon."""

from __future__ import annotations

from pathlib import Path

from sensor import events
from sensor.config.schema import Config
from sensor.daemon.app import build_app
from sensor.daemon.pauses import follow_pauses
from sensor.model.digest import sha256_digest
from sensor.model.request import Lane, ScanRequest
from sensor.work.intake import set_paused
from sensor.work.lanes import ALL_LANES


async def test_a_resumed_registry_starts_at_once_and_status_shows_both(tmp_path: Path) -> None:
    config = Config.model_validate(
        {"registries": [{"name": "prod", "url": "a.example"}], "state": {"directory": str(tmp_path)}}
    )
    told: list[events.Event] = []
    async with build_app(config, listeners=(told.append,)) as app:
        work = ScanRequest(registry="prod", repository="team/app", tag="v1", digest=sha256_digest(b"1"))
        await app.queue.put(work, Lane.NEW)
        set_paused(tmp_path, "prod", paused=True)
        await follow_pauses(app)
        await follow_pauses(app)
        (registry,) = app.board.snapshot(app.clock()).registries
        assert "resume prod" in registry.held
        item = await app.queue.take("w", ALL_LANES)
        assert item is not None
        await app.pipeline.scan(work, item)
        assert await app.queue.take("w", ALL_LANES) is None
        set_paused(tmp_path, "prod", paused=False)
        await follow_pauses(app)
        (registry,) = app.board.snapshot(app.clock()).registries
        assert registry.held == ""
        assert await app.queue.take("w", ALL_LANES) is not None
