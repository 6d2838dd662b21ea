from __future__ import annotations

import pytest

from sensor.model.digest import sha256_digest
from sensor.model.package import ImageInventory, InstalledPackage, OsRelease, Package
from sensor.scan.coverage import (
    Question,
    advisory_ecosystems,
    cover,
    is_foreign,
    is_kernel_image,
    is_kernel_source,
    language_version,
    questions,
)
from tests.fakes.advisories import FakeAdvisories

LAYER = sha256_digest(b"layer")


def test_every_distribution_has_its_spelling() -> None:
    def spelling(id_: str, version: str = "", **more: str) -> str:
        return advisory_ecosystems(OsRelease(id=id_, version_id=version, **more))[0]

    assert spelling("debian", "12") == "Debian:12"
    assert spelling("ubuntu", "22.04") == "Ubuntu:22.04:LTS"
    assert spelling("ubuntu", "24.10") == "Ubuntu:24.10"
    assert spelling("ubuntu", "23.04") == "Ubuntu:23.04"
    assert spelling("alpine", "3.18.4") == "Alpine:v3.18"
    assert spelling("alpine", "3.21.0_alpha20240807") == "Alpine:edge"
    assert spelling("almalinux", "9.3") == "AlmaLinux:9"
    assert spelling("rocky", "8.9") == "Rocky Linux:8"
    assert spelling("azurelinux", "3.0") == "Azure Linux:3"
    assert spelling("mariner", "2.0") == "Azure Linux:2"
    assert spelling("wolfi", "20230201") == "Wolfi"
    assert spelling("chainguard") == "Chainguard"
    assert spelling("minimos") == "MinimOS"
    assert spelling("alpaquita", "23") == "Alpaquita:23"
    assert spelling("opensuse-leap", "15.5") == "openSUSE:Leap 15.5"
    assert spelling("opensuse-tumbleweed", "20240101") == "openSUSE:Tumbleweed"
    assert spelling("sles", "15.5") == "SUSE:Linux Enterprise Server 15 SP5"
    assert spelling("sles", "15") == "SUSE:Linux Enterprise Server 15"
    assert spelling("mageia", "9") == "Mageia:9"
    assert spelling("photon", "5.0") == "Photon OS:5.0"
    assert spelling("openEuler", "24.03", pretty_name="openEuler 24.03 (LTS-SP1)") == "openEuler:24.03-LTS-SP1"
    assert spelling("openEuler", "23.09") == "openEuler:23.09"


def test_red_hat_is_told_by_its_cpe_in_all_three_repositories() -> None:
    release = OsRelease(id="rhel", version_id="8.6", cpe_name="cpe:/o:redhat:rhel_e4s:8.6::baseos")
    found = advisory_ecosystems(release)
    assert found[:2] == ("Red Hat:rhel_e4s:8.6::baseos", "Red Hat:rhel_e4s:8.6::appstream")
    nine = advisory_ecosystems(OsRelease(id="rhel", version_id="9.3"))
    assert nine == (
        "Red Hat:enterprise_linux:9::baseos",
        "Red Hat:enterprise_linux:9::appstream",
        "Red Hat:enterprise_linux:9::crb",
    )


@pytest.mark.parametrize(
    ("id_", "version"),
    [
        ("debian", ""),
        ("ubuntu", ""),
        ("ubuntu", "jammy"),
        ("alpine", "3"),
        ("rhel", ""),
        ("sles", ""),
        ("openeuler", ""),
        ("fedora", "39"),
        ("linuxmint", "21"),
    ],
)
def test_unknown_distributions_and_releases_have_none(id_: str, version: str) -> None:
    assert advisory_ecosystems(OsRelease(id=id_, version_id=version, id_like=("debian",))) == ()


def package(type_: str, name: str, version: str, **more: str) -> Package:
    return Package(type=type_, name=name, version=version, path="db", **more)  # type: ignore[arg-type]


def test_debian_is_asked_by_source() -> None:
    libssl = package("deb", "libssl3", "3.0.11-1+b1", source_name="openssl", source_version="3.0.11-1")
    assert questions(libssl, "Debian:12") == (Question(ecosystem="Debian:12", name="openssl", version="3.0.11-1"),)
    assert questions(package("deb", "bash", "5.2"), "Debian:12") == (
        Question(ecosystem="Debian:12", name="bash", version="5.2"),
    )


