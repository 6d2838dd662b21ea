import gzip
import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.console.store import ConsoleError
from sensor.console.views import parse_envelope, routes
from tests.console.conftest import Caller, Connected, envelope

POSTS = [route.path.format(job="x") for route in routes() if route.method == "POST"]

HOSTILE = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"5",
    b'"text"',
    b"\xff",
    b'{"a": "\xff"}',
    b'{"a": "\\ud800"}',
    b"[" * 100_000,
    b'{"a":' * 2_000 + b"1" + b"}" * 2_000,
    b'{"a":' * 800 + b"1" + b"}" * 800,
    b"\xef\xbb\xbf{}",
    b'{"name": 5, "url": 5, "reference": 5, "status": 5, "version": 5, "activeScans": "x"}',
    b'{"activeScans": -1, "hostname": [], "status": {}}',
    b'{"scannerVersions": {"a": 1}, "uptimeSeconds": 1e999, "status": []}',
]


@pytest.mark.parametrize("path", POSTS)
async def test_hostile_bodies_are_400(admin: Caller, connected: Connected, path: str) -> None:
    caller = connected.sensor if path.startswith(("/api/agent/", "/api/scans/")) else admin
    for body in HOSTILE:
        status, answer = await caller.send("POST", path, data=body)
        assert status == 400, body[:50]
        assert isinstance(answer["error"], str)


MEMBERS = st.sampled_from(list(envelope("x")))
JSON = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=5)),
    lambda inner: st.dictionaries(MEMBERS, inner),
    max_leaves=10,
)


@settings(deadline=None, max_examples=200)
@given(st.one_of(st.binary(max_size=80), JSON.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_are_an_envelope_or_refused(body: bytes) -> None:
    with pytest.raises(ConsoleError) as caught:
        parse_envelope(body)
    assert caught.value.status == 400


def test_unknown_members_are_ignored() -> None:
    assert parse_envelope(json.dumps(envelope("one", extra={"a": [None, {}]})).encode()).scan.id == "one"


def test_top_files_may_hold_numbers() -> None:
    layer = {
        "index": 0,
        "command": "RUN",
        "sizeBytes": 5,
        "fileCount": 1,
        "topFiles": [{"path": "a", "size": 5, "status": "added"}],
    }
    assert parse_envelope(json.dumps(envelope("one", layers=[layer])).encode()).layers[0].top_files == ()


async def test_a_body_of_ten_mebibytes_passes_and_one_byte_more_does_not(connected: Connected) -> None:
    body = json.dumps(envelope("one")).encode()
    limit = 10 * 1024 * 1024
    status, _ = await connected.sensor.send("POST", "/api/scans/upload", data=io.BytesIO(body.ljust(limit)))
    assert status == 201
    status, answer = await connected.sensor.send("POST", "/api/scans/upload", data=io.BytesIO(body.ljust(limit + 1)))
    assert status == 413
    assert answer["error"]


async def test_a_chunked_body_is_bounded_too(connected: Connected) -> None:
    async def chunks() -> Any:
        for _ in range(11):
            yield b" " * 1024 * 1024

    assert (await connected.sensor.send("POST", "/api/scans/upload", data=chunks()))[0] == 413


async def test_a_compressed_bomb_is_bounded(connected: Connected) -> None:
    bomb = gzip.compress(b" " * 64 * 1024 * 1024, 9)
    status, _ = await connected.sensor.send(
        "POST", "/api/scans/upload", data=bomb, headers={"Content-Encoding": "gzip"}
    )
    assert status == 413
    packed = gzip.compress(json.dumps(envelope("one")).encode())
    status, _ = await connected.sensor.send(
        "POST", "/api/scans/upload", data=packed, headers={"Content-Encoding": "gzip"}
    )
    assert status == 201


async def test_small_endpoints_take_small_bodies(connected: Connected) -> None:
    status, _ = await connected.sensor.send("POST", "/api/agent/heartbeat", data=b"{}".ljust(256 * 1024 + 1))
    assert status == 413


async def test_a_head_never_claims_a_job(admin: Caller, connected: Connected) -> None:
    await admin.post("/api/jobs", {"reference": "acme/app:1", "registryId": connected.id})
    async with admin.session.head(
        "/api/agent/jobs", headers={"Authorization": f"Bearer {connected.sensor.key}"}
    ) as answer:
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET"
    assert len(await connected.sensor.poll()) == 1


async def test_an_empty_heartbeat_is_enough(connected: Connected) -> None:
    assert await connected.sensor.post("/api/agent/heartbeat", {"agentId": "ignored", "status": "whatever"}) == (
        200,
        {"ok": True},
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"url": ""}, "url"),
        ({"url": "https://u:p@r.example.net"}, "url"),
        ({"url": "ftp://r.example.net"}, "url"),
        ({"url": "r.example.net?x=1"}, "url"),
        ({"url": "r.example.net:port"}, "url"),
        ({"url": "r.example.net", "scanMethod": "cloud"}, "scanMethod"),
        ({"url": "r.example.net", "provider": "NOBODY"}, "provider"),
        ({"url": "r.example.net", "name": "x" * 101}, "name"),
        ({"name": "x"}, "url"),
    ],
)
async def test_registries_that_cannot_be(admin: Caller, body: dict[str, Any], field: str) -> None:
    status, answer = await admin.post("/api/registries", body)
    assert (status, answer["field"]) == (400, field)
    assert (await admin.get("/api/registries"))["registries"] == []


async def test_the_key_of_a_registry_is_shown_once(admin: Caller) -> None:
    status, made = await admin.post("/api/registries", {"url": "r.example.net", "name": "Prod", "provider": "HARBOR"})
    assert status == 201
    assert made["sensorApiKey"].startswith("hg_ak_")
    assert (made["name"], made["provider"], made["scanMethod"]) == ("Prod", "HARBOR", "sensor")
    assert made["sensorApiKey"] not in json.dumps([await admin.get("/api/registries"), await admin.get("/api/agents")])


async def test_unknown_things_are_404_in_json(admin: Caller) -> None:
    for path in ("/api/nope", "/api/registries/nope/sensor-status", "/nope"):
        status, body = await admin.send("GET", path)
        assert status == 404
        assert body["error"]
