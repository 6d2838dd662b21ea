"""The image of the demo: built on the spot from this machine, as a proper multi-layer OCI image layout.

Layer 1 holds what says which packages the operating system has (os-release and the dpkg, apk or rpm database), layer 2 the metadata of the
Python distributions that this process runs on, layer 3 that of a few pinned old releases with known advisories. Real names and
versions, no programs: the inventory is the machine's own.
"""

from __future__ import annotations

import gzip
import io
import json
import platform
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from sensor.model.digest import Digest, sha256_digest
from sensor.model.manifest import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST

_OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
_DATABASES = (
    "var/lib/dpkg/status",
    "lib/apk/db/installed",
    "usr/lib/apk/db/installed",
    "usr/lib/sysimage/rpm/rpmdb.sqlite",
    "var/lib/rpm/rpmdb.sqlite",
)
_MOST_BYTES = 256 * 1024 * 1024
"""Of one file of this machine; a larger package database is left out of the demo."""

OLD_RELEASES = (
    ("Jinja2", "2.10", "BSD"),
    ("PyYAML", "5.3", "MIT"),
    ("urllib3", "1.26.4", "MIT"),
    ("requests", "2.19.1", "Apache-2.0"),
)
"""Releases with published advisories (name, version, licence), so that the demo finds something on every machine."""

_TAR_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


@dataclass(slots=True)
class LayoutWriter:
    """Writes an OCI image layout (image-layout.md): blobs by digest, and one index entry a name."""

    root: Path
    _entries: list[dict[str, object]] = field(default_factory=list)

    def blob(self, data: bytes) -> dict[str, object]:
        """Store bytes and return digest and size, the core of a descriptor."""
        digest = sha256_digest(data)
        algorithm, _, hexadecimal = digest.partition(":")
        path = self.root / "blobs" / algorithm / hexadecimal
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return {"digest": digest, "size": len(data)}

    def manifest(self, config: dict[str, object], layers: Iterable[dict[str, object]], name: str) -> Digest:
        """Store a manifest and list it under `repository:tag`."""
        data = json.dumps(
            {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": list(layers)}
        ).encode()
        descriptor = self.blob(data)
        self._entries.append(
            {
                "mediaType": OCI_MANIFEST,
                **descriptor,
                "annotations": {"org.opencontainers.image.ref.name": name},
            }
        )
        return Digest(str(descriptor["digest"]))

    def close(self) -> None:
        """Write `oci-layout` and `index.json`; before, the directory is no layout."""
        (self.root / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": self._entries}
        (self.root / "index.json").write_text(json.dumps(index))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    descriptor: dict[str, object]
    diff_id: str
    command: str


def build_machine_layout(target: Path) -> None:
    """Write the demo's images into `target`: two real ones, a tag for the filters to drop, a signature and a chart that are no images."""
    writer = LayoutWriter(target)
    system = _layer(writer, _system_files(Path("/")), "COPY the package database of this machine")
    python = _layer(writer, _python_files(), "RUN pip install harborguard-sensor")
    old = _layer(
        writer, _old_files(), "RUN pip install " + " ".join(f"{name}=={version}" for name, version, _ in OLD_RELEASES)
    )
    machine = _image(writer, (system, python, old), "demo/machine:1.0")
    _image(writer, (system, python, old), "demo/machine:latest")
    _image(writer, (system,), "demo/base:1.0")
    _image(writer, (system, old), "demo/machine:1.1-dev")
    _image(writer, (old,), "scratch/experiment:1")
    payload = {"mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", **writer.blob(b'{"critical":{}}')}
    signature_config = {"mediaType": OCI_CONFIG, **writer.blob(b"{}")}
    writer.manifest(signature_config, (payload,), f"demo/machine:{machine.replace(':', '-')}.sig")
    chart_config = {"mediaType": "application/vnd.cncf.helm.config.v1+json", **writer.blob(b'{"name":"demo"}')}
    chart = {
        "mediaType": "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
        **writer.blob(gzip.compress(b"chart", mtime=0)),
    }
    writer.manifest(chart_config, (chart,), "demo/chart:0.1.0")
    writer.close()


def machine_architecture() -> str:
    """The architecture of this machine, in the words of image indexes."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _image(writer: LayoutWriter, layers: tuple[_Layer, ...], name: str) -> Digest:
    config = {
        "architecture": machine_architecture(),
        "os": "linux",
        "config": {"Labels": {"org.opencontainers.image.title": f"{platform.node()} as an image"}},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created_by": layer.command} for layer in layers],
    }
    descriptor = {"mediaType": OCI_CONFIG, **writer.blob(json.dumps(config).encode())}
    return writer.manifest(descriptor, (layer.descriptor for layer in layers), name)


def _layer(writer: LayoutWriter, files: Mapping[str, bytes], command: str) -> _Layer:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, data in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    raw = tar.getvalue()
    stored = writer.blob(gzip.compress(raw, compresslevel=6, mtime=0))
    return _Layer(descriptor={"mediaType": _TAR_GZIP, **stored}, diff_id=sha256_digest(raw), command=command)


def _system_files(root: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for name in (*_OS_RELEASE, *_DATABASES):
        path = root / name
        try:
            if path.is_file() and path.stat().st_size <= _MOST_BYTES:
                files[name] = path.read_bytes()
        except OSError:
            continue  # unreadable here: the demo shows what it can
    return files


def _python_files() -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for distribution in metadata.distributions():
        text = distribution.read_text("METADATA")
        if text:
            files[_metadata_path(distribution.metadata["Name"], distribution.version)] = text.encode()
    return dict(sorted(files.items()))


def _old_files() -> dict[str, bytes]:
    return {
        _metadata_path(
            name, version
        ): f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nLicense: {license_name}\n\n".encode()
        for name, version, license_name in OLD_RELEASES
    }


def _metadata_path(name: str, version: str) -> str:
    return f"opt/app/lib/python3/site-packages/{name.replace('-', '_')}-{version}.dist-info/METADATA"
