import gzip
import io
import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from sensor.cli.machine import OLD_RELEASES, build_machine_layout
from sensor.model.digest import sha256_digest
from sensor.model.manifest import ArtifactClass, Manifest, artifact_class, parse_image_config, parse_manifest


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("layout")
    build_machine_layout(target)
    return target


def named(layout: Path) -> dict[str, Manifest]:
    index = json.loads((layout / "index.json").read_text())
    found = {}
    for entry in index["manifests"]:
        data = (layout / "blobs" / entry["digest"].replace(":", "/")).read_bytes()
        document = parse_manifest(data, entry["mediaType"])
        assert isinstance(document, Manifest)
        found[entry["annotations"]["org.opencontainers.image.ref.name"]] = document
    return found


def test_every_blob_hashes_to_its_name(layout: Path) -> None:
    blobs = list((layout / "blobs/sha256").iterdir())
    assert len(blobs) >= 10
    assert all(sha256_digest(blob.read_bytes()) == f"sha256:{blob.name}" for blob in blobs)


def test_the_machine_image_has_three_layers_that_match_their_diff_ids(layout: Path) -> None:
    manifest = named(layout)["demo/machine:1.0"]
    config = parse_image_config((layout / "blobs" / manifest.config.digest.replace(":", "/")).read_bytes())
    assert len(manifest.layers) == len(config.rootfs.diff_ids) == 3
    members: set[str] = set()
    for layer, diff_id in zip(manifest.layers, config.rootfs.diff_ids, strict=True):
        raw = gzip.decompress((layout / "blobs" / layer.digest.replace(":", "/")).read_bytes())
        assert sha256_digest(raw) == diff_id
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            members |= set(archive.getnames())
    assert "etc/os-release" in members
    assert any(name.startswith("opt/app/lib/python3/site-packages/aiohttp-") for name in members)
    assert all(
        any(f"/{name.replace('-', '_')}-{version}.dist-info/" in m for m in members)
        for name, version, _ in OLD_RELEASES
    )


def test_there_is_something_for_every_class_of_tag(layout: Path) -> None:
    classes = {name: artifact_class(manifest) for name, manifest in named(layout).items()}
    assert classes["demo/machine:latest"] is ArtifactClass.IMAGE
    assert classes["demo/chart:0.1.0"] is ArtifactClass.HELM_CHART
    assert [kind for name, kind in classes.items() if name.endswith(".sig")] == [ArtifactClass.SIGNATURE]
    assert "scratch/experiment:1" in classes


def test_an_independent_tool_reads_the_image(layout: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    subprocess.run(
        ["skopeo", "copy", "-q", f"oci:{layout}:demo/machine:1.0", f"dir:{copied}"], check=True, capture_output=True
    )
    assert len(json.loads((copied / "manifest.json").read_text())["layers"]) == 3
