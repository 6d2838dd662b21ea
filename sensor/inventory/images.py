"""Inventories of images, kept so that new advisories need no registry, and what was last reported about each.

An inventory belongs to a manifest. A *subject* is what the catalogue knows (the digest a tag points to): the manifest itself, or an index
over manifests of several platforms. Results are remembered by (subject, manifest), because each is reported for itself. Leaves matching to
`scan.match`, and what is delivered to the pipeline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import msgspec
from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Index,
    LargeBinary,
    Row,
    Table,
    Text,
    delete,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from sensor.errors import DataError
from sensor.inventory.layers import LAYERS, LEASES, limits_fingerprint, limits_mark, pack, unpack
from sensor.limits import Limits
from sensor.model.digest import Digest
from sensor.model.finding import MatchResult
from sensor.model.package import ImageInventory
from sensor.storage import METADATA, Storage

Clock: TypeAlias = Callable[[], datetime]

IMAGES = Table(
    "image_inventories",
    METADATA,
    Column("manifest", Text, primary_key=True),
    Column("platform", Text, nullable=False),
    Column("catalogers", Text, nullable=False),
    Column("limits", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("stored_at", Float, nullable=False),
)
IMAGE_LAYERS = Table(
    "image_layers",
    METADATA,
    Column("manifest", Text, ForeignKey("image_inventories.manifest", ondelete="CASCADE"), primary_key=True),
    Column("layer", Text, primary_key=True),
    Index("image_layers_layer", "layer"),
)
RESULTS = Table(
    "image_results",
    METADATA,
    Column("subject", Text, primary_key=True),
    Column("manifest", Text, ForeignKey("image_inventories.manifest", ondelete="CASCADE"), primary_key=True),
    Column("reported", Text, nullable=False),
    Column("revision", Text, nullable=False, default=""),
    Column("fingerprint", Text, nullable=False, default=""),
    Column("matched_at", Float),
    Index("image_results_manifest", "manifest"),
)
"""`revision` is that of the advisories last matched against, `fingerprint` names the findings that this gave."""

_AT_ONCE = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """One image as it was last reported: enough to match and report it again."""

    subject: Digest
    reported: Digest
    """The identity at the control plane."""
    inventory: ImageInventory
    revision: str = ""
    fingerprint: str = ""


class ImageStore:
    """The three tables. Methods that write take the caller's connection; all raise StateError when the database fails."""

    def __init__(self, storage: Storage, clock: Clock = lambda: datetime.now(UTC)) -> None:
        self._storage = storage
        self._clock = clock

    async def get(self, manifest: Digest, catalogers: str, limits: Limits) -> ImageInventory | None:
        """The inventory that these catalogers made of a manifest, if it is known and readable."""
        query = select(IMAGES.c.body).where(
            IMAGES.c.manifest == manifest,
            IMAGES.c.catalogers == catalogers,
            IMAGES.c.limits.in_(("", limits_fingerprint(limits))),
        )
        async with self._storage.reading() as connection:
            body = (await connection.execute(query)).scalar_one_or_none()
        if body is None:
            return None
        try:
            return unpack(body, ImageInventory)
        except DataError:
            return None

    async def put(
        self,
        connection: AsyncConnection,
        inventory: ImageInventory,
        *,
        subject: Digest,
        reported: Digest,
        catalogers: str,
        limits: Limits,
    ) -> None:
        """Keep an inventory and that it is part of a subject. What was last reported of it stays as it was."""
        values = {
            "platform": inventory.platform,
            "catalogers": catalogers,
            "limits": limits_mark(inventory.gaps, limits=limits),
            "body": pack(inventory),
            "stored_at": self._clock().timestamp(),
        }
        await connection.execute(
            insert(IMAGES)
            .values(manifest=inventory.manifest, **values)
            .on_conflict_do_update(index_elements=["manifest"], set_=values)
        )
        layers = dict.fromkeys(layer.digest for layer in inventory.layers)
        if layers:
            await connection.execute(
                insert(IMAGE_LAYERS).on_conflict_do_nothing(),
                [{"manifest": inventory.manifest, "layer": layer} for layer in layers],
            )
        await connection.execute(
            insert(RESULTS)
            .values(subject=subject, manifest=inventory.manifest, reported=reported)
            .on_conflict_do_update(index_elements=["subject", "manifest"], set_={"reported": reported})
        )

    async def result_changed(
        self, connection: AsyncConnection, subject: Digest, manifest: Digest, revision: str, fingerprint: str
    ) -> bool:
        """Note what an image was matched against and what that gave. True when it differs from the last time, or is the first."""
        of_image = (RESULTS.c.subject == subject, RESULTS.c.manifest == manifest)
        last = (await connection.execute(select(RESULTS.c.fingerprint).where(*of_image))).scalar_one_or_none()
        await connection.execute(
            update(RESULTS)
            .where(*of_image)
            .values(revision=revision, fingerprint=fingerprint, matched_at=self._clock().timestamp())
        )
        return last != fingerprint

    async def outdated(
        self, revision: str, *, most: int = 50, after: tuple[str, str] = ("", "")
    ) -> tuple[StoredImage, ...]:
        """The next images that were matched against other advisories than these, in the order of (subject, manifest).

        Go on with `after=(image.subject, image.inventory.manifest)` of the last one until nothing comes, so that an image that cannot be
        matched does not come again and again. An inventory that cannot be read any more is passed over, and is `stale` from then on.
        """
        damaged: set[Digest] = set()
        found: list[StoredImage] = []
        while not found:
            query = (
                select(RESULTS, IMAGES.c.body)
                .join(IMAGES, IMAGES.c.manifest == RESULTS.c.manifest)
                .where(RESULTS.c.revision != revision, tuple_(RESULTS.c.subject, RESULTS.c.manifest) > tuple_(*after))
                .order_by(RESULTS.c.subject, RESULTS.c.manifest)
                .limit(most)
            )
            async with self._storage.reading() as connection:
                rows = (await connection.execute(query)).all()
            if not rows:
                break
            after = (rows[-1].subject, rows[-1].manifest)
            for row in rows:
                image = _stored(row)
                if image is None:
                    damaged.add(row.manifest)
                else:
                    found.append(image)
        if damaged:
            async with self._storage.transaction() as connection:
                await connection.execute(update(IMAGES).where(IMAGES.c.manifest.in_(damaged)).values(catalogers=""))
        return tuple(found)

    async def of_subject(self, subject: Digest) -> tuple[Digest, ...]:
        """The manifests that are known of a subject."""
        query = select(RESULTS.c.manifest).where(RESULTS.c.subject == subject).order_by(RESULTS.c.manifest)
        async with self._storage.reading() as connection:
            return tuple((await connection.execute(query)).scalars())

    async def stale(self, catalogers: str) -> frozenset[Digest]:
        """Subjects with an inventory that other catalogers made: worth another scan, when there is time."""
        query = select(RESULTS.c.subject).join(IMAGES).where(IMAGES.c.catalogers != catalogers).distinct()
        async with self._storage.reading() as connection:
            return frozenset((await connection.execute(query)).scalars())

    async def count(self) -> int:
        """How many inventories are kept."""
        async with self._storage.reading() as connection:
            return int((await connection.execute(select(func.count()).select_from(IMAGES))).scalar_one())

    async def prune(self, connection: AsyncConnection, keep: Collection[Digest], before: datetime) -> int:
        """Forget subjects that are not kept, images of no subject, and layers of no image, as far as they are older than a time.

        `keep` are the digests that the catalogue holds. Gives the number of rows removed.
        """
        stamp = before.timestamp()
        query = select(RESULTS.c.subject).join(IMAGES).where(IMAGES.c.stored_at < stamp).distinct()
        subjects = set((await connection.execute(query)).scalars()) - set(keep)
        removed = 0
        for batch in _batches(sorted(subjects)):
            removed += (await connection.execute(delete(RESULTS).where(RESULTS.c.subject.in_(batch)))).rowcount
        images = delete(IMAGES).where(IMAGES.c.stored_at < stamp, IMAGES.c.manifest.not_in(select(RESULTS.c.manifest)))
        layers = delete(LAYERS).where(LAYERS.c.stored_at < stamp, LAYERS.c.digest.not_in(select(IMAGE_LAYERS.c.layer)))
        leases = delete(LEASES).where(LEASES.c.until < stamp)
        for statement in (images, layers, leases):
            removed += (await connection.execute(statement)).rowcount
        return removed


def result_fingerprint(match: MatchResult, inventory: ImageInventory) -> str:
    """Names what a result says, without which advisories said it: equal fingerprints need no second report."""
    said = (match.findings, match.gaps, inventory.gaps)
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()


def _stored(row: Row[Any]) -> StoredImage | None:
    try:
        inventory = unpack(row.body, ImageInventory)
    except DataError:
        return None
    return StoredImage(
        subject=row.subject,
        reported=row.reported,
        inventory=inventory,
        revision=row.revision,
        fingerprint=row.fingerprint,
    )


def _batches(values: Iterable[Digest]) -> Iterable[list[Digest]]:
    rest = list(values)
    for start in range(0, len(rest), _AT_ONCE):
        yield rest[start : start + _AT_ONCE]
