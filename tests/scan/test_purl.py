from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packageurl import PackageURL

from sensor.model.package import OsRelease, Package
from sensor.scan.purl import package_url

DEBIAN = OsRelease(id="debian", version_id="12", version_codename="bookworm")
ALPINE = OsRelease(id="alpine", version_id="3.18.4")
RHEL = OsRelease(id="rhel", version_id="9.3")


def package(kind: str, name: str, version: str, **more: str) -> Package:
    return Package(type=kind, name=name, version=version, path="p", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given_package", "os_release", "expected"),
    [
        (
            package(
                "deb", "libssl3", "3.0.11-1~deb12u2", arch="amd64", source_name="openssl", source_version="3.0.11-1"
            ),
            DEBIAN,
            "pkg:deb/debian/libssl3@3.0.11-1~deb12u2?arch=amd64&distro=debian-12&upstream=openssl%403.0.11-1",
        ),
        (
            package("deb", "libstdc++6", "1:2-3", arch="amd64", source_name="gcc", source_version="1:2-3"),
            DEBIAN,
            "pkg:deb/debian/libstdc%2B%2B6@1:2-3?arch=amd64&distro=debian-12&upstream=gcc",
        ),
        (
            package("deb", "bash", "5.2", source_name="bash", source_version="5.2"),
            OsRelease(id="debian", version_codename="trixie"),
            "pkg:deb/debian/bash@5.2?distro=debian-trixie",
        ),
        (
            package("deb", "bash", "5.2+b1", source_version="5.2"),
            OsRelease(id="debian"),
            "pkg:deb/debian/bash@5.2%2Bb1?distro=debian&upstream=bash%405.2",
        ),
        (package("deb", "bash", "5.2"), None, "pkg:deb/bash@5.2"),
        (
            package("apk", "libssl3", "3.1.4-r1", arch="x86_64", source_name="openssl", source_version="3.1.4-r1"),
            ALPINE,
            "pkg:apk/alpine/libssl3@3.1.4-r1?arch=x86_64&distro=alpine-3.18.4&upstream=openssl",
        ),
        (
            package(
                "rpm",
                "openssl-libs",
                "1:3.0.7-24.el9",
                arch="x86_64",
                source_name="openssl",
                source_version="3.0.7-24.el9",
            ),
            RHEL,
            "pkg:rpm/redhat/openssl-libs@3.0.7-24.el9?arch=x86_64&distro=rhel-9.3&epoch=1&upstream=openssl-3.0.7-24.el9.src.rpm",
        ),
        (
            package("rpm", "zlib", "1.2-3", source_name="zlib"),
            OsRelease(id="fedora", version_id="39"),
            "pkg:rpm/fedora/zlib@1.2-3?distro=fedora-39&upstream=zlib-1.2-3.src.rpm",
        ),
        (
            package("rpm", "zlib", "1.2-3"),
            OsRelease(id="opensuse-leap", version_id="15.5"),
            "pkg:rpm/opensuse/zlib@1.2-3?distro=opensuse-leap-15.5",
        ),
        (
            package("rpm", "zlib", "1.2-3"),
            OsRelease(id="sles", version_id="15.5"),
            "pkg:rpm/suse/zlib@1.2-3?distro=sles-15.5",
        ),
        (package("pypi", "Foo_Bar", "1.0+local"), DEBIAN, "pkg:pypi/foo-bar@1.0%2Blocal"),
        (package("npm", "@scope/name", "1.0.0-rc.1"), None, "pkg:npm/%40scope/name@1.0.0-rc.1"),
        (package("npm", "JSONStream", "1.3.5"), None, "pkg:npm/jsonstream@1.3.5"),
        (
            package("golang", "github.com/Azure/sdk/v2", "v1.2.3+incompatible"),
            None,
            "pkg:golang/github.com/Azure/sdk/v2@v1.2.3%2Bincompatible",
        ),
        (package("golang", "stdlib", ""), None, "pkg:golang/stdlib"),
    ],
)
def test_purls(given_package: Package, os_release: OsRelease | None, expected: str) -> None:
    assert package_url(given_package, os_release) == expected
    # The reference implementation reads it, and would write it just so.
    assert PackageURL.from_string(expected).to_string() == expected


def test_what_a_purl_says_comes_back() -> None:
    text = package_url(package("rpm", "a b&c=d", "7:1^x%2", arch="noarch"), RHEL)
    read = PackageURL.from_string(text)
    assert (read.namespace, read.name, read.version) == ("redhat", "a b&c=d", "1^x%2")
    assert read.qualifiers == {"arch": "noarch", "distro": "rhel-9.3", "epoch": "7"}


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=20).filter(
    lambda text: text == text.strip()
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["deb", "pypi", "npm", "golang"]),
    WORDS,
    WORDS,
    st.text(max_size=10).filter(lambda text: text == text.strip()),
)
def test_the_reference_implementation_agrees(kind: str, name: str, version: str, arch: str) -> None:
    arch = arch if kind == "deb" else ""
    text = package_url(package(kind, name, version, arch=arch), DEBIAN)
    qualifiers = {"arch": arch, "distro": "debian-12"} if kind == "deb" else {}
    reference = PackageURL(kind, "debian" if kind == "deb" else None, name, version, qualifiers)
    folded = kind in {"pypi", "npm"}
    assert (text.lower() if folded else text) == (reference.to_string().lower() if folded else reference.to_string())
