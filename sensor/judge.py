"""What is in one digest and what is vulnerable in it: manifest, platforms, inventory, match. Stores layers, and on demand inventories.

The step that a sweep's scan, a job and the command `scan` share. Leaves queueing, storing results and reporting to `pipeline`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from sensor import events
from sensor.advisories.shelf import AdvisoryShelf
from sensor.catalog.diff import DigestState
from sensor.catalog.snapshots import Standing
from sensor.config import schema
from sensor.control_plane import wire
from sensor.control_plane.links import Link
from sensor.events import Publish
from sensor.inventory.image import (
    InventoriedImage,
    NoPlatform,
    NotAnImage,
    ResolvedImage,
    inventory_image,
    resolve_image,
)
from sensor.inventory.images import ImageStore
from sensor.inventory.layers import Layers
from sensor.model.digest import Digest
from sensor.model.finding import ImageResult
from sensor.model.manifest import Platform
from sensor.model.reference import Reference, parse_reference
from sensor.model.request import JobRequest
from sensor.registry.errors import RegistryNotFound
from sensor.registry.port import Registry
from sensor.scan.match import match_inventory


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One platform of one image: the inventory and what it cost, and the result."""

    image: InventoriedImage
    result: ImageResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of one digest: results, or the reason why there are none."""

    digest: Digest
    judged: tuple[Judged, ...] = ()
    skipped: NotAnImage | NoPlatform | None = None

    @property
    def skip_reason(self) -> str:
        """Why there is no result, in words."""
        return self.skipped.reason if self.skipped is not None else ""

    @property
    def standing(self) -> Standing:
        """Where the digest stands in the catalogue now."""
        if self.judged:
            return Standing(digest=self.digest, state=DigestState.SCANNED)
        return Standing(
            digest=self.digest,
            state=DigestState.SKIPPED,
            reason=self.skip_reason,
            artifact_class=self.skipped.artifact_class if isinstance(self.skipped, NotAnImage) else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an image was found: a name for people and events, the registry's client, the reference."""

    name: str
    client: Registry
    reference: Reference


class Sites(Protocol):
    """The registries and links in force; both change when the configuration is reloaded."""

    def names(self) -> tuple[str, ...]:
        """The configured registries."""

    def registry(self, name: str) -> tuple[schema.Registry, Registry]:
        """A configured registry and its client; ConfigError when it left the configuration."""

    async def registry_for(self, reference: Reference, link: str) -> tuple[schema.Registry, Registry]:
        """The registry that serves a reference which a link's job names; ConfigError when there is none."""

    def platforms(self, settings: schema.Registry) -> tuple[Platform, ...]:
        """The platforms to scan, the one reported under the index digest first."""

    def link_for(self, registry: str) -> Link | None:
        """The link over which a registry reports."""

    def identity(self, link: str) -> wire.Sensor:
        """What this sensor calls itself on a link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """The collaborators."""

    layers: Layers
    images: ImageStore
    advisories: AdvisoryShelf
    publish: Publish
    clock: Callable[[], datetime]

    async def judge(
        self, place: Place, target: str, platforms: Sequence[Platform], *, accept_gaps: bool = False
    ) -> Verdict:
        """Inventory and match every platform of what `target` (a digest or tag) names.

        With `accept_gaps` a layer that the scanning process cannot read is a gap instead of a failure.

        Raises:
            SensorError: the registry, the image or the state database did not let it; nothing of it counts.
        """
        fetched = await place.client.manifest(place.reference.repository, target)
        found: list[ResolvedImage] = []
        skipped: NotAnImage | NoPlatform | None = None
        for platform in platforms:
            resolved = await resolve_image(
                place.client, place.reference.repository, fetched, platform, self.layers.limits
            )
            if not isinstance(resolved, ResolvedImage):
                skipped = skipped or resolved
            elif resolved.digest not in {image.digest for image in found}:
                found.append(resolved)
        judged: list[Judged] = []
        for image in found:
            # the control plane's digest is unique: the index speaks for its first platform, further ones for themselves
            identity = image.subject if not judged else image.digest
            judged.append(await self._judge_platform(place, image, identity, accept_gaps=accept_gaps))
        return Verdict(digest=fetched.digest, judged=tuple(judged), skipped=None if judged else skipped)

    async def keep(self, connection: AsyncConnection, subject: Digest, judged: Judged) -> None:
        """Store an inventory, so that the image need not be read again. What was reported of it is not touched."""
        await self.images.put(
            connection,
            judged.result.inventory,
            subject=subject,
            reported=judged.result.digest,
            catalogers=self.layers.catalogers,
            limits=self.layers.limits,
        )

    async def _judge_platform(
        self, place: Place, image: ResolvedImage, identity: Digest, *, accept_gaps: bool
    ) -> Judged:
        started, began = self.clock(), time.monotonic()
        self.publish(
            events.ImageStarted(
                at=started,
                registry=place.name,
                reference=str(place.reference),
                digest=image.subject,
                layers=len(image.manifest.layers),
                bytes_total=image.bytes_total,
            )
        )
        try:
            taken = await inventory_image(
                place.client,
                place.reference.repository,
                image,
                layers=self.layers,
                images=self.images,
                publish=self.publish,
                accept_gaps=accept_gaps,
            )
            match = await self.advisories.use(partial(match_inventory, taken.inventory))
        except BaseException:
            # whatever ends it: an image that is shown as running for ever would keep the heartbeat at "scanning"
            self.publish(events.ImageStopped(digest=image.subject))
            raise
        result = ImageResult(
            reference=str(place.reference),
            digest=identity,
            inventory=taken.inventory,
            match=match,
            started_at=rfc3339(started),
            finished_at=rfc3339(self.clock()),
        )
        self.publish(self._scanned(place, taken, result, time.monotonic() - began))
        return Judged(image=taken, result=result)

    def _scanned(
        self, place: Place, taken: InventoriedImage, result: ImageResult, seconds: float
    ) -> events.ImageScanned:
        return events.ImageScanned(
            at=self.clock(),
            registry=place.name,
            reference=result.reference,
            digest=taken.subject,
            status=result.status,
            packages=len(taken.inventory.packages),
            counts={str(severity): count for severity, count in result.counts().items()},
            gaps=tuple(f"{gap.kind}: {gap.subject}: {gap.reason}" for gap in result.gaps),
            layers_fetched=taken.layers_fetched,
            layers_cached=taken.layers_cached,
            bytes_fetched=taken.bytes_fetched,
            seconds=seconds,
        )


async def place_of_job(sites: Sites, work: JobRequest, absent: list[str]) -> tuple[Place, tuple[Platform, ...]]:
    """Where a job's image is: at the first of its references that there is. `absent` gets what was asked in vain, in words.

    Only an image that is not there at all is looked for elsewhere: one that lacks a layer, or that may not be seen, has failed.

    Raises:
        SensorError: the reference that comes after the absent ones does not let it.
    """
    others = [work.reference, *work.fallbacks]
    while True:
        text = others.pop(0)
        reference = parse_reference(text)
        settings, client = await sites.registry_for(reference, work.link)
        if others:
            try:
                await client.manifest(reference.repository, reference.target)
            except RegistryNotFound as error:
                absent.append(f"{text}: {error.message}")
                continue
        return Place(name=settings.name, client=client, reference=reference), sites.platforms(settings)


def rfc3339(moment: datetime) -> str:
    """A time as the wire wants it: UTC with `Z`, milliseconds."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
