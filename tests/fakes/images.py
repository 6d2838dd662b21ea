"""Builds OCI image layouts on disk: images of given layers, multi-platform indexes, Docker media types, other artifacts.

    store = ImageStore(tmp_path)
    store.image("team/app", "v1", [layer(file("etc/os-release", b"ID=debian\n"))])

Layers are blobs as a registry stores them (`layers.layer`); their compression is told by their first bytes. Everything that was built
can be served by `tests/fakes/registry.py` or `sensor.registry.serve`, or pushed by skopeo (`oci:PATH:NAME`).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensor.model.digest import Digest
from sensor.model.manifest import (
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

REF_NAME = "org.opencontainers.image.ref.name"
IMAGE_NAME = "io.containerd.image.name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One manifest or index in the layout."""

    digest: Digest
    media_type: str
    data: bytes
    layers: tuple[Digest, ...] = ()
    config: Digest | None = None
    annotations: dict[str, str] = field(default_factory=dict)

    def descriptor(self, **more: Any) -> dict[str, Any]:
        """The pointer to it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.data), **more}


class ImageStore:
    """An OCI layout under construction. `repository/tag` of every entry is kept in both usual annotations."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._entries: list[dict[str, Any]] = []
        (root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self._write_index()

    def blob(self, data: bytes) -> Digest:
        """Store a blob."""
        value = hashlib.sha256(data).hexdigest()
        (self.root / "blobs" / "sha256" / value).write_bytes(data)
        return Digest(f"sha256:{value}")

    def read(self, digest: str) -> bytes:
        """A blob's bytes."""
        return self._path(digest).read_bytes()

    def remove(self, digest: str) -> None:
        """Lose a blob that is still named."""
        self._path(digest).unlink()

    def corrupt(self, digest: str, data: bytes) -> None:
        """Put other bytes under a digest."""
        self._path(digest).write_bytes(data)

    def tag(self, built: Built, repository: str, tag: str, *, annotation: str = IMAGE_NAME) -> None:
        """Give a name to something built (again: one digest may have several). An empty repository leaves the bare tag."""
        name = f"{repository}:{tag}" if repository else tag
        annotations = {annotation: name} if tag or repository else {}
        if annotation == IMAGE_NAME and tag:
            annotations[REF_NAME] = tag
        self._entries.append(built.descriptor(annotations=annotations))
        self._write_index()

    def untag(self, repository: str, tag: str) -> None:
        """Remove a name."""
        name = f"{repository}:{tag}" if repository else tag
        self._entries = [entry for entry in self._entries if name not in entry["annotations"].values()]
        self._write_index()

    def manifest(
        self,
        layers: Sequence[bytes],
        *,
        platform: str = "linux/amd64",
        docker: bool = False,
        config: dict[str, Any] | None = None,
        annotations: dict[str, str] | None = None,
    ) -> Built:
        """One image, not named yet."""
        os, architecture, *variant = platform.split("/")
        document = config or {
            "os": os,
            "architecture": architecture,
            **({"variant": variant[0]} if variant else {}),
            "created": "2026-01-02T03:04:05Z",
            "config": {"Env": ["PATH=/usr/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [_diff_id(layer) for layer in layers]},
            "history": [{"created_by": f"step {n}", "created": "2026-01-02T03:04:05Z"} for n in range(len(layers))],
        }
        data = _json(document)
        return self.artifact(
            config_type=DOCKER_CONFIG if docker else OCI_CONFIG,
            config=data,
            layers=[(_layer_type(layer, docker=docker), layer) for layer in layers],
            media_type=DOCKER_MANIFEST if docker else OCI_MANIFEST,
            annotations=annotations,
        )

    def image(self, repository: str, tag: str, layers: Sequence[bytes], **options: Any) -> Built:
        """One image under a name."""
        built = self.manifest(layers, **options)
        self.tag(built, repository, tag)
        return built

    def artifact(
        self,
        *,
        config_type: str,
        config: bytes = b"{}",
        layers: Sequence[tuple[str, bytes]] = (),
        media_type: str = OCI_MANIFEST,
        artifact_type: str = "",
        subject: Built | None = None,
        annotations: dict[str, str] | None = None,
    ) -> Built:
        """A manifest of any kind."""
        pointers = [{"mediaType": kind, "digest": self.blob(data), "size": len(data)} for kind, data in layers]
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": {"mediaType": config_type, "digest": self.blob(config), "size": len(config)},
            "layers": pointers,
        }
        if artifact_type:
            document["artifactType"] = artifact_type
        if subject is not None:
            document["subject"] = subject.descriptor()
        if annotations:
            document["annotations"] = annotations
        data = _json(document)
        return Built(
            digest=self.blob(data),
            media_type=media_type,
            data=data,
            layers=tuple(pointer["digest"] for pointer in pointers),
            config=document["config"]["digest"],
        )

    def index(
        self, children: dict[str, Built], *, docker: bool = False, attest: bool = False, typed: bool = True
    ) -> Built:
        """An index over images, keyed by platform. `attest` adds BuildKit's unknown/unknown child of the first."""
        media_type = DOCKER_LIST if docker else OCI_INDEX
        manifests = []
        for name, built in children.items():
            os, architecture, *variant = name.split("/")
            platform = {"os": os, "architecture": architecture, **({"variant": variant[0]} if variant else {})}
            # skopeo 1.18 refuses to copy an index unchanged whose zstd images are not marked so
            marked = (
                {"annotations": {"io.github.containers.compression.zstd": "true"}} if b"tar+zstd" in built.data else {}
            )
            manifests.append(built.descriptor(platform=platform, **marked))
        if attest:
            first = next(iter(children.values()))
            manifests.append(
                self.attestation(first).descriptor(
                    platform={"os": "unknown", "architecture": "unknown"},
                    annotations={
                        "vnd.docker.reference.type": "attestation-manifest",
                        "vnd.docker.reference.digest": first.digest,
                    },
                )
            )
        document = {"schemaVersion": 2, **({"mediaType": media_type} if typed else {}), "manifests": manifests}
        data = _json(document)
        return Built(digest=self.blob(data), media_type=media_type, data=data)

    def multi_platform(self, repository: str, tag: str, layers: dict[str, Sequence[bytes]], **options: Any) -> Built:
        """An index of one image a platform, under a name."""
        docker = bool(options.get("docker"))
        children = {name: self.manifest(blobs, platform=name, docker=docker) for name, blobs in layers.items()}
        built = self.index(children, **options)
        self.tag(built, repository, tag)
        return built

    def attestation(self, subject: Built) -> Built:
        """BuildKit's provenance of an image."""
        statement = _json({"_type": "https://in-toto.io/Statement/v0.1", "subject": [{"digest": subject.digest}]})
        return self.artifact(config_type=OCI_CONFIG, layers=[("application/vnd.in-toto+json", statement)])

    def helm_chart(self, repository: str, tag: str) -> Built:
        """A Helm chart, as `helm push` makes it."""
        built = self.artifact(
            config_type="application/vnd.cncf.helm.config.v1+json",
            config=_json({"name": repository.rpartition("/")[2], "version": tag}),
            layers=[("application/vnd.cncf.helm.chart.content.v1.tar+gzip", gzip.compress(b"chart", mtime=0))],
        )
        self.tag(built, repository, tag)
        return built

    def cosign_signature(self, repository: str, signed: Built) -> Built:
        """A signature under cosign's tag `sha256-<hex>.sig`."""
        payload = _json({"critical": {"image": {"docker-manifest-digest": signed.digest}}})
        built = self.artifact(
            config_type=OCI_CONFIG, layers=[("application/vnd.dev.cosign.simplesigning.v1+json", payload)]
        )
        self.tag(built, repository, signed.digest.replace(":", "-") + ".sig")
        return built

    def _path(self, digest: str) -> Path:
        return self.root / "blobs" / "sha256" / digest.partition(":")[2]

    def _write_index(self) -> None:
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self._entries}
        beside = self.root / "index.json.new"
        beside.write_bytes(_json(document))
        beside.replace(self.root / "index.json")


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _layer_type(layer: bytes, *, docker: bool) -> str:
    if docker:
        return "application/vnd.docker.image.rootfs.diff.tar.gzip"
    suffix = {b"\x1f\x8b": "+gzip", b"\x28\xb5": "+zstd"}.get(layer[:2], "")
    return f"application/vnd.oci.image.layer.v1.tar{suffix}"


def _diff_id(layer: bytes) -> str:
    if layer[:2] == b"\x1f\x8b":
        layer = gzip.decompress(layer)
    elif layer[:4] == b"\x28\xb5\x2f\xfd":
        layer = zstd.decompress(layer)
    return "sha256:" + hashlib.sha256(layer).hexdigest()
