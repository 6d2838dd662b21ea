"""The real command as a process, against a registry and a control plane on loopback: what survives kill -9, and how it ends."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.fakes.control_plane import KEY, FakeControlPlane, Fault
from tests.fakes.images import ImageStore
from tests.fakes.pipeline import python_layer
from tests.fakes.registry import Behaviour, FakeRegistry
from tests.fakes.sensor_process import SensorProcess


@pytest.fixture
def images(tmp_path: Path) -> ImageStore:
    store = ImageStore(tmp_path / "images")
    for number in (1, 2, 3):
        store.image("team/app", f"v{number}", [python_layer("jinja2", f"2.{number}")])
    return store


def configured(room: Path, registry: FakeRegistry, plane: FakeControlPlane, more: str = "") -> Path:
    (room / "state").mkdir(mode=0o700, exist_ok=True)
    (room / "key").write_text(KEY)
    (room / "key").chmod(0o600)
    path = room / "sensor.yaml"
    path.write_text(
        f"""
control_plane: {{url: {plane.url}, api_key: {{file: {room}/key}}, heartbeat: 5s}}
registries:
  - {{name: prod, url: "{registry.url}", insecure: true}}
{more}
state: {{directory: {room}/state}}
health: {{listen: "off"}}
logging: {{format: json}}
"""
    )
    return path


async def test_kill_9_in_the_middle_of_a_scan_loses_nothing(tmp_path: Path, images: ImageStore) -> None:
    async with FakeControlPlane() as plane, FakeRegistry(images.root, Behaviour(hang="blob")) as registry:
        job = plane.add_job(f"{registry.url.partition('://')[2]}/team/app:v1")
        path = configured(tmp_path, registry, plane)
        async with SensorProcess(path) as sensor:
            await sensor.line("job claimed")
            await sensor.line("image started", nth=2)
            sensor.signal(signal.SIGKILL)
            assert await sensor.ended() == -signal.SIGKILL
        assert not plane.uploads
        registry.behaviour.hang = None
        async with SensorProcess(path) as sensor:
            await sensor.line("result delivered", nth=4)
            await sensor.line("job finished", status="completed")
            sensor.signal(signal.SIGTERM)
            assert await sensor.ended() == 0
        assert job.status == "COMPLETED"
        assert len(plane.standalone) == 3
        digests = [json.loads(body)["image"]["digest"] for body in plane.uploads]
        assert len(digests) == 4
        assert len(set(digests)) == 3


async def test_results_survive_a_stop_while_the_control_plane_is_away(tmp_path: Path, images: ImageStore) -> None:
    async with FakeControlPlane() as plane, FakeRegistry(images.root) as registry:
        path = configured(tmp_path, registry, plane)
        plane.fail("ready", Fault(status=503, times=1_000_000))
        async with SensorProcess(path) as sensor:
            await sensor.line("image scanned", nth=3)
            await sensor.line("link changed", state="down")
            sensor.signal(signal.SIGTERM)
            assert await sensor.ended() == 0
            assert sensor.lines[-1]["event"] == "stopped"
        assert not plane.scans
        plane._faults.clear()
        registry.seen.clear()
        async with SensorProcess(path) as sensor:
            await sensor.line("result delivered", nth=3)
            sensor.signal(signal.SIGINT)
            assert await sensor.ended() == 0
        assert len(plane.scans) == 3
        assert not [seen for seen in registry.seen if seen.kind in {"blob", "manifest"}]


async def test_sighup_takes_a_good_configuration_and_refuses_a_bad_one(tmp_path: Path, images: ImageStore) -> None:
    async with FakeControlPlane() as plane, FakeRegistry(images.root) as registry:
        path = configured(tmp_path, registry, plane)
        async with SensorProcess(path) as sensor:
            await sensor.line("result delivered", nth=3)
            (tmp_path / "sensor.yaml").write_text("registries: [")
            sensor.signal(signal.SIGHUP)
            kept = await sensor.line("configuration kept")
            assert kept["error"]
            configured(tmp_path, registry, plane, "  - {name: spare, url: spare.invalid, schedule: manual}")
            sensor.signal(signal.SIGHUP)
            taken = await sensor.line("configuration reloaded")
            assert taken["changes"] == ["registry spare: added"]
            sensor.signal(signal.SIGTERM)
            assert await sensor.ended() == 0
            assert not sensor.other
