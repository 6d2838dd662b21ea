"""Manifests, indexes and image configurations, parsed strictly from untrusted bytes.

Follows the OCI image specification 1.1 (manifest.md, image-index.md, config.md, descriptor.md) and Docker's schema 2.
Leaves fetching and digest checks to `registry`, and the choice of a platform to `select_platform` here, which is pure.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated

import msgspec

from sensor.errors import DataError
from sensor.model.digest import Digest, is_digest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1"

ACCEPT = f"{OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_LIST}, {DOCKER_MANIFEST}"
"""Always asked for together: leaving one out makes some registries convert, hide, or answer with another digest."""

_INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
_MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

_LAYER_TYPES = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)


_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")


class ArtifactClass(StrEnum):
    """What a manifest is. Only IMAGE is scanned; every other class is skipped under its own name, never reported as clean."""

    IMAGE = "image"
    HELM_CHART = "helm-chart"
    WASM = "wasm"
    SIGNATURE = "signature"
    ATTESTATION = "attestation"
    SBOM = "sbom"
    OTHER = "other-artifact"


class Platform(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Operating system, architecture and (for arm) variant, in Go's words."""

    os: str = ""
    architecture: str = ""
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A typed pointer to a blob or manifest. `size` is in bytes; 16 TiB and more is refused, and so fits every sum of sizes into 64 bits."""

    media_type: str = ""
    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=0, le=1 << 44)]
    platform: Platform | None = None
    artifact_type: str = ""
    annotations: dict[str, str] | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One image (or artifact): a configuration and its layers, lowest layer first."""

    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    subject: Descriptor | None = None
    annotations: dict[str, str] | None = None

    @property
    def compressed_bytes(self) -> int:
        """Bytes of all layers as the registry stores them."""
        return sum(layer.size for layer in self.layers)


