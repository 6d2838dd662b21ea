from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.model.advisory import Advisory, Affected, Range
from sensor.model.digest import sha256_digest
from sensor.model.finding import Finding, MatchResult, Severity
from sensor.model.package import ImageInventory, InstalledPackage, OsRelease, Package
from sensor.scan.match import match_inventory
from tests.fakes.advisories import FakeAdvisories, below

LAYER = sha256_digest(b"layer")
DEBIAN = OsRelease(id="debian", version_id="12")
ALMA = OsRelease(id="almalinux", version_id="8.9")
ALPINE = OsRelease(id="alpine", version_id="3.18.4")
CVE = "CVE-2023-0001"
VECTOR = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"


def package(type_: str, name: str, version: str, *, owner: str = "", path: str = "db", **more: str) -> InstalledPackage:
    known = Package(type=type_, name=name, version=version, path=path, **more)  # type: ignore[arg-type]
    return InstalledPackage(package=known, layer=LAYER, purl=f"pkg:{type_}/{name}@{version}", owner=owner)


def match(
    packages: list[InstalledPackage],
    *affected: Affected,
    advisories: tuple[Advisory, ...] = (),
    release: OsRelease | None = DEBIAN,
    ecosystems: tuple[str, ...] = (),
) -> MatchResult:
    lookup = FakeAdvisories(affected=affected, advisories=advisories, ecosystems=ecosystems)
    inventory = ImageInventory(
        manifest=sha256_digest(b"manifest"), platform="linux/amd64", os_release=release, packages=tuple(packages)
    )
    return match_inventory(inventory, lookup)


def only(result: MatchResult) -> Finding:
    (finding,) = result.findings
    return finding


def named(result: MatchResult) -> list[tuple[str, str]]:
    return [(finding.vulnerability, finding.package_name) for finding in result.findings]


LIBSSL = package("deb", "libssl3", "3.0.11-1~deb12u1+b1", source_name="openssl", source_version="3.0.11-1~deb12u1")


def test_a_finding_says_everything_a_reader_needs_to_check_it() -> None:
    result = match(
        [LIBSSL],
        below("DSA-5532-1", "Debian:12", "openssl", "3.0.11-1~deb12u2"),
        advisories=(
            Advisory(
                id="DSA-5532-1", upstream=(CVE,), summary="openssl - security update", url="https://example.org/dsa"
            ),
            Advisory(id=CVE, severity=(("CVSS_V3", VECTOR),), details="A cipher is misused."),
        ),
    )
    assert only(result) == Finding(
        vulnerability=CVE,
        advisory="DSA-5532-1",
        package_name="libssl3",
        package_version="3.0.11-1~deb12u1+b1",
        purl="pkg:deb/libssl3@3.0.11-1~deb12u1+b1",
        path="db",
        layer=LAYER,
        severity=Severity.CRITICAL,
        severity_source=f"CVSS_V3 of {CVE}",
        score=9.8,
        vector=VECTOR,
        fixed_version="3.0.11-1~deb12u2",
        affected_range="before 3.0.11-1~deb12u2",
        matched_name="openssl",
        aliases=("DSA-5532-1",),
        title="openssl - security update",
        description="A cipher is misused.",
        url="https://example.org/dsa",
        state="fixed",
    )
    assert (result.revision, result.ecosystems, result.gaps) == ("fake-1", ("Debian:12",), ())


def test_the_source_version_is_judged_not_the_rebuilt_binary() -> None:
    fixed = below("DSA-1-1", "Debian:12", "gcc-12", "12.2.0-14")
    base = package("deb", "gcc-12-base", "12.2.0-14", source_name="gcc-defaults", source_version="1.203")
    assert match([base], fixed, ecosystems=("Debian:12",)).findings == ()
    assert match([LIBSSL], below("DSA-2-1", "Debian:12", "openssl", "3.0.11-1~deb12u1")).findings == ()


def test_an_advisory_of_several_cves_gives_a_finding_for_each() -> None:
    result = match(
        [LIBSSL],
        below("DSA-5532-1", "Debian:12", "openssl", "9"),
        advisories=(Advisory(id="DSA-5532-1", upstream=("CVE-2023-0002", CVE)),),
    )
    assert [(finding.vulnerability, finding.advisory, finding.aliases) for finding in result.findings] == [
        (CVE, "DSA-5532-1", ("DSA-5532-1",)),
        ("CVE-2023-0002", "DSA-5532-1", ("DSA-5532-1",)),
    ]


