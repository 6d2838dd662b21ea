"""What is in one image: from a manifest or an index to the inventory of one platform, layer by layer.

What is known costs nothing: an image whose inventory is stored needs no request at all, and one with known layers only its configuration.
Leaves single layers to `layers`, joining them to `scan.squash`, and reporting and storing to the pipeline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from sensor.errors import DataError, SensorError
from sensor.events import ImageProgressed, Publish
from sensor.inventory.images import ImageStore
from sensor.inventory.layers import FetchedLayer, LayerCorrupt, Layers
from sensor.limits import Limits
from sensor.model.digest import Digest
from sensor.model.manifest import (
    ArtifactClass,
    Descriptor,
    Index,
    Manifest,
    Platform,
    artifact_class,
    is_attestation,
    select_platform,
)
from sensor.model.package import Gap, ImageInventory, LayerInventory
from sensor.registry.errors import RegistryForbidden, RegistryNotFound
from sensor.registry.port import FetchedManifest, Registry
from sensor.scan.squash import squash

_MOST_UNNAMED = 8
"""Children without a platform that are looked into for one index: each costs a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NotAnImage:
    """Something else than a container image: skipped under its own name, never reported as clean."""

    artifact_class: ArtifactClass
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPlatform:
    """The index has no image for the platform that is wanted."""

    wanted: Platform
    available: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The same in words."""
        return f"no image for {self.wanted}; there are: {', '.join(self.available) or 'none'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedImage:
    """The one manifest to be scanned. `subject` is the digest that was asked for: of the index, or of the manifest itself."""

    subject: Digest
    digest: Digest
    manifest: Manifest
    platform: Platform | None
    """As the index says; None when there is no index."""

    @property
    def bytes_total(self) -> int:
        """Compressed bytes of all distinct layers."""
        return sum({layer.digest: layer.size for layer in self.manifest.layers}.values())


Resolution: TypeAlias = ResolvedImage | NotAnImage | NoPlatform


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoriedImage:
    """An image's inventory, and what it cost. `known` when it was stored already, by the same catalogers."""

    subject: Digest
    inventory: ImageInventory
    known: bool = False
    layers_fetched: int = 0
    layers_cached: int = 0
    bytes_fetched: int = 0


async def resolve_image(
    registry: Registry, repository: str, fetched: FetchedManifest, platform: Platform, limits: Limits
) -> Resolution:
    """Find the manifest of a platform. A manifest without an index is taken whatever its platform: there is no other.

    Raises:
        DataError: indexes are nested too deeply, or a document is malformed.
        NetworkError, RegistryError: the registry did not deliver.
    """
    return await _resolve(registry, repository, fetched, _Wanted(fetched.digest, platform, limits), None)


async def inventory_image(
    registry: Registry,
    repository: str,
    image: ResolvedImage,
    *,
    layers: Layers,
    images: ImageStore,
    publish: Publish,
    accept_gaps: bool = False,
) -> InventoriedImage:
    """Take the inventory of an image. Progress is published under the digest that was asked for.

    A layer that only a foreign server has is a gap, and so is one that can never be read. One that the scanning process failed on fails
    the image, because the next try may have more memory; with `accept_gaps` (the last try) it is a gap as well.

    Raises:
        DataError: a layer or the configuration is not what the manifest names, or could not be read.
        NetworkError, RegistryError: the registry did not deliver.
        StateError: the database cannot be used.
    """
    known = await images.get(image.digest, layers.catalogers, layers.limits)
    if known is not None:
        publish(ImageProgressed(digest=image.subject, bytes_done=image.bytes_total, bytes_total=image.bytes_total))
        return InventoriedImage(
            subject=image.subject, inventory=known, known=True, layers_cached=len(image.manifest.layers)
        )
    config = await registry.config(repository, image.manifest.config)
    taken = image.manifest.layers[: layers.limits.layers]
    read = await _Reading(registry, repository, image, layers, publish, accept_gaps=accept_gaps).read(taken)
    parts = [(descriptor, read[descriptor.digest].inventory) for descriptor in taken]
    platform = str(config.platform) or str(image.platform or "") or "unknown"
    # pure, but a large image takes a while: not on the event loop
    inventory = await asyncio.to_thread(squash, image.digest, platform, parts, config)
    if len(image.manifest.layers) > len(taken):
        reason = f"the image has {len(image.manifest.layers)} layers; only the lowest {len(taken)} were read"
        gap = Gap(kind="limit", subject=image.digest, reason=reason)
        inventory = msgspec.structs.replace(inventory, gaps=(*inventory.gaps, gap))
    fetched = [layer for layer in read.values() if layer.bytes_fetched]
    return InventoriedImage(
        subject=image.subject,
        inventory=inventory,
        layers_fetched=len(fetched),
        layers_cached=len(read) - len(fetched),
        bytes_fetched=sum(layer.bytes_fetched for layer in fetched),
    )


