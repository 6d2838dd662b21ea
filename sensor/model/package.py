"""Packages, the evidence for them, and inventories of layers and images.

A *layer inventory* is what one layer alone contains and removes; it is cached for ever under the layer's digest. An *image
inventory* is the squashed whole. Both are plain data: `scan` makes them, `inventory` stores them.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from sensor.model.digest import Digest

PackageType: TypeAlias = Literal["deb", "apk", "rpm", "pypi", "npm", "golang"]
"""The purl types that the catalogers produce (purl-spec, PURL-TYPES)."""


class Gap(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that could not be judged. A result with a gap is PARTIAL.

    `kind` is a constant word (limit, unreadable, unknown-distro, no-advisories, not-comparable, platform, ...), `subject` the file, layer or
    package concerned, `reason` a sentence for the operator.
    """

    kind: str
    subject: str
    reason: str


class Package(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One installed package as its own metadata states it.

    `version` is complete: with epoch for deb (`1:2.3-4`) and for rpm (`epoch:version-release`, epoch only when above 0).
    `source_name`/`source_version` are what distro advisories are keyed by; empty when the ecosystem has no such notion.
    `path` is the file that proves the package, relative to the image root, without a leading slash.
    """

    type: PackageType
    name: str
    version: str
    path: str
    arch: str = ""
    source_name: str = ""
    source_version: str = ""
    license: str = ""
    vendor: str = ""
    modularity: str = ""
    """rpm MODULARITYLABEL, `name:stream:version:context`."""


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one file of one layer says. A whole database replaces an older copy of itself because it stands at the same path.

    `owns` are the paths that an OS package database claims and that other catalogers could also report (metadata files and
    programs only, not every file): they tell which language packages the distribution patches itself. Pairs of (path, package name).
    """

    cataloger: str
    path: str
    packages: tuple[Package, ...] = ()
    owns: tuple[tuple[str, str], ...] = ()
    gaps: tuple[Gap, ...] = ()
    """Records inside the file that could not be read; they count only while this evidence survives the squash."""


class OsRelease(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The fields of os-release(5) that decide which advisories apply."""

    id: str
    version_id: str = ""
    version_codename: str = ""
    id_like: tuple[str, ...] = ()
    pretty_name: str = ""
    cpe_name: str = ""


class LayerInventory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one layer alone contains, and what it does to the layers below.

    `whiteouts` are paths it deletes, `opaque` directories whose lower content it hides, `symlinks` its symbolic links (path to
    target) that could stand in for a directory, `hard_links` further names of files that lie in a lower layer. `files` holds every path of the
    layer, NUL-separated and zstd-compressed, directories with a slash at the end: it decides whether a lower file or directory was
    replaced (`scan.paths` reads it). Sizes are bytes.
    """

    evidence: tuple[Evidence, ...] = ()
    os_release: dict[str, OsRelease] = {}
    whiteouts: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()
    symlinks: dict[str, str] = {}
    hard_links: dict[str, str] = {}
    files: bytes = b""
    entries: int = 0
    compressed_bytes: int = 0
    inflated_bytes: int = 0
    gaps: tuple[Gap, ...] = ()


class InstalledPackage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A package that is visible in the running image.

    `layer` is the digest of the layer that introduced this exact version; `owner` is the OS package that owns the file, if one does (then the
    distribution patches it and language advisories do not apply); `purl` is complete with the distro's qualifiers.
    """

    package: Package
    layer: Digest
    purl: str
    owner: str = ""


class LayerSummary(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One layer of an image, for display: lowest first. `command` is the build step that made it, if the history tells."""

    digest: Digest
    compressed_bytes: int
    inflated_bytes: int = 0
    entries: int = 0
    command: str = ""


class ImageInventory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The squashed content of one image for one platform: everything that matching needs, nothing that needs the registry."""

    manifest: Digest
    platform: str
    os_release: OsRelease | None = None
    packages: tuple[InstalledPackage, ...] = ()
    layers: tuple[LayerSummary, ...] = ()
    gaps: tuple[Gap, ...] = ()
