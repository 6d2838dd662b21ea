"""The fake is only worth something if it answers as the real server did: all recorded exchanges are replayed against it."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.control_plane import KEY, MOST_BODY, FakeControlPlane, Fault

EXCHANGES = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "fixtures/control_plane/exchanges.jsonl").read_text("utf-8").splitlines()
]
VOLATILE = {"id", "agentId", "scanId", "imageId", "apiKey", "timestamp", "uptime", "responseTime", "version", "details"}
JOB = "cid000000000000000000000"


def shape(value: Any) -> Any:
    """What must be equal: everything but ids, keys and clocks, of which only the type must."""
    if isinstance(value, dict):
        return {k: type(v).__name__ if k in VOLATILE else shape(v) for k, v in value.items()}
    return [shape(entry) for entry in value] if isinstance(value, list) else value


def prepare(plane: FakeControlPlane, number: int) -> None:
    """What happened between the recorded requests and is not in the record."""
    if number == 49:
        plane.add_job("acme/app:1", job=JOB + "1")
        plane.claim(JOB + "1")
    elif number == 51:
        plane.add_job("acme/app:1", job=JOB + "2")
    elif number == 55:
        plane.claim(JOB + "2")
    elif number in {60, 61}:
        plane.add_job("acme/app:1", job=JOB + ("3" if number == 60 else "7"))


async def replay(session: aiohttp.ClientSession, url: str, exchange: dict[str, Any]) -> None:
    request, expected = exchange["request"], exchange["response"]
    headers = dict(request["headers"])
    if request["key"]:
        wrong = expected.get("json") == {"error": "Invalid API key"}
        headers["Authorization"] = f"Bearer {'hg_ak_wrong' if wrong else KEY}"
    data = json.dumps(request["json"]).encode() if "json" in request else request.get("raw", "").encode()
    async with session.request(
        request["method"],
        url + request["path"],
        headers=headers,
        data=data or None,
        allow_redirects=False,
        skip_auto_headers=["Content-Type"],
    ) as answer:
        body = await answer.read()
        assert answer.status == expected["status"]
        assert answer.headers.get("Content-Type") == expected["contentType"]
        if "json" in expected:
            assert shape(json.loads(body)) == shape(expected["json"])
        else:
            assert body.decode()[:15] == expected["body"][:15]


async def test_every_recorded_exchange_is_answered_as_recorded() -> None:
    assert len(EXCHANGES) == 70
    async with FakeControlPlane() as plane, aiohttp.ClientSession() as session:
        for number, exchange in enumerate(EXCHANGES):
            prepare(plane, number)
            try:
                await replay(session, plane.url, exchange)
            except AssertionError as error:
                raise AssertionError(f"exchange {number}: {json.dumps(exchange)[:300]}: {error}") from error
        assert plane.jobs[JOB + "2"].status == "FAILED"


async def call(
    plane: FakeControlPlane, method: str, path: str, document: object = None, **headers: str
) -> tuple[int, bytes]:
    data = (
        document if isinstance(document, bytes) else (json.dumps(document).encode() if document is not None else None)
    )
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method,
            plane.url + path,
            data=io.BytesIO(data) if data else None,
            headers={"Authorization": f"Bearer {KEY}", **headers},
            allow_redirects=False,
        ) as answer,
    ):
        return answer.status, await answer.read()


ENVELOPE: dict[str, Any] = EXCHANGES[62]["request"]["json"]


def changed(path: str, value: object) -> dict[str, Any]:
    """The recorded envelope with one thing changed, or removed (`...`)."""
    document: dict[str, Any] = json.loads(json.dumps(ENVELOPE))
    *parents, last = path.split(".")
    target: Any = document
    for part in parents:
        target = target[int(part)] if part.isdigit() else target[part]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return document


ROW = "findings.vulnerabilities.0"


@pytest.mark.parametrize(
    ("path", "value", "status"),
    [
        ("scan.id", ..., 400),
        ("scan.id", 5, 500),
        ("version", "1.1", 400),
        ("version", 1.0, 400),
        ("findings", {}, 201),
        ("findings", None, 400),
        ("sensor", ..., 500),
        ("aggregates", ..., 500),
        ("aggregates.vulnerabilityCounts", ..., 500),
        ("aggregates.vulnerabilityCounts.high", ..., 201),
        ("aggregates.vulnerabilityCounts.high", None, 500),
        ("aggregates.vulnerabilityCounts.high", "1", 500),
        ("aggregates.vulnerabilityCounts.high", 1.9, 201),
        ("aggregates.vulnerabilityCounts.high", 2147483647, 201),
        ("aggregates.vulnerabilityCounts.high", 2147483648, 500),
        ("aggregates.riskScore", "48", 500),
        ("aggregates.riskScore", ..., 201),
        ("aggregates.complianceGrade", 5, 500),
        ("aggregates.complianceScore", 83.3, 201),
        ("artifacts.s3Prefix", 5, 500),
        ("image.sizeBytes", 1.5, 500),
        ("image.sizeBytes", "123", 201),
        ("image.sizeBytes", "abc", 500),
        ("image.digest", 5, 500),
        ("image.platform", 5, 500),
        ("image.name", "x" * 2700, 500),
        ("scan.startedAt", ..., 500),
        ("scan.finishedAt", ..., 500),
        ("scan.finishedAt", "soon", 500),
        ("scan.finishedAt", None, 201),
        ("scan.status", "failed", 500),
        ("scan.status", "CANCELLED", 201),
        ("scan.status", ..., 201),
        (f"{ROW}.source", ..., 500),
        (f"{ROW}.severity", "UNKNOWN", 201),
        (f"{ROW}.severity", 5, 500),
        (f"{ROW}.cvssScore", "7.5", 500),
        (f"{ROW}.title", "a\0b", 500),
        (f"{ROW}.title", "\ud800", 500),
        (f"{ROW}.title", "\ud83d\ude00", 201),
        (f"{ROW}.cveId", "x" * 2694, 201),
        (f"{ROW}.cveId", "x" * 2695, 500),
        (f"{ROW}.description", "x" * 100_000, 201),
        ("findings.vulnerabilities", None, 201),
        ("findings.packages.0.license", ["MIT"], 500),
        ("findings.packages.0.type", "", 201),
        ("findings.compliance.0.ruleName", ..., 500),
        ("findings.efficiency.0.sizeBytes", 0.5, 500),
        ("findings.efficiency.0.sizeBytes", 0, 201),
    ],
)
async def test_the_envelope_rules_hold(path: str, value: object, status: int) -> None:
    async with FakeControlPlane() as plane:
        got, body = await call(plane, "POST", "/api/scans/upload", changed(path, value))
    assert got == status
    assert (body == b"") == (status == 500)


async def test_a_failing_list_keeps_what_came_before_it() -> None:
    async with FakeControlPlane() as plane:
        await call(plane, "POST", "/api/scans/upload", changed("findings.packages.0.name", ...))
        scan = plane.standalone[0]
    assert (scan.status, len(scan.rows["vulnerabilities"]), scan.rows["packages"]) == ("SUCCESS", 1, [])


async def test_bodies_are_cut_at_ten_mebibytes() -> None:
    async with FakeControlPlane() as plane:
        document = json.dumps(ENVELOPE).encode()
        fits = document + b" " * (MOST_BODY - len(document))
        assert (await call(plane, "POST", "/api/scans/upload", fits))[0] == 201
        large = json.dumps(changed("scan.id", "other") | {"pad": "x" * MOST_BODY}).encode()
        status, body = await call(plane, "POST", "/api/scans/upload", large)
    assert (status, json.loads(body)) == (500, {"error": "Error uploading scan data"})
    assert len(plane.standalone) == 1


async def test_polls_and_heads_claim_five_for_good() -> None:
    async with FakeControlPlane() as plane:
        for _ in range(12):
            plane.add_job("acme/app:1")
        _, first = await call(plane, "GET", "/api/agent/jobs")
        _, nothing = await call(plane, "HEAD", "/api/agent/jobs")
        _, last = await call(plane, "GET", "/api/agent/jobs")
    assert [len(json.loads(body)["jobs"]) for body in (first, last)] == [5, 2]
    assert nothing == b""
    assert all(job.status == "ASSIGNED" for job in plane.jobs.values())


async def test_patch_jobs_at_the_head_starve_the_scans() -> None:
    async with FakeControlPlane() as plane:
        for _ in range(5):
            plane.add_job(kind="PATCH", with_scan=False)
        plane.add_job("acme/app:1")
        _, body = await call(plane, "GET", "/api/agent/jobs")
    assert json.loads(body) == {"jobs": []}


async def test_a_second_upload_for_a_job_doubles_every_row() -> None:
    async with FakeControlPlane() as plane:
        job = plane.add_job("acme/app:1")
        for _ in range(2):
            assert (await call(plane, "POST", "/api/scans/upload", changed("scan.id", job.id)))[0] == 200
    assert job.scan is not None
    assert len(job.scan.rows["vulnerabilities"]) == 2
    assert job.status == "PENDING", "an upload never touches the job"


async def test_demo_mode_refuses_writing_but_still_hands_out_jobs() -> None:
    async with FakeControlPlane() as plane:
        plane.is_demo = True
        plane.add_job("acme/app:1")
        assert (await call(plane, "POST", "/api/agent/heartbeat", {}))[0] == 403
        status, body = await call(plane, "GET", "/api/agent/jobs")
    assert (status, len(json.loads(body)["jobs"])) == (200, 1)


async def test_an_upload_without_a_key_depends_on_the_address() -> None:
    async with FakeControlPlane() as plane:
        statuses = [
            (await call(plane, "POST", "/api/scans/upload", changed("scan.id", address), Authorization="", **{"X-Forwarded-For": address}))[0]
            for address in ("127.0.0.1", "10.1.2.3, 1.2.3.4", "172.18.0.1", "172.32.0.1", "192.168.1.1")
        ]  # fmt: skip
    assert statuses == [201, 201, 201, 403, 403]


async def test_faults_come_in_order_and_end() -> None:
    async with FakeControlPlane() as plane:
        plane.fail("heartbeat", Fault(status=502, times=2))
        plane.fail("heartbeat", Fault(close="before"))
        plane.fail("heartbeat", Fault(close="after"))
        path = "/api/agent/heartbeat"
        assert [(await call(plane, "POST", path, {}))[0] for _ in range(2)] == [502, 502]
        for beats in (0, 1):
            with pytest.raises(aiohttp.ClientError):
                await call(plane, "POST", path, {})
            assert plane.agents[KEY].heartbeats == beats
        assert (await call(plane, "POST", path, {}))[0] == 200


async def test_idle_connections_are_closed() -> None:
    async with FakeControlPlane(idle_seconds=0.05) as plane:
        host, _, port = plane.url.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /api/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = await reader.read()  # ends only when the server closes
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 200")
