import msgspec
import pytest

from sensor.model.digest import Digest
from sensor.model.finding import SEVERITIES, Finding, ImageResult, MatchResult, ScanStatus, Severity
from sensor.model.package import Gap, ImageInventory

DIGEST = Digest("sha256:" + "0" * 64)
GAP = Gap(kind="limit", subject="a.tar", reason="too large")


def finding(severity: Severity) -> Finding:
    return Finding(
        vulnerability="CVE-2026-1",
        advisory="DSA-1",
        package_name="a",
        package_version="1",
        purl="pkg:deb/a@1",
        path="p",
        layer=DIGEST,
        severity=severity,
    )


def result(
    inventory_gaps: tuple[Gap, ...] = (), match_gaps: tuple[Gap, ...] = (), findings: tuple[Finding, ...] = ()
) -> ImageResult:
    return ImageResult(
        reference="r.example.net/a:1",
        digest=DIGEST,
        inventory=ImageInventory(manifest=DIGEST, platform="linux/amd64", gaps=inventory_gaps),
        match=MatchResult(revision="1", findings=findings, gaps=match_gaps),
        started_at="2026-05-01T00:00:00Z",
        finished_at="2026-05-01T00:00:01Z",
    )


def test_severities_are_ordered_most_severe_first() -> None:
    assert SEVERITIES == ("CRITICAL", "HIGH", "MEDIUM", "LOW", "INFO")


@pytest.mark.parametrize(
    ("inventory_gaps", "match_gaps", "status"),
    [((), (), ScanStatus.SUCCESS), ((GAP,), (), ScanStatus.PARTIAL), ((), (GAP,), ScanStatus.PARTIAL)],
)
def test_a_gap_anywhere_makes_a_result_partial(
    inventory_gaps: tuple[Gap, ...], match_gaps: tuple[Gap, ...], status: ScanStatus
) -> None:
    found = result(inventory_gaps, match_gaps)
    assert found.status is status
    assert found.gaps == inventory_gaps + match_gaps


def test_counts_name_every_severity() -> None:
    found = result(findings=(finding(Severity.HIGH), finding(Severity.HIGH), finding(Severity.INFO)))
    assert found.counts() == {"CRITICAL": 0, "HIGH": 2, "MEDIUM": 0, "LOW": 0, "INFO": 1}
    assert sum(result().counts().values()) == 0


def test_a_result_survives_json() -> None:
    found = result((GAP,), (), (finding(Severity.LOW),))
    assert msgspec.json.decode(msgspec.json.encode(found), type=ImageResult) == found