def test_one_vulnerability_from_two_records_is_one_finding() -> None:
    result = match(
        [LIBSSL],
        below("DSA-5532-1", "Debian:12", "openssl", "3.0.11-1~deb12u2"),
        below("DEBIAN-CVE-2023-0001", "Debian:12", "openssl", "3.0.11-1~deb12u2"),
        advisories=(Advisory(id="DSA-5532-1", upstream=(CVE,)), Advisory(id="DEBIAN-CVE-2023-0001", upstream=(CVE,))),
    )
    finding = only(result)
    assert finding.vulnerability == CVE
    assert finding.aliases == ("DEBIAN-CVE-2023-0001", "DSA-5532-1")


def test_the_tracker_s_word_on_one_cve_outweighs_an_erratum_that_lists_it() -> None:
    result = match(
        [LIBSSL],
        below("DSA-5532-1", "Debian:12", "openssl", "3.0.11-1~deb12u2"),
        below("DEBIAN-CVE-2023-0001", "Debian:12", "openssl", "3.0.9-1"),
        advisories=(Advisory(id="DSA-5532-1", upstream=(CVE, "CVE-2023-0002")),),
    )
    assert named(result) == [("CVE-2023-0002", "libssl3")]


def test_of_two_errata_the_fix_that_satisfies_both_is_shown() -> None:
    bash = package("rpm", "bash", "4.4-1.el8", source_name="bash", source_version="4.4-1.el8")
    result = match(
        [bash],
        below("ALSA-2023:1", "AlmaLinux:8", "bash", "4.4-10.el8"),
        below("ALSA-2023:2", "AlmaLinux:8", "bash", "4.4-9.el8"),
        advisories=(Advisory(id="ALSA-2023:1", upstream=(CVE,)), Advisory(id="ALSA-2023:2", upstream=(CVE,))),
        release=ALMA,
    )
    assert only(result).fixed_version == "4.4-10.el8"


def test_a_fix_in_another_range_is_shown_only_if_it_is_newer() -> None:
    def at(version: str) -> Finding:
        entry = Affected(
            advisory="GHSA-1",
            ecosystem="npm",
            name="left-pad",
            ranges=(
                Range(type="SEMVER", events=(("introduced", "0"), ("fixed", "1.5.0"))),
                Range(type="SEMVER", events=(("introduced", "2.0.0"), ("last_affected", "2.9.0"))),
                Range(type="SEMVER", events=(("introduced", "3.0.0"), ("fixed", "3.1.0"))),
            ),
        )
        return only(match([package("npm", "left-pad", version)], entry))

    assert (at("2.5.0").fixed_version, at("2.5.0").affected_range) == ("3.1.0", "from 2.0.0 up to 2.9.0")
    assert at("1.0.0").fixed_version == "1.5.0"


def test_without_a_newer_fix_it_is_unfixed() -> None:
    entry = Affected(
        advisory="GHSA-1",
        ecosystem="npm",
        name="left-pad",
        ranges=(
            Range(type="SEMVER", events=(("introduced", "0"), ("fixed", "1.5.0"))),
            Range(type="SEMVER", events=(("introduced", "2.0.0"),)),
        ),
    )
    finding = only(match([package("npm", "left-pad", "2.5.0")], entry))
    assert (finding.fixed_version, finding.state) == ("", "unfixed")


def test_an_unimportant_issue_is_kept_at_the_lowest_severity() -> None:
    entry = msgspec.structs.replace(below("DEBIAN-CVE-2005-2541", "Debian:12", "tar"), urgency="unimportant")
    record = Advisory(id="DEBIAN-CVE-2005-2541", severity=(("CVSS_V3", VECTOR),))
    finding = only(match([package("deb", "tar", "1.34")], entry, advisories=(record,)))
    assert (finding.severity, finding.state, finding.severity_source) == (Severity.INFO, "unimportant", "Debian")
    assert finding.affected_range == "all versions"


def test_a_record_that_is_missing_loses_no_finding() -> None:
    finding = only(match([LIBSSL], below("DSA-9-1", "Debian:12", "openssl", "9")))
    assert (finding.vulnerability, finding.advisory, finding.severity) == ("DSA-9-1", "DSA-9-1", Severity.INFO)


