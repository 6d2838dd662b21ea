"""Images on disk in the place of a registry."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sensor.config.schema import Registry
from sensor.errors import ConfigError, DataError
from sensor.limits import Limits
from sensor.model.manifest import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor, Index, Manifest
from sensor.registry.errors import NotARegistry, RegistryNotFound
from sensor.registry.kinds import open_registry
from sensor.registry.kinds.layout import (
    LayoutRegistry,
    media_type_of,
    read_layout,
    repository_name,
)
from tests.fakes.images import IMAGE_NAME, REF_NAME, ImageStore
from tests.fakes.layers import file, layer
from tests.registry.conftest import Images


def opened(root: Path) -> LayoutRegistry:
    registry = open_registry(Registry.model_validate({"name": "disk_1", "url": f"oci:{root}"}))
    assert isinstance(registry, LayoutRegistry)
    return registry


async def test_a_whole_image_is_found_and_read(images: Images) -> None:
    registry = opened(images.store.root)
    assert registry.host == "disk-1.layout"
    ping = await registry.ping()
    assert (ping.reachable, ping.authenticated, ping.scheme) == (True, True, "oci")
    assert set((await registry.repositories()).names) == {"charts/app", "multi", "team/app", "team/other"}
    listing = await registry.tags("team/app")
    assert listing.digests["latest"] == images.app.digest
    assert (await registry.head("team/app", "v1")).size == len(images.app.data)
    fetched = await registry.manifest("team/app", "v1")
    assert fetched.data == images.app.data
    assert isinstance(fetched.document, Manifest)
    assert (await registry.config("team/app", fetched.document.config)).os == "linux"
    read = b"".join([chunk async for chunk in registry.blob("team/app", fetched.document.layers[0])])
    assert read == images.blob
    assert registry.requests == 0
    await registry.close()


async def test_children_of_an_index_are_read_by_digest(images: Images) -> None:
    registry = opened(images.store.root)
    index = (await registry.manifest("multi", "v2")).document
    assert isinstance(index, Index)
    child = index.manifests[0].digest
    assert (await registry.manifest("multi", child)).digest == child
    assert (await registry.head("multi", child)).media_type == OCI_MANIFEST


@pytest.mark.parametrize(
    ("annotations", "name"),
    [
        ({IMAGE_NAME: "docker.io/library/debian:12", REF_NAME: "12"}, ("library/debian", "12")),
        ({REF_NAME: "registry.example:5000/team/app:v1"}, ("team/app", "v1")),
        ({REF_NAME: "team/app:v1"}, ("team/app", "v1")),
        ({REF_NAME: "team/app"}, ("team/app", "latest")),
        ({REF_NAME: "v1"}, ("images", "v1")),
        ({IMAGE_NAME: "not a name", REF_NAME: "v2"}, ("images", "v2")),
        ({REF_NAME: "../../etc/passwd"}, ("images", "latest")),
        ({}, ("images", "latest")),
    ],
)
def test_names_come_from_annotations(tmp_path: Path, annotations: dict[str, str], name: tuple[str, str]) -> None:
    store = ImageStore(tmp_path / "layout")
    built = store.manifest([layer(file("x"))])
    index = {
        "schemaVersion": 2,
        "manifests": [built.descriptor(**({"annotations": annotations} if annotations else {}))],
    }
    (store.root / "index.json").write_text(json.dumps(index))
    layout = read_layout(store.root, "images")
    assert [(repository, tag) for repository, tags in layout.images.items() for tag in tags] == [name]


def test_nothing_is_lost_when_names_are_missing_or_doubled(tmp_path: Path) -> None:
    store = ImageStore(tmp_path / "layout")
    built = [store.manifest([layer(file(f"x{n}"))]) for n in range(4)]
    entries = [
        built[0].descriptor(annotations={REF_NAME: "v1"}),
        built[1].descriptor(annotations={REF_NAME: "v1"}),
        built[1].descriptor(annotations={REF_NAME: "again"}),
        built[2].descriptor(),
        built[3].descriptor(),
    ]
    (store.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    tags = read_layout(store.root, "images").images["images"]
    assert {entry.digest for entry in tags.values()} == {one.digest for one in built}
    assert len(tags) == 5
    assert tags["v1"].digest == built[0].digest


async def test_what_is_missing_is_not_found(images: Images) -> None:
    registry = opened(images.store.root)
    with pytest.raises(RegistryNotFound):
        await registry.tags("no/such")
    with pytest.raises(RegistryNotFound):
        await registry.manifest("team/app", "nosuch")
    with pytest.raises(RegistryNotFound):
        await registry.head("team/app", "sha256:" + "0" * 64)
    images.store.remove(images.app.layers[0])
    with pytest.raises(RegistryNotFound, match="incomplete"):
        await anext(registry.blob("team/app", Descriptor(digest=images.app.layers[0], size=1)))


async def test_damage_is_noticed(images: Images) -> None:
    registry = opened(images.store.root)
    assert images.app.config is not None
    manifest = (await registry.manifest("team/app", "v1")).document
    assert isinstance(manifest, Manifest)
    images.store.corrupt(images.app.config, images.store.read(images.app.config).replace(b"linux", b"linus"))
    with pytest.raises(DataError, match="hash to"):
        await registry.config("team/app", manifest.config)
    for data in (images.blob[:-1], images.blob + b"x"):
        images.store.corrupt(images.app.layers[0], data)
        with pytest.raises(DataError, match="not of the"):
            async for _ in registry.blob("team/app", manifest.layers[0]):
                pass
    images.store.corrupt(images.app.digest, b"{}")
    with pytest.raises(DataError, match="hash to"):
        await registry.manifest("team/app", "v1")


async def test_limits_hold(images: Images) -> None:
    registry = LayoutRegistry(
        images.store.root, host="x", repository_default="d", limits=Limits(config_bytes=10, manifest_bytes=4000)
    )
    manifest = (await registry.manifest("team/app", "v1")).document
    assert isinstance(manifest, Manifest)
    with pytest.raises(DataError, match="larger than"):
        await registry.config("team/app", manifest.config)
    with pytest.raises(DataError, match="larger than"):
        read_layout(images.store.root, "d", Limits(manifest_bytes=100))


def test_what_is_no_layout_is_refused(tmp_path: Path, images: Images) -> None:
    with pytest.raises(NotARegistry, match="cannot be read"):
        read_layout(tmp_path / "nowhere", "d")
    (images.store.root / "oci-layout").write_text("{}")
    with pytest.raises(NotARegistry, match="not an OCI image layout"):
        read_layout(images.store.root, "d")


def test_an_index_that_is_no_index_is_refused(images: Images) -> None:
    (images.store.root / "index.json").write_bytes(images.app.data)
    with pytest.raises(DataError, match="another shape"):
        read_layout(images.store.root, "d")


def test_links_out_of_the_directory_are_not_followed(images: Images, tmp_path: Path) -> None:
    index = images.store.root / "index.json"
    elsewhere = tmp_path / "index.json"
    index.rename(elsewhere)
    index.symlink_to(elsewhere)
    with pytest.raises(NotARegistry, match="leads out"):
        read_layout(images.store.root, "d")


@pytest.mark.parametrize("url", ["oci:", "oci:relative/path"])
def test_the_path_must_be_absolute(url: str) -> None:
    with pytest.raises(ConfigError, match="no absolute path"):
        open_registry(Registry.model_validate({"name": "x", "url": url}))


def test_repository_names_are_made_of_directory_names(tmp_path: Path) -> None:
    assert repository_name(tmp_path / "My Images (new)") == "my-images-new"
    assert repository_name(tmp_path / "***") == "images"


def test_media_types_are_told_by_document_then_entry_then_shape(images: Images) -> None:
    plain = Manifest(config=Descriptor(digest=images.app.digest, size=1))
    docker = Manifest(config=Descriptor(media_type="application/vnd.docker.x", digest=images.app.digest, size=1))
    assert media_type_of(plain) == OCI_MANIFEST
    assert media_type_of(docker) == DOCKER_MANIFEST
    assert media_type_of(Index()) == OCI_INDEX
    assert media_type_of(plain, Descriptor(media_type="x/y", digest=images.app.digest, size=1)) == "x/y"
