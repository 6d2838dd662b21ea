"""Which advisories speak about a package: the distribution's ecosystem, and the name and version to ask with.

Follows the OSV schema's "Defined ecosystems" for the spelling of releases. What no advisory speaks about becomes a gap here. Leaves evaluating
the answers to `scan.match`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sensor.model.advisory import AdvisoryLookup
from sensor.model.package import Gap, ImageInventory, InstalledPackage, OsRelease, Package, PackageType
from sensor.versions import order_of
from sensor.versions.names import normal_name

OS_TYPES: frozenset[PackageType] = frozenset({"deb", "apk", "rpm"})
"""Packages that only the advisories of their own distribution speak about."""

LANGUAGE_ECOSYSTEMS: Mapping[PackageType, str] = MappingProxyType({"pypi": "PyPI", "npm": "npm", "golang": "Go"})
"""Packages whose advisories are the same in every image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One look-up for one package. With `ignore_epoch` the version's epoch is unknown and bounds are read without theirs."""

    ecosystem: str
    name: str
    version: str
    ignore_epoch: bool = False


def _major(release: OsRelease) -> str:
    return release.version_id.partition(".")[0]


def _suffixed(base: str, suffix: str) -> tuple[str, ...]:
    return (f"{base}:{suffix}",) if suffix else ()


def _debian(release: OsRelease) -> tuple[str, ...]:
    return _suffixed("Debian", _major(release))


def _ubuntu(release: OsRelease) -> tuple[str, ...]:
    year, _, month = release.version_id.partition(".")
    if not (year.isdecimal() and month.isdecimal()):
        return ()
    is_lts = int(year) % 2 == 0 and month == "04"
    return (f"Ubuntu:{year}.{month}{':LTS' if is_lts else ''}",)


def _alpine(release: OsRelease) -> tuple[str, ...]:
    if "_" in release.version_id:  # edge calls itself 3.21.0_alpha20240807; its packages are not those of v3.21
        return ("Alpine:edge",)
    numbers = release.version_id.split(".")
    return _suffixed("Alpine", f"v{numbers[0]}.{numbers[1]}" if len(numbers) >= 2 else "")


def _redhat(release: OsRelease) -> tuple[str, ...]:
    """The part of the CPE after the vendor. os-release names one repository; packages come from three of the same stream."""
    _, _, tail = release.cpe_name.partition(":redhat:")
    stream = tail.partition("::")[0] or (f"enterprise_linux:{_major(release)}" if _major(release) else "")
    if not stream:
        return ()
    product, _, version = stream.partition(":")
    streams = dict.fromkeys((stream, f"{product}:{version.partition('.')[0]}"))
    return tuple(f"Red Hat:{name}::{repository}" for name in streams for repository in ("baseos", "appstream", "crb"))


def _suse(release: OsRelease) -> tuple[str, ...]:
    major, _, pack = release.version_id.partition(".")
    if not major:
        return ()
    name = f"{major} SP{pack}" if pack and pack != "0" else major
    products = ("Linux Enterprise Server", "Linux Enterprise Module for Basesystem")
    return tuple(f"SUSE:{product} {name}" for product in products)


def _openeuler(release: OsRelease) -> tuple[str, ...]:
    match = re.search(r"([0-9]+\.[0-9]+)(?:[ -]*\(?(LTS(?:-SP[0-9]+)?)\)?)?", release.pretty_name or release.version_id)
    if match is None:
        return ()
    return (f"openEuler:{match[1]}-{match[2]}" if match[2] else f"openEuler:{match[1]}",)


DISTROS: Mapping[str, Callable[[OsRelease], tuple[str, ...]]] = MappingProxyType(
    {
        "debian": _debian,
        "ubuntu": _ubuntu,
        "alpine": _alpine,
        "alpaquita": lambda release: _suffixed("Alpaquita", release.version_id),
        "wolfi": lambda _release: ("Wolfi",),
        "chainguard": lambda _release: ("Chainguard",),
        "minimos": lambda _release: ("MinimOS",),
        "almalinux": lambda release: _suffixed("AlmaLinux", _major(release)),
        "rocky": lambda release: _suffixed("Rocky Linux", _major(release)),
        "rhel": _redhat,
        "azurelinux": lambda release: _suffixed("Azure Linux", _major(release)),
        "mariner": lambda release: _suffixed("Azure Linux", _major(release)),
        "opensuse-leap": lambda release: _suffixed("openSUSE", f"Leap {release.version_id}"),
        "opensuse-tumbleweed": lambda _release: ("openSUSE:Tumbleweed",),
        "sles": _suse,
        "openeuler": _openeuler,
        "mageia": lambda release: _suffixed("Mageia", _major(release)),
        "photon": lambda release: _suffixed("Photon OS", release.version_id),
    }
)
"""os-release ID (lower case) to OSV ecosystems, most specific first. A derivative (ID_LIKE) is not taken for its parent: its packages carry
versions of their own, and a wrong answer is worse than a visible gap."""


