import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.console.auth import Role, digest_key, mint_key, presented_key
from sensor.console.server import Console, open_store
from sensor.console.views import routes
from sensor.secret import Secret
from tests.console.conftest import Caller, Connected

ROUTES = [(route.method, route.path.format(job="x", registry="x", digest="sha256:x")) for route in routes()]
OPEN = {"/api/health", "/api/ready"}
OF_SENSORS = {path for _, path in ROUTES if path.startswith("/api/agent/") or path == "/api/scans/upload"}


async def test_every_path_demands_a_key(admin: Caller) -> None:
    for method, path in [
        *ROUTES,
        ("GET", "/api/nope"),
        ("GET", "/"),
        ("POST", "/api/agent/nope"),
        ("GET", "/api/health/"),
    ]:
        async with admin.session.request(method, path) as answer:
            if path in OPEN:
                assert answer.status == 200
            else:
                assert answer.status == 401, path
                assert answer.headers["WWW-Authenticate"] == "Bearer"
                assert await answer.json() == {"error": "Missing Authorization header"}


async def test_each_key_opens_its_own_side_only(admin: Caller, connected: Connected) -> None:
    for method, path in ROUTES:
        if path not in OPEN:
            wrong = admin if path in OF_SENSORS else connected.sensor
            status, body = await wrong.send(method, path)
            assert status == 403, path
            assert body["error"].startswith("This needs the")


@pytest.mark.parametrize("key", ["hg_ak_" + "0" * 48, "hg_admin_" + "0" * 48, "x", "x" * 513, "\xe9", "' OR 1=1 --"])
async def test_unknown_keys(admin: Caller, key: str) -> None:
    status, body = await admin(key).send("GET", "/api/agents")
    assert status == 401
    assert body["error"] in {"Invalid API key", "Missing Authorization header"}


async def test_an_unauthorised_body_is_not_read(admin: Caller) -> None:
    status, _ = await admin("hg_ak_no").send(
        "POST", "/api/scans/upload", data=io.BytesIO(b"x" * 2_000_000), headers={"Connection": "close"}
    )
    assert status == 401


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"Authorization": "Bearer k"}, "k"),
        ({"X-API-Key": "k"}, "k"),
        ({"Authorization": "Bearer k", "X-API-Key": "other"}, "k"),
        ({"Authorization": "Basic k", "X-API-Key": "other"}, "other"),
        ({"Authorization": "bearer k"}, None),
        ({"Authorization": "Bearer "}, None),
        ({"Authorization": "k"}, None),
        ({}, None),
    ],
)
def test_where_the_key_stands(headers: dict[str, str], key: str | None) -> None:
    assert presented_key(headers) == (None if key is None else Secret(key))


def test_keys_are_long_random_and_tell_their_role() -> None:
    keys = {mint_key(Role.SENSOR).reveal() for _ in range(50)}
    assert len(keys) == 50
    assert all(key.startswith("hg_ak_") and len(key) == 54 for key in keys)
    assert mint_key(Role.ADMIN).reveal().startswith("hg_admin_")


@given(st.text(max_size=30))
def test_any_key_has_a_digest(text: str) -> None:
    assert len(digest_key(Secret(text))) == 64


async def test_no_key_is_stored(console: Console, connected: Connected) -> None:
    assert console.admin_key is not None
    files = b"".join(file.read_bytes() for file in Path(console.store.storage.path).parent.iterdir())
    assert connected.sensor.key.encode() not in files
    assert console.admin_key.reveal().encode() not in files
    assert digest_key(console.admin_key).encode() in files


async def test_the_admin_key_is_shown_once_and_can_be_replaced(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "c")
    first = await store.mint_admin_key()
    assert first is not None
    assert await store.mint_admin_key() is None
    second = await store.mint_admin_key(replace=True)
    assert second is not None
    assert await store.find_key(digest_key(first)) is None
    assert await store.find_key(digest_key(second)) == (Role.ADMIN, digest_key(second), "")
    await store.close()
    again = await open_store(tmp_path / "c")
    assert await again.mint_admin_key() is None
    await again.close()
