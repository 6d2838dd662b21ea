"""Images are remembered so that new advisories need no registry, and reported again only when something changed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from sensor.errors import StateError
from sensor.inventory.images import IMAGE_LAYERS, IMAGES, ImageStore, result_fingerprint
from sensor.inventory.layers import LAYERS, LEASES, LayerStore
from sensor.limits import Limits
from sensor.model.digest import Digest, sha256_digest
from sensor.model.finding import Finding, MatchResult, Severity
from sensor.model.package import Gap, ImageInventory, InstalledPackage, LayerInventory, LayerSummary, OsRelease, Package
from sensor.storage import Storage, open_storage

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
LIMITS = Limits()
KEY = "stream-1 dpkg-1"


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = await open_storage(tmp_path)
    yield storage
    await storage.close()


@pytest.fixture
def images(storage: Storage, clock: Clock) -> ImageStore:
    return ImageStore(storage, clock)


def digest(text: str) -> Digest:
    return sha256_digest(text.encode())


def inventory(name: str, *layers: str, gaps: tuple[Gap, ...] = ()) -> ImageInventory:
    package = Package(type="deb", name="bash", version="5.2-1", path="var/lib/dpkg/status")
    return ImageInventory(
        manifest=digest(name),
        platform="linux/amd64",
        os_release=OsRelease(id="debian", version_id="12"),
        packages=(InstalledPackage(package=package, layer=digest("base"), purl="pkg:deb/debian/bash@5.2-1"),),
        layers=tuple(LayerSummary(digest=digest(layer), compressed_bytes=1) for layer in layers or ("base", name)),
        gaps=gaps,
    )


async def put(storage: Storage, images: ImageStore, value: ImageInventory, subject: str = "", **more: str) -> None:
    name = digest(subject) if subject else value.manifest
    async with storage.transaction() as connection:
        await images.put(
            connection,
            value,
            subject=name,
            reported=name,
            catalogers=more.get("catalogers", KEY),
            limits=LIMITS,
        )


async def changed(storage: Storage, images: ImageStore, name: str, revision: str, fingerprint: str) -> bool:
    async with storage.transaction() as connection:
        return await images.result_changed(connection, digest(name), digest(name), revision, fingerprint)


async def test_an_inventory_comes_back_as_it_went_in(storage: Storage, images: ImageStore) -> None:
    assert await images.get(digest("a"), KEY, LIMITS) is None
    await put(storage, images, inventory("a"))
    assert await images.get(digest("a"), KEY, LIMITS) == inventory("a")
    assert await images.get(digest("a"), "other catalogers", LIMITS) is None
    assert await images.count() == 1


async def test_a_newer_inventory_replaces_the_older(storage: Storage, images: ImageStore) -> None:
    await put(storage, images, inventory("a"))
    assert await changed(storage, images, "a", "r1", "f1")
    gap = Gap(kind="unreadable", subject="x", reason="damaged")
    await put(storage, images, inventory("a", gaps=(gap,)), catalogers="newer")
    found = await images.get(digest("a"), "newer", LIMITS)
    assert found is not None
    assert found.gaps == (gap,)
    assert await images.get(digest("a"), KEY, LIMITS) is None
    # what was reported last is still known: an equal result needs no second report
    assert not await changed(storage, images, "a", "r1", "f1")
    assert await images.count() == 1


async def test_an_inventory_that_ran_into_a_limit_holds_under_that_limit_only(
    storage: Storage, images: ImageStore
) -> None:
    await put(storage, images, inventory("a", gaps=(Gap(kind="limit", subject="x", reason="too many"),)))
    assert await images.get(digest("a"), KEY, LIMITS) is not None
    assert await images.get(digest("a"), KEY, Limits(layer_entries=5)) is None


async def test_a_damaged_inventory_is_as_good_as_none(storage: Storage, images: ImageStore) -> None:
    await put(storage, images, inventory("a"))
    await put(storage, images, inventory("b"))
    async with storage.transaction() as connection:
        await connection.execute(update(IMAGES).where(IMAGES.c.manifest == digest("a")).values(body=b"\x00"))
    assert await images.get(digest("a"), KEY, LIMITS) is None
    # with pages of one, a page of nothing but damage must not look like the end
    found, after = [], ("", "")
    while batch := await images.outdated("r1", most=1, after=after):
        found += [image.inventory.manifest for image in batch]
        after = (batch[-1].subject, batch[-1].inventory.manifest)
    assert found == [digest("b")]
    assert await images.stale(KEY) == {digest("a")}


async def test_only_a_change_is_reported(storage: Storage, images: ImageStore) -> None:
    await put(storage, images, inventory("a"))
    assert await changed(storage, images, "a", "r1", "f1")
    assert not await changed(storage, images, "a", "r2", "f1")
    assert await changed(storage, images, "a", "r3", "f2")
    assert not await changed(storage, images, "a", "r3", "f2")


async def test_a_result_of_an_image_that_is_not_kept_is_always_new(storage: Storage, images: ImageStore) -> None:
    assert await changed(storage, images, "never stored", "r1", "f1")
    assert await changed(storage, images, "never stored", "r1", "f1")


async def test_new_advisories_bring_every_image_once(storage: Storage, images: ImageStore) -> None:
    names = [f"image {number}" for number in range(7)]
    for name in names:
        await put(storage, images, inventory(name))
        await changed(storage, images, name, "r1", name)
    assert await images.outdated("r1") == ()

    found: list[Digest] = []
    while batch := await images.outdated("r2", most=3):
        assert len(batch) <= 3
        for image in batch:
            assert (image.revision, image.subject, image.reported) == (
                "r1",
                image.inventory.manifest,
                image.inventory.manifest,
            )
            found.append(image.subject)
            async with storage.transaction() as connection:
                await images.result_changed(
                    connection, image.subject, image.inventory.manifest, "r2", image.fingerprint
                )
    assert sorted(found) == sorted(map(digest, names))
    assert len(found) == len(names)


async def test_an_image_that_cannot_be_matched_does_not_stop_the_rest(storage: Storage, images: ImageStore) -> None:
    for number in range(5):
        await put(storage, images, inventory(f"image {number}"))
    found, after = 0, ("", "")
    while batch := await images.outdated("r1", most=2, after=after):
        found += len(batch)
        after = (batch[-1].subject, batch[-1].inventory.manifest)
    assert found == 5


async def test_an_index_and_its_platforms_are_reported_each_for_itself(storage: Storage, images: ImageStore) -> None:
    amd, arm, index = inventory("amd64"), inventory("arm64"), digest("index")
    async with storage.transaction() as connection:
        for value, reported in ((amd, index), (arm, arm.manifest)):
            await images.put(connection, value, subject=index, reported=reported, catalogers=KEY, limits=LIMITS)
    await put(storage, images, amd)
    assert await images.of_subject(index) == tuple(sorted((amd.manifest, arm.manifest)))
    found = {(image.subject, image.reported, image.inventory.manifest) for image in await images.outdated("r1")}
    assert found == {
        (index, index, amd.manifest),
        (index, arm.manifest, arm.manifest),
        (amd.manifest, amd.manifest, amd.manifest),
    }
    assert await images.count() == 2


async def test_images_of_older_catalogers_are_known(storage: Storage, images: ImageStore) -> None:
    await put(storage, images, inventory("a"))
    await put(storage, images, inventory("b"), catalogers="newer")
    assert await images.stale("newer") == {digest("a")}
    assert await images.stale(KEY) == {digest("b")}


async def test_what_nothing_points_to_any_more_is_pruned(storage: Storage, images: ImageStore, clock: Clock) -> None:
    layers = LayerStore(storage, clock)
    async with storage.transaction() as connection:
        for name in ("base", "kept", "old", "lonely"):
            await layers.put(connection, digest(name), LayerInventory(), KEY, LIMITS)
        await layers.claim(connection, digest("forgotten"), "killed", timedelta(minutes=5))
    await put(storage, images, inventory("kept"))
    await put(storage, images, inventory("old"))
    await put(storage, images, inventory("old"), subject="kept index")
    await put(storage, images, inventory("job"), subject="job")
    clock.now += timedelta(days=31)
    await put(storage, images, inventory("young"))

    async def prune(*keep: str) -> int:
        async with storage.transaction() as connection:
            return await images.prune(connection, [digest(name) for name in keep], clock.now - timedelta(days=30))

    async def rows(column: object) -> set[str]:
        async with storage.reading() as connection:
            return set((await connection.execute(select(column))).scalars())  # type: ignore[call-overload]

    # "old" itself is not kept, but an index over it is; the "lonely" layer and the lease of a killed process go
    assert await prune("kept", "kept index", "job") == 1 + 1 + 1
    assert await rows(IMAGES.c.manifest) == {digest(name) for name in ("kept", "old", "job", "young")}
    assert await rows(LAYERS.c.digest) == {digest(name) for name in ("base", "kept", "old")}
    assert await rows(LEASES.c.digest) == set()

    assert await prune("kept") == 2 + 2 + 1
    assert await rows(IMAGES.c.manifest) == {digest("kept"), digest("young")}
    assert await rows(LAYERS.c.digest) == {digest("base"), digest("kept")}
    assert await rows(IMAGE_LAYERS.c.manifest) == {digest("kept"), digest("young")}
    assert await prune("kept") == 0


async def test_hundreds_of_images_are_pruned(storage: Storage, images: ImageStore, clock: Clock) -> None:
    async with storage.transaction() as connection:
        for number in range(600):
            value = inventory(f"image {number}", "base")
            await images.put(
                connection, value, subject=value.manifest, reported=value.manifest, catalogers=KEY, limits=LIMITS
            )
    clock.now += timedelta(days=1)
    async with storage.transaction() as connection:
        assert await images.prune(connection, (), clock.now) == 1200
        assert (await connection.execute(select(func.count()).select_from(IMAGE_LAYERS))).scalar_one() == 0


async def test_an_image_without_layers_is_kept_too(storage: Storage, images: ImageStore) -> None:
    scratch = ImageInventory(manifest=digest("scratch"), platform="linux/amd64")
    await put(storage, images, scratch)
    assert await images.get(digest("scratch"), KEY, LIMITS) == scratch


async def test_a_result_without_its_image_is_refused(storage: Storage, images: ImageStore) -> None:
    with pytest.raises(StateError, match="FOREIGN KEY"):
        async with storage.transaction() as connection:
            await connection.execute(IMAGE_LAYERS.insert().values(manifest=digest("none"), layer=digest("base")))


def test_a_fingerprint_names_what_is_said_and_not_by_which_advisories() -> None:
    finding = Finding(
        vulnerability="CVE-2026-1",
        advisory="DSA-1",
        package_name="bash",
        package_version="5.2-1",
        purl="pkg:deb/debian/bash@5.2-1",
        path="var/lib/dpkg/status",
        layer=digest("base"),
        severity=Severity.HIGH,
    )
    image = inventory("a")
    said = result_fingerprint(MatchResult(revision="r1", findings=(finding,)), image)
    assert said == result_fingerprint(MatchResult(revision="r2", findings=(finding,)), image)
    gap = Gap(kind="no-advisories", subject="debian", reason="none")
    others = [
        result_fingerprint(MatchResult(revision="r1"), image),
        result_fingerprint(MatchResult(revision="r1", findings=(finding,), gaps=(gap,)), image),
        result_fingerprint(MatchResult(revision="r1", findings=(finding,)), inventory("a", gaps=(gap,))),
    ]
    assert len({said, *others}) == 4
