"""The main job against a real registry: Debian's docker-registry, filled by skopeo, watched by the real daemon, which reports to the fake
control plane. Images of real Debian packages, with an apk database, and with an rpm database.
"""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sensor.advisories.database import database_path
from sensor.advisories.update import demo_advisories, import_sources
from sensor.model.digest import Digest
from tests.fakes.control_plane import KEY, FakeControlPlane
from tests.fakes.docker_registry import DockerRegistry, free_port
from tests.fakes.real_images import alpine_image, debian_image, python_layer, rpm_image, write_layout
from tests.fakes.sensor_process import SensorProcess

pytestmark = [pytest.mark.real_registry, pytest.mark.real_debian]


@dataclass(frozen=True, slots=True)
class Images:
    layout: Path
    digests: dict[str, Digest]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    room = tmp_path_factory.mktemp("images")
    debian = debian_image(room)
    named = {
        "debian": debian,
        "alpine": alpine_image(),
        "alma": rpm_image(room),
        "app": [debian[0], python_layer("urllib3", "1.26.4")],
    }
    return Images(room / "layout", write_layout(room / "layout", named))


@pytest.fixture
def registry(tmp_path: Path, images: Images) -> Iterator[DockerRegistry]:
    with DockerRegistry(tmp_path / "registry", auth="htpasswd", tls=True) as running:
        running.push(images.layout, "debian", "team/debian", "12")
        running.push(images.layout, "alpine", "team/alpine", "3.18")
        running.push(images.layout, "alma", "team/alma", "9")
        running.push(images.layout, "alma", "scratch/alma", "9")
        yield running


def configured(room: Path, registry: DockerRegistry, plane: FakeControlPlane) -> tuple[Path, str]:
    """A configuration as a user writes it, and the address of the health endpoint."""
    state = room / "state"
    state.mkdir(mode=0o700)
    import_sources([demo_advisories()], database_path(state))
    (room / "password").write_text(registry.password)
    (room / "key").write_text(KEY)
    health = f"127.0.0.1:{free_port()}"
    path = room / "my.yaml"
    path.write_text(
        f"""
control_plane: {{url: {plane.url}, api_key: {{file: {room}/key}}, name: e2e}}
registries:
  - name: prod
    url: https://{registry.host}
    username: {registry.username}
    password: {{file: {room}/password}}
    ca_file: {registry.ca_file}
    schedule: {{every: 5s}}
    repositories: {{include: ["team/**"]}}
state: {{directory: {state}}}
health: {{listen: "{health}"}}
"""
    )
    return path, f"http://{health}"


