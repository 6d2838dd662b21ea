import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import DataError
from sensor.model.digest import Digest
from sensor.model.manifest import (
    ACCEPT,
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    ArtifactClass,
    Descriptor,
    Index,
    Manifest,
    Platform,
    artifact_class,
    is_attestation,
    is_index,
    is_layer,
    parse_image_config,
    parse_manifest,
    parse_platform,
    select_platform,
)

DIGEST = "sha256:" + "a" * 64
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def pointer(**more: Any) -> dict[str, Any]:
    return {"mediaType": LAYER, "digest": DIGEST, "size": 5, **more}


def image(**more: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": pointer(mediaType=OCI_CONFIG),
        "layers": [pointer()],
        **more,
    }


def index(*platforms: str, **more: Any) -> dict[str, Any]:
    children = [
        pointer(platform={"os": "linux", "architecture": a, **({"variant": v} if v else {})})
        for a, _, v in (p.partition("/") for p in platforms)
    ]
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children, **more}


def parse(document: object, media_type: str = "") -> Manifest | Index:
    return parse_manifest(json.dumps(document).encode(), media_type)


@pytest.mark.parametrize(
    "media_type", ["", OCI_MANIFEST, DOCKER_MANIFEST, f"{OCI_MANIFEST}; charset=utf-8", "application/json"]
)
def test_an_image_manifest(media_type: str) -> None:
    found = parse(image(), media_type)
    assert isinstance(found, Manifest)
    assert found.config.digest == DIGEST
    assert found.compressed_bytes == 5
    assert artifact_class(found) is ArtifactClass.IMAGE


@pytest.mark.parametrize("media_type", ["", OCI_INDEX, DOCKER_LIST])
@pytest.mark.parametrize("own", [OCI_INDEX, DOCKER_LIST, ""])
def test_an_index(media_type: str, own: str) -> None:
    found = parse(index("amd64", mediaType=own), media_type)
    assert isinstance(found, Index)
    assert found.manifests[0].platform == Platform(os="linux", architecture="amd64")


def test_an_empty_index_and_an_image_without_layers() -> None:
    assert parse({"mediaType": OCI_INDEX, "manifests": []}) == Index(media_type=OCI_INDEX)
    assert parse({"mediaType": OCI_INDEX}) == Index(media_type=OCI_INDEX)
    found = parse(image(layers=[]))
    assert isinstance(found, Manifest)
    assert found.compressed_bytes == 0


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        (image(manifests=[pointer()]), ""),
        (image(manifests=[]), ""),
        ({"manifests": [pointer()], "layers": [pointer()]}, ""),
        ({"manifests": [pointer()], "config": pointer()}, OCI_INDEX),
        (image(mediaType=OCI_INDEX), ""),
        (image(mediaType=DOCKER_LIST), ""),
        (index("amd64", mediaType=OCI_MANIFEST), ""),
        (image(), OCI_INDEX),
        (image(), f"{DOCKER_LIST}; charset=utf-8"),
        (index("amd64"), OCI_MANIFEST),
        (index("amd64"), DOCKER_MANIFEST),
    ],
)
def test_ambiguous_documents_are_refused(document: dict[str, Any], media_type: str) -> None:
    with pytest.raises(DataError, match="CVE-2021-41190"):
        parse(document, media_type)


@pytest.mark.parametrize(
    "document",
    [
        {"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": []},
        image(schemaVersion=1),
    ],
)
def test_schema_1_is_refused_with_advice(document: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="schema 1") as caught:
        parse(document)
    assert "push it again" in caught.value.advice
    with pytest.raises(DataError, match="schema 1"):
        parse(image(), "application/vnd.docker.distribution.manifest.v1+prettyjws")


@pytest.mark.parametrize(
    "document",
    [
        None, [], "text", 5, {}, {"layers": []}, image(config=None), image(config=[]), image(layers=None), image(layers={}), image(layers=[None]),
        image(layers=[pointer(size=-1)]), image(layers=[pointer(size=2**70)]), image(layers=[pointer(size=2**62)]),
        image(layers=[pointer(size="5")]), image(layers=[pointer(size=5.5)]), image(layers=[{"size": 5}]),
        image(layers=[pointer(digest=5)]), image(layers=[pointer(digest="sha256:short")]), image(config=pointer(digest="../../etc/passwd")),
        index("amd64", manifests=[pointer(digest="x" * 5000)]), image(annotations={"a": 5}), image(mediaType=5),
        index(manifests=[pointer(platform="linux")]),
    ],
)  # fmt: skip
def test_broken_documents_are_refused(document: object) -> None:
    with pytest.raises(DataError) as caught:
        parse(document)
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"\xff\xfe", b'{"mediaType": "\xff"}', b'{"mediaType": "\\ud800"}', b"[" * 100_000, b'{"config":' * 50_000,
        b'{"x":' + b"[" * 100_000,
        b"\xef\xbb\xbf{}", b'{"schemaVersion": 1e999}', b'{"schemaVersion": NaN}', b"{}" * 2, b"\x00",
    ],
)  # fmt: skip
def test_bytes_that_are_no_json(data: bytes) -> None:
    with pytest.raises(DataError):
        parse_manifest(data)
    with pytest.raises(DataError):
        parse_image_config(data + b"!")


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8), st.just(DIGEST)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(
                [
                    "mediaType",
                    "config",
                    "layers",
                    "manifests",
                    "digest",
                    "size",
                    "platform",
                    "annotations",
                    "rootfs",
                    "history",
                ]
            ),
            inner,
        ),
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300)
@given(JSON, st.sampled_from(["", OCI_INDEX, OCI_MANIFEST]))
def test_any_json_is_parsed_or_refused(document: object, media_type: str) -> None:
    try:
        found = parse(document, media_type)
    except DataError:
        return
    assert isinstance(found, (Manifest, Index))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    for read in (parse_manifest, parse_image_config):
        try:
            found: object = read(data)
        except DataError:
            continue
        assert found is not None


