"""What the catalogers share: which paths matter, how text is made harmless, and the bounds of one file's findings."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.limits import DEFAULT_LIMITS
from sensor.model.package import Gap, Package
from sensor.scan.packages import ECOSYSTEMS
from sensor.scan.packages.ecosystem import (
    Findings,
    HeldContent,
    clean_text,
    is_metadata_name,
    is_program_directory,
)


def test_a_package_is_noted_with_its_cleaned_texts() -> None:
    findings = Findings("dpkg", "status", DEFAULT_LIMITS)

    assert findings.package("deb", " bash ", " 5.2 ", license="GPL\x1b[31m", vendor="")
    evidence = findings.evidence()

    assert evidence.packages == (Package(type="deb", name="bash", version="5.2", path="status", license="GPL [31m"),)
    assert evidence.gaps == ()


def test_the_same_package_twice_counts_once() -> None:
    findings = Findings("dpkg", "status", DEFAULT_LIMITS)
    findings.package("deb", "bash", "5.2")
    findings.package("deb", "bash", "5.2")

    assert len(findings.evidence().packages) == 1


@pytest.mark.parametrize(
    ("name", "version", "fault"),
    [
        ("", "1", "the record of a package has no name"),
        ("bash", "  ", "the record of bash has no version"),
        ("ba\x00sh", "1", "the record of ba sh has an unprintable name"),
        ("bash", "1\x1b[2J", "the record of bash has an unprintable version"),
        ("b\u202eash", "1", "the record of b ash has an unprintable name"),
        ("bash", "1" * 2000, "the record of bash has an overlong version"),
    ],
)
def test_an_identity_that_cannot_be_trusted_is_a_gap(name: str, version: str, fault: str) -> None:
    findings = Findings("dpkg", "status", DEFAULT_LIMITS)

    assert not findings.package("deb", name, version)
    assert findings.evidence().packages == ()
    assert findings.evidence().gaps == (Gap(kind="unreadable", subject="status", reason=fault),)


def test_what_goes_beyond_the_limits_is_counted() -> None:
    limits = replace(DEFAULT_LIMITS, packages_per_layer=2, owned_paths_per_file=1, gaps_per_file=1)
    findings = Findings("dpkg", "status", limits)
    for number in range(5):
        findings.package("deb", f"package-{number}", "1")
        findings.own(f"usr/bin/{number}", "package")
        findings.gap("unreadable", f"record {number}")

    evidence = findings.evidence()

    assert [package.name for package in evidence.packages] == ["package-0", "package-1"]
    assert evidence.owns == (("usr/bin/0", "package"),)
    assert [(gap.kind, gap.reason) for gap in evidence.gaps] == [
        ("unreadable", "record 0"),
        ("limit", "3 more packages than the limit of one layer"),
        ("limit", "4 more claimed files than the limit of one file"),
        ("limit", "4 more unreadable records"),
    ]


def test_an_overlong_path_is_not_claimed() -> None:
    findings = Findings("dpkg", "status", DEFAULT_LIMITS)
    findings.own("usr/bin/" + "x" * DEFAULT_LIMITS.path_bytes, "package")

    assert findings.evidence().owns == ()


@pytest.mark.parametrize("name", ["METADATA", "PKG-INFO", "package.json", "foo-1.0.egg-info"])
def test_metadata_names(name: str) -> None:
    assert is_metadata_name(name)


@pytest.mark.parametrize("name", ["metadata", "package-lock.json", "RECORD", "egg-info", ""])
def test_other_names(name: str) -> None:
    assert not is_metadata_name(name)


@pytest.mark.parametrize(
    "directory", ["bin", "usr/bin", "usr/local/sbin", "usr/lib/docker/cli-plugins", "usr/libexec/x/y"]
)
def test_program_directories(directory: str) -> None:
    assert is_program_directory(directory)


@pytest.mark.parametrize("directory", ["", "usr", "usr/share/bindings", "usr/lib/cabin"])
def test_other_directories(directory: str) -> None:
    assert not is_program_directory(directory)


@given(st.text(max_size=50), st.integers(min_value=0, max_value=60))
@settings(deadline=None)
def test_clean_text_is_harmless_and_bounded(text: str, most: int) -> None:
    cleaned = clean_text(text, most)

    assert len(cleaned) <= most
    assert cleaned.isprintable()


def test_content_in_memory_is_readable_in_every_way_but_by_path() -> None:
    content = HeldContent(b"abc")

    assert (content.size, content.read(), bytes(content.view())) == (3, b"abc", b"abc")
    with pytest.raises(TypeError):
        content.path()


def test_every_cataloger_has_a_name_of_its_own_and_a_way_to_be_offered_files() -> None:
    names = [ecosystem.name for ecosystem in ECOSYSTEMS]

    assert sorted(names) == ["apk", "dpkg", "golang", "npm", "python", "rpm"]
    for ecosystem in ECOSYSTEMS:
        assert ecosystem.version >= 1
        assert ecosystem.names or ecosystem.directories or ecosystem.suffixes or ecosystem.magics
        assert 0 < ecosystem.most_bytes(DEFAULT_LIMITS) <= DEFAULT_LIMITS.spool_bytes


@given(
    st.sampled_from(ECOSYSTEMS),
    st.sampled_from(["var/lib/dpkg/status", "a/METADATA", "package.json", "", "x", "var/lib/rpm/Packages"]),
)
@settings(deadline=None)
def test_wanting_a_path_never_fails(ecosystem, path) -> None:
    assert ecosystem.wants(path) in (True, False)
