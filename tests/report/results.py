"""Results to report, made short."""

from typing import Any

from sensor.control_plane.wire import Sensor
from sensor.model.digest import sha256_digest
from sensor.model.finding import Finding, ImageResult, MatchResult, Severity
from sensor.model.package import Gap, ImageInventory, InstalledPackage, LayerSummary, OsRelease, Package

LAYER = sha256_digest(b"layer")
DIGEST = sha256_digest(b"index")
SENSOR = Sensor(version="0.1.0", scanner_versions={"harborguard-sensor": "0.1.0"}, id="agent", name="rack-7")


def installed(name: str = "libexample", version: str = "1.2.3", **more: Any) -> InstalledPackage:
    fields = {"type": "deb", "path": "var/lib/dpkg/status", "license": "MIT", **more}
    package = Package(name=name, version=version, **fields)
    return InstalledPackage(package=package, layer=LAYER, purl=f"pkg:deb/debian/{name}@{version}")


def finding(vulnerability: str = "CVE-2025-0001", name: str = "libexample", **more: Any) -> Finding:
    fields = {
        "advisory": "DSA-1-1",
        "package_version": "1.2.3",
        "purl": f"pkg:deb/debian/{name}@1.2.3",
        "path": "var/lib/dpkg/status",
        "layer": LAYER,
        "severity": Severity.HIGH,
        "score": 7.5,
        "fixed_version": "1.2.4",
        "title": "example overflow",
        "description": "An example.",
        "url": "https://example.com/CVE-2025-0001",
        **more,
    }
    return Finding(vulnerability=vulnerability, package_name=name, **fields)


def result(
    *findings: Finding,
    packages: tuple[InstalledPackage, ...] | None = None,
    reference: str = "registry.example.net/acme/app:1.4",
    gaps: tuple[Gap, ...] = (),
    **more: Any,
) -> ImageResult:
    inventory = ImageInventory(
        manifest=sha256_digest(b"manifest"),
        platform="linux/amd64",
        os_release=OsRelease(id="debian", version_id="12", pretty_name="Debian 12"),
        packages=(installed(),) if packages is None else packages,
        layers=(LayerSummary(digest=LAYER, compressed_bytes=70_000_000, inflated_bytes=90_000_000, entries=12),),
        gaps=gaps,
    )
    fields = {"started_at": "2026-05-22T18:04:20+00:00", "finished_at": "2026-05-22T18:04:58.25+00:00", **more}
    return ImageResult(
        reference=reference,
        digest=DIGEST,
        inventory=inventory,
        match=MatchResult(revision="db-7", findings=findings),
        **fields,
    )
