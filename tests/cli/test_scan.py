import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sensor.control_plane.wire import read_envelope
from sensor.registry.serve import serve
from tests.cli.conftest import Ran, Run, in_thread
from tests.fakes.images import ImageStore
from tests.fakes.layers import file, layer
from tests.fakes.registry import Behaviour, FakeRegistry


@pytest.fixture
def scan(run: Run, state: Path) -> Run:
    def invoke(*arguments: str, **environment: str) -> Ran:
        return run("scan", *arguments, "--state", str(state), **environment)

    return invoke


@pytest.fixture
def image(machine_layout: Path) -> str:
    return f"oci:{machine_layout}:demo/machine:1.0"


def test_a_layout_is_scanned_and_the_second_time_nothing_is_read(scan: Run, image: str) -> None:
    first = scan(image)
    assert first.status == 0
    rows = first.stdout.splitlines()
    assert rows[0].split()[:2] == ["severity", "vulnerability"]
    assert any(row.startswith("HIGH") and " urllib3 " in row for row in rows)
    assert "3 layers read" in first.stderr
    second = scan(image)
    assert "0 layers read (0 B)" in second.stderr
    assert second.stdout == first.stdout


def test_json_holds_everything_under_the_envelopes_names(scan: Run, image: str) -> None:
    shown = scan(image, "-o", "json", "-q")
    document = shown.json()
    assert (shown.status, shown.stderr, document["scan"]["status"]) == (0, "", "SUCCESS")
    assert {"findings", "packages", "vulnerabilities", "gaps", "work"} <= set(document)
    assert {package["name"] for package in document["packages"]} >= {"urllib3", "Jinja2"}


def test_the_envelope_is_what_a_control_plane_takes(scan: Run, image: str) -> None:
    found = read_envelope(scan(image, "-o", "envelope").stdout.encode())
    assert found.aggregates.vulnerability_counts.high > 0


def test_a_bill_of_materials_is_written_to_a_file(scan: Run, image: str, tmp_path: Path) -> None:
    target = tmp_path / "sbom.json"
    shown = scan(image, "-o", "cyclonedx", "--output-file", str(target))
    assert (shown.status, shown.stdout) == (0, "")
    assert msgspec.json.decode(target.read_bytes())["bomFormat"] == "CycloneDX"


@pytest.mark.parametrize("output", ["table", "json", "envelope"])
def test_a_file_holds_what_stdout_would_have_held(scan: Run, image: str, tmp_path: Path, output: str) -> None:
    target = tmp_path / "result"
    assert scan(image, "-o", output, "--output-file", str(target), "-q").stdout == ""
    if output == "table":
        assert target.read_text() == scan(image, "-q").stdout
    else:
        written = msgspec.json.decode(target.read_bytes())
        assert set(written) == set(scan(image, "-o", output, "-q").json())


def test_a_file_that_cannot_be_written_is_a_failure(scan: Run, image: str, tmp_path: Path) -> None:
    shown = scan(image, "-o", "json", "--output-file", str(tmp_path / "no" / "such"))
    assert (shown.status, shown.stdout) == (3, "")
    assert "cannot write" in shown.stderr


@pytest.mark.parametrize(("least", "status"), [("critical", 0), ("high", 1), ("low", 1)])
def test_the_exit_status_follows_the_least_severity(scan: Run, image: str, least: str, status: int) -> None:
    assert scan(image, "--fail-on", least).status == status


def test_without_advisories_nothing_passes(run: Run, image: str, tmp_path: Path) -> None:
    state = str(tmp_path / "empty")
    shown = run("scan", image, "--state", state, "--quiet")
    assert shown.status == 0
    assert shown.stdout == "no findings, but not everything was judged\n"
    gated = run("scan", image, "--state", state, "--fail-on", "critical")
    assert gated.status == 3
    assert "PARTIAL" in gated.stderr
    assert "--fail-on cannot decide without an advisory database" in gated.stderr


def test_a_gate_that_opens_for_want_of_data_says_so_or_stays_shut(scan: Run, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "strange")
    package = b"Package: tool\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0\n\n"
    release = file("etc/os-release", b"ID=nobody-knows\nVERSION_ID=1\n")
    store.image("app", "1", [layer(release, file("var/lib/dpkg/status", package))])
    strange = f"oci:{store.root}:app:1"
    opened = scan(strange, "--fail-on", "low", "--quiet")
    assert opened.status == 0
    assert "--fail-on-partial makes that status 3" in opened.stderr
    shut = scan(strange, "--fail-on-partial", "--quiet")
    assert shut.status == 3
    assert "not everything could be judged" in shut.stderr