def test_a_wrapper_s_prose_is_not_used_for_a_distribution_s_package() -> None:
    result = match(
        [package("deb", "zlib1g", "1:1.2.13", source_name="zlib")],
        below("DEBIAN-CVE-2023-45853", "Debian:12", "zlib"),
        advisories=(
            Advisory(id="DEBIAN-CVE-2023-45853", upstream=("CVE-2023-45853",)),
            Advisory(id="PYSEC-1", aliases=("CVE-2023-45853",), summary="pyminizip", severity=(("CVSS_V3", VECTOR),)),
        ),
    )
    assert (only(result).title, only(result).score) == ("", 9.8)


def test_alpine_fixed_zero_means_never_affected() -> None:
    curl = package("apk", "libcurl", "8.4.0-r0", source_name="curl", source_version="8.4.0-r0")
    never = below("ALPINE-CVE-2021-22897", "Alpine:v3.18", "curl", "0")
    later = below("ALPINE-CVE-2023-46218", "Alpine:v3.18", "curl", "8.5.0-r0")
    assert named(match([curl], never, later, release=ALPINE)) == [("CVE-2023-46218", "libcurl")]


# --- kernel ---


HEADERS = package("deb", "linux-libc-dev", "6.1.76-1", source_name="linux", source_version="6.1.76-1")
IMAGE = package(
    "deb", "linux-image-6.1.0-18-amd64", "6.1.76-1", source_name="linux-signed-amd64", source_version="6.1.76+1"
)
KERNEL_BUG = below("DEBIAN-CVE-2024-1086", "Debian:12", "linux", "6.1.80-1")


def test_kernel_headers_alone_have_no_kernel_vulnerabilities() -> None:
    assert match([HEADERS], KERNEL_BUG).findings == ()
    rpm_headers = package("rpm", "kernel-headers", "4.18-1.el8", source_name="kernel", source_version="4.18-1.el8")
    assert match([rpm_headers], below("ALSA-1", "AlmaLinux:8", "kernel-headers", "5"), release=ALMA).findings == ()


def test_a_kernel_image_has() -> None:
    assert ("CVE-2024-1086", "linux-image-6.1.0-18-amd64") in named(match([HEADERS, IMAGE], KERNEL_BUG))
    core = package("rpm", "kernel-core", "4.18-1.el8", source_name="kernel", source_version="4.18-1.el8")
    result = match(
        [core],
        below("ALSA-1", "AlmaLinux:8", "kernel-core", "4.18-2.el8"),
        advisories=(Advisory(id="ALSA-1", upstream=(CVE,)),),
        release=ALMA,
    )
    assert named(result) == [(CVE, "kernel-core")]


# --- rpm ---


def test_errata_are_asked_by_binary_name_before_the_source() -> None:
    """The binary is fixed; its source name happens to be listed with a newer version of another binary."""
    libs = package("rpm", "openssl-libs", "1:1.1.1k-9.el8", source_name="openssl", source_version="1.1.1k-9.el8")
    result = match(
        [libs],
        below("ALSA-1", "AlmaLinux:8", "openssl-libs", "1:1.1.1k-9.el8"),
        below("ALSA-1", "AlmaLinux:8", "openssl", "1:1.1.1k-12.el8"),
        below("ALSA-2", "AlmaLinux:8", "openssl", "1:1.1.1k-9.el8"),
        below("ALSA-3", "AlmaLinux:8", "openssl", "1:1.1.1k-10.el8"),
        advisories=(Advisory(id="ALSA-3", upstream=(CVE,)),),
        release=ALMA,
    )
    finding = only(result)
    assert (finding.advisory, finding.matched_name) == ("ALSA-3", "openssl")


def test_a_missing_epoch_is_zero() -> None:
    bash = package("rpm", "bash", "4.4-20.el8", source_name="bash")
    assert match([bash], below("ALSA-1", "AlmaLinux:8", "bash", "0:4.4-20.el8"), release=ALMA).findings == ()
    assert len(match([bash], below("ALSA-1", "AlmaLinux:8", "bash", "0:4.4-21.el8"), release=ALMA).findings) == 1


