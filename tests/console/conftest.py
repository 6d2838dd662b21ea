"""A console on a free port, and a caller that speaks to it over the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sensor.console.server import Console, run_console


@dataclass
class Clock:
    """Time that passes only when told to."""

    at: datetime = field(default_factory=lambda: datetime(2026, 5, 1, 12, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.at

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@dataclass
class Caller:
    """Sends requests with one key and gives (status, JSON)."""

    session: aiohttp.ClientSession
    key: str

    async def send(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        async with self.session.request(method, path, headers=headers, **options) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str, **query: str) -> Any:
        status, body = await self.send("GET", path, params=query)
        assert status == 200, body
        return body

    async def post(self, path: str, body: object) -> tuple[int, Any]:
        return await self.send("POST", path, json=body)

    async def poll(self) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = (await self.get("/api/agent/jobs"))["jobs"]
        return jobs

    def __call__(self, key: str) -> Caller:
        """The same session with another key."""
        return Caller(self.session, key)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def console(tmp_path: Path, clock: Clock) -> AsyncIterator[Console]:
    async with run_console("127.0.0.1", 0, tmp_path / "console", clock) as running:
        yield running


@pytest.fixture
async def admin(console: Console) -> AsyncIterator[Caller]:
    assert console.admin_key is not None
    async with aiohttp.ClientSession(console.url) as session:
        yield Caller(session, console.admin_key.reveal())


@dataclass
class Connected:
    """A registry in sensor mode and the caller that holds its sensor's key."""

    id: str
    agent: str
    sensor: Caller


async def connect(admin: Caller, url: str) -> Connected:
    status, made = await admin.post("/api/registries", {"url": url})
    assert status == 201, made
    return Connected(made["id"], made["agentId"], admin(made["sensorApiKey"]))


@pytest.fixture
async def connected(admin: Caller) -> Connected:
    return await connect(admin, "registry.example.net:5000")


@pytest.fixture
async def other(admin: Caller) -> Connected:
    return await connect(admin, "https://other.example.net")


def envelope(scan: str, digit: str = "a", **changes: Any) -> dict[str, Any]:
    """An envelope 1.0 with two vulnerabilities and one package."""
    return {
        "version": "1.0",
        "sensor": {"version": "0.1.0", "scannerVersions": {"harborguard-sensor": "0.1.0"}},
        "image": {
            "ref": "registry.example.net:5000/acme/app:1",
            "name": "acme/app",
            "tag": "1",
            "digest": "sha256:" + digit * 64,
            "platform": "linux/amd64",
            "sizeBytes": 1000,
        },
        "scan": {
            "id": scan,
            "startedAt": "2026-05-01T12:00:00Z",
            "finishedAt": "2026-05-01T12:00:10Z",
            "status": "SUCCESS",
        },
        "findings": {
            "vulnerabilities": [
                {"source": "harborguard-sensor", "cveId": "CVE-2026-2", "packageName": "b", "severity": "low"},
                {
                    "source": "harborguard-sensor",
                    "cveId": "CVE-2026-1",
                    "packageName": "a",
                    "severity": "CRITICAL",
                    "cvssScore": 9.8,
                },
            ],
            "packages": [{"source": "harborguard-sensor", "name": "a", "version": "1"}],
            "compliance": [],
            "efficiency": [],
        },
        "aggregates": {
            "vulnerabilityCounts": {"critical": 1, "high": 0, "medium": 0, "low": 1, "info": 0},
            "riskScore": 26,
            "totalPackages": 1,
        },
        **changes,
    }