def test_the_platform_that_was_asked_for_is_the_one_that_is_scanned(scan: Run, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    release = [layer(file("etc/os-release", b"ID=debian\nVERSION_ID=12\n"))]
    store.multi_platform("app", "1", {"linux/amd64": release, "linux/arm64": release})
    both = f"oci:{store.root}:app:1"
    assert "linux/arm64" in scan(both, "--platform", "linux/arm64").stderr
    assert "linux/amd64" in scan(both).stderr
    lacking = scan(both, "--platform", "linux/riscv64")
    assert lacking.status == 3
    assert "there are: linux/amd64, linux/arm64" in lacking.stderr
    store.image("single", "1", release)
    shown = scan(f"oci:{store.root}:single:1", "--platform", "linux/arm64")
    assert shown.status == 3
    assert "is an image for linux/amd64, not for linux/arm64" in shown.stderr


def test_names_inside_an_image_cannot_steer_the_terminal(scan: Run, tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "images")
    metadata = b"Metadata-Version: 2.1\nName: [red]x\x1b]0;owned\x07[/red]\nVersion: 1\n"
    broken = file("lib/python3/site-packages/e-1.dist-info/METADATA", metadata)
    store.image("app", "1", [layer(broken)])
    shown = scan(f"oci:{store.root}:1")
    assert shown.status == 0
    assert "1 packages" in shown.stderr or "not judged" in shown.stderr
    assert "\x1b" not in shown.stdout + shown.stderr


def test_the_only_repository_of_a_layout_needs_no_name_but_several_do(scan: Run, machine_layout: Path) -> None:
    shown = scan(f"oci:{machine_layout}")
    assert shown.status == 2
    assert "the layout holds 4 repositories: demo/machine, demo/base" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["reg.example/UPPER:1"], 2),
        (["nginx:latest", "--source", "docker"], 2),
        (["image.tar", "--source", "tar"], 2),
        (["app:1", "--source", "registry"], 2),
        (["oci:/no/such/layout:app:1"], 3),
        (["127.0.0.1:1/app:1", "--insecure", "--platform", "nonsense"], 2),
        (["127.0.0.1:1/app:1", "--config", "/no/such/file"], 2),
    ],
)
def test_the_dashboards_bundled_scanner_answers_with_an_envelope_whatever_happens(
    scan: Run, arguments: list[str], status: int
) -> None:
    """control-plane contract of the command line: only the document on stdout, a short reason on stderr."""
    shown = scan(*arguments, "--output", "json", "--scanners", "trivy,dive")
    document = shown.json()
    assert shown.status == status
    assert document["scan"]["status"] == "FAILED"
    assert document["findings"]["vulnerabilities"] == []
    assert document["error"] in shown.stderr
    assert len(shown.stderr) < 500
    assert read_envelope(scan(*arguments, "--output", "envelope").stdout.encode()).scan.status == "FAILED"


def test_the_dashboards_environment_neither_registers_nor_uploads(scan: Run, image: str) -> None:
    shown = scan(
        image, "--source", "registry", "--output", "json", "--scanners", "trivy,dockle",
        DATABASE_URL="postgresql://hg:secret@db/hg", HG_API_KEY="hg_ak_secret", HARBORGUARD_URL="http://127.0.0.1:1",
    )  # fmt: skip
    assert shown.status == 0
    assert shown.json()["scan"]["status"] == "PARTIAL"
    assert "hg_ak_secret" not in shown.stdout + shown.stderr


def test_what_is_no_image_is_not_scanned(scan: Run, machine_layout: Path) -> None:
    shown = scan(f"oci:{machine_layout}:demo/chart:0.1.0")
    assert (shown.status, shown.stdout) == (3, "")
    assert "not a container image" in shown.stderr


def test_a_registry_over_plain_http_is_scanned_when_that_is_said(scan: Run, machine_layout: Path) -> None:
    with in_thread(lambda: serve(machine_layout)) as url:
        host = url.removeprefix("http://")
        shown = scan(f"{host}/demo/base:1.0", "--insecure", "-o", "json")
        assert (shown.status, shown.json()["image"]["ref"]) == (0, f"{host}/demo/base:1.0")
        assert scan(f"{host}/demo/base:1.0").status == 3


@pytest.fixture
def private(machine_layout: Path) -> Iterator[FakeRegistry]:
    with in_thread(lambda: FakeRegistry(machine_layout, Behaviour(auth="bearer"))) as registry:
        yield registry


def test_a_configured_registry_is_used_with_its_credentials(scan: Run, private: FakeRegistry, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        f"registries:\n- {{name: prod, url: '{private.url}', insecure: true, username: sensor, password: {{env: PROD}}}}\n"
    )
    arguments: tuple[Any, ...] = (f"{private.host}/demo/base:1.0", "-o", "json")
    assert scan(*arguments, "--config", str(path), PROD="secret").status == 0
    refused = scan(*arguments, "--config", str(path), PROD="wrong-word")
    assert refused.status == 3
    assert "wrong-word" not in refused.stdout + refused.stderr
    anonymous = scan(*arguments, "--insecure")
    assert (anonymous.status, anonymous.json()["scan"]["status"]) == (3, "FAILED")


def test_the_inventory_is_kept_and_what_was_reported_is_not_touched(scan: Run, image: str, state: Path) -> None:
    """A sensor on the same state must still report an image that somebody scanned by hand."""
    scan(image)
    database = next(path for path in state.iterdir() if path.suffix == ".db" and path.name != "advisories.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT fingerprint FROM image_results").fetchall()
    connection.close()
    assert rows == [("",)]