def test_a_source_s_entry_may_be_limited_to_binaries() -> None:
    suse = OsRelease(id="opensuse-leap", version_id="15.5")
    entry = msgspec.structs.replace(below("SUSE-1", "openSUSE:Leap 15.5", "curl", "8-2"), binaries=("libcurl4",))
    packages = [
        package("rpm", name, "8-1", source_name="curl", source_version="8-1") for name in ("libcurl4", "libcurl-devel")
    ]
    assert named(match(packages, entry, release=suse)) == [("SUSE-1", "libcurl4")]


def node(version: str, modularity: str) -> InstalledPackage:
    return package("rpm", "nodejs", version, source_name="nodejs", modularity=modularity)


STREAM_16 = "nodejs:16:8050020211213:c5368500"
INSTALLED_16 = "1:16.13.1-3.module_el8.5.0+2605+45d748af"


@pytest.mark.parametrize(
    ("modularity", "summary", "fixed", "is_found"),
    [
        (STREAM_16, "Important: nodejs:16 security update", "1:16.14.0-4.module_el8.6.0+1+2", True),
        (STREAM_16, "Important: nodejs:18 security update", "1:18.9.1-1.module_el8.6.0+1+2", False),
        (STREAM_16, "Important: nodejs:16-beta security update", "1:16.14.0-4.module_el8.6.0+1+2", False),
        (STREAM_16, "Important: nodejs security update", "1:18.9.1-1.module_el8.6.0+1+2", False),
        (STREAM_16, "Important: nodejs security update", "1:16.14.0-4.module_el8.6.0+1+2", True),
        ("nodejs:rhel8:1:2", "Important: nodejs security update", "1:18.9.1-1.module_el8.6.0+1+2", True),
        (STREAM_16, "Important: nodejs security update", "1:20.0.0-1.el8", False),
        (STREAM_16, "nodejs: no fix", "", True),
        ("", "Important: nodejs:16 security update", "1:16.14.0-4.module_el8.6.0+1+2", False),
        ("", "Important: nodejs security update", "1:20.0.0-1.el8", True),
    ],
)
def test_a_fix_counts_only_in_the_package_s_own_stream(
    modularity: str, summary: str, fixed: str, is_found: bool
) -> None:
    result = match(
        [node(INSTALLED_16, modularity)],
        below("ALSA-1", "AlmaLinux:8", "nodejs", fixed),
        advisories=(Advisory(id="ALSA-1", upstream=(CVE,), summary=summary),),
        release=ALMA,
    )
    assert bool(result.findings) is is_found


def test_any_rebuild_of_the_fixed_version_is_the_fix() -> None:
    def found(installed: str) -> bool:
        result = match(
            [node(installed, STREAM_16)],
            below("ALSA-1", "AlmaLinux:8", "nodejs", "1:16.14.0-4.module_el8.6.0+1+2"),
            below("ALSA-1", "AlmaLinux:8", "nodejs", "1:16.14.0-4.module_el8.5.0+1+2"),
            advisories=(Advisory(id="ALSA-1", upstream=(CVE,), summary="Important: nodejs:16 security update"),),
            release=ALMA,
        )
        return bool(result.findings)

    assert not found("1:16.14.0-4.module_el8.5.0+1+2")
    assert found(INSTALLED_16)


def test_an_erratum_without_cves_that_fixes_bugs_is_no_vulnerability() -> None:
    bash = package("rpm", "bash", "4.4-1.el8")
    entry = below("ALBA-2023:1", "AlmaLinux:8", "bash", "4.4-2.el8")
    assert match([bash], entry, advisories=(Advisory(id="ALBA-2023:1"),), release=ALMA).findings == ()


def test_a_wolfi_record_may_name_the_sub_package() -> None:
    sub = package("apk", "py3.11-pip", "23.0-r0", source_name="py3-pip")
    result = match([sub], below("CGA-1", "Wolfi", "py3.11-pip", "23.3-r0"), release=OsRelease(id="wolfi"))
    assert only(result).matched_name == "py3.11-pip"


# --- languages ---


def test_a_language_package_that_the_distribution_owns_is_left_to_the_distribution() -> None:
    entry = below("PYSEC-1", "PyPI", "requests", "2.31")
    owned = package("pypi", "requests", "2.28", owner="python3-requests")
    assert match([owned], entry, release=None).findings == ()
    assert named(match([package("pypi", "Requests", "2.28")], entry, release=None)) == [("PYSEC-1", "Requests")]


