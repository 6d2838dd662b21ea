"""From an index or a manifest to the inventory of one platform, with as few requests and bytes as can be."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sensor.errors import DataError, NetworkError
from sensor.events import Event, ImageProgressed
from sensor.inventory.image import (
    InventoriedImage,
    NoPlatform,
    NotAnImage,
    Resolution,
    ResolvedImage,
    inventory_image,
    resolve_image,
)
from sensor.inventory.images import ImageStore
from sensor.inventory.layers import LayerCorrupt, Layers, LayerStore
from sensor.inventory.reader import read_layer
from sensor.limits import Limits
from sensor.model.digest import Digest
from sensor.model.manifest import OCI_CONFIG, OCI_MANIFEST, ArtifactClass, Platform, parse_platform
from sensor.model.package import Gap
from sensor.registry.errors import RegistryForbidden, RegistryNotFound
from sensor.storage import Storage, open_storage
from tests.fakes.layers import file, layer
from tests.fakes.memory_registry import MemoryRegistry
from tests.inventory.test_layers import KEY, Reader

AMD64 = parse_platform("linux/amd64")
ARM64 = parse_platform("linux/arm64")
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = await open_storage(tmp_path)
    yield storage
    await storage.close()


@dataclass
class Shop:
    """Everything around `inventory_image`."""

    registry: MemoryRegistry
    reader: Reader
    layers: Layers
    images: ImageStore
    storage: Storage
    events: list[Event]

    async def resolve(self, target: str, platform: Platform = AMD64, limits: Limits | None = None) -> Resolution:
        fetched = await self.registry.manifest("app", target)
        return await resolve_image(self.registry, "app", fetched, platform, limits or self.layers.limits)

    async def resolved(self, target: str, platform: Platform = AMD64) -> ResolvedImage:
        found = await self.resolve(target, platform)
        assert isinstance(found, ResolvedImage)
        return found

    async def inventory(self, image: ResolvedImage, **more: Any) -> InventoriedImage:
        return await inventory_image(
            self.registry,
            "app",
            image,
            layers=self.layers,
            images=self.images,
            publish=self.events.append,
            **more,
        )

    async def keep(self, found: InventoriedImage) -> None:
        async with self.storage.transaction() as connection:
            await self.images.put(
                connection,
                found.inventory,
                subject=found.subject,
                reported=found.subject,
                catalogers=KEY,
                limits=self.layers.limits,
            )


@pytest.fixture
def shop(storage: Storage) -> Shop:
    reader = Reader()
    layers = Layers(LayerStore(storage, lambda: datetime.now(UTC)), storage, reader, catalogers=KEY, limits=Limits())
    return Shop(MemoryRegistry(), reader, layers, ImageStore(storage), storage, [])


def with_limits(shop: Shop, limits: Limits) -> Shop:
    layers = Layers(
        LayerStore(shop.storage, lambda: datetime.now(UTC)), shop.storage, shop.reader, catalogers=KEY, limits=limits
    )
    return replace(shop, layers=layers)


# --- which manifest -------------------------------------------------------------------------------------------------------


async def test_a_manifest_is_itself(shop: Shop) -> None:
    digest = shop.registry.image("app", "v1", [b"base", b"more!", b"base"])
    image = await shop.resolved("v1")
    assert (image.subject, image.digest, image.platform) == (digest, digest, None)
    assert image.bytes_total == 9
    assert shop.registry.requested("manifest") == 1


async def test_a_manifest_without_an_index_is_taken_whatever_its_platform(shop: Shop) -> None:
    shop.registry.image("app", "v1", [b"x"], platform="linux/arm64")
    found = await shop.inventory(await shop.resolved("v1", AMD64))
    assert found.inventory.platform == "linux/arm64/v8".removesuffix("/v8")


async def test_the_wanted_platform_is_picked_from_an_index(shop: Shop) -> None:
    registry = shop.registry
    amd = registry.image_manifest([b"amd"])
    arm = registry.image_manifest([b"arm"], platform="linux/arm64")
    index = registry.index([registry.pointer(amd, "linux/amd64"), registry.pointer(arm, "linux/arm64/v8")])
    registry.tag("app", "v1", index)
    for platform, child in ((AMD64, amd), (ARM64, arm)):
        image = await shop.resolved("v1", platform)
        assert (image.subject, image.digest) == (index, child)
    assert registry.calls["manifest", f"app:{amd}"] == 1
    missing = await shop.resolve("v1", parse_platform("linux/s390x"))
    assert isinstance(missing, NoPlatform)
    assert missing.reason == "no image for linux/s390x; there are: linux/amd64, linux/arm64/v8"


async def test_nested_indexes_are_followed_but_not_for_ever(shop: Shop) -> None:
    registry = shop.registry
    digest = registry.image_manifest([b"deep"])
    document = registry.index([registry.pointer(digest, "linux/amd64")])
    registry.tag("app", "depth1", document)
    for depth in range(2, 7):
        document = registry.index([registry.pointer(document)])
        registry.tag("app", f"depth{depth}", document)
    image = await shop.resolved("depth4")
    assert image.digest == digest
    assert isinstance(await shop.resolve("depth4", ARM64), NoPlatform)
    with pytest.raises(DataError, match="nested more than 4 deep"):
        await shop.resolve("depth5")
    with pytest.raises(DataError, match="nested more than 1 deep"):
        await shop.resolve("depth2", limits=Limits(index_depth=1))


async def test_attestations_of_an_index_are_not_images(shop: Shop) -> None:
    registry = shop.registry
    amd = registry.image_manifest([b"amd"])
    attestation = registry.pointer(amd, annotations={"vnd.docker.reference.type": "attestation-manifest"})
    registry.tag("app", "v1", registry.index([attestation, registry.pointer(amd, "linux/amd64")]))
    assert (await shop.resolved("v1")).digest == amd
    registry.tag("app", "only", registry.index([attestation, registry.pointer(amd, "unknown/unknown")]))
    found = await shop.resolve("only")
    assert found == NotAnImage(
        artifact_class=ArtifactClass.OTHER, reason="not a container image (an index without images)"
    )


async def test_the_only_child_needs_no_platform(shop: Shop) -> None:
    registry = shop.registry
    amd, arm = registry.image_manifest([b"amd"]), registry.image_manifest([b"arm"])
    registry.tag("app", "one", registry.index([registry.pointer(amd)]))
    assert (await shop.resolved("one")).digest == amd
    registry.tag("app", "two", registry.index([registry.pointer(amd), registry.pointer(arm)]))
    found = await shop.resolve("two")
    assert isinstance(found, NoPlatform)
    assert found.available == ("unnamed",)


async def test_an_endless_index_costs_few_requests(shop: Shop) -> None:
    registry = shop.registry
    children = [registry.pointer(registry.image_manifest([b"%d" % number])) for number in range(50)]
    registry.tag("app", "v1", registry.index(children))
    assert isinstance(await shop.resolve("v1"), NoPlatform)
    assert registry.requested("manifest") <= 9


async def test_children_beyond_the_limit_are_not_looked_at(shop: Shop) -> None:
    registry = shop.registry
    amd = registry.image_manifest([b"amd"])
    arm = registry.image_manifest([b"arm"], platform="linux/arm64")
    registry.tag(
        "app", "v1", registry.index([registry.pointer(arm, "linux/arm64"), registry.pointer(amd, "linux/amd64")])
    )
    assert isinstance(await shop.resolve("v1", limits=Limits(index_children=1)), NoPlatform)


async def test_other_artifacts_are_told_by_what_they_are(shop: Shop) -> None:
    registry = shop.registry
    kinds = {
        "application/vnd.cncf.helm.config.v1+json": ArtifactClass.HELM_CHART,
        "application/vnd.wasm.config.v0+json": ArtifactClass.WASM,
        "application/vnd.example.thing": ArtifactClass.OTHER,
    }
    for media_type, kind in kinds.items():
        config = {"mediaType": media_type, "digest": registry.blob_of(b"{}"), "size": 2}
        registry.tag("app", "v1", registry.document({"config": config, "layers": []}, OCI_MANIFEST))
        found = await shop.resolve("v1")
        assert found == NotAnImage(artifact_class=kind, reason=f"not a container image ({media_type})")
        registry.tag("app", "in-an-index", registry.index([registry.pointer(registry.tagged["app"]["v1"])]))
        assert await shop.resolve("in-an-index") == found
    registry.tag("app", "v1", registry.index([registry.pointer(registry.tagged["app"]["v1"])], artifactType="x/y"))
    assert await shop.resolve("v1") == NotAnImage(
        artifact_class=ArtifactClass.OTHER, reason="not a container image (x/y)"
    )
    assert shop.reader.read == 0


# --- what is in it --------------------------------------------------------------------------------------------------------


async def test_layers_become_one_inventory_and_progress_ends_at_the_total(shop: Shop) -> None:
    shop.registry.chunk = 3
    digest = shop.registry.image("app", "v1", [b"lowest layer", b"second", b"lowest layer"])
    image = await shop.resolved("v1")
    found = await shop.inventory(image)
    assert (found.subject, found.known) == (digest, False)
    assert (found.layers_fetched, found.layers_cached, found.bytes_fetched) == (2, 0, 18)
    assert found.inventory.manifest == digest
    assert found.inventory.platform == "linux/amd64"
    assert [summary.digest for summary in found.inventory.layers] == [each.digest for each in image.manifest.layers]
    assert found.inventory.os_release is not None
    assert found.inventory.gaps == ()
    done = [event.bytes_done for event in shop.events if isinstance(event, ImageProgressed)]
    assert done == sorted(done)
    assert done[-1] == image.bytes_total == 18
    assert {(event.digest, event.bytes_total) for event in shop.events if isinstance(event, ImageProgressed)} == {
        (digest, 18)
    }


async def test_a_thousand_images_on_one_base_cost_one_base(shop: Shop) -> None:
    first = await shop.inventory(await _image(shop, [b"the base of all", b"app one"]))
    second = await shop.inventory(await _image(shop, [b"the base of all", b"app two"]))
    assert (first.layers_fetched, first.layers_cached, first.bytes_fetched) == (2, 0, 22)
    assert (second.layers_fetched, second.layers_cached, second.bytes_fetched) == (1, 1, 7)
    assert shop.events[-1] == ImageProgressed(digest=second.subject, bytes_done=22, bytes_total=22)


async def _image(shop: Shop, layers: list[bytes]) -> ResolvedImage:
    shop.registry.image("app", "latest", layers)
    return await shop.resolved("latest")


async def test_a_known_image_needs_no_request_and_no_time(shop: Shop) -> None:
    image = await _image(shop, [b"layer %d" % number for number in range(30)])
    cold = await shop.inventory(image)
    await shop.keep(cold)
    before = shop.registry.requests
    started = time.perf_counter()
    warm = await shop.inventory(image)
    assert time.perf_counter() - started < 0.05
    assert shop.registry.requests == before
    assert warm.known
    assert warm.inventory == cold.inventory
    assert (warm.layers_fetched, warm.layers_cached, warm.bytes_fetched) == (0, 30, 0)
    assert shop.events[-1] == ImageProgressed(
        digest=image.subject, bytes_done=image.bytes_total, bytes_total=image.bytes_total
    )


async def test_an_image_of_known_layers_needs_only_its_configuration(shop: Shop) -> None:
    image = await _image(shop, [b"one", b"two"])
    await shop.inventory(image)
    before = shop.registry.requests
    again = await shop.inventory(image)
    assert shop.registry.requests == before + 1
    assert again.bytes_fetched == 0


async def test_an_image_without_layers_is_empty(shop: Shop) -> None:
    found = await shop.inventory(await _image(shop, []))
    assert found.inventory.packages == ()
    assert found.bytes_fetched == 0


async def test_more_layers_than_allowed_are_a_gap(shop: Shop) -> None:
    shop = with_limits(shop, Limits(layers=3))
    image = await _image(shop, [b"layer %d" % number for number in range(5)])
    found = await shop.inventory(image)
    assert shop.reader.read == 3
    assert found.inventory.gaps == (
        Gap(
            kind="limit",
            subject=image.digest,
            reason="the image has 5 layers; only the lowest 3 were read",
        ),
    )


@pytest.mark.parametrize("error", [RegistryNotFound("no blob"), RegistryForbidden("403")])
async def test_a_layer_on_a_foreign_server_is_a_gap(shop: Shop, error: RegistryNotFound) -> None:
    shop.registry.image("app", "v1", [b"windows"], platform="windows/amd64", layer_type=FOREIGN)
    image = await shop.resolved("v1")
    layer_digest = image.manifest.layers[0].digest
    shop.registry.fail("blob", layer_digest, error, None)
    found = await shop.inventory(image)
    (gap,) = [gap for gap in found.inventory.gaps if gap.kind == "foreign-layer"]
    assert gap.subject == layer_digest
    assert "another server" in gap.reason
    # many registries have them all the same, and then they are read
    assert (await shop.inventory(image)).bytes_fetched == 7


async def test_an_ordinary_layer_that_is_missing_fails_the_image(shop: Shop) -> None:
    image = await _image(shop, [b"one", b"two"])
    del shop.registry.blobs[image.manifest.layers[1].digest]
    with pytest.raises(RegistryNotFound):
        await shop.inventory(image)
    # what was read by then is kept
    shop.registry.blob_of(b"two")
    assert (await shop.inventory(image)).bytes_fetched == 3


async def test_a_layer_that_could_not_be_read_is_tried_again_and_a_gap_at_the_last_try(shop: Shop) -> None:
    image = await _image(shop, [b"one"])
    shop.reader.fails = [DataError("the scanning process ended by signal 9", retryable=True)] * 2
    with pytest.raises(DataError, match="signal 9"):
        await shop.inventory(image)
    found = await shop.inventory(image, accept_gaps=True)
    (gap,) = [gap for gap in found.inventory.gaps if gap.kind == "unreadable"]
    assert gap == Gap(
        kind="unreadable",
        subject=image.manifest.layers[0].digest,
        reason="the scanning process ended by signal 9",
    )
    assert found.bytes_fetched == 0


async def test_a_layer_that_can_never_be_read_is_a_gap_at_once(shop: Shop) -> None:
    image = await _image(shop, [b"one"])
    shop.reader.fails = [DataError("the inventory is larger than 256 MiB", retryable=False)]
    found = await shop.inventory(image)
    assert [gap.kind for gap in found.inventory.gaps] == ["unreadable"]


async def test_a_tampered_layer_never_becomes_a_mere_gap(shop: Shop) -> None:
    image = await _image(shop, [b"one"])
    shop.registry.blobs[image.manifest.layers[0].digest] = b"two"
    with pytest.raises(LayerCorrupt):
        await shop.inventory(image, accept_gaps=True)


async def test_the_first_failure_ends_it(shop: Shop) -> None:
    image = await _image(shop, [b"layer %d" % number for number in range(20)])
    error = NetworkError("the connection broke")
    for each in image.manifest.layers:
        shop.registry.fail("blob", each.digest, error)
    with pytest.raises(NetworkError) as raised:
        await shop.inventory(image)
    assert raised.value is error
    assert shop.registry.requested("blob") <= 2


async def test_a_configuration_that_cannot_be_read_fails_the_image(shop: Shop) -> None:
    registry = shop.registry
    config = {"mediaType": OCI_CONFIG, "digest": registry.blob_of(b"[]"), "size": 2}
    registry.tag("app", "v1", registry.document({"config": config, "layers": []}, OCI_MANIFEST))
    with pytest.raises(DataError):
        await shop.inventory(await shop.resolved("v1"))


async def test_the_platform_comes_from_the_index_where_the_configuration_has_none(shop: Shop) -> None:
    registry = shop.registry
    config = {"mediaType": OCI_CONFIG, "digest": registry.blob_of(b"{}"), "size": 2}
    bare = registry.document({"config": config, "layers": []}, OCI_MANIFEST)
    registry.tag("app", "alone", bare)
    registry.tag("app", "named", registry.index([registry.pointer(bare, "linux/arm64")]))
    assert (await shop.inventory(await shop.resolved("alone"))).inventory.platform == "unknown"
    assert (await shop.inventory(await shop.resolved("named", ARM64))).inventory.platform == "linux/arm64"


async def test_a_real_image_from_registry_to_packages(shop: Shop) -> None:
    status = b"Package: %s\nStatus: install ok installed\nVersion: %s\nArchitecture: amd64\n\n"
    bash, curl = status % (b"bash", b"5.2-1"), status % (b"curl", b"7.88.1-10")
    base = layer(file("etc/os-release", b'ID=debian\nVERSION_ID="12"\n'), file("var/lib/dpkg/status", bash))
    app = layer(file("var/lib/dpkg/status", bash + curl), compression="zstd")
    shop.layers = Layers(
        LayerStore(shop.storage, lambda: datetime.now(UTC)), shop.storage, read_layer, catalogers=KEY, limits=Limits()
    )
    image = await _image(shop, [base, app])
    found = await shop.inventory(image)
    origins: dict[str, Digest] = {each.package.name: each.layer for each in found.inventory.packages}
    assert origins == {"bash": image.manifest.layers[0].digest, "curl": image.manifest.layers[1].digest}
    assert found.inventory.gaps == ()
