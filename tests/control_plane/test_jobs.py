import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.control_plane.jobs import Refusal, repaired_reference, request_of, scanner_notes, served_scanners
from sensor.control_plane.wire import Job, JobScan
from sensor.errors import DataError
from sensor.model.reference import parse_reference
from sensor.model.request import JobRequest

HEX = "a" * 64


def ask(
    image: str, default: str = "", source: str = "registry", kind: str = "SCAN", **scan: object
) -> JobRequest | Refusal:
    job = Job(id="j", type=kind, scan=JobScan(image_ref=image, source=source, **scan))  # type: ignore[arg-type]
    return request_of(job, link="l", default_registry=default)


@pytest.mark.parametrize("kind", ["SCAN", "scan", " Scan "])
def test_the_type_is_compared_without_case(kind: str) -> None:
    assert ask("r.example.com/a/b:1", kind=kind) == JobRequest(link="l", job="j", reference="r.example.com/a/b:1")


@pytest.mark.parametrize("kind", ["PATCH", "export", "", "x" * 500])
def test_unknown_types_are_refused_without_a_scan(kind: str) -> None:
    refused = ask("r.example.com/a/b:1", kind=kind)
    assert isinstance(refused, Refusal)
    assert not refused.has_scan
    assert "only SCAN" in refused.reason
    assert len(refused.reason) < 200


def test_a_scan_without_an_image_is_refused() -> None:
    for job in (Job(id="j", type="SCAN"), Job(id="j", type="SCAN", scan=JobScan(image_ref="  "))):
        refused = request_of(job, link="l")
        assert isinstance(refused, Refusal)
        assert refused.has_scan
        assert refused.reason == "the job names no image to scan"


@pytest.mark.parametrize(
    ("source", "word"), [("tar", "tar file"), ("docker", "Docker socket"), ("S3", "S3 bucket"), ("floppy", "'floppy'")]
)
def test_other_sources_are_refused_with_the_reason(source: str, word: str) -> None:
    refused = ask("/srv/app.tar", source=source)
    assert isinstance(refused, Refusal)
    assert word in refused.reason
    assert "/srv/app.tar" in refused.reason


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (f"r.example.com/a/b:sha256:{HEX}", f"r.example.com/a/b@sha256:{HEX}"),
        (f"r.example.com:5000/b:sha256:{HEX}", f"r.example.com:5000/b@sha256:{HEX}"),
        (f"r.example.com/a/b:2:sha256:{HEX}", f"r.example.com/a/b:2@sha256:{HEX}"),
        (f"r.example.com/a/b@sha256:{HEX}:latest", f"r.example.com/a/b@sha256:{HEX}"),
        (f"r.example.com/a/b@sha256:{HEX}", f"r.example.com/a/b@sha256:{HEX}"),
        ("r.example.com:5000/a/b:2:latest", "r.example.com:5000/a/b:2"),
        ("https://r.example.com/a/b:1", "r.example.com/a/b:1"),
        ("HTTP://r.example.com/a/b:1", "r.example.com/a/b:1"),
        ("r.example.com/a/b", "r.example.com/a/b"),
        ("localhost/a:1", "localhost/a:1"),
    ],
)
def test_references_are_repaired(given: str, expected: str) -> None:
    assert ask(given) == JobRequest(link="l", job="j", reference=expected)


@pytest.mark.parametrize(
    "given",
    [
        "-o",
        "r.example.com/A:1",
        "r.example.com/a:1:2:3",
        "r.example.com/a@sha256:short",
        "$(reboot)",
        "ftp://x/a:1",
        "a b",
    ],
)
def test_unusable_references_are_refused_with_what_was_given(given: str) -> None:
    refused = ask(given, default="r.example.com")
    assert isinstance(refused, Refusal)
    assert "unusable" in refused.reason
    assert refused.reference == given


def test_a_reference_without_a_host_is_refused_with_the_way_out() -> None:
    refused = ask("acme/app:1")
    assert isinstance(refused, Refusal)
    assert "'acme/app:1'" in refused.reason
    assert "control_plane.default_registry" in refused.reason
    assert refused.has_scan


@pytest.mark.parametrize(
    ("default", "given", "expected"),
    [
        ("r.example.com:5000", "acme/app:1", "r.example.com:5000/acme/app:1"),
        ("r.example.com", f"app@sha256:{HEX}", f"r.example.com/app@sha256:{HEX}"),
        ("docker.io", "nginx:1.27", "docker.io/library/nginx:1.27"),
        ("docker.io", "acme/app:1", "docker.io/acme/app:1"),
        ("registry.hub.docker.com", "nginx:1", "registry.hub.docker.com/library/nginx:1"),
        ("r.example.com", "other.example.com/app:1", "other.example.com/app:1"),
    ],
)
def test_a_default_registry_completes_references(default: str, given: str, expected: str) -> None:
    assert ask(given, default) == JobRequest(link="l", job="j", reference=expected)


def test_scanner_names_are_passed_on() -> None:
    assert ask("r.example.com/a:1", scanners=("trivy",)) == JobRequest(
        link="l", job="j", reference="r.example.com/a:1", scanners=("trivy",)
    )


def test_scanners_that_are_not_run_are_noted_by_their_kind() -> None:
    assert scanner_notes(()) == ()
    assert scanner_notes(("trivy", "GRYPE", "osv", "syft", "harborguard-sensor")) == ()
    compliance, efficiency, unknown = scanner_notes(("dockle", "Dockle ", "dive", "zap"))
    assert compliance.startswith("compliance is not served: dockle was asked for")
    assert efficiency.startswith("efficiency is not served: dive was asked for")
    assert unknown == "'zap' was asked for; this sensor does not know it"


def test_who_did_a_scanners_work_is_said_in_the_place_of_its_version() -> None:
    assert served_scanners((" Trivy", "syft", "dockle", "zap", "harborguard-sensor"), "1.2") == {
        "trivy": "vulnerabilities, packages by harborguard-sensor 1.2",
        "syft": "packages by harborguard-sensor 1.2",
    }
    assert served_scanners((), "1.2") == {}


def test_a_reference_without_a_host_may_be_looked_for_at_several() -> None:
    job = Job(id="j", type="SCAN", scan=JobScan(image_ref="app:1"))
    hosts = ("docker.io", "r.example.com", "docker.io")
    assert request_of(job, link="l", default_registry="r.example.com", fallback_registries=hosts) == JobRequest(
        link="l", job="j", reference="r.example.com/app:1", fallbacks=("docker.io/library/app:1",)
    )
    found = request_of(job, link="l", fallback_registries=("docker.io",))
    assert found == JobRequest(link="l", job="j", reference="docker.io/library/app:1"), "without a default one"
    named = Job(id="j", type="SCAN", scan=JobScan(image_ref="other.example/app:1"))
    whole = request_of(named, link="l", default_registry="r.example.com", fallback_registries=hosts)
    assert whole == JobRequest(link="l", job="j", reference="other.example/app:1"), "a host is a host"


@given(st.text(max_size=80))
@settings(max_examples=200, deadline=None)
def test_no_text_breaks_the_repair(text: str) -> None:
    try:
        repaired = repaired_reference(text)
    except DataError:
        return
    assert parse_reference(str(repaired)) == repaired
    assert repaired_reference(str(repaired)) == repaired