def test_the_signed_kernel_is_asked_as_linux() -> None:
    image = package(
        "deb", "linux-image-6.1.0-18-amd64", "6.1.76-1", source_name="linux-signed-amd64", source_version="6.1.76+1"
    )
    (question,) = questions(image, "Debian:12")
    assert (question.name, question.version) == ("linux", "6.1.76-1")


def test_alpine_is_asked_by_origin_wolfi_also_by_name() -> None:
    libssl = package("apk", "libssl3", "3.1.4-r1", source_name="openssl", source_version="3.1.4-r1")
    assert [question.name for question in questions(libssl, "Alpine:v3.18")] == ["openssl"]
    assert [question.name for question in questions(libssl, "Wolfi")] == ["openssl", "libssl3"]
    assert [question.name for question in questions(package("apk", "busybox", "1"), "Wolfi")] == ["busybox"]


def test_rpm_is_asked_by_binary_first_and_by_source_without_epoch() -> None:
    escapes = package("rpm", "perl-Pod-Escapes", "1:1.04-299.el7", source_name="perl", source_version="5.16.3-299.el7")
    assert questions(escapes, "AlmaLinux:9") == (
        Question(ecosystem="AlmaLinux:9", name="perl-Pod-Escapes", version="1:1.04-299.el7"),
        Question(ecosystem="AlmaLinux:9", name="perl", version="5.16.3-299.el7", ignore_epoch=True),
    )
    assert len(questions(package("rpm", "bash", "5-1", source_name="bash", source_version="5-1"), "AlmaLinux:9")) == 1


def test_languages_are_asked_by_normal_name() -> None:
    assert questions(package("pypi", "Ruamel.Yaml", "0.17"), "PyPI")[0].name == "ruamel-yaml"
    assert questions(package("golang", "example.org/x", "(devel)"), "Go") == ()


@pytest.mark.parametrize(
    ("name", "version", "judged"),
    [
        ("golang.org/x/net", "v0.7.0", "0.7.0"),
        ("example.org/x", "v0.0.0-20220606222826-f59ce19ec6b6", "0.0.0-20220606222826-f59ce19ec6b6"),
        ("example.org/x", "(devel)", ""),
        ("example.org/x", "", ""),
        ("stdlib", "1.20.5", "1.20.5"),
        ("stdlib", "go1.20.5", "1.20.5"),
        ("stdlib", "go1.22", "1.22.0"),
        ("stdlib", "1.22rc1", "1.22.0-rc.1"),
        ("stdlib", "go1.22.3 X:boringcrypto", "1.22.3"),
        ("stdlib", "1.20.4-fips", "1.20.4"),
        ("stdlib", "devel go1.21-abc", "devel go1.21-abc"),
    ],
)
def test_go_versions(name: str, version: str, judged: str) -> None:
    assert language_version(package("golang", name, version)) == judged


@pytest.mark.parametrize(
    "name",
    ["linux", "linux-6.1", "linux-signed-amd64", "linux-aws-5.15", "linux-hwe-6.5", "kernel", "kernel-rt", "linux-lts"],
)
def test_kernel_sources(name: str) -> None:
    assert is_kernel_source(name)


@pytest.mark.parametrize(
    "name", ["linux-base", "linux-pam", "linux-atm", "util-linux", "kernel-wedge", "linuxptp", "linux-firmware"]
)
def test_other_sources_with_linux_in_their_name(name: str) -> None:
    assert not is_kernel_source(name)


@pytest.mark.parametrize(
    ("type_", "name", "boots"),
    [
        ("deb", "linux-image-6.1.0-18-amd64", True),
        ("deb", "linux-image-6.1.0-18-amd64-dbg", False),
        ("deb", "linux-libc-dev", False),
        ("deb", "linux-headers-6.1.0-18-amd64", False),
        ("apk", "linux-virt", True),
        ("apk", "linux-lts-dev", False),
        ("apk", "linux-headers", False),
        ("rpm", "kernel-core", True),
        ("rpm", "kernel", True),
        ("rpm", "kernel-rt-core", True),
        ("rpm", "kernel-headers", False),
        ("rpm", "kernel-tools", False),
        ("npm", "kernel", False),
    ],
)
def test_kernel_images(type_: str, name: str, boots: bool) -> None:
    assert is_kernel_image(package(type_, name, "1")) is boots


def inventory(release: OsRelease | None, *packages: Package, owner: str = "") -> ImageInventory:
    return ImageInventory(
        manifest=sha256_digest(b"manifest"),
        platform="linux/amd64",
        os_release=release,
        packages=tuple(InstalledPackage(package=one, layer=LAYER, purl="", owner=owner) for one in packages),
    )


