import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensor.errors import DataError
from sensor.model.finding import Severity
from sensor.model.package import Gap
from sensor.report.cyclonedx import cyclonedx
from tests.report.results import DIGEST, LAYER, finding, installed, result

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


def document(*findings: Any, **more: Any) -> dict[str, Any]:
    body = cyclonedx(result(*findings, **more), version="0.1.0")
    problem = VALIDATOR.validate_str(body.decode())
    assert problem is None, str(problem)
    parsed: dict[str, Any] = json.loads(body)
    return parsed


def properties(thing: dict[str, Any]) -> dict[str, str]:
    return {entry["name"].removeprefix("harborguard:"): entry["value"] for entry in thing.get("properties", ())}


def test_the_image_is_the_subject() -> None:
    metadata = document()["metadata"]
    assert metadata["timestamp"] == "2026-05-22T18:04:58Z"
    image = metadata["component"]
    assert (image["type"], image["name"], image["version"]) == ("container", "registry.example.net/acme/app", DIGEST)
    assert image["purl"] == (
        f"pkg:oci/app@{DIGEST.replace(':', '%3A')}?repository_url=registry.example.net%2Facme%2Fapp&tag=1.4"
    )
    assert properties(image)["platform"] == "linux/amd64"
    assert properties(metadata) == {"status": "SUCCESS", "advisories": "db-7"}
    assert metadata["tools"]["components"][0]["version"] == "0.1.0"


def test_packages_are_components_with_their_place() -> None:
    system, package = document()["components"]
    assert (system["type"], system["name"], system["version"]) == ("operating-system", "debian", "12")
    assert (package["name"], package["version"], package["purl"]) == (
        "libexample",
        "1.2.3",
        "pkg:deb/debian/libexample@1.2.3",
    )
    assert package["licenses"] == [{"license": {"name": "MIT"}}]
    assert properties(package) == {"path": "var/lib/dpkg/status", "layer": LAYER}


def test_one_package_at_two_places_is_two_components() -> None:
    packages = (installed(), installed(), installed(path="elsewhere"))
    components = document(packages=packages)["components"]
    assert [component["name"] for component in components] == ["debian", "libexample", "libexample"]


def test_findings_are_vulnerabilities_of_their_component() -> None:
    found = finding(
        vector="CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N",
        severity_source="nvd",
        aliases=("GHSA-x", "CVE-2025-0001"),
        state="fixed",
        affected_range="< 1.2.4",
    )
    parsed = document(found, finding(vulnerability="CVE-2025-0002", path="unknown place"))
    first, second = parsed["vulnerabilities"]
    assert first["id"] == "CVE-2025-0001"
    assert first["ratings"] == [
        {
            "severity": "high",
            "source": {"name": "nvd"},
            "score": 7.5,
            "method": "CVSSv31",
            "vector": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:N/A:N",
        }
    ]
    assert first["affects"] == [{"ref": parsed["components"][1]["bom-ref"]}]
    assert [entry["id"] for entry in first["references"]] == ["DSA-1-1", "GHSA-x"]
    assert first["recommendation"] == "update to 1.2.4"
    assert properties(first) == {"state": "fixed", "affected-range": "< 1.2.4"}
    assert "affects" not in second, "no dangling reference"


@pytest.mark.parametrize(
    ("vector", "method"),
    [("CVSS:4.0/AV:N", "CVSSv4"), ("CVSS:3.0/AV:N", "CVSSv3"), ("AV:N/AC:L", "CVSSv2"), ("made up", None), ("", None)],
)
def test_the_method_is_that_of_the_vector(vector: str, method: str | None) -> None:
    rating = document(finding(vector=vector, score=None))["vulnerabilities"][0]["ratings"][0]
    assert rating.get("method") == method
    assert "score" not in rating


def test_a_severity_that_nobody_gave_is_unknown() -> None:
    rating = document(finding(severity=Severity.INFO, severity_source="", score=None))["vulnerabilities"][0]["ratings"][
        0
    ]
    assert rating["severity"] == "unknown"


def test_gaps_are_said() -> None:
    gap = Gap(kind="unreadable", subject="var/lib/rpm", reason="damaged")
    metadata = document(gaps=(gap,))["metadata"]
    assert properties(metadata)["gap"] == "unreadable: var/lib/rpm: damaged"
    assert properties(metadata)["status"] == "PARTIAL"


def test_the_same_result_is_the_same_document() -> None:
    first, again = (cyclonedx(result(finding()), version="0.1.0") for _ in range(2))
    assert first == again
    serials = {document(finding(vulnerability=f"CVE-{n}"))["serialNumber"] for n in range(3)}
    assert len(serials) == 3
    assert all(serial.startswith("urn:uuid:") for serial in serials)


def test_odd_references_and_times() -> None:
    assert document(reference="registry.example.net/acme/app")["metadata"]["component"]["purl"].endswith("acme%2Fapp")
    assert document(reference="acme/app:1")["metadata"]["component"]["name"] == "acme/app"
    odd = document(reference="Not A Reference", finished_at="2026-05-22T18:04:58")
    assert odd["metadata"]["component"]["name"] == "Not A Reference"
    assert "purl" not in odd["metadata"]["component"]
    with pytest.raises(DataError, match="not a time"):
        cyclonedx(result(finished_at="soon"), version="1")


ANY_TEXT = st.text(alphabet=st.characters(), max_size=12) | st.text(alphabet="\0\ud800\udc00é %/:<>", max_size=10)


@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_text_the_document_is_valid(data: st.DataObject) -> None:
    def text() -> str:
        return data.draw(ANY_TEXT)

    found = finding(
        text(),
        text(),
        severity=data.draw(st.sampled_from(Severity)),
        score=data.draw(st.none() | st.floats(0, 10)),
        vector=text(),
        severity_source=text(),
        advisory=text(),
        aliases=(text(), text()),
        title=text(),
        description=text(),
        url="https://example.com/" + text(),
    )
    gap = Gap(kind=text(), subject=text(), reason=text())
    package = installed(text(), text(), license=text(), path=text(), source_name=text())
    document(found, packages=(package,), reference=text(), gaps=(gap,))