def advisory_ecosystems(release: OsRelease) -> tuple[str, ...]:
    """The OSV ecosystems, with suffix, that hold the distribution's advisories; empty where none are published or the release is not told."""
    find = DISTROS.get(release.id.lower())
    return find(release) if find else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The ecosystems with data, by package type, and what there is no data for. `foreign` are the distribution packages of other makers."""

    ecosystems: Mapping[PackageType, tuple[str, ...]]
    gaps: tuple[Gap, ...] = ()
    foreign: frozenset[str] = frozenset()

    def is_patched(self, item: InstalledPackage) -> bool:
        """Whether a distribution patches this language package: then its version does not tell what the language's advisories know."""
        return item.package.type not in OS_TYPES and bool(item.owner) and item.owner not in self.foreign


def cover(inventory: ImageInventory, advisories: AdvisoryLookup) -> Coverage:
    """Find the ecosystems to ask for the packages of an image. Without data, "no findings" would be a lie: then there is a gap."""
    coverage = Coverage(ecosystems={}, foreign=_foreign(inventory))
    counts: dict[PackageType, int] = {}
    for item in inventory.packages:
        if not coverage.is_patched(item):
            counts[item.package.type] = counts.get(item.package.type, 0) + 1
    ecosystems: dict[PackageType, tuple[str, ...]] = {}
    gaps: list[Gap] = []
    for kind, count in counts.items():
        if kind in OS_TYPES:
            candidates = _of_format(inventory.os_release, kind)
            if not candidates:
                gaps.append(_unknown_distro(inventory.os_release, kind, count))
                continue
        else:
            candidates = (LANGUAGE_ECOSYSTEMS[kind],)
        known = tuple(name for name in candidates if advisories.has_ecosystem(name))
        ecosystems[kind] = known
        if not known and not advisories.revision:
            gaps.append(
                Gap(
                    kind="no-advisories",
                    subject=candidates[0],
                    reason=f"there is no advisory database, so the {count} {kind} packages of this image were listed but not judged:"
                    " run `harborguard-sensor advisories import`, or `advisories update`",
                )
            )
        elif not known:
            gaps.append(
                Gap(
                    kind="no-advisories",
                    subject=candidates[0],
                    reason=f"the advisory database holds nothing for {in_words(candidates[0])}, so the {count} {kind} packages of this"
                    " image were listed but not judged: having no findings for them means nothing",
                )
            )
    return replace(coverage, ecosystems=ecosystems, gaps=tuple(gaps))


_RPM_DISTRIBUTORS = re.compile(
    r"red ?hat|centos|fedora|almalinux|cloudlinux|rocky|oracle|amazon|suse|microsoft|vmware|broadcom|openeuler|mageia",
    re.IGNORECASE,
)
_DEB_MAKERS = re.compile(
    r"@(?:[\w-]+\.)*(?:nodesource|docker|microsoft|hashicorp|grafana|elastic|mongodb|gitlab|github|oracle|nginx|f5|datadoghq|newrelic"
    r"|influxdata|puppet|cloudflare|confluent)\.(?:com|io)>?$",
    re.IGNORECASE,
)
_DEB_VERSIONS = re.compile(r"nodesource|pgdg|~(?:debian|ubuntu)\.")
"""Of NodeSource, of the PostgreSQL project (whose maintainers are Debian's), of Docker."""


def is_foreign(package: Package) -> bool:
    """Whether somebody other than a distribution built this package, so that no distribution patches the language packages inside.

    rpm has a field for it. A deb has none, so only makers that are known by their address or version are told apart.
    """
    if package.type == "rpm":
        return bool(package.vendor) and _RPM_DISTRIBUTORS.search(package.vendor) is None
    if package.type == "deb":
        return _DEB_MAKERS.search(package.vendor) is not None or _DEB_VERSIONS.search(package.version) is not None
    return False


def _foreign(inventory: ImageInventory) -> frozenset[str]:
    """Names of the foreign packages. A name that the distribution has installed, too (for another architecture), is not among them."""
    foreign: set[str] = set()
    native: set[str] = set()
    for item in inventory.packages:
        if item.package.type in OS_TYPES:
            (foreign if is_foreign(item.package) else native).add(item.package.name)
    return frozenset(foreign - native)