def test_ecosystems_with_data_are_consulted() -> None:
    image = inventory(OsRelease(id="debian", version_id="12"), package("deb", "bash", "5"), package("pypi", "six", "1"))
    covered = cover(image, FakeAdvisories(ecosystems=["Debian:12", "PyPI"]))
    assert covered.ecosystems == {"deb": ("Debian:12",), "pypi": ("PyPI",)}
    assert covered.gaps == ()


def test_a_release_or_language_without_data_is_a_gap_that_counts_its_packages() -> None:
    image = inventory(
        OsRelease(id="debian", version_id="13"),
        package("deb", "a", "1"),
        package("deb", "b", "1"),
        package("npm", "c", "1"),
    )
    covered = cover(image, FakeAdvisories(ecosystems=["Debian:12", "PyPI"]))
    assert [(gap.kind, gap.subject) for gap in covered.gaps] == [
        ("no-advisories", "Debian:13"),
        ("no-advisories", "npm"),
    ]
    assert "nothing for Debian 13, so the 2 deb packages" in covered.gaps[0].reason


@pytest.mark.parametrize(
    ("release", "subject"),
    [
        (None, "os-release"),
        (OsRelease(id="fedora", version_id="39", pretty_name="Fedora Linux 39"), "fedora 39"),
        (OsRelease(id="alpine", version_id="3.18.4"), "alpine 3.18.4"),
        (OsRelease(id="debian"), "debian"),
    ],
)
def test_a_distribution_that_cannot_be_told_is_a_gap(release: OsRelease | None, subject: str) -> None:
    covered = cover(inventory(release, package("rpm", "a", "1-1")), FakeAdvisories(ecosystems=["Alpine:v3.18"]))
    (gap,) = covered.gaps
    assert (gap.kind, gap.subject) == ("unknown-distro", subject)
    assert "1 rpm packages" in gap.reason


def test_an_image_without_packages_has_no_gap() -> None:
    assert cover(inventory(None), FakeAdvisories()).gaps == ()


def test_packages_that_the_distribution_owns_need_no_language_data() -> None:
    image = inventory(None, package("pypi", "six", "1"), owner="python3-six")
    assert cover(image, FakeAdvisories()).gaps == ()


@pytest.mark.parametrize(
    ("type_", "version", "vendor", "foreign"),
    [
        ("rpm", "1-1", "Red Hat, Inc.", False),
        ("rpm", "1-1", "AlmaLinux", False),
        ("rpm", "1-1", "Rocky Enterprise Software Foundation", False),
        ("rpm", "1-1", "Amazon Linux", False),
        ("rpm", "1-1", "SUSE LLC <https://www.suse.com/>", False),
        ("rpm", "1-1", "", False),
        ("rpm", "1-1", "Docker", True),
        ("deb", "18.20.4-1nodesource1", "Ivan Iguaran <ivan@nodesource.com>", True),
        ("deb", "5:27.1.1-1~debian.12~bookworm", "Docker <support@docker.com>", True),
        ("deb", "16.4-1.pgdg120+1", "Debian PostgreSQL Maintainers <team+postgresql@tracker.debian.org>", True),
        ("deb", "1", "Grafana Labs <contact@grafana.com>", True),
        ("deb", "1.22.1-9+deb12u1", "Debian Nginx Maintainers <pkg-nginx@tracker.debian.org>", False),
        ("deb", "1", "Someone <docker.com@example.org>", False),
        ("deb", "1", "", False),
        ("apk", "1", "Docker", False),
    ],
)
def test_packages_of_other_makers(type_: str, version: str, vendor: str, foreign: bool) -> None:
    assert is_foreign(package(type_, "a", version, vendor=vendor)) is foreign


def test_language_packages_of_other_makers_need_language_data() -> None:
    vendor = "Nodesource <operations@nodesource.com>"
    node, npm = package("deb", "nodejs", "18", vendor=vendor), package("npm", "npm", "10")
    image = inventory(OsRelease(id="debian", version_id="12"), node, npm, owner="nodejs")
    lookup = FakeAdvisories(ecosystems=["Debian:12"])
    covered = cover(image, lookup)
    assert [gap.subject for gap in covered.gaps] == ["npm"]
    assert [covered.is_patched(item) for item in image.packages] == [False, False]

    # the same name of the distribution's own beside it, for another architecture: whose file it is cannot be told
    own = package("deb", "nodejs", "18.0-1", arch="arm64")
    assert cover(inventory(image.os_release, node, own, npm, owner="nodejs"), lookup).gaps == ()