class _Reading:
    """The layers of one image, some at a time; how many are streamed at once over all images is the business of `Layers`."""

    def __init__(
        self,
        registry: Registry,
        repository: str,
        image: ResolvedImage,
        layers: Layers,
        publish: Publish,
        *,
        accept_gaps: bool,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._image = image
        self._layers = layers
        self._publish = publish
        self._accept_gaps = accept_gaps
        self._bytes_done = 0
        self._read: dict[Digest, FetchedLayer] = {}
        self._failed: SensorError | None = None

    async def read(self, descriptors: Sequence[Descriptor]) -> dict[Digest, FetchedLayer]:
        """All layers, each distinct one once. The first failure ends it; what was finished by then is kept for the next try."""
        waiting = iter({descriptor.digest: descriptor for descriptor in descriptors}.values())
        async with asyncio.TaskGroup() as group:
            for _ in range(self._layers.concurrency):
                group.create_task(self._work(waiting))
        if self._failed is not None:
            raise self._failed
        return self._read

    async def _work(self, waiting: Iterator[Descriptor]) -> None:
        for descriptor in waiting:
            try:
                self._read[descriptor.digest] = await self._one(descriptor)
            except SensorError as error:
                self._failed = self._failed or error
            if self._failed is not None:
                return

    async def _one(self, descriptor: Descriptor) -> FetchedLayer:
        try:
            return await self._layers.fetch(self._registry, self._repository, descriptor, self._progressed)
        except LayerCorrupt:
            raise
        except (RegistryNotFound, RegistryForbidden) as error:
            if not _is_foreign(descriptor):
                raise
            return _gap("foreign-layer", descriptor, f"the layer is kept on another server: {error.message}")
        except DataError as error:
            # what no further try can mend is a gap at once
            if error.retryable and not self._accept_gaps:
                raise
            return _gap("unreadable", descriptor, error.message)

    def _progressed(self, count: int) -> None:
        self._bytes_done += count
        total = self._image.bytes_total
        self._publish(
            ImageProgressed(digest=self._image.subject, bytes_done=min(self._bytes_done, total), bytes_total=total)
        )


@dataclass(frozen=True, slots=True)
class _Wanted:
    subject: Digest
    platform: Platform
    limits: Limits


async def _resolve(
    registry: Registry,
    repository: str,
    fetched: FetchedManifest,
    wanted: _Wanted,
    platform: Platform | None,
    depth: int = 0,
) -> Resolution:
    document = fetched.document
    if isinstance(document, Manifest):
        return _classified(fetched.digest, document, wanted, platform)
    if depth >= wanted.limits.index_depth:
        message = f"the indexes of {wanted.subject} are nested more than {wanted.limits.index_depth} deep"
        raise DataError(message, "no tool makes such an image; it may be an attack")
    children = [child for child in document.manifests if not is_attestation(child)][: wanted.limits.index_children]
    if not children or document.artifact_type:
        shown = document.artifact_type or "an index without images"
        return NotAnImage(artifact_class=ArtifactClass.OTHER, reason=f"not a container image ({shown[:100]})")
    chosen = select_platform(Index(manifests=tuple(children)), wanted.platform)
    if chosen is not None:
        child = await registry.manifest(repository, chosen.digest)
        return await _resolve(registry, repository, child, wanted, chosen.platform, depth + 1)
    unnamed = [child for child in children if child.platform is None]
    available = sorted({str(child.platform) for child in children if child.platform is not None})
    last: Resolution | None = None
    for each in unnamed[:_MOST_UNNAMED]:
        child = await registry.manifest(repository, each.digest)
        # an image that nothing says the platform of is taken only if it stands alone
        if isinstance(child.document, Index) or len(children) == 1:
            last = await _resolve(registry, repository, child, wanted, None, depth + 1)
            if isinstance(last, ResolvedImage):
                return last
            if isinstance(last, NoPlatform):
                available += last.available
        else:
            available.append("unnamed")
    if isinstance(last, NotAnImage) and not available:
        return last
    return NoPlatform(wanted=wanted.platform, available=tuple(dict.fromkeys(available)))


def _classified(digest: Digest, manifest: Manifest, wanted: _Wanted, platform: Platform | None) -> Resolution:
    kind = artifact_class(manifest)
    if kind is ArtifactClass.IMAGE:
        return ResolvedImage(subject=wanted.subject, digest=digest, manifest=manifest, platform=platform)
    shown = manifest.artifact_type or manifest.config.media_type or "no media type"
    return NotAnImage(artifact_class=kind, reason=f"not a container image ({shown[:100]})")


def _is_foreign(descriptor: Descriptor) -> bool:
    """Layers that registries need not have: Windows base layers, named by URL. The sensor does not follow URLs out of an image."""
    return "foreign" in descriptor.media_type or "nondistributable" in descriptor.media_type


def _gap(kind: str, descriptor: Descriptor, reason: str) -> FetchedLayer:
    gap = Gap(kind=kind, subject=descriptor.digest, reason=reason)
    return FetchedLayer(inventory=LayerInventory(gaps=(gap,)))