@settings(deadline=None, max_examples=100)
@given(st.integers(0, len(json.dumps(image()))), st.integers(0, 255))
def test_a_flipped_byte_never_breaks_the_parser(place: int, value: int) -> None:
    data = bytearray(json.dumps(image()).encode())
    data[min(place, len(data) - 1)] = value
    try:
        found = parse_manifest(bytes(data))
    except DataError:
        return
    assert isinstance(found, Manifest)


def test_an_image_configuration() -> None:
    config = parse_image_config(
        json.dumps(
            {
                "os": "linux",
                "architecture": "arm",
                "variant": "v7",
                "config": {"Env": ["SECRET=1"]},
                "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
                "history": [
                    {"created_by": "COPY a b", "created": "2026-01-01T00:00:00Z"},
                    {"created_by": "ENV x", "empty_layer": True},
                ],
            }
        ).encode()
    )
    assert str(config.platform) == "linux/arm/v7"
    assert config.rootfs.diff_ids == (DIGEST,)
    assert config.history is not None
    assert [step.empty_layer for step in config.history] == [False, True]
    assert parse_image_config(b"{}").platform == Platform()


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        (image(config=pointer(mediaType=DOCKER_CONFIG), layers=[pointer(mediaType="application/vnd.docker.image.rootfs.diff.tar.gzip")]), "image"),
        (image(layers=[pointer(mediaType="application/vnd.oci.image.layer.v1.tar+zstd")]), "image"),
        (image(layers=[]), "image"),
        (image(config=pointer(mediaType="application/vnd.cncf.helm.config.v1+json")), "helm-chart"),
        (image(config=pointer(mediaType="application/vnd.wasm.config.v0+json")), "wasm"),
        (image(layers=[pointer(mediaType="application/vnd.dev.cosign.simplesigning.v1+json")]), "signature"),
        (image(artifactType="application/vnd.cncf.notary.signature"), "signature"),
        (image(layers=[pointer(mediaType="application/vnd.in-toto+json")]), "attestation"),
        (image(layers=[pointer(mediaType="application/vnd.dsse.envelope.v1+json")]), "attestation"),
        (image(artifactType="application/vnd.dev.sigstore.bundle.v0.3+json"), "attestation"),
        (image(artifactType="application/vnd.cyclonedx+json"), "sbom"),
        (image(layers=[pointer(mediaType="application/spdx+json")]), "sbom"),
        (image(config=pointer(mediaType="application/vnd.oci.empty.v1+json")), "other-artifact"),
        (image(layers=[pointer(mediaType="application/octet-stream")]), "other-artifact"),
    ],
)  # fmt: skip
def test_the_class_of_an_artifact(document: dict[str, Any], kind: str) -> None:
    found = parse(document)
    assert isinstance(found, Manifest)
    assert artifact_class(found) == kind


def test_media_types() -> None:
    assert ACCEPT.split(", ") == [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST]
    assert is_layer(LAYER)
    assert is_layer("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
    assert not is_layer(OCI_CONFIG)
    assert is_index(f"{DOCKER_LIST}; charset=utf-8")
    assert not is_index(OCI_MANIFEST)


@pytest.mark.parametrize("text", ["linux/amd64", "linux/arm/v7", "windows/amd64", "linux/arm64/v8"])
def test_a_platform_round_trips(text: str) -> None:
    assert str(parse_platform(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "linux",
        "linux/",
        "/amd64",
        "linux/arm/v7/x",
        "linux//v7",
        "linux/amd 64",
        "linux/amd64\n",
        "linux/" + "a" * 65,
    ],
)
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(DataError, match="not a platform") as caught:
        parse_platform(text)
    assert "linux/amd64" in caught.value.advice


def choose(wanted: str, *platforms: str) -> str | None:
    found = parse(index(*platforms))
    assert isinstance(found, Index)
    chosen = select_platform(found, parse_platform(wanted))
    return None if chosen is None else str(chosen.platform)


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen"),
    [
        ("linux/amd64", ["arm64", "amd64"], "linux/amd64"),
        ("linux/amd64", ["arm64"], None),
        ("linux/arm64", ["arm64/v8"], "linux/arm64/v8"),
        ("linux/arm64/v8", ["arm64"], "linux/arm64"),
        ("linux/arm/v6", ["arm/v7"], None),
        ("linux/arm/v7", ["arm/v6", "arm/v7"], "linux/arm/v7"),
        ("linux/arm", ["arm/v7", "arm/v6"], "linux/arm/v7"),
        ("linux/amd64", ["amd64/v3", "amd64"], "linux/amd64"),
        ("linux/amd64", [], None),
    ],
)
def test_the_choice_of_a_platform(wanted: str, offered: list[str], chosen: str | None) -> None:
    assert choose(wanted, *offered) == chosen


def test_attestations_are_no_platform() -> None:
    disguised = Descriptor(
        digest=Digest(DIGEST),
        size=1,
        platform=Platform(os="linux", architecture="amd64"),
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )
    unknown = Descriptor(digest=Digest(DIGEST), size=1, platform=Platform(os="unknown", architecture="unknown"))
    nowhere = Descriptor(digest=Digest(DIGEST), size=1)
    assert [is_attestation(child) for child in (disguised, unknown, nowhere)] == [True, True, False]
    found = Index(manifests=(disguised, unknown, nowhere))
    assert select_platform(found, Platform(os="linux", architecture="amd64")) is None
    assert select_platform(found, Platform(os="unknown", architecture="unknown")) is None
