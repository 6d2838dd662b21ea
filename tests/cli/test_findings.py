from datetime import UTC, datetime

import msgspec

from sensor.cli.findings import (
    Scanned,
    envelope_text,
    failure_text,
    findings_table,
    full_text,
    no_findings,
    show_summary,
)
from sensor.cli.output import as_text
from sensor.errors import NetworkError
from sensor.inventory.image import InventoriedImage
from sensor.judge import Judged
from sensor.model.digest import Digest
from sensor.model.finding import Finding, ImageResult, MatchResult, Severity
from sensor.model.package import Gap, ImageInventory, InstalledPackage, Package

DIGEST = Digest("sha256:" + "1" * 64)
EVIL = "[bold red]evil[/]\x1b[2J\n:skull:"
NOW = datetime(2026, 11, 24, tzinfo=UTC)


def result(*, gaps: int = 0, findings: int = 1, name: str = EVIL) -> ImageResult:
    package = Package(type="pypi", name=name, version="1\x07", path="x/METADATA")
    found = Finding(
        vulnerability="CVE-2024-1",
        advisory="PYSEC-1",
        package_name=name,
        package_version="1\x07",
        purl="pkg:pypi/evil@1",
        path="x/METADATA",
        layer=DIGEST,
        severity=Severity.HIGH,
        description=f"{EVIL} and a long story " + "y" * 400,
    )
    return ImageResult(
        reference="reg.example/team/app:1",
        digest=DIGEST,
        inventory=ImageInventory(
            manifest=DIGEST,
            platform="linux/amd64",
            packages=(InstalledPackage(package=package, layer=DIGEST, purl="pkg:pypi/evil@1"),),
            gaps=tuple(Gap(kind="unreadable", subject=f"{EVIL}{n}", reason=EVIL) for n in range(gaps)),
        ),
        match=MatchResult(revision="r", findings=(found,) * findings),
        started_at="2026-11-24T00:00:00Z",
        finished_at="2026-11-24T00:00:01Z",
    )


def scanned(of: ImageResult) -> Scanned:
    image = InventoriedImage(subject=DIGEST, inventory=of.inventory, layers_fetched=1, bytes_fetched=2048)
    return Scanned(judged=Judged(image=image, result=of), seconds=0.5, notes=("dive was asked for",))


def test_text_of_an_image_is_inert_and_stays_in_its_line() -> None:
    rows = as_text(findings_table(result())).splitlines()
    assert len(rows) == 2
    assert r"[bold red]evil[/]\x1b[2J\x0a:skull:" in rows[1]
    assert rows[1].startswith("HIGH")
    assert all(row.isprintable() for row in rows)


def test_a_table_is_not_folded_however_long_a_name_is() -> None:
    rows = as_text(findings_table(result(name="n" * 3000))).splitlines()
    assert len(rows) == 2
    assert "n" * 3000 in rows[1]


def test_a_narrow_terminal_shows_no_titles_for_the_sake_of_the_identifiers() -> None:
    assert "title" in as_text(findings_table(result(), width=120))
    narrow = as_text(findings_table(result(), width=80))
    assert "title" not in narrow
    assert "CVE-2024-1" in narrow


def test_an_empty_table_is_a_sentence_that_promises_nothing() -> None:
    assert no_findings(result(findings=0)) == "no findings"
    assert "not everything was judged" in no_findings(result(findings=0, gaps=1))


def test_the_summary_lists_some_gaps_and_counts_the_rest(capsys) -> None:
    show_summary(scanned(result(gaps=23)))
    shown = capsys.readouterr().err
    assert "PARTIAL" in shown
    assert shown.count("not judged:") == 20
    assert "3 more gaps" in shown
    assert "1 layers read (2.0 KiB)" in shown
    assert "\x1b[2J" not in shown


def test_a_complete_result_is_a_success(capsys) -> None:
    show_summary(scanned(result()))
    assert "linux/amd64: SUCCESS" in capsys.readouterr().err


def test_the_full_document_is_the_envelope_and_more() -> None:
    sent = msgspec.json.decode(envelope_text(scanned(result(gaps=1))))
    full = msgspec.json.decode(full_text(scanned(result(gaps=1))))
    assert sent["scan"]["status"] == full["scan"]["status"] == "PARTIAL"
    assert full["findings"] == sent["findings"]
    assert full["packages"][0]["path"] == "x/METADATA"
    assert full["vulnerabilities"][0]["advisory"] == "PYSEC-1"
    assert full["gaps"][0]["subject"].endswith("0")
    assert full["work"]["bytes_fetched"] == 2048


def test_a_failure_is_an_envelope_too() -> None:
    error = NetworkError("down", "look at the cable")
    full = msgspec.json.decode(failure_text("reg.example/a:1", error, NOW, NOW, full=True))
    assert (full["scan"]["status"], full["error"], full["advice"]) == ("FAILED", "down", "look at the cable")
    assert full["findings"]["vulnerabilities"] == []
    bare = msgspec.json.decode(failure_text("reg.example/a:1", error, NOW, NOW, full=False))
    assert "error" not in bare
    assert bare["image"]["tag"] == "1"
