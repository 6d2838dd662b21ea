"""Which images a tar holds: docker save of all ages, skopeo's, layouts, and what is neither."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.errors import DataError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.model.manifest import (
    OCI_CONFIG,
    OCI_MANIFEST,
    ArtifactClass,
    Descriptor,
    Manifest,
    artifact_class,
    parse_manifest,
)
from sensor.registry.kinds.archive_bytes import Tar
from sensor.registry.kinds.archive_index import Broken, ImageArchive, read_archive
from sensor.registry.kinds.archive_tar import NotImages
from tests.fakes.archives import (
    Image,
    Style,
    changed,
    docker_save,
    layout_members,
    manifest_json,
    without,
)
from tests.fakes.images import ImageStore
from tests.fakes.layers import (
    Compression,
    Entry,
    compressed,
    device,
    digest_of,
    directory,
    file,
    layer,
    layer_tar,
    symlink,
)

ONE = layer_tar(file("etc/os-release", b"ID=debian\n"))
TWO = layer_tar(file("opt/app", b"two"))
STYLES: list[Style] = ["old", "hex", "blobs"]


def read(
    members: Sequence[Entry],
    limits: Limits = DEFAULT_LIMITS,
    *,
    prefix: str = "",
    compression: Compression = "none",
    cut: int = 0,
) -> ImageArchive:
    data = layer_tar(*members, prefix=prefix)
    if cut:
        data = data[:cut]
    return read_archive(Tar(io.BytesIO(compressed(data, compression)), limits), "default", limits)


def manifest_of(archive: ImageArchive, repository: str, tag: str) -> Manifest:
    entry = archive.images[repository][tag]
    assert isinstance(entry, Descriptor)
    data = archive.documents[entry.digest]
    assert (digest_of(data), len(data), entry.media_type) == (entry.digest, entry.size, OCI_MANIFEST)
    document = parse_manifest(data, OCI_MANIFEST)
    assert isinstance(document, Manifest)
    assert artifact_class(document) is ArtifactClass.IMAGE
    return document


def named(archive: ImageArchive) -> set[str]:
    return {f"{repository}:{tag}" for repository, tags in archive.images.items() for tag in tags}


def broken(archive: ImageArchive, repository: str = "app", tag: str = "1") -> str:
    entry = archive.images[repository][tag]
    assert isinstance(entry, Broken)
    return entry.reason


# -- docker-archive ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("prefix", ["", "./"])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_docker_save_of_all_ages_is_the_same_image(style: Style, prefix: str, compression: Compression) -> None:
    image = Image(["host.example:5000/team/app:v1"], [ONE, TWO, ONE])
    archive = read(docker_save(image, style=style), prefix=prefix, compression=compression)
    assert (archive.form, named(archive)) == ("docker-archive", {"team/app:v1"})
    manifest = manifest_of(archive, "team/app", "v1")
    assert manifest.config == Descriptor(media_type=OCI_CONFIG, digest=image.config_digest, size=len(image.config))  # type: ignore[arg-type]
    assert [one.digest for one in manifest.layers] == [digest_of(ONE), digest_of(TWO), digest_of(ONE)]
    assert {one.media_type for one in manifest.layers} == {"application/vnd.oci.image.layer.v1.tar"}
    assert [one.size for one in manifest.layers] == [len(ONE), len(TWO), len(ONE)]
    assert archive.images == read(docker_save(image)).images


def test_the_manifest_is_made_of_the_same_bytes_for_ever() -> None:
    config, name = b'{"rootfs":{"diff_ids":["%s"]}}' % digest_of(b"").encode(), "config.json"
    document = [{"Config": name, "RepoTags": ["app:1"], "Layers": ["layer.tar"]}]
    archive = read([file("layer.tar"), file(name, config), manifest_json(document)])
    data = archive.documents[archive.images["app"]["1"].digest]
    assert data == (
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
        b'"config":{"mediaType":"application/vnd.oci.image.config.v1+json",'
        b'"digest":"sha256:a6f6d510e0c877d10f3682aab51cd49558b30deab0abfd97306386150a1a382a","size":99},'
        b'"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar",'
        b'"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}]}'
    )


@pytest.mark.parametrize(("compression", "suffix"), [("gzip", "+gzip"), ("zstd", "+zstd")])
@pytest.mark.parametrize("whole", ["none", "gzip"])
def test_compressed_layers_go_by_their_own_hash(compression: Compression, suffix: str, whole: Compression) -> None:
    stored = compressed(ONE, compression)
    image = Image(["app:1"], [stored, TWO], diff_ids=[digest_of(ONE), digest_of(TWO)])
    archive = read(docker_save(image), compression=whole)
    first, second = manifest_of(archive, "app", "1").layers
    assert (first.digest, first.size, first.media_type) == (
        digest_of(stored),
        len(stored),
        f"application/vnd.oci.image.layer.v1.tar{suffix}",
    )
    assert second.digest == digest_of(TWO)
    assert (digest_of(image.config) in archive.documents) == (whole != "none")


@pytest.mark.parametrize(
    ("tags", "names"),
    [
        (None, {"default:latest"}),
        ([], {"default:latest"}),
        (["app:1"], {"app:1"}),
        (["app"], {"app:latest"}),
        (["docker.io/library/app:1", "localhost/app:2", "other/app:3"], {"library/app:1", "app:2", "other/app:3"}),
        (["UPPER:1", "../../etc", "", "app:1", "app:1"], {"app:1"}),
        (["<none>:<none>"], {"default:latest"}),
    ],
)
def test_names_come_from_repo_tags(tags: list[str] | None, names: set[str]) -> None:
    assert named(read(docker_save(Image(tags, [ONE])))) == names


def test_several_images_share_layers_and_none_is_lost() -> None:
    images = [Image(["app:1"], [ONE]), Image(["app:1"], [ONE, TWO]), Image(None, [TWO]), Image(None, [ONE, ONE])]
    archive = read(docker_save(*images))
    assert len(archive.images["app"]) == 2
    first, second = archive.images["app"].values()
    assert (first.digest, list(archive.images["app"])) == (
        manifest_digest(images[0]),
        ["1", f"1.{second.digest[7:19]}"],
    )
    assert {tag[:9] for tag in archive.images["default"]} == {"untagged-"}
    assert {entry.digest for entry in archive.images["default"].values()} == set(map(manifest_digest, images[2:]))


def manifest_digest(image: Image) -> str:
    archive = read(docker_save(Image(["app:1"], image.layers)))
    return archive.images["app"]["1"].digest


def test_one_image_under_several_names_in_several_entries() -> None:
    archive = read(docker_save(Image(["app:1"], [ONE]), Image(["app:2", "app:1"], [ONE])))
    assert named(archive) == {"app:1", "app:2"}
    assert archive.images["app"]["1"] == archive.images["app"]["2"]


def saved(**fields: Any) -> list[Entry]:
    """An archive whose only image is told so."""
    members = docker_save(Image(["app:1"], [ONE, TWO]))
    document = json.loads(next(member.data for member in members if member.path == "manifest.json"))
    document[0] |= fields
    return [*without(members, "manifest.json"), manifest_json(document)]


def hexed(data: bytes) -> str:
    return digest_of(data).partition(":")[2]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        (saved(Layers=[f"{hexed(ONE)}.tar"]), "it has 1 layers, and its configuration names 2"),
        (saved(Layers=None), "it has 0 layers"),
        (saved(Layers=["../../etc/passwd", "b"]), "'../../etc/passwd' leads out of the archive"),
        (saved(Layers=["/etc/passwd", "b"]), "'/etc/passwd' leads out"),
        (saved(Config="../config.json"), "leads out"),
        (saved(Config="nosuch.json"), "'nosuch.json' is not in the archive"),
        (saved(Config=f"{hexed(ONE)}.tar"), ""),
        ([*saved(Layers=["dev", "b"]), device("dev")], "'dev' is no file"),
        ([*saved(Layers=["dir", "b"]), directory("dir")], "'dir' is no file"),
        ([*saved(Layers=["out", "b"]), symlink("out", "../../etc/passwd")], "'out' is a link to something that is no"),
        ([*saved(Layers=["out", "b"]), symlink("out", "/etc/passwd")], "'out' is a link to something that is no"),
        ([*saved(Layers=["a", "b"]), symlink("a", "b"), symlink("b", "a")], "'a' is a link to something that is no"),
        (saved(Layers=["x"] * 1025), "more than 1024 layers"),
        (saved(Layers=[f"{hexed(ONE)}.tar", f"{hexed(ONE)}.tar"]), ""),
        (docker_save(Image(["app:1"], [ONE], diff_ids=["sha256:short"])), "'sha256:short', which is no digest"),
        (
            docker_save(Image(["app:1"], [ONE, TWO + b"x"], diff_ids=[digest_of(ONE)] * 2)),
            "two different files of the archive are the layer",
        ),
    ],
)
def test_an_image_that_cannot_be_had_is_named_with_the_reason(members: list[Entry], reason: str) -> None:
    found = read(members)
    assert named(found) == {"app:1"}
    if reason:
        assert reason in broken(found)


def test_one_broken_image_does_not_harm_the_others() -> None:
    members = docker_save(Image(["app:1"], [ONE]), Image(["app:2"], [TWO]), Image(None, [ONE, TWO]))
    archive = read(without(members, f"{hexed(TWO)}.tar"))
    assert isinstance(archive.images["app"]["1"], Descriptor)
    assert "is not in the archive" in broken(archive, tag="2")
    (untagged,) = archive.images["default"]
    assert broken(archive, "default", untagged)


def test_a_configuration_must_be_the_one_that_is_named() -> None:
    image = Image(["app:1"], [ONE])
    name = f"{hexed(image.config)}.json"
    archive = read(changed(docker_save(image), name, data=image.config.replace(b"linux", b"linus")))
    assert "hashes to" in broken(archive)
    archive = read(changed(docker_save(image), name, data=b"not JSON"))
    assert "hashes to" in broken(archive)
    members = [*without(docker_save(image), name), file("config.json", b"not JSON")]
    document = [{"Config": "config.json", "RepoTags": ["app:1"], "Layers": [f"{hexed(ONE)}.tar"]}]
    archive = read([*without(members, "manifest.json"), manifest_json(document)])
    assert "malformed" in broken(archive)


@pytest.mark.parametrize("document", [b"", b"[", b"[1]", b'"x"', b'[{"RepoTags":[]}]', b"\xff", b"[" * 5000, b"null"])
def test_a_malformed_list_of_images_is_refused(document: bytes) -> None:
    with pytest.raises(DataError, match=r"manifest\.json in it is malformed"):
        read([file("manifest.json", document)])


def test_no_images_are_no_mistake() -> None:
    assert read([manifest_json([])]).images == {}


def test_bounds_of_a_docker_archive() -> None:
    image = Image(["app:1"], [ONE])
    members = docker_save(image)
    with pytest.raises(DataError, match=r"manifest\.json in it is larger than"):
        read(members, replace(DEFAULT_LIMITS, manifest_bytes=10))
    assert "configuration is larger" in broken(read(members, replace(DEFAULT_LIMITS, config_bytes=10)))
    many = [{"Config": "x", "RepoTags": None, "Layers": []}] * 1001
    with pytest.raises(DataError, match="names 1001 images, more than 1000"):
        read([manifest_json(many)])
    tags = [{"Config": "x", "RepoTags": [f"a:{n}" for n in range(1001)], "Layers": []}]
    with pytest.raises(DataError, match="names 1001 images"):
        read([manifest_json(tags)])
    assert len(read([manifest_json(many[:1000])]).images["default"]) == 1
    layers = docker_save(Image(["app:1"], [ONE] * 100), style="blobs")
    with pytest.raises(DataError, match="too many layers in all"):
        read(layers, replace(DEFAULT_LIMITS, archive_index_bytes=10_000))


# -- oci-archive -------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    store = ImageStore(tmp_path / "layout")
    store.image("team/app", "v1", [layer(file("a", b"1"))])
    store.multi_platform("multi", "v2", {"linux/amd64": [layer(file("a", b"2"))], "linux/arm64": [layer(file("a"))]})
    return store


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_a_layout_in_a_tar_has_its_own_digests(store: ImageStore, compression: Compression, prefix: str) -> None:
    archive = read(layout_members(store.root), prefix=prefix, compression=compression)
    assert (archive.form, named(archive)) == ("oci-archive", {"team/app:v1", "multi:v2"})
    blobs = {f"sha256:{path.name}" for path in (store.root / "blobs" / "sha256").iterdir()}
    assert archive.blobs.keys() == blobs
    assert all(digest_of(data) == digest for digest, data in archive.documents.items())
    assert bool(archive.documents) == (compression != "none")


def test_where_both_are_the_layout_counts(store: ImageStore) -> None:
    other = docker_save(Image(["other:1"], [ONE]), style="blobs")
    archive = read([*layout_members(store.root), *other])
    assert (archive.form, named(archive)) == ("oci-archive", {"team/app:v1", "multi:v2"})


def test_blobs_with_odd_names_and_links_out_are_as_good_as_missing(store: ImageStore) -> None:
    missing = "sha256:" + "a" * 64
    odd = [
        file("blobs/sha256/short", b"x"),
        file("blobs/md5/" + "a" * 32, b"x"),
        file("blobs/sha256/" + "A" * 64, b"x"),
        file("other/sha256/" + "b" * 64, b"x"),
        file("blobs/sha512/" + "c" * 64, b"x"),
        file("blobs/sha512/" + "c" * 128, b"x"),
        symlink("blobs/sha256/" + "a" * 64, "/etc/passwd"),
        symlink("blobs/sha256/" + "d" * 64, "../sha512/" + "c" * 128),
    ]
    before = read(layout_members(store.root))
    archive = read([*odd, *layout_members(store.root)])
    assert archive.blobs.keys() - before.blobs.keys() == {"sha512:" + "c" * 128, "sha256:" + "d" * 64}
    assert missing not in archive.blobs


@pytest.mark.parametrize(
    ("path", "data", "word"),
    [
        ("oci-layout", b"{}", "imageLayoutVersion"),
        ("index.json", b"{", "malformed"),
        ("index.json", b'{"manifests":[{"digest":"../../x","size":1}]}', "no digest"),
        ("index.json", b'{"config":{}}', "shape"),
    ],
)
def test_a_layout_that_is_none_is_refused(store: ImageStore, path: str, data: bytes, word: str) -> None:
    with pytest.raises(DataError, match=word):
        read(changed(layout_members(store.root), path, data=data))


def test_bounds_of_an_oci_archive(store: ImageStore) -> None:
    members = layout_members(store.root)
    with pytest.raises(DataError, match=r"index\.json in it is larger"):
        read(members, replace(DEFAULT_LIMITS, manifest_bytes=100))
    with pytest.raises(DataError, match="names 2 images, more than 1"):
        read(members, replace(DEFAULT_LIMITS, index_children=1))


# -- neither -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ([directory("etc"), directory("usr"), file("bin/sh"), file("etc/passwd")], "docker export"),
        ([file("README"), file("a")], "holds no images"),
        ([], "holds no images"),
        ([file("images/oci-layout", b"{}"), file("images/index.json", b"{}")], "in the directory 'images' of the tar"),
        ([file("x/manifest.json", b"[]")], "in the directory 'x' of the tar"),
        ([file("version", b"Directory Transport Version: 1.1\n"), file("manifest.json", b' {"a":1}')], "`dir:` copy"),
    ],
)
def test_what_holds_no_images_is_told_as_what_it_is(members: list[Entry], word: str) -> None:
    with pytest.raises(NotImages, match=word) as caught:
        read(members)
    assert caught.value.advice
    assert not caught.value.retryable


def test_half_a_layout_is_still_being_written(store: ImageStore) -> None:
    members = layout_members(store.root)
    for path in ("oci-layout", "index.json"):
        with pytest.raises(DataError, match="cut short") as caught:
            read(without(members, path))
        assert caught.value.retryable
    with pytest.raises(DataError, match="cut short"):
        read(members, cut=512 * 4)  # between two members, where only the missing end tells


def test_an_end_between_two_members_is_noticed_whatever_is_missing(store: ImageStore) -> None:
    blobs = layout_members(store.root)
    early = [*blobs[-2:], *blobs[:-2]]
    with pytest.raises(DataError, match="cut short"):
        read(early, cut=sum(512 + -(-len(member.data) // 512) * 512 for member in blobs[-2:]))
    saved_first = docker_save(Image(["app:1"], [ONE]), style="hex")
    saved_first = [saved_first[-2], *saved_first[:-2]]
    with pytest.raises(DataError, match="cut short"):
        read(saved_first, cut=1024)
    both = [*layout_members(store.root)[:-1], *docker_save(Image(["app:1"], [ONE]), style="blobs")]
    with pytest.raises(DataError, match="cut short"):
        read(both, cut=len(layer_tar(*both)) // 10240 * 10240 - 10240 or 1)


NAMES = st.sampled_from(
    ["oci-layout", "index.json", "manifest.json", "a.json", "a.tar", "blobs/sha256/" + "a" * 64, "../x", "version"]
)
TEXTS = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b'{"imageLayoutVersion":"1.0.0"}',
            b'{"manifests":[]}',
            b'{"schemaVersion":2,"manifests":[{"digest":"sha256:' + b"a" * 64 + b'","size":3}]}',
            b'[{"Config":"a.json","RepoTags":null,"Layers":["a.tar"]}]',
            b'[{"Config":"a.json","RepoTags":["x"],"Layers":["a.tar","../x"]}]',
            b'{"rootfs":{"diff_ids":["sha256:' + b"b" * 64 + b'"]}}',
            b'{"rootfs":{"diff_ids":[1]}}',
        ]
    ),
)


@given(st.dictionaries(NAMES, TEXTS, max_size=6), st.sampled_from(["none", "gzip"]))
def test_any_documents_are_taken(contents: dict[str, bytes], compression: Compression) -> None:
    with contextlib.suppress(DataError):
        archive = read([file(name, data) for name, data in contents.items()], compression=compression)
        for tags in archive.images.values():
            for entry in tags.values():
                assert isinstance(entry, Broken) or entry.digest.startswith("sha256:")
        assert msgspec.json.encode(list(archive.blobs))
