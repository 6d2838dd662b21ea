"""Image archives in the place of a registry: by the real skopeo, by hand, and while they are written."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from sensor.catalog.crawl import crawl
from sensor.config.schema import Registry
from sensor.errors import ConfigError, DataError
from sensor.inventory.image import ResolvedImage, resolve_image
from sensor.limits import DEFAULT_LIMITS, MIB, Limits
from sensor.model.digest import Digest
from sensor.model.manifest import OCI_INDEX, OCI_MANIFEST, Descriptor, Index, Manifest, Platform
from sensor.registry.errors import NotARegistry, RegistryNotFound
from sensor.registry.kinds import detect, open_registry
from sensor.registry.kinds.archive import ArchiveRegistry
from tests.fakes.archives import Image, changed, docker_save, layout_members, skopeo_copy, without, write
from tests.fakes.images import REF_NAME, ImageStore
from tests.fakes.layers import Compression, digest_of, file, layer, layer_tar
from tests.registry.conftest import Images

ONE = layer_tar(file("etc/os-release", b"ID=debian\n"))
TWO = layer_tar(file("opt/app", b"two"))


class Clock:
    """A clock that stands until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def opened(path: Path, limits: Limits = DEFAULT_LIMITS, clock: Clock | None = None) -> ArchiveRegistry:
    return ArchiveRegistry(path, host="x.archive", limits=limits, clock=clock or Clock())


def configured(url: str, name: str = "drop_1") -> ArchiveRegistry:
    registry = open_registry(Registry.model_validate({"name": name, "url": url}))
    assert isinstance(registry, ArchiveRegistry)
    return registry


async def all_of(chunks: AsyncGenerator[bytes, None]) -> bytes:
    async with contextlib.aclosing(chunks):
        return b"".join([chunk async for chunk in chunks])


async def manifest_of(registry: ArchiveRegistry, repository: str, tag: str) -> Manifest:
    document = (await registry.manifest(repository, tag)).document
    assert isinstance(document, Manifest)
    return document


# -- made by skopeo ----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    """A layout whose entries skopeo can name."""
    store = ImageStore(tmp_path / "layout")
    app = store.manifest(
        [layer(file("etc/os-release", b"ID=debian\n")), layer(file("b", b"2")), layer(file("b", b"2"))]
    )
    store.tag(app, "team/app", "v1", annotation=REF_NAME)
    arm = layer(file("a", b"arm"), compression="zstd")
    multi = store.index(
        {"linux/amd64": store.manifest([arm]), "linux/arm64": store.manifest([arm], platform="linux/arm64")}
    )
    store.tag(multi, "", "v2", annotation=REF_NAME)
    return store


async def test_skopeos_oci_archive_is_the_layout_it_was_made_from(store: ImageStore, tmp_path: Path) -> None:
    path = tmp_path / "app.tar"
    skopeo_copy(f"oci:{store.root}:team/app:v1", f"oci-archive:{path}:team/app:v1")
    registry, layout = configured(f"archive:{path}"), open_registry(Registry(name="x", url=f"oci:{store.root}"))
    head = await registry.head("team/app", "v1")
    assert head == await layout.head("team/app", "v1")
    fetched = await registry.manifest("team/app", "v1")
    assert fetched == await layout.manifest("team/app", head.digest)
    assert isinstance(fetched.document, Manifest)
    assert await registry.config("team/app", fetched.document.config) == await layout.config(
        "team/app", fetched.document.config
    )
    for one in fetched.document.layers:
        assert digest_of(await all_of(registry.blob("team/app", one))) == one.digest
    assert (await registry.ping()).detail == "1 image archive with 1 image"


