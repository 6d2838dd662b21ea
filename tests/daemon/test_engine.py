from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from sensor.config.schema import Config, LimitSettings, Outbox
from sensor.daemon.engine import build_engine, limits_of
from sensor.events import Event
from sensor.limits import DEFAULT_LIMITS


def test_what_the_operator_moved_holds_and_the_rest_stays() -> None:
    limits = limits_of(LimitSettings(layer_bytes=2 * DEFAULT_LIMITS.layer_bytes))
    assert limits.layer_bytes == 2 * DEFAULT_LIMITS.layer_bytes
    assert limits.manifest_bytes == DEFAULT_LIMITS.manifest_bytes
    assert (limits.outbox_bytes, limits.outbox_seconds) == (DEFAULT_LIMITS.outbox_bytes, DEFAULT_LIMITS.outbox_seconds)
    bounded = limits_of(LimitSettings(), Outbox(size=2**25, age="2d"))
    assert (bounded.outbox_bytes, bounded.outbox_seconds) == (2**25, 2 * 86_400)


async def test_a_one_shot_command_shares_the_state_with_a_running_daemon(tmp_path: Path) -> None:
    events: list[Event] = []
    async with (
        build_engine(Config(), tmp_path, events.append) as daemon,
        build_engine(Config(), tmp_path, events.append, shared=True) as command,
    ):
        assert daemon.storage.path == command.storage.path
        assert command.judge.layers.concurrency == Config().concurrency.layers
        assert (await command.judge.layers.store.totals())["layers"] == 0
    assert events == []


def test_scanning_one_image_does_not_load_the_daemon() -> None:
    # each of these costs tens of milliseconds at every start of the command
    unwanted = [
        "apscheduler",
        "jinja2",
        "keyring",
        "prometheus_client",
        "aiohttp.web",
        "alembic",
        "boto3",
        "botocore",
        "google.auth",
        "azure",
        "requests",
        "cryptography",
    ]
    unwanted += ["sensor.pipeline", "sensor.report.outbox", "sensor.console", "sensor.advisories.update"]
    script = (
        f"import json, sys, sensor.cli.scan; print(json.dumps([name for name in {unwanted} if name in sys.modules]))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=60)
    assert json.loads(ran.stdout) == []
