import asyncio
from typing import Any

import pytest

from tests.console.conftest import Caller, Connected, envelope

DIGEST = "sha256:" + "a" * 64


async def claim(admin: Caller, connected: Connected) -> str:
    await admin.post("/api/jobs", {"reference": "acme/app:1", "registryId": connected.id})
    (job,) = await connected.sensor.poll()
    return str(job["id"])


async def total(admin: Caller, path: str, **query: str) -> int:
    return int((await admin.get(path, **query))["total"])


async def test_the_whole_conversation(admin: Caller, connected: Connected) -> None:
    assert (await connected.sensor.post("/api/agent/register", {"capabilities": ["scan"]}))[0] == 200
    assert await connected.sensor.post("/api/agent/heartbeat", {"status": "idle"}) == (200, {"ok": True})
    job = await claim(admin, connected)
    status, stored = await connected.sensor.post("/api/scans/upload", envelope(job))
    assert status == 200
    assert stored["success"] is True
    assert await connected.sensor.post(f"/api/agent/jobs/{job}/status", {"status": "completed"}) == (200, {"ok": True})
    (image,) = (await admin.get("/api/images"))["images"]
    assert image["digest"] == DIGEST
    assert image["scan"]["id"] == job
    found = await admin.get("/api/findings")
    assert [row["cveId"] for row in found["findings"]] == ["CVE-2026-1", "CVE-2026-2"]


async def test_a_repeated_upload_replaces_and_never_duplicates(admin: Caller, connected: Connected) -> None:
    job = await claim(admin, connected)
    answers = [await connected.sensor.post("/api/scans/upload", envelope(job)) for _ in range(3)]
    assert [status for status, _ in answers] == [200, 200, 200]
    assert len({(body["scanId"], body["imageId"]) for _, body in answers}) == 1
    assert await total(admin, "/api/findings") == 2
    changed = envelope(job)
    changed["findings"]["vulnerabilities"] = changed["findings"]["vulnerabilities"][:1]
    await connected.sensor.post("/api/scans/upload", changed)
    assert await total(admin, "/api/findings") == 1
    assert await total(admin, "/api/images") == 1


async def test_uploads_at_once_store_one(admin: Caller, connected: Connected) -> None:
    answers = await asyncio.gather(*(connected.sensor.post("/api/scans/upload", envelope("cli-1")) for _ in range(8)))
    assert sorted(status for status, _ in answers) == [200] * 7 + [201]
    assert await total(admin, "/api/findings") == 2


async def test_a_new_scan_of_the_same_image_takes_its_place(admin: Caller, connected: Connected) -> None:
    await connected.sensor.post("/api/scans/upload", envelope("one"))
    newer = envelope("two")
    newer["scan"] |= {
        "startedAt": "2026-05-02T00:00:00Z",
        "finishedAt": "2026-05-02T00:00:01+02:00",
        "status": "PARTIAL",
    }
    newer["findings"]["vulnerabilities"].pop()
    newer["gaps"] = [{"kind": "limit", "subject": "a", "reason": "b"}]
    assert (await connected.sensor.post("/api/scans/upload", newer))[0] == 201
    shown = await admin.get(f"/api/images/{DIGEST}")
    assert (shown["scan"]["id"], shown["scan"]["status"]) == ("two", "PARTIAL")
    assert [row["cveId"] for row in shown["vulnerabilities"]] == ["CVE-2026-2"]
    assert shown["gaps"] == newer["gaps"]
    assert shown["packages"] == [{"source": "harborguard-sensor", "name": "a", "version": "1"}]
    assert await total(admin, "/api/findings") == 1
    await connected.sensor.post("/api/scans/upload", envelope("one"))  # an old one arrives again
    assert (await admin.get(f"/api/images/{DIGEST}"))["scan"]["id"] == "two"


async def test_a_scan_that_moves_to_another_digest_leaves_no_empty_image(admin: Caller, connected: Connected) -> None:
    failed = envelope("one")
    del failed["image"]["digest"]
    failed["scan"]["status"] = "FAILED"
    await connected.sensor.post("/api/scans/upload", failed)
    (image,) = (await admin.get("/api/images"))["images"]
    assert image["digest"] == "sensor:one"
    await connected.sensor.post("/api/scans/upload", envelope("one"))
    assert [row["digest"] for row in (await admin.get("/api/images"))["images"]] == [DIGEST]