def test_a_language_package_that_somebody_else_s_package_owns_is_judged() -> None:
    owned = package("pypi", "requests", "2.28", owner="agent")
    agent = package("deb", "agent", "1:7.50", vendor="Datadog Packages <package@datadoghq.com>")
    result = match([owned, agent], below("PYSEC-1", "PyPI", "requests", "2.31"))
    assert named(result) == [("PYSEC-1", "requests")]


def test_records_of_one_closure_are_one_finding_under_the_cve() -> None:
    ghsa = Advisory(id="GHSA-aaaa-bbbb-cccc", aliases=(CVE, "PYSEC-1"), rating="HIGH", modified="2024")
    pysec = Advisory(id="PYSEC-1", aliases=(CVE, "GHSA-aaaa-bbbb-cccc"), modified="2023")
    result = match(
        [package("pypi", "requests", "2.28")],
        below(ghsa.id, "PyPI", "requests", "2.31"),
        below("PYSEC-1", "PyPI", "requests", "2.31"),
        advisories=(ghsa, pysec),
        release=None,
    )
    finding = only(result)
    assert (finding.vulnerability, finding.advisory) == (CVE, ghsa.id)
    assert finding.aliases == ("GHSA-aaaa-bbbb-cccc", "PYSEC-1")


def test_a_record_that_disagrees_is_named() -> None:
    result = match(
        [package("pypi", "requests", "2.28")],
        below("GHSA-1", "PyPI", "requests", "2.31"),
        below("PYSEC-1", "PyPI", "requests", "2.20"),
        advisories=(Advisory(id="GHSA-1", aliases=(CVE,)), Advisory(id="PYSEC-1", aliases=(CVE,))),
        release=None,
    )
    assert only(result).affected_range == "before 2.31 (PYSEC-1: not affected)"


def test_go_s_own_database_has_the_last_word() -> None:
    result = match(
        [package("golang", "golang.org/x/net", "v0.17.0")],
        below("GHSA-1", "Go", "golang.org/x/net", "0.23.0"),
        below("GO-2024-1", "Go", "golang.org/x/net", "0.17.0"),
        advisories=(Advisory(id="GHSA-1", aliases=(CVE,)), Advisory(id="GO-2024-1", aliases=(CVE,))),
        release=None,
    )
    assert result.findings == ()


def test_go_modules_and_the_standard_library() -> None:
    packages = [
        package("golang", "stdlib", "1.20.5"),
        package("golang", "golang.org/x/net", "v0.0.0-20220606222826-f59ce19ec6b6"),
        package("golang", "example.org/main", "(devel)"),
        package("golang", "example.org/empty", ""),
    ]
    entries = [
        below(f"GO-{i}", "Go", one.package.name, fixed)
        for i, (one, fixed) in enumerate(zip(packages, ["1.20.6", "0.1.0", "9", "9"], strict=True))
    ]
    assert named(match(packages, *entries, release=None)) == [("GO-0", "stdlib"), ("GO-1", "golang.org/x/net")]


def test_malware_is_found_by_name() -> None:
    record = Advisory(id="MAL-2024-1", is_malware=True, aliases=("GHSA-9",))
    same = Advisory(id="GHSA-9", aliases=("MAL-2024-1",))
    result = match(
        [package("npm", "evil", "1.0.0")],
        below("MAL-2024-1", "npm", "evil"),
        below("GHSA-9", "npm", "evil", "9.0.0"),
        advisories=(record, same),
        release=None,
    )
    assert len(result.findings) == 1
    alone = only(
        match([package("npm", "evil", "1.0.0")], below("MAL-2024-1", "npm", "evil"), advisories=(record,), release=None)
    )
    assert (alone.vulnerability, alone.state, alone.severity) == ("MAL-2024-1", "malware", Severity.CRITICAL)


# --- what could not be judged ---


def test_no_data_is_a_gap_and_nothing_is_consulted() -> None:
    result = match([LIBSSL, package("npm", "a", "1")], release=OsRelease(id="debian", version_id="13"))
    assert [(gap.kind, gap.subject) for gap in result.gaps] == [
        ("no-advisories", "Debian:13"),
        ("no-advisories", "npm"),
    ]
    assert result.ecosystems == ()


def test_os_packages_without_a_known_distribution_are_a_gap() -> None:
    assert [gap.kind for gap in match([LIBSSL], release=None).gaps] == ["unknown-distro"]