def status(health: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{health}/status", timeout=10) as answer:
        return dict(json.load(answer))


async def test_the_main_job(tmp_path: Path, registry: DockerRegistry, images: Images) -> None:
    async with FakeControlPlane() as plane:
        path, health = configured(tmp_path, registry, plane)
        async with SensorProcess(path) as sensor:
            for repository in ("team/debian:12", "team/alpine:3.18", "team/alma:9"):
                await sensor.line("result delivered", reference=f"{registry.host}/{repository}")

            # what arrived: digests as the registry has them, real findings, nothing of what the filters drop
            assert {image.digest for image in plane.images.values()} == {
                images.digests["debian"], images.digests["alpine"], images.digests["alma"],
            }  # fmt: skip
            envelopes = {json.loads(body)["image"]["ref"].partition("/")[2]: json.loads(body) for body in plane.uploads}
            assert "scratch/alma:9" not in envelopes
            found = {
                (row["packageName"], row["cveId"]) for row in envelopes["team/debian:12"]["findings"]["vulnerabilities"]
            }
            assert ("Jinja2", "CVE-2024-22195") in found
            names = {row["name"] for row in envelopes["team/alma:9"]["findings"]["packages"]}
            assert names == {"openssl-libs", "bash"}
            assert envelopes["team/alpine:3.18"]["scan"]["status"] == "PARTIAL"  # the extract holds nothing for Alpine
            assert {row["name"] for row in envelopes["team/alpine:3.18"]["findings"]["packages"]} == {"musl", "libssl3"}

            # an unchanged registry costs only look-ups: a catalogue page, a tag list and a HEAD each
            sweeps = len([line for line in sensor.lines if line["event"] == "sweep finished"])
            unchanged = await sensor.line("sweep finished", nth=sweeps + 1)
            assert unchanged["requests"] == 1 + 3 + 3
            read_before = status(health)["layers"]

            # a moved tag with a known digest costs no layer; a new tag is scanned at the next look, and shares what is known
            registry.push(images.layout, "alpine", "team/debian", "12")
            registry.push(images.layout, "app", "team/app", "1.0")
            scanned = await sensor.line("image scanned", reference=f"{registry.host}/team/app:1.0")
            assert (scanned["layers_cached"], scanned["layers_fetched"]) == (1, 1)
            await sensor.line("result delivered", reference=f"{registry.host}/team/app:1.0")
            after = status(health)
            assert after["layers"]["fetched"] == read_before["fetched"] + 1
            assert after["registries"][0]["ledger"]["scanned"] == 4
            ledger = after["registries"][0]["ledger"]
            assert ledger["listed"] == sum(count for name, count in ledger.items() if name != "listed")
            assert after["ready"] is True

            sensor.signal(signal.SIGTERM)
            assert await sensor.ended() == 0
        assert plane.agents[KEY].id
        assert [path for _, path in plane.requests].count("/api/agent/heartbeat") >= 1


async def test_kill_9_and_a_restart_lose_nothing_and_scan_nothing_twice(
    tmp_path: Path, registry: DockerRegistry
) -> None:
    async with FakeControlPlane() as plane:
        path, _ = configured(tmp_path, registry, plane)
        async with SensorProcess(path) as sensor:
            await sensor.line("image scanned")
            sensor.signal(signal.SIGKILL)
            assert await sensor.ended() == -signal.SIGKILL
        async with SensorProcess(path) as sensor:
            delivered: set[str] = {json.loads(body)["image"]["ref"] for body in plane.uploads}
            wanted = {f"{registry.host}/{name}" for name in ("team/debian:12", "team/alpine:3.18", "team/alma:9")}
            for reference in sorted(wanted - delivered):
                await sensor.line("result delivered", reference=reference)
            refetched = [line for line in sensor.lines if line["event"] == "image scanned"]
            assert len(refetched) <= 3
            sensor.signal(signal.SIGTERM)
            assert await sensor.ended() == 0
        assert {json.loads(body)["image"]["ref"] for body in plane.uploads} == wanted


async def test_a_job_of_the_control_plane_is_served_and_answered(
    tmp_path: Path, registry: DockerRegistry, images: Images
) -> None:
    async with FakeControlPlane() as plane:
        path, _ = configured(tmp_path, registry, plane)
        path.write_text(path.read_text().replace("schedule: {every: 5s}", "schedule: manual"))
        good = plane.add_job(f"{registry.host}/team/alma:9", scanners=["trivy", "dockle"])
        bad = plane.add_job("team/alma:9")
        async with SensorProcess(path) as sensor:
            await sensor.line("job finished", job=good.id, status="completed")
            await sensor.line("job finished", job=bad.id, status="failed")
            await sensor.line("result delivered", scan_id=good.id)
            await sensor.line("result delivered", scan_id=bad.id)
            sensor.signal(signal.SIGTERM)
            assert await sensor.ended() == 0
        assert (good.status, bad.status) == ("COMPLETED", "FAILED")
        assert "default_registry" in (bad.error or "")
        answer = next(json.loads(body) for body in plane.uploads if json.loads(body)["scan"]["id"] == good.id)
        assert answer["image"]["digest"] == images.digests["alma"]
        assert answer["scan"]["status"] == "PARTIAL"