async def test_a_key_cannot_write_over_anothers_scan(admin: Caller, connected: Connected, other: Connected) -> None:
    job = await claim(admin, connected)
    for scan in (job, "cli-1"):
        assert (await connected.sensor.post("/api/scans/upload", envelope(scan)))[0] in {200, 201}
        status, body = await other.sensor.post("/api/scans/upload", envelope(scan, findings={}))
        assert (status, body["field"]) == (403, "scan.id")
    assert await total(admin, "/api/findings") == 2


async def test_a_job_that_nobody_claimed_is_not_answered(admin: Caller, connected: Connected) -> None:
    _, job = await admin.post("/api/jobs", {"reference": "acme/app:1", "registryId": connected.id})
    assert (await connected.sensor.post("/api/scans/upload", envelope(job["id"])))[0] == 403


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["CVE-2026-1", "CVE-2026-1", "CVE-2026-2", "CVE-2026-2"]),
        ({"severity": "critical"}, ["CVE-2026-1", "CVE-2026-1"]),
        ({"severity": "critical,LOW", "image": DIGEST}, ["CVE-2026-1", "CVE-2026-2"]),
        ({"image": "acme/app"}, ["CVE-2026-1", "CVE-2026-1", "CVE-2026-2", "CVE-2026-2"]),
        ({"image": "acme/app:1", "cve": "cve-2026-2"}, ["CVE-2026-2", "CVE-2026-2"]),
        ({"image": "registry.example.net:5000/acme/app:1", "severity": "HIGH"}, []),
        ({"cve": "' OR 1=1 --"}, []),
        ({"image": "acme%"}, []),
        ({"limit": "1", "offset": "1"}, ["CVE-2026-1"]),
        ({"limit": "0"}, []),
    ],
)
async def test_findings_by_severity_image_and_cve(
    admin: Caller, connected: Connected, query: dict[str, str], found: list[str]
) -> None:
    await connected.sensor.post("/api/scans/upload", envelope("one"))
    await connected.sensor.post("/api/scans/upload", envelope("two", "b"))
    body = await admin.get("/api/findings", **query)
    assert [row["cveId"] for row in body["findings"]] == found
    if not {"limit", "offset"} & set(query):
        assert body["total"] == len(found)


async def test_images_in_pages(admin: Caller, connected: Connected) -> None:
    for digit in "abc":
        await connected.sensor.post("/api/scans/upload", envelope(digit, digit))
    page = await admin.get("/api/images", limit="2", offset="1")
    assert [row["digest"][-1] for row in page["images"]] == ["b", "c"]
    assert page["total"] == 3


async def test_bad_queries_are_400(admin: Caller) -> None:
    queries = {
        "/api/findings?severity=worst": "severity",
        "/api/findings?limit=-1": "limit",
        "/api/images?limit=5001": "limit",
        "/api/images?offset=x": "offset",
        "/api/jobs?limit=٣": "limit",
    }
    answers = {path: await admin.send("GET", path) for path in queries}
    assert {path: (status, body.get("field")) for path, (status, body) in answers.items()} == {
        path: (400, field) for path, field in queries.items()
    }


async def test_unknown_images_are_404(admin: Caller) -> None:
    assert (await admin.send("GET", f"/api/images/{DIGEST}"))[0] == 404


async def test_severities_in_other_words_are_info(admin: Caller, connected: Connected) -> None:
    body = envelope("one")
    body["findings"]["vulnerabilities"] = [
        {"source": "x", "cveId": f"C-{word}", "packageName": "p", "severity": word}
        for word in ("NEGLIGIBLE", "", "High")
    ]
    await connected.sensor.post("/api/scans/upload", body)
    rows = (await admin.get("/api/findings"))["findings"]
    assert {row["cveId"]: row["severity"] for row in rows} == {"C-High": "HIGH", "C-NEGLIGIBLE": "INFO", "C-": "INFO"}


