"""Builds image archives: what `docker save` wrote over the years, what skopeo writes, and whatever nobody should.

    write(path, *docker_save(Image(["app:1"], [layer])), compression="gzip")

An archive is a list of `layers.Entry`, so that a test can leave out, add and change members before it is written. Real archives are made by
the real skopeo (`skopeo_copy`).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tests.fakes.layers import Compression, Entry, compressed, directory, file, layer_tar, symlink

Style = Literal["old", "hex", "blobs"]
"""`old`: Docker before 25, `<id>/layer.tar` and links between equal layers; `hex`: skopeo, `<diff id>.tar` and links to it; `blobs`: Docker
since 25, members under `blobs/` (with `with_layout` the OCI side as well)."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image of an archive."""

    tags: Sequence[str] | None
    layers: Sequence[bytes]
    """Tars, compressed or not, as they are to be written."""
    diff_ids: Sequence[str] | None = None
    """None: of the layers, which must be uncompressed then."""

    @property
    def config(self) -> bytes:
        """Its configuration."""
        ids = self.diff_ids if self.diff_ids is not None else [f"sha256:{_hex(layer)}" for layer in self.layers]
        document = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}}
        return json.dumps(document).encode()

    @property
    def config_digest(self) -> str:
        """The image ID."""
        return f"sha256:{_hex(self.config)}"


def docker_save(*images: Image, style: Style = "hex") -> list[Entry]:
    """The members of a docker-archive, `manifest.json` near the end."""
    members: dict[str, Entry] = {}
    documents: list[dict[str, Any]] = []
    first_with: dict[str, str] = {}
    for number, image in enumerate(images):
        names = []
        for position, blob in enumerate(image.layers):
            value = _hex(blob)
            if style == "old":
                identifier = f"{number:032x}{position:032x}"
                members[f"{identifier}/"] = directory(identifier)
                members[f"{identifier}/VERSION"] = file(f"{identifier}/VERSION", b"1.0")
                name = f"{identifier}/layer.tar"
                first = first_with.setdefault(value, identifier)
                members[name] = file(name, blob) if first == identifier else symlink(name, f"../{first}/layer.tar")
            else:
                name = f"blobs/sha256/{value}" if style == "blobs" else f"{value}.tar"
                members[name] = file(name, blob)
                if style == "hex":
                    link = f"{number:032x}{position:032x}/layer.tar"
                    members[link] = symlink(link, f"../{name}")
            names.append(name)
        config = _hex(image.config)
        config = f"blobs/sha256/{config}" if style == "blobs" else f"{config}.json"
        members[config] = file(config, image.config)
        tags = None if image.tags is None else list(image.tags)
        documents.append({"Config": config, "RepoTags": tags, "Layers": names})
    return [*members.values(), manifest_json(documents), file("repositories", b"{}")]


def manifest_json(document: object) -> Entry:
    """What names the images of a docker-archive."""
    return file("manifest.json", json.dumps(document).encode())


def layout_members(root: Path) -> list[Entry]:
    """The members of an oci-archive of a layout, `index.json` and `oci-layout` last, as skopeo has them."""
    blobs = sorted((root / "blobs" / "sha256").iterdir())
    return [
        directory("blobs"),
        directory("blobs/sha256"),
        *(file(f"blobs/sha256/{blob.name}", blob.read_bytes()) for blob in blobs),
        *(file(name, (root / name).read_bytes()) for name in ("index.json", "oci-layout")),
    ]


def without(members: Sequence[Entry], *paths: str) -> list[Entry]:
    """The members but those."""
    return [member for member in members if member.path not in paths]


def changed(members: Sequence[Entry], path: str, **fields: Any) -> list[Entry]:
    """The members, one of them changed."""
    assert any(member.path == path for member in members)
    return [replace(member, **fields) if member.path == path else member for member in members]


def write(path: Path, *members: Entry, prefix: str = "", compression: Compression = "none") -> Path:
    """Write the archive, as a whole compressed or not."""
    path.write_bytes(compressed(layer_tar(*members, prefix=prefix), compression))
    return path


def skopeo_copy(source: str, target: str, *options: str) -> None:
    """Let skopeo make an archive: `skopeo_copy("oci:LAYOUT:NAME", "docker-archive:FILE:NAME")`."""
    command = ["skopeo", "--insecure-policy", "copy", "--quiet", *options, source, target]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    if done.returncode:
        raise AssertionError(f"skopeo failed: {done.stderr.decode(errors='replace')}")


def _hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