def test_a_package_that_cannot_be_compared_is_one_gap() -> None:
    entries = [below(f"PYSEC-{i}", "PyPI", "odd", "2.0") for i in range(5)]
    result = match([package("pypi", "odd", "not-a-version")], *entries, release=None)
    (gap,) = result.gaps
    assert (gap.kind, gap.subject) == ("not-comparable", "pkg:pypi/odd@not-a-version")
    assert "PYSEC-0, PYSEC-1, PYSEC-2 and 2 more" in gap.reason


def test_a_package_that_cannot_be_compared_but_is_in_no_advisory_is_no_gap() -> None:
    result = match([package("pypi", "odd", "not-a-version")], ecosystems=("PyPI",), release=None)
    assert (result.findings, result.gaps) == ((), ())


def test_what_affects_every_version_is_found_without_comparing() -> None:
    result = match([package("pypi", "odd", "not-a-version")], below("PYSEC-1", "PyPI", "odd"), release=None)
    assert named(result) == [("PYSEC-1", "odd")]
    assert result.gaps == ()


def test_another_record_that_can_be_compared_closes_the_gap() -> None:
    result = match(
        [package("pypi", "odd", "1.0")],
        below("GHSA-1", "PyPI", "odd", "2024-09-12"),
        below("PYSEC-1", "PyPI", "odd", "2.0"),
        advisories=(Advisory(id="GHSA-1", aliases=(CVE,)), Advisory(id="PYSEC-1", aliases=(CVE,))),
        release=None,
    )
    assert (named(result), result.gaps) == ([(CVE, "odd")], ())


def test_an_empty_image_has_neither_findings_nor_gaps() -> None:
    result = match([], release=None)
    assert (result.findings, result.gaps, result.ecosystems) == ((), (), ())


# --- order ---


def test_findings_stand_most_severe_first_whatever_the_order_of_packages() -> None:
    packages = [package("npm", name, "1.0.0", path=path) for name, path in [("b", "2"), ("a", "1"), ("b", "1")]]
    entries = [
        below("GHSA-1", "npm", "a", "2.0.0"),
        below("GHSA-2", "npm", "b", "2.0.0"),
        below("GHSA-3", "npm", "b", "2.0.0"),
    ]
    records = (
        Advisory(id="GHSA-1", rating="LOW"),
        Advisory(id="GHSA-2", rating="HIGH"),
        Advisory(id="GHSA-3", rating="LOW"),
    )
    forward = match(packages, *entries, advisories=records, release=None)
    backward = match(packages[::-1], *entries, advisories=records, release=None)
    assert forward == backward
    assert [(finding.vulnerability, finding.package_name, finding.path) for finding in forward.findings] == [
        ("GHSA-2", "b", "1"),
        ("GHSA-2", "b", "2"),
        ("GHSA-1", "a", "1"),
        ("GHSA-3", "b", "1"),
        ("GHSA-3", "b", "2"),
    ]


def test_shared_sources_are_looked_up_once() -> None:
    lookup = FakeAdvisories(affected=[below("DSA-1-1", "Debian:12", "openssl", "9")])
    packages = tuple(package("deb", name, "3", source_name="openssl") for name in ("libssl3", "openssl", "libssl-dev"))
    inventory = ImageInventory(
        manifest=sha256_digest(b""), platform="linux/amd64", os_release=DEBIAN, packages=packages
    )
    assert len(match_inventory(inventory, lookup).findings) == 3
    assert lookup.asked == [("Debian:12", "openssl")]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["deb", "rpm", "apk", "pypi", "npm", "golang"]),
    st.text(max_size=12),
    st.text(max_size=12),
    st.text(max_size=12),
    st.text(max_size=12),
)
def test_hostile_text_is_judged_or_becomes_a_gap(
    type_: str, name: str, version: str, bound: str, modularity: str
) -> None:
    release = {"rpm": ALMA, "apk": ALPINE}.get(type_, DEBIAN)
    ecosystem = {
        "deb": "Debian:12",
        "rpm": "AlmaLinux:8",
        "apk": "Alpine:v3.18",
        "pypi": "PyPI",
        "npm": "npm",
        "golang": "Go",
    }[type_]
    result = match(
        [package(type_, name, version, modularity=modularity)],
        below("X-1", ecosystem, name, bound),
        advisories=(Advisory(id="X-1", summary=bound),),
        release=release,
    )
    assert len(result.findings) + len(result.gaps) <= 1
    assert result.ecosystems == (ecosystem,)