def broken(path: str, value: Any) -> dict[str, Any]:
    body: Any = envelope("one")
    body["findings"]["efficiency"] = [
        {"source": "dive", "findingType": "large_layer", "severity": "INFO", "sizeBytes": 1}
    ]
    body["layers"] = [
        {"index": 0, "command": "RUN", "sizeBytes": 1, "fileCount": 1, "topFiles": [{"path": "a", "size": 5}]}
    ]
    *parents, last = path.replace("[0]", ".0").split(".")
    here = body
    for part in parents:
        here = here[int(part)] if part == "0" else here[part]
    if value is ...:
        del here[last]
    else:
        here[last] = value
    return dict(body)


BROKEN: list[tuple[str, Any]] = [
    ("version", "2.0"),
    ("version", 1.0),
    ("version", ...),
    ("sensor", ...),
    ("sensor", []),
    ("aggregates", ...),
    ("findings", ...),
    ("findings", []),
    ("scan.id", ...),
    ("scan.id", 5),
    ("scan.id", ""),
    ("scan.id", "x" * 300),
    ("scan.finishedAt", ...),
    ("scan.finishedAt", "yesterday"),
    ("scan.finishedAt", 5),
    ("scan.startedAt", ""),
    ("scan.startedAt", "9999-99-99T00:00:00Z"),
    ("scan.status", "CANCELLED"),
    ("scan.status", None),
    ("image.digest", "acme/app@sha256:" + "a" * 64),
    ("image.digest", "sha256:short"),
    ("image.sizeBytes", "5"),
    ("image.sizeBytes", 1.5),
    ("image.sizeBytes", -1),
    ("image.sizeBytes", 2**63),
    ("image.sizeBytes", 10**400),
    ("aggregates.riskScore", 47.5),
    ("aggregates.riskScore", -1),
    ("aggregates.vulnerabilityCounts", []),
    ("aggregates.vulnerabilityCounts.critical", "1"),
    ("aggregates.vulnerabilityCounts.low", 2**80),
    ("findings.vulnerabilities", {}),
    ("findings.vulnerabilities[0].cveId", ...),
    ("findings.vulnerabilities[0].severity", 5),
    ("findings.vulnerabilities[0].cvssScore", "9"),
    ("findings.vulnerabilities[0].cvssScore", 11),
    ("findings.packages[0].license", ["MIT"]),
    ("findings.efficiency[0].sizeBytes", 2**70),
    ("layers[0].fileCount", -5),
    ("layers[0].sizeBytes", 2**64),
]


async def test_a_bad_envelope_is_400_and_names_the_field(admin: Caller, connected: Connected) -> None:
    for path, value in BROKEN:
        status, body = await connected.sensor.post("/api/scans/upload", broken(path, value))
        assert (status, body.get("field")) == (400, path), (path, value, body)
        assert body["error"].startswith(f"{path}: ")
    assert await total(admin, "/api/images") == 0


async def test_null_counts_as_absent(connected: Connected) -> None:
    optional = [
        "image.digest",
        "image.platform",
        "image.sizeBytes",
        "findings.packages",
        "findings.efficiency",
        "layers",
    ]
    for path in [*optional, "findings.vulnerabilities[0].severity"]:
        status, body = await connected.sensor.post("/api/scans/upload", broken(path, None))
        assert (status < 300) is (path in optional), (path, body)


async def test_nul_characters_are_removed(admin: Caller, connected: Connected) -> None:
    body = envelope("one")
    body["findings"]["vulnerabilities"][0] |= {"cveId": "CVE-\0X", "description": "a\0b", "severity": "HI\0GH"}
    assert (await connected.sensor.post("/api/scans/upload", body))[0] == 201
    (row,) = (await admin.get("/api/findings", cve="CVE-X"))["findings"]
    assert (row["description"], row["severity"]) == ("ab", "HIGH")
    unnamed = envelope("\0")
    assert (await connected.sensor.post("/api/scans/upload", unnamed))[0] == 400


async def test_hostile_text_comes_back_as_data(admin: Caller, connected: Connected) -> None:
    text = "<script>alert(1)</script>'; DROP TABLE images; --\x1b[2J\u202e"
    body = envelope("one")
    body["image"] |= {"name": text, "tag": text}
    body["findings"]["vulnerabilities"][0] |= {"title": text}
    await connected.sensor.post("/api/scans/upload", body)
    shown = await admin.get(f"/api/images/{DIGEST}")
    assert shown["name"] == text
    assert {row.get("title") for row in shown["vulnerabilities"]} == {text, None}