class Index(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A list of manifests, one a platform."""

    media_type: str = ""
    artifact_type: str = ""
    manifests: tuple[Descriptor, ...] = ()
    annotations: dict[str, str] | None = None


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One build step; `empty_layer` steps have no layer."""

    created_by: str = ""
    created: str | None = None
    empty_layer: bool = False


class RootFS(msgspec.Struct, frozen=True, kw_only=True):
    """Digests of the inflated layers, lowest first: the author's claim, not checked."""

    diff_ids: tuple[str, ...] = ()


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The parts of an image configuration that the sensor uses."""

    os: str = ""
    architecture: str = ""
    variant: str = ""
    created: str | None = None
    history: tuple[HistoryEntry, ...] | None = None
    rootfs: RootFS = RootFS()

    @property
    def platform(self) -> Platform:
        """The platform that the author names."""
        return Platform(os=self.os, architecture=self.architecture, variant=self.variant)


class _Probe(msgspec.Struct):
    """Just enough of a document to tell an index from a manifest. A member that is absent is empty here."""

    mediaType: str = ""  # noqa: N815 - the field's name on the wire
    schemaVersion: int = 2  # noqa: N815
    manifests: msgspec.Raw = msgspec.Raw(b"")
    config: msgspec.Raw = msgspec.Raw(b"")
    layers: msgspec.Raw = msgspec.Raw(b"")


_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the decoder raises on hostile bytes; invalid UTF-8 inside a string is no DecodeError of its own."""


def parse_manifest(data: bytes, media_type: str = "") -> Manifest | Index:
    """Read a manifest or an index.

    `media_type` is the answer's Content-Type; it and the document's own `mediaType` are checked against the document's shape, because confusing
    the two is a known attack (CVE-2021-41190): a document with both `manifests` and `config` or `layers` is refused.

    Raises:
        DataError: not JSON, schema 1, ambiguous, or a descriptor without a proper digest or size.
    """
    try:
        probe = msgspec.json.decode(data, type=_Probe)
        if probe.schemaVersion == 1 or media_type.startswith(DOCKER_SCHEMA1):
            raise DataError(
                "the registry answered with a Docker schema 1 manifest",
                "the image was pushed by a very old Docker; push it again with a current one",
            )
        as_index = _shape(probe)
        for claimed in (probe.mediaType, media_type.partition(";")[0].strip()):
            if claimed in (_MANIFEST_TYPES if as_index else _INDEX_TYPES):
                message = f"a manifest is called {claimed} but has another shape, which is refused (CVE-2021-41190)"
                raise DataError(message)
        document: Manifest | Index = (
            msgspec.json.decode(data, type=Index) if as_index else msgspec.json.decode(data, type=Manifest)
        )
    except _MALFORMED as error:
        message = f"a manifest is malformed: {str(error)[:200]}"
        raise DataError(message) from error
    pointers = document.manifests if isinstance(document, Index) else (document.config, *document.layers)
    for pointer in pointers:
        if not is_digest(pointer.digest):
            message = f"a manifest points to {pointer.digest[:100]!r}, which is no digest"
            raise DataError(message)
    return document


def _shape(probe: _Probe) -> bool:
    """Whether the document is an index."""
    manifests, rest = bool(bytes(probe.manifests)), bool(bytes(probe.config) or bytes(probe.layers))
    if manifests and rest:
        raise DataError("a manifest that is also an index is refused (CVE-2021-41190)")
    return manifests or (not rest and probe.mediaType in _INDEX_TYPES)


def parse_image_config(data: bytes) -> ImageConfig:
    """Read an image configuration.

    Raises:
        DataError: not JSON or of the wrong shape.
    """
    try:
        return msgspec.json.decode(data, type=ImageConfig)
    except _MALFORMED as error:
        message = f"an image configuration is malformed: {str(error)[:200]}"
        raise DataError(message) from error


def artifact_class(manifest: Manifest) -> ArtifactClass:
    """Tell images from other artifacts by configuration and layer media types, never by name."""
    config = manifest.config.media_type
    layers = {layer.media_type for layer in manifest.layers}
    kind = f"{manifest.artifact_type} {config} {' '.join(sorted(layers))}"
    if "cncf.helm" in kind:
        return ArtifactClass.HELM_CHART
    if "wasm" in kind:
        return ArtifactClass.WASM
    if "vnd.dev.cosign.simplesigning" in kind or "notary.signature" in kind:
        return ArtifactClass.SIGNATURE
    if "in-toto" in kind or "dsse.envelope" in kind or "sigstore.bundle" in kind:
        return ArtifactClass.ATTESTATION
    if "cyclonedx" in kind or "spdx" in kind or "syft" in kind:
        return ArtifactClass.SBOM
    if config in {OCI_CONFIG, DOCKER_CONFIG} and all(is_layer(media_type) for media_type in layers):
        return ArtifactClass.IMAGE
    return ArtifactClass.OTHER


def is_layer(media_type: str) -> bool:
    """Whether the media type is that of a file-system layer, compressed or not."""
    return media_type.startswith(_LAYER_TYPES)


def is_index(media_type: str) -> bool:
    """Whether the media type is that of an index or manifest list."""
    return media_type.partition(";")[0].strip() in _INDEX_TYPES


def is_attestation(descriptor: Descriptor) -> bool:
    """BuildKit hangs provenance and SBOM into the index as children of platform unknown/unknown: not images."""
    annotations = descriptor.annotations or {}
    platform = descriptor.platform
    return "vnd.docker.reference.type" in annotations or (
        platform is not None and platform.os == "unknown" and platform.architecture == "unknown"
    )


def parse_platform(text: str) -> Platform:
    """Read `os/architecture[/variant]`.

    Raises:
        DataError: fewer than two or more than three parts, or one that is no word.
    """
    parts = text.split("/")
    if len(parts) not in {2, 3} or not all(_WORD.fullmatch(part) for part in parts):
        message = f"not a platform: {text[:100]!r}"
        raise DataError(message, "expected os/architecture, for example linux/amd64 or linux/arm/v7")
    return Platform(os=parts[0], architecture=parts[1], variant=parts[2] if len(parts) == 3 else "")


def select_platform(index: Index, wanted: Platform) -> Descriptor | None:
    """The first child that runs on the wanted platform, or None. arm64 without a variant and arm64/v8 are the same."""

    def normal(platform: Platform) -> tuple[str, str, str]:
        variant = "" if platform.architecture == "arm64" and platform.variant in {"", "v8"} else platform.variant
        return platform.os, platform.architecture, variant

    candidates = [d for d in index.manifests if d.platform is not None and not is_attestation(d)]
    exact = [d for d in candidates if d.platform is not None and normal(d.platform) == normal(wanted)]
    loose = [
        d
        for d in candidates
        if d.platform is not None and not wanted.variant and normal(d.platform)[:2] == normal(wanted)[:2]
    ]
    return next(iter([*exact, *loose]), None)
