"""`scan archive:...`: what `docker save` and skopeo write gives the same packages as the layout that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ran, Run
from tests.fakes.archives import Image, docker_save, layout_members, skopeo_copy, write
from tests.fakes.layers import Compression, file, layer_tar


@pytest.fixture
def scan(run: Run, state: Path) -> Run:
    def invoke(*arguments: str, **environment: str) -> Ran:
        return run("scan", *arguments, "--state", str(state), **environment)

    return invoke


@pytest.fixture
def contents(scan: Run) -> Callable[[str], Any]:
    """What is in an image: packages and findings."""

    def look(image: str) -> Any:
        document = scan(image, "-o", "json", "-q").json()
        assert (document["scan"]["status"], document["gaps"]) == ("SUCCESS", [])
        return document["packages"], document["findings"]["vulnerabilities"]

    return look


def release(name: bytes = b"debian") -> bytes:
    return layer_tar(file("etc/os-release", b"ID=" + name + b"\nVERSION_ID=12\n"))


@pytest.mark.parametrize("form", ["oci-archive", "docker-archive"])
def test_archives_by_skopeo_hold_what_the_layout_holds(
    contents: Callable[[str], Any], machine_layout: Path, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "machine.tar"
    skopeo_copy(f"oci:{machine_layout}:demo/machine:1.0", f"{form}:{path}:demo/machine:1.0")
    packages, findings = contents(f"oci:{machine_layout}:demo/machine:1.0")
    assert {package["name"] for package in packages} >= {"urllib3", "Jinja2"}
    assert findings
    for image in (f"archive:{path}", f"{form}:{path}:demo/machine:1.0"):
        found, judged = contents(image)
        if form == "docker-archive":  # its layers are uncompressed, and go by other digests
            found, packages = ([{**row, "layer": ""} for row in rows] for rows in (found, packages))
        assert (found, judged) == (packages, findings)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_compressed_archive_is_scanned(
    contents: Callable[[str], Any], machine_layout: Path, tmp_path: Path, compression: Compression
) -> None:
    path = write(tmp_path / "all.tar", *layout_members(machine_layout), compression=compression)
    image = ":demo/machine:1.0"
    assert contents(f"archive:{path}{image}") == contents(f"oci:{machine_layout}{image}")


def test_the_only_image_needs_no_name(scan: Run, tmp_path: Path) -> None:
    path = write(tmp_path / "app.tar", *docker_save(Image(["host.example/team/app:v1.4"], [release()])))
    shown = scan(f"archive:{path}")
    assert shown.status == 0
    assert "team/app:v1.4" in shown.stderr
    assert scan(f"archive:{path}:v1.4").status == 0
    assert scan(f"archive:{path}:host.example/team/app:v1.4").status == 0


def test_of_several_images_one_must_be_named(scan: Run, tmp_path: Path) -> None:
    saved = docker_save(Image(["app:1", "app:2"], [release()]), Image(["other:1"], [release(b"alpine")]))
    path = write(tmp_path / "app.tar", *saved)
    shown = scan(f"archive:{path}")
    assert shown.status == 2
    assert "the archive holds 2 repositories: app, other" in shown.stderr
    assert "archive:/path:repository:tag" in shown.stderr
    (tmp_path / "drop").mkdir()
    path.rename(tmp_path / "drop" / "app.tar")
    (tmp_path / "drop" / "half.tar").write_bytes(b"")
    shown = scan(f"archive:{tmp_path}/drop")
    assert "half.tar: the file is empty" in " ".join(shown.stderr.split())
    assert scan(f"archive:{tmp_path}/drop:other:1").status == 0


@pytest.mark.parametrize("data", [b"", b"<html>", b"x" * 2000])
def test_what_is_no_archive_is_a_failure_with_words(scan: Run, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "app.tar"
    path.write_bytes(data)
    shown = scan(f"archive:{path}:app:1")
    assert shown.status == 3
    assert "app.tar" in shown.stderr
    assert scan(f"archive:{tmp_path}/nosuch.tar:app:1").status == 3


def test_a_directory_is_planned_and_tested_like_a_registry(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "app.tar", *docker_save(Image(["team/app:v1"], [release()])))
    planned = run("plan", f"archive:{tmp_path}", "--output", "json")
    assert planned.status == 0
    assert "team/app" in planned.stdout
    tested = run("test", f"archive:{tmp_path}", "--output", "json")
    assert tested.status == 0
    (report,) = tested.json()
    assert (report["provider"], report["canList"], report["canPull"]) == ("archive", True, True)
