import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensor.control_plane import wire
from sensor.errors import DataError
from sensor.limits import Limits
from sensor.model.finding import Severity
from sensor.model.package import Gap, LayerSummary
from sensor.report.document import FailedScan, envelope, failed_envelope, has_rows, risk_score, without_rows
from tests.fakes import envelope_rules as rules
from tests.report.results import DIGEST, LAYER, SENSOR, finding, installed, result

ID = "8c1f6a36-0000-4000-8000-000000000001"


def written(*args: Any, **more: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(envelope(*args, **{"scan_id": ID, "sensor": SENSOR, **more}).body)
    return document


def check(body: bytes) -> rules.Scan:
    """Put an envelope through the server's rules; raises Crash where the server would fail."""
    document = json.loads(body)
    rules.require_whole_text(document)
    for name in ("name", "tag", "digest"):
        rules.text(document["image"].get(name), required=name != "digest", indexed="")
    rules.text(document["image"].get("platform"))
    rules.big_integer(document["image"].get("sizeBytes"))
    rules.moment(document["scan"], "startedAt")
    rules.moment(document["scan"], "finishedAt")
    assert document["scan"]["status"] in {"SUCCESS", "PARTIAL", "FAILED"}
    scan = rules.Scan(id="s", request_id=document["scan"]["id"], risk_score=rules.risk_score(document))
    rules.ingest(scan, document)
    return scan


def test_a_result_becomes_the_documented_envelope() -> None:
    assert written(result(finding())) == {
        "version": "1.0",
        "sensor": {
            "version": "0.1.0",
            "scannerVersions": {"harborguard-sensor": "0.1.0", "advisories": "db-7"},
            "id": "agent",
            "name": "rack-7",
        },
        "image": {
            "ref": "registry.example.net/acme/app:1.4",
            "name": "acme/app",
            "tag": "1.4",
            "digest": DIGEST,
            "platform": "linux/amd64",
            "sizeBytes": 70_000_000,
        },
        "scan": {
            "id": ID,
            "startedAt": "2026-05-22T18:04:20.000Z",
            "finishedAt": "2026-05-22T18:04:58.250Z",
            "status": "SUCCESS",
        },
        "findings": {
            "vulnerabilities": [
                {
                    "source": "harborguard-sensor",
                    "cveId": "CVE-2025-0001",
                    "packageName": "libexample",
                    "severity": "HIGH",
                    "installedVersion": "1.2.3",
                    "fixedVersion": "1.2.4",
                    "cvssScore": 7.5,
                    "title": "example overflow",
                    "description": "An example.",
                    "vulnerabilityUrl": "https://example.com/CVE-2025-0001",
                }
            ],
            "packages": [
                {
                    "source": "harborguard-sensor",
                    "name": "libexample",
                    "version": "1.2.3",
                    "type": "deb",
                    "purl": "pkg:deb/debian/libexample@1.2.3",
                    "license": "MIT",
                }
            ],
            "compliance": [],
            "efficiency": [],
        },
        "aggregates": {
            "vulnerabilityCounts": {"critical": 0, "high": 1, "medium": 0, "low": 0, "info": 0},
            "riskScore": 48,
            "totalPackages": 1,
        },
        "layers": [
            {
                "index": 0,
                "command": "",
                "sizeBytes": 90_000_000,
                "fileCount": 12,
                "topFiles": [],
                "digest": LAYER,
            }
        ],
    }


@pytest.mark.parametrize(
    ("reference", "name", "tag"),
    [
        ("registry.example.net:5000/acme/app:1.4", "acme/app", "1.4"),
        ("docker.io/library/nginx:1.27", "library/nginx", "1.27"),
        ("registry.example.net/acme/app", "acme/app", "latest"),
        (f"registry.example.net/acme/app@{DIGEST}", "acme/app", DIGEST),
        (f"registry.example.net/acme/app:2@{DIGEST}", "acme/app", "2"),
        ("Not A Reference", "Not A Reference", "latest"),
    ],
)
def test_the_name_is_the_whole_path_without_the_host(reference: str, name: str, tag: str) -> None:
    image = written(result(reference=reference))["image"]
    assert (image["ref"], image["name"], image["tag"]) == (reference, name, tag)


def test_gaps_and_notes_make_it_partial() -> None:
    gap = Gap(kind="unreadable", subject="var/lib/rpm", reason="damaged")
    document = written(result(gaps=(gap,)), notes=["dockle was asked for; this sensor does not replace it"])
    assert document["scan"]["status"] == "PARTIAL"
    assert [entry["kind"] for entry in document["gaps"]] == ["unreadable", "not-run"]
    assert "gaps" not in written(result())


def test_gaps_are_bounded() -> None:
    gaps = tuple(Gap(kind="k", subject=f"{number}", reason="x" * 5000) for number in range(1500))
    listed = written(result(gaps=gaps))["gaps"]
    assert len(listed) == 1001
    assert listed[-1]["reason"] == "500 more are not listed"
    assert all(len(gap["reason"].encode()) <= 1000 for gap in listed)


def test_one_row_for_each_vulnerability_package_and_version() -> None:
    document = written(
        result(
            finding(path="a", severity=Severity.LOW, score=2.0),
            finding(path="b", severity=Severity.CRITICAL, score=9.0, title="worst"),
            finding(path="c", severity=Severity.CRITICAL, score=9.1, title="later"),
            finding(package_version="2.0"),
            packages=(installed(), installed(path="elsewhere"), installed(version="2.0")),
        )
    )
    rows = document["findings"]["vulnerabilities"]
    assert [(row["severity"], row["installedVersion"], row["title"]) for row in rows] == [
        ("CRITICAL", "1.2.3", "worst"),
        ("HIGH", "2.0", "example overflow"),
    ]
    counts = document["aggregates"]["vulnerabilityCounts"]
    assert (counts["critical"], counts["high"], counts["low"]) == (1, 1, 0)
    assert document["aggregates"]["totalPackages"] == len(document["findings"]["packages"]) == 2


@pytest.mark.parametrize(
    ("counts", "scores", "expected"),
    [
        (wire.Counts(), [], 0),
        (wire.Counts(high=1), [7.5], 48),
        (wire.Counts(info=50), [], 0),
        (wire.Counts(low=1), [0.3], 3),
        (wire.Counts(medium=1), [0.1], 4),
        (wire.Counts(low=2), [0.5, 0.5], 5),
        (wire.Counts(critical=4), [], 100),
        (wire.Counts(critical=400), [10.0], 100),
    ],
)
def test_the_risk_score_rounds_half_up(counts: wire.Counts, scores: list[float], expected: int) -> None:
    assert risk_score(counts, scores) == expected


@pytest.mark.parametrize("score", [None, float("nan"), float("inf")])
def test_a_score_that_is_none_is_not_sent(score: float | None) -> None:
    document = written(result(finding(score=score)))
    assert "cvssScore" not in document["findings"]["vulnerabilities"][0]
    assert document["aggregates"]["riskScore"] == 10


def test_indexed_text_is_short_and_stays_distinct() -> None:
    names = ["é" * 4000 + end for end in ("a", "b")]
    found = [finding("C" * 5000 + end, name) for end in "xy" for name in names]
    body = envelope(result(*found, packages=tuple(installed(name) for name in names)), scan_id=ID, sensor=SENSOR).body
    scan = check(body)
    ids = {row["cveId"] for row in scan.rows["vulnerabilities"]}
    packages = {row["packageName"] for row in scan.rows["vulnerabilities"]}
    assert len(ids) == len(packages) == len({row["name"] for row in scan.rows["packages"]}) == 2
    assert max(len(name.encode()) for name in packages) <= Limits().indexed_text_bytes


@pytest.mark.parametrize("field", ["started_at", "finished_at"])
def test_a_time_that_is_none_is_refused(field: str) -> None:
    with pytest.raises(DataError, match="not a time"):
        written(result(**{field: "soon"}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-05-22T20:04:20+02:00", "2026-05-22T18:04:20.000Z"),
        ("2026-05-22T18:04:20", "2026-05-22T18:04:20.000Z"),
        ("2026-05-22T18:04:20.1239Z", "2026-05-22T18:04:20.123Z"),
    ],
)
def test_times_are_utc(text: str, expected: str) -> None:
    assert written(result(started_at=text))["scan"]["startedAt"] == expected


def many(count: int, **more: Any) -> list[Any]:
    return [finding(f"CVE-2025-{number:05}", **more) for number in range(count)]


def test_a_large_result_loses_descriptions_first() -> None:
    image = result(*many(300, description="d" * 20_000, title="t" * 100))
    document = envelope(image, scan_id=ID, sensor=SENSOR, limits=Limits(envelope_bytes=2_000_000))
    assert len(document.body) <= 2_000_000
    assert document.shortened == ("descriptions of findings are cut to 4000 bytes",)
    parsed = json.loads(document.body)
    assert parsed["scan"]["status"] == "PARTIAL"
    assert parsed["gaps"][-1] == {"kind": "shortened", "subject": "envelope", "reason": document.shortened[0]}
    assert parsed["aggregates"]["vulnerabilityCounts"]["high"] == 300
    check(document.body)


def test_then_titles_then_packages() -> None:
    packages = tuple(installed(f"package-{number}") for number in range(3000))
    image = result(*many(300, description="d" * 2000, title="t" * 1000), packages=packages)
    document = envelope(image, scan_id=ID, sensor=SENSOR, limits=Limits(envelope_bytes=200_000))
    assert 190_000 < len(document.body) <= 200_000
    assert document.shortened[:2] == ("no descriptions", "no titles")
    parsed = json.loads(document.body)
    kept = len(parsed["findings"]["packages"])
    assert document.shortened[2] == f"{3000 - kept} of 3000 packages are left out"
    assert 0 < kept < 3000
    assert parsed["aggregates"]["totalPackages"] == kept
    assert len(parsed["findings"]["vulnerabilities"]) == 300
    check(document.body)


def test_last_the_least_severe_findings() -> None:
    image = result(
        *many(1000, severity=Severity.LOW, name="low"), *many(50, severity=Severity.CRITICAL, name="critical")
    )
    document = envelope(image, scan_id=ID, sensor=SENSOR, limits=Limits(envelope_bytes=60_000))
    assert len(document.body) <= 60_000
    parsed = json.loads(document.body)
    counts = parsed["aggregates"]["vulnerabilityCounts"]
    assert counts["critical"] == 50
    assert 0 < counts["low"] < 1000
    assert sum(counts.values()) == len(parsed["findings"]["vulnerabilities"])
    assert document.shortened[-1].endswith("findings are left out, the least severe first")
    check(document.body)


def test_layer_commands_are_bounded() -> None:
    image = result()
    layers = (LayerSummary(digest=LAYER, compressed_bytes=5, command="RUN " + "x" * 100_000 + "\0"),)
    inventory = msgspec.structs.replace(image.inventory, layers=layers)
    document = written(msgspec.structs.replace(image, inventory=inventory))
    assert len(document["layers"][0]["command"].encode()) <= 4096
    assert document["layers"][0]["sizeBytes"] == 5


ANY_TEXT = st.text(alphabet=st.characters(), max_size=15) | st.text(alphabet='\0\ud800\udc00\u2028"\\é', max_size=10)


@given(data=st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_text_the_server_takes_the_envelope(data: st.DataObject) -> None:
    def text(most: int = 1) -> str:
        return data.draw(ANY_TEXT) * data.draw(st.sampled_from([1, 1, most]))

    names = ("package_version", "fixed_version", "title", "description", "url")
    found = [
        finding(text(400), text(400), severity=data.draw(st.sampled_from(Severity)), **{name: text() for name in names})
        for _ in range(data.draw(st.integers(0, 3)))
    ]
    package = installed(text(400), text(), license=text(), path=text())
    gap = Gap(kind=text(), subject=text(), reason=text())
    image = result(*found, packages=(package,), reference=text(400), gaps=(gap,))
    limits = Limits(envelope_bytes=data.draw(st.sampled_from([3_000, 20_000, 10_000_000])))
    document = envelope(image, scan_id=ID, sensor=SENSOR, notes=[text()], limits=limits)
    scan = check(document.body)
    assert scan.counts is not None
    assert sum(scan.counts.values()) == len(scan.rows["vulnerabilities"])
    assert 0 <= (scan.risk_score or 0) <= 100
    assert wire.encode(wire.read_envelope(document.body)) == document.body
    for other in (wire.with_scan_id(document.body, "x"), without_rows(document.body, text())):
        check(other)


FAILED = FailedScan(
    reference="registry.example.net/acme/app:1.4",
    error="pull failed: 401\0",
    started_at="2026-05-22T18:04:20Z",
    finished_at="2026-05-22T18:04:21Z",
)


def test_a_failed_scan_has_an_envelope_too() -> None:
    body = failed_envelope(FAILED, scan_id="job", sensor=SENSOR).body
    document = json.loads(body)
    assert document["scan"]["status"] == "FAILED"
    assert document["image"] == {"ref": FAILED.reference, "name": "acme/app", "tag": "1.4"}
    assert document["gaps"] == [{"kind": "failed", "subject": FAILED.reference, "reason": "pull failed: 401"}]
    assert check(body).counts == {"critical": 0, "high": 0, "medium": 0, "low": 0, "info": 0}
    assert not has_rows(body)
    assert json.loads(without_rows(body, "why"))["scan"]["status"] == "FAILED"


def test_an_envelope_without_rows_keeps_its_counts() -> None:
    body = envelope(result(finding()), scan_id=ID, sensor=SENSOR).body
    assert has_rows(body)
    reduced = without_rows(body, "the answer was lost")
    assert not has_rows(reduced)
    document = json.loads(reduced)
    assert document["scan"]["status"] == "PARTIAL"
    assert document["aggregates"] == json.loads(body)["aggregates"]
    assert document["gaps"] == [{"kind": "upload", "subject": "envelope", "reason": "the answer was lost"}]