def _of_format(release: OsRelease | None, kind: PackageType) -> tuple[str, ...]:
    """The distribution's ecosystems if it uses this package format at all (an rpm database may lie about in a Debian image)."""
    candidates = advisory_ecosystems(release) if release else ()
    return tuple(name for name in candidates if (order := order_of(name)) and order.name == kind)


def _unknown_distro(release: OsRelease | None, kind: PackageType, count: int) -> Gap:
    if release is None:
        subject, why = "os-release", "the image does not say which distribution it is"
    else:
        subject = f"{release.id} {release.version_id}".strip()
        why = f"no advisories with {kind} packages are known for {release.pretty_name or subject}"
    return Gap(
        kind="unknown-distro",
        subject=subject,
        reason=f"{why}, so its {count} {kind} packages were listed but not judged: having no findings for them means nothing",
    )


def language_version(package: Package) -> str:
    """The version as advisories of the language write it; empty where there is none that could be judged."""
    version = package.version.strip()
    if package.type != "golang":
        return version
    if version in {"", "(devel)"}:
        return ""
    if package.name in {"stdlib", "toolchain"}:
        return _go_release(version)
    return version.removeprefix("v")


def _go_release(version: str) -> str:
    """`go1.22rc1 X:boringcrypto` and `1.20.4-fips` as SemVer: 1.22.0-rc.1, 1.20.4. A development build has no release."""
    match = re.match(r"(?:go)?([0-9]+(?:\.[0-9]+)*)(?:(alpha|beta|rc)([0-9]+))?(?![0-9a-z.])", version)
    if match is None:
        return version
    numbers, stage, count = match.groups()
    numbers += ".0" * (2 - numbers.count("."))
    return f"{numbers}-{stage}.{count}" if stage else numbers


def questions(package: Package, ecosystem: str) -> tuple[Question, ...]:
    """What to ask about a package, most telling name first. `ecosystem` is the distribution's for its own packages, else the language's."""
    source = package.source_name or package.name
    source_version = package.source_version or package.version
    if package.type == "deb":
        # The signed kernel image is built from a source of its own, whose version means nothing; its binaries carry that of `linux`.
        if re.fullmatch(r"linux-signed(-[a-z0-9]+)?", source):
            source, source_version = "linux", package.version
        return (Question(ecosystem=ecosystem, name=source, version=source_version),)
    if package.type == "apk":
        names = dict.fromkeys((source, package.name) if ecosystem in _BY_SUBPACKAGE else (source,))
        return tuple(Question(ecosystem=ecosystem, name=name, version=package.version) for name in names)
    if package.type == "rpm":
        binary = Question(ecosystem=ecosystem, name=package.name, version=package.version)
        by_source = Question(ecosystem=ecosystem, name=source, version=source_version, ignore_epoch=True)
        return (binary,) if source == package.name else (binary, by_source)
    version = language_version(package)
    name = normal_name(ecosystem, package.name)
    return (Question(ecosystem=ecosystem, name=name, version=version),) if version else ()


_BY_SUBPACKAGE = frozenset({"Wolfi", "Chainguard", "MinimOS"})
"""apk distributions whose advisories name sub-packages as well as origins."""

_KERNEL_SOURCE = re.compile(
    r"kernel(-(rt|uek|default|64k|azure|source))?"
    r"|linux(-(signed|lts|virt|edge|hwe|aws|azure|gcp|gke|gkeop|ibm|kvm|oracle|oem|raspi2?|riscv|lowlatency|nvidia|realtime|intel|bluefield|xilinx)\b.*|-[0-9].*)?"
)
_KERNEL_IMAGE = re.compile(
    r"linux-(image|modules|lts|virt|edge)\b(?!.*-(dbg|dev|headers|doc)$).*"
    r"|kernel(-(rt|uek|default|64k|azure|debug))*(-(core|base|modules-core))?"
)


def is_kernel_source(name: str) -> bool:
    """Whether advisories under this name are about the running kernel (which in a container is the host's)."""
    return _KERNEL_SOURCE.fullmatch(name) is not None


def is_kernel_image(package: Package) -> bool:
    """Whether the package holds a bootable kernel, not only headers, documentation or tools made from the same source."""
    return package.type in OS_TYPES and _KERNEL_IMAGE.fullmatch(package.name) is not None


def in_words(ecosystem: str) -> str:
    """An ecosystem for people: `Debian 12` of `Debian:12`."""
    return ecosystem.replace(":", " ")