async def test_skopeos_oci_archive_of_several_platforms(store: ImageStore, tmp_path: Path) -> None:
    path = tmp_path / "multi.oci.tar"
    skopeo_copy(f"oci:{store.root}:v2", f"oci-archive:{path}:v2", "--all")
    registry = configured(f"oci-archive:{path}")
    fetched = await registry.manifest("multi", "v2")
    assert (fetched.media_type, isinstance(fetched.document, Index)) == (OCI_INDEX, True)
    resolved = await resolve_image(
        registry, "multi", fetched, Platform(os="linux", architecture="arm64"), DEFAULT_LIMITS
    )
    assert isinstance(resolved, ResolvedImage)
    assert (await registry.head("multi", resolved.digest)).media_type == OCI_MANIFEST
    assert (await registry.config("multi", resolved.manifest.config)).architecture == "arm64"


@pytest.mark.parametrize("name", ["", ":host.example:5000/team/app:v1"])
async def test_skopeos_docker_archive_is_known_by_its_configuration(
    store: ImageStore, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "saved.tar"
    skopeo_copy(f"oci:{store.root}:team/app:v1", f"docker-archive:{path}{name}")
    registry = configured(f"docker-archive:{path}")
    repository, tag = ("team/app", "v1") if name else ("saved", "latest")
    assert (await registry.repositories()).names == (repository,)
    manifest = await manifest_of(registry, repository, tag)
    layout = open_registry(Registry(name="x", url=f"oci:{store.root}"))
    original = (await layout.manifest("team/app", "v1")).document
    assert isinstance(original, Manifest)
    assert manifest.config.digest == original.config.digest
    config = await registry.config(repository, manifest.config)
    assert [one.digest for one in manifest.layers] == list(config.rootfs.diff_ids)
    for one in manifest.layers:
        assert digest_of(await all_of(registry.blob(repository, one))) == one.digest
    assert "compare the digest of its configuration with config.digest" in (await registry.ping()).detail


async def test_skopeo_and_docker_make_one_image(store: ImageStore, tmp_path: Path) -> None:
    path = tmp_path / "app.tar"
    skopeo_copy(f"oci:{store.root}:team/app:v1", f"docker-archive:{path}:team/app:v1")
    registry = opened(path)
    manifest = await manifest_of(registry, "team/app", "v1")
    blobs = [await all_of(registry.blob("team/app", one)) for one in manifest.layers]
    config = await all_of(registry.blob("team/app", manifest.config))
    docker = write(tmp_path / "docker.tar", *docker_save(Image(["team/app:v1"], blobs), style="old"))
    made_config = Image(["team/app:v1"], blobs)
    old = changed(docker_save(made_config, style="old"), f"{made_config.config_digest[7:]}.json", data=config)
    document = json.loads(next(member.data for member in old if member.path == "manifest.json"))
    document[0]["Config"] = "config.json"
    members = [
        *without(old, "manifest.json"),
        file("config.json", config),
        file("manifest.json", json.dumps(document).encode()),
    ]
    write(docker, *members)
    assert (await opened(docker).head("team/app", "v1")) == await registry.head("team/app", "v1")


async def test_skopeos_dir_is_refused_with_words(store: ImageStore, tmp_path: Path) -> None:
    skopeo_copy(f"oci:{store.root}:team/app:v1", f"dir:{tmp_path}/copied")
    with pytest.raises(NotARegistry, match="`dir:` copy of skopeo") as caught:
        await configured(f"archive:{tmp_path}/copied").ping()
    assert f"skopeo copy dir:{tmp_path}/copied oci-archive:" in caught.value.advice


# -- reading -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_a_whole_layout_is_found_and_read(images: Images, tmp_path: Path, compression: Compression) -> None:
    path = write(tmp_path / "all.tar", *layout_members(images.store.root), compression=compression)
    registry = configured(f"archive:{path}")
    assert (registry.host, registry.namespace, registry.requests) == ("drop-1.archive", "", 0)
    ping = await registry.ping()
    assert (ping.reachable, ping.authenticated, ping.scheme) == (True, True, "archive")
    listing = await registry.repositories()
    assert set(listing.names) == {"charts/app", "multi", "team/app", "team/other"}
    assert (listing.complete, listing.reason) == (True, "")
    tags = await registry.tags("team/app")
    assert tags.digests["latest"] == images.app.digest
    assert tags.pushed["latest"] == pytest.approx(path.stat().st_mtime)
    assert (await registry.head("team/app", "v1")).size == len(images.app.data)
    assert (await registry.head("team/app", images.app.digest)).media_type == OCI_MANIFEST
    manifest = await manifest_of(registry, "team/app", images.app.digest)
    assert (await registry.config("team/app", manifest.config)).os == "linux"
    pieces = [piece async for piece in registry.blob("team/app", manifest.layers[0])]
    assert b"".join(pieces) == images.blob
    assert max(map(len, pieces)) <= MIB
    assert (await registry.method()).name == "files on disk"
    assert (await registry.standing()).identity == ""
    await registry.close()


async def test_large_layers_come_in_pieces(tmp_path: Path) -> None:
    big = layer_tar(file("big", bytes(range(256)) * 12_000))
    path = write(tmp_path / "app.tar", *docker_save(Image(["app:1"], [big])))
    registry = opened(path)
    manifest = await manifest_of(registry, "app", "1")
    pieces = [piece async for piece in registry.blob("app", manifest.layers[0])]
    assert (b"".join(pieces) == big, len(pieces)) == (True, 3)


async def test_what_is_missing_is_not_found(images: Images, tmp_path: Path) -> None:
    images.store.remove(images.app.layers[0])
    registry = opened(write(tmp_path / "all.tar", *layout_members(images.store.root)))
    with pytest.raises(RegistryNotFound, match="there is no no/such"):
        await registry.tags("no/such")
    for target in ("nosuch", "sha256:" + "0" * 64):
        with pytest.raises(RegistryNotFound):
            await registry.manifest("team/app", target)
    with pytest.raises(RegistryNotFound):
        await registry.head("no/such", images.app.digest)
    with pytest.raises(RegistryNotFound, match=r"is not in all\.tar"):
        await all_of(registry.blob("team/app", Descriptor(digest=images.app.layers[0], size=1)))
    with pytest.raises(RegistryNotFound, match="no/such"):
        await all_of(registry.blob("no/such", Descriptor(digest=images.app.digest, size=1)))
    with pytest.raises(DataError, match="not a digest"):
        await all_of(registry.blob("team/app", Descriptor(digest=Digest("../../etc/passwd"), size=1)))


async def test_damage_is_noticed(images: Images, tmp_path: Path) -> None:
    assert images.app.config is not None
    members = layout_members(images.store.root)
    path = tmp_path / "all.tar"
    name = f"blobs/sha256/{images.app.config[7:]}"
    write(path, *changed(members, name, data=images.store.read(images.app.config).replace(b"linux", b"linus")))
    registry = opened(path)
    manifest = await manifest_of(registry, "team/app", "v1")
    with pytest.raises(DataError, match="hash to"):
        await registry.config("team/app", manifest.config)
    write(path, *changed(members, f"blobs/sha256/{images.app.digest[7:]}", data=b"{}"))
    with pytest.raises(DataError, match="hash to"):
        await registry.manifest("team/app", "v1")
    with pytest.raises(DataError, match="not of the"):
        await all_of(registry.blob("team/app", Descriptor(digest=images.app.layers[0], size=3)))


async def test_limits_hold(images: Images, tmp_path: Path) -> None:
    path = write(tmp_path / "all.tar", *layout_members(images.store.root))
    registry = opened(path, Limits(config_bytes=10))
    manifest = await manifest_of(registry, "team/app", "v1")
    with pytest.raises(DataError, match="larger than"):
        await registry.config("team/app", manifest.config)
    with pytest.raises(DataError, match="larger than"):
        await opened(path, Limits(manifest_bytes=100)).repositories()


async def test_a_broken_image_is_listed_and_says_why_it_cannot_be_had(tmp_path: Path) -> None:
    members = docker_save(Image(["app:1"], [ONE]), Image(["app:2"], [TWO]))
    registry = opened(write(tmp_path / "app.tar", *without(members, f"{digest_of(TWO)[7:]}.tar")))
    tags = await registry.tags("app")
    assert (set(tags.names), set(tags.digests), tags.complete) == ({"1", "2"}, {"1"}, True)
    for ask in (registry.head, registry.manifest):
        with pytest.raises(DataError, match=r"app\.tar: app:2 cannot be read: .* is not in the archive"):
            await ask("app", "2")
    found = await crawl(registry, Registry(name="x", url=f"archive:{tmp_path}/app.tar"))
    seen = {seen.tag: seen for repository in found.repositories for seen in repository.tags}
    assert seen["1"].digest
    assert "is not in the archive" in seen["2"].error


# -- a directory that lives --------------------------------------------------------------------------------------------


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    path = tmp_path / "drop"
    path.mkdir()
    return path


async def test_a_bad_file_makes_the_listing_partial_and_hides_nothing(drop: Path) -> None:
    write(drop / "good.tar", *docker_save(Image(["app:1"], [ONE])))
    (drop / "half.tar").write_bytes(layer_tar(*docker_save(Image(["app:2"], [TWO])))[:3000])
    registry = configured(f"archive:{drop}")
    for listing in (await registry.repositories(), await registry.tags("app")):
        assert (len(listing.names), listing.complete) == (1, False)
        assert listing.reason == "half.tar: it is cut short"
    assert "not everything can be read: half.tar: it is cut short" in (await registry.ping()).detail
    for ask in (registry.manifest("app", "2"), registry.tags("other"), registry.head("other", "1")):
        with pytest.raises(DataError, match=r"in none of the archives .* that can be read: half\.tar") as caught:
            await ask
        assert caught.value.retryable
    found = await crawl(registry, Registry(name="x", url=f"archive:{drop}"))
    assert not found.repositories_complete
    assert "half.tar" in found.error
    assert [len(repository.tags) for repository in found.repositories] == [1]


async def test_one_image_of_several_files(drop: Path) -> None:
    write(drop / "one.tar", *docker_save(Image(["app:1"], [ONE])))
    write(drop / "two.tar.gz", *docker_save(Image(["app:2"], [TWO])), compression="gzip")
    registry = opened(drop)
    assert (await registry.repositories()).names == ("app",)
    assert set((await registry.tags("app")).names) == {"1", "2"}
    for tag, blob in (("1", ONE), ("2", TWO)):
        manifest = await manifest_of(registry, "app", tag)
        assert await all_of(registry.blob("app", manifest.layers[0])) == blob
        assert (await registry.config("app", manifest.config)).os == "linux"


async def test_the_ping_tells_what_is_odd(drop: Path) -> None:
    for number in range(6):
        path = write(drop / f"{number}.tar", file("/x"), *docker_save(Image(["app:1"], [ONE] * (number + 1))))
        os.utime(path, (number, number))
    (drop / "README").write_text("hello")
    detail = (await opened(drop).ping()).detail
    assert detail.startswith("6 image archives with 6 images; `docker save` drops the registry's digest")
    assert "app:1 of 4.tar as 1." in detail
    assert " and 2 more" in detail
    assert "6 members with absolute names" in detail
    assert detail.endswith("1 other file passed over")


async def test_an_empty_directory_is_an_empty_registry(drop: Path) -> None:
    registry = opened(drop)
    assert (await registry.ping()).detail == "0 image archives with 0 images"
    listing = await registry.repositories()
    assert (listing.names, listing.complete) == ((), True)
    with pytest.raises(NotARegistry, match="cannot be read"):
        await opened(drop / "nosuch").repositories()


async def test_the_directory_is_looked_at_anew_after_a_while_or_when_a_file_changes(drop: Path) -> None:
    clock = Clock()
    registry = opened(drop, clock=clock)
    write(drop / "one.tar", *docker_save(Image(["app:1"], [ONE])))
    assert (await registry.tags("app")).names == ("1",)
    write(drop / "two.tar", *docker_save(Image(["app:2"], [TWO])))
    assert (await registry.tags("app")).names == ("1",)
    clock.now = 3
    assert set((await registry.tags("app")).names) == {"1", "2"}
    write(drop / "one.tar", *docker_save(Image(["app:3"], [ONE, TWO])))
    assert set((await registry.tags("app")).names) == {"2", "3"}
    (drop / "two.tar").unlink()
    with pytest.raises(RegistryNotFound):
        await registry.manifest("app", "2")
    write(drop / "two.tar", *docker_save(Image(["other:1"], [TWO])))
    assert (await registry.tags("other")).names == ("1",)
    assert set((await registry.repositories()).names) == {"app", "other"}


async def test_a_file_that_is_replaced_while_a_layer_is_read_is_an_error_to_try_again(drop: Path) -> None:
    big = layer_tar(file("big", bytes(4 * MIB)))
    path = write(drop / "app.tar", *docker_save(Image(["app:1"], [big])))
    registry = opened(drop)
    manifest = await manifest_of(registry, "app", "1")
    chunks = registry.blob("app", manifest.layers[0])
    await anext(chunks)
    with path.open("r+b") as file_:
        file_.truncate(MIB)
    with pytest.raises(DataError, match=r"app\.tar: ") as caught:
        await all_of(chunks)
    assert caught.value.retryable


async def test_many_may_ask_at_once(drop: Path) -> None:
    for number in range(5):
        write(
            drop / f"{number}.tar.gz", *docker_save(Image([f"app:{number}"], [ONE] * (number + 1))), compression="gzip"
        )
    registry = opened(drop)
    found = await asyncio.gather(*(manifest_of(registry, "app", str(number)) for number in range(5) for _ in range(3)))
    assert [len(manifest.layers) for manifest in found] == [n + 1 for n in range(5) for _ in range(3)]


async def test_a_reader_that_gives_up_leaves_nothing_open(drop: Path) -> None:
    big = layer_tar(file("big", os.urandom(8 * MIB)))
    write(drop / "app.tar.gz", *docker_save(Image(["app:1"], [big])), compression="gzip")
    registry = opened(drop)
    manifest = await manifest_of(registry, "app", "1")

    async def read_on() -> None:
        async with contextlib.aclosing(registry.blob("app", manifest.layers[0])) as chunks:
            async for _ in chunks:
                started.set()

    for _ in range(3):
        started = asyncio.Event()
        task = asyncio.ensure_future(read_on())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not held_open("app.tar.gz")


def held_open(name: str) -> list[str]:
    """Files of that name that this process has open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own
            found.append(link.readlink().name)
    return [one for one in found if one == name]


# -- the kind ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["archive", "oci-archive", "docker-archive"])
def test_is_detected_by_its_scheme(scheme: str) -> None:
    for path in ("/images", "///images", "relative"):
        kind, found = detect(f"{scheme}:{path}")
        assert kind.name == "archive"
        assert f"{scheme}:" in found.reason


@pytest.mark.parametrize("url", ["archive", "archive.example/x", "https://archive:/x", "xarchive:/x", "oci:/archive"])
def test_look_alikes_are_not_taken(url: str) -> None:
    assert detect(url)[0].name != "archive"


@pytest.mark.parametrize("url", ["archive:", "archive:relative.tar", "oci:/layout", "registry.example"])
def test_the_path_must_be_absolute(url: str) -> None:
    with pytest.raises(ConfigError, match="no absolute path of image archives"):
        open_registry(Registry.model_validate({"name": "x", "url": url, "provider": "archive"}))


async def test_slashes_before_the_path_are_allowed(drop: Path) -> None:
    write(drop / "one.tar", *docker_save(Image(["app:1"], [ONE])))
    assert (await configured(f"archive://{drop}").repositories()).names == ("app",)
