import json
from dataclasses import dataclass, field

import pytest
import structlog

from sensor.control_plane import wire
from sensor.errors import NetworkError, SecretError
from sensor.report.artifacts import NOWHERE, ArtifactStore
from sensor.report.document import envelope
from tests.report.results import SENSOR, finding, result

ID = "cmb2job000001x1y2z3a4b5c6"


@dataclass
class Bucket:
    """A bucket in memory that may fail."""

    objects: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    error: NetworkError | SecretError | None = None
    asked: int = 0
    now: float = 0.0

    async def put(self, key: str, body: bytes, content_type: str) -> None:
        self.asked += 1
        if self.error is not None:
            raise self.error
        self.objects[key] = (body, content_type)

    def store(self) -> ArtifactStore:
        return ArtifactStore(self, lambda link: link == "cp", clock=lambda: self.now)


async def test_report_and_sbom_are_there_before_an_envelope_names_them() -> None:
    bucket = Bucket()
    kept = await bucket.store().keep("cp", ID, result(finding()))
    assert kept is not None
    assert sorted(bucket.objects) == [f"scans/{ID}/raw/harborguard-sensor.json", f"scans/{ID}/sbom.cdx.json"]
    report = json.loads(bucket.objects[f"scans/{ID}/raw/harborguard-sensor.json"][0])
    assert report["match"]["findings"][0]["vulnerability"] == "CVE-2025-0001"
    assert json.loads(bucket.objects[f"scans/{ID}/sbom.cdx.json"][0])["bomFormat"] == "CycloneDX"
    sent = json.loads(envelope(result(finding()), scan_id=ID, sensor=SENSOR, kept=kept).body)
    assert sent["artifacts"] == {
        "s3Prefix": f"scans/{ID}/",
        "rawResults": {"harborguard-sensor": f"scans/{ID}/raw/harborguard-sensor.json"},
        "sbom": f"scans/{ID}/sbom.cdx.json",
    }
    assert sent["scan"]["status"] == "SUCCESS"


async def test_a_bucket_that_fails_is_a_gap_and_left_alone_for_a_while() -> None:
    bucket = Bucket(error=NetworkError("s3:PutObject: no answer"))
    store = bucket.store()
    with structlog.testing.capture_logs() as lines:
        first = await store.keep("cp", ID, result())
        bucket.now = 299.0
        second = await store.keep("cp", "other", result())
        assert bucket.asked == 1
        bucket.error, bucket.now = None, 300.0
        third = await store.keep("cp", "third", result())
    assert first is not None
    assert first == second
    assert third is not None
    assert third.artifacts is not None
    assert [line["event"] for line in lines] == ["artifacts not kept", "artifacts kept again"]
    sent = json.loads(envelope(result(), scan_id=ID, sensor=SENSOR, kept=first).body)
    assert "artifacts" not in sent
    assert sent["scan"]["status"] == "PARTIAL"
    assert sent["gaps"] == [
        {"kind": "artifacts", "subject": "s3", "reason": "raw report and SBOM are not kept: s3:PutObject: no answer"}
    ]


@pytest.mark.parametrize("scan_id", ["", "a/b", "..", ".", "a b", "-x", "x" * 129, "ä", "a\n"])
async def test_a_prefix_belongs_to_one_scan_alone(scan_id: str) -> None:
    bucket = Bucket()
    kept = await bucket.store().keep("cp", scan_id, result())
    assert kept is not None
    assert (kept.artifacts, bucket.asked) == (None, 0)
    assert "no name of a folder" in kept.trouble


async def test_other_links_have_nothing_to_do_with_it() -> None:
    bucket = Bucket()
    assert await bucket.store().keep("other", ID, result()) is None
    assert await NOWHERE.keep("cp", ID, result()) is None
    assert bucket.asked == 0


async def test_an_envelope_under_another_id_does_not_name_the_former_ones_files() -> None:
    kept = await Bucket().store().keep("cp", ID, result(finding()))
    body = envelope(result(finding()), scan_id=ID, sensor=SENSOR, kept=kept).body
    assert wire.read_envelope(wire.with_scan_id(body, ID)).artifacts == kept.artifacts  # type: ignore[union-attr]
    other = wire.read_envelope(wire.with_scan_id(body, "new"))
    assert (other.scan.id, other.scan.status, other.artifacts) == ("new", "PARTIAL", None)
    assert f"scans/{ID}/" in other.gaps[-1].reason
