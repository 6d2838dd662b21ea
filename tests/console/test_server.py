import socket
from pathlib import Path

import aiohttp
import pytest

from sensor.console.server import Console, run_console
from sensor.errors import StateError
from tests.console.conftest import Caller, Connected, envelope


async def test_health_and_readiness_need_no_key(console: Console) -> None:
    async with aiohttp.ClientSession(console.url) as session:
        for path, word in (("/api/health", "healthy"), ("/api/ready", "ready")):
            async with session.get(path) as answer:
                assert (answer.status, await answer.json()) == (200, {"status": word})
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Cache-Control"] == "no-store"
            async with session.head(path) as answer:
                assert answer.status == 200


async def test_a_wrong_method_is_405_in_json(admin: Caller) -> None:
    async with admin.session.delete("/api/jobs", headers={"Authorization": f"Bearer {admin.key}"}) as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET, HEAD, POST"
        assert (await answer.json())["error"]


async def test_a_lost_database_is_503(console: Console, admin: Caller, connected: Connected) -> None:
    database = console.store.storage.path
    await console.store.close()
    for file in database.parent.glob("console.db*"):
        file.write_bytes(b"not a database" * 1000)
    async with admin.session.get("/api/ready") as answer:
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "5"
        assert "console.db" in (await answer.json())["error"]
    assert (await connected.sensor.post("/api/scans/upload", envelope("one")))[0] == 503


async def test_what_is_stored_survives_a_restart(tmp_path: Path) -> None:
    async with run_console("127.0.0.1", 0, tmp_path) as first, aiohttp.ClientSession(first.url) as session:
        assert first.admin_key is not None
        admin = Caller(session, first.admin_key.reveal())
        _, made = await admin.post("/api/registries", {"url": "r.example.net"})
        await admin(made["sensorApiKey"]).post("/api/scans/upload", envelope("one"))
    async with run_console("127.0.0.1", 0, tmp_path) as second, aiohttp.ClientSession(second.url) as session:
        assert second.admin_key is None  # it was shown once
        assert (await Caller(session, admin.key).get("/api/images"))["total"] == 1


async def test_a_taken_port_is_told_and_uses_up_no_key(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StateError, match="cannot listen on") as caught:
            async with run_console("127.0.0.1", taken.getsockname()[1], tmp_path):
                pass
    assert "port" in caught.value.advice
    async with run_console("127.0.0.1", 0, tmp_path) as console:
        assert console.admin_key is not None


async def test_one_console_at_a_time_has_a_directory(tmp_path: Path) -> None:
    async with run_console("127.0.0.1", 0, tmp_path):
        with pytest.raises(StateError, match="another"):
            async with run_console("127.0.0.1", 0, tmp_path):
                pass


async def test_it_listens_on_ipv6(tmp_path: Path) -> None:
    async with (
        run_console("::1", 0, tmp_path) as console,
        aiohttp.ClientSession() as session,
        session.get(f"{console.url}/api/health") as answer,
    ):
        assert console.url.startswith("http://[::1]:")
        assert answer.status == 200


async def test_the_database_is_private(console: Console) -> None:
    assert console.store.storage.path.parent.stat().st_mode & 0o077 == 0
