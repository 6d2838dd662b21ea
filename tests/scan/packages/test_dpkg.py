"""dpkg: the database of this machine against dpkg-query, every state, distroless stanzas, lists of files."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.limits import DEFAULT_LIMITS
from sensor.model.package import Evidence, Package
from sensor.scan.packages.dpkg import ECOSYSTEM
from sensor.scan.packages.ecosystem import HeldContent

STATUS = "var/lib/dpkg/status"


def read(data: bytes, path: str = STATUS) -> Evidence:
    return ECOSYSTEM.read(path, HeldContent(data), DEFAULT_LIMITS)


def test_agrees_with_dpkg_query_about_this_machine() -> None:
    fields = "${Package}\t${Version}\t${Architecture}\t${source:Package}\t${source:Version}\t${db:Status-Status}\n"
    listed = subprocess.run(["dpkg-query", "-W", "-f", fields], check=True, capture_output=True, text=True).stdout
    expected = {tuple(line.split("\t")[:5]) for line in listed.splitlines() if not line.endswith("\tconfig-files")}

    evidence = read(Path("/var/lib/dpkg/status").read_bytes())

    assert {(p.name, p.version, p.arch, p.source_name, p.source_version) for p in evidence.packages} == expected
    assert len(expected) > 50
    assert evidence.gaps == ()


def test_every_field_of_a_package() -> None:
    evidence = read(
        b"Package: libssl3\nStatus: install ok installed\nSource: openssl (3.0.11-1)\nArchitecture: amd64\n"
        b"Version: 1:3.0.11-1+b1\nMaintainer: Debian OpenSSL Team <openssl@example.org>\n"
        b"Description: text\n more: text\n .\n Version: 9\n"
    )

    assert evidence == Evidence(
        cataloger="dpkg",
        path=STATUS,
        packages=(
            Package(
                type="deb",
                name="libssl3",
                version="1:3.0.11-1+b1",
                path=STATUS,
                arch="amd64",
                source_name="openssl",
                source_version="3.0.11-1",
                vendor="Debian OpenSSL Team <openssl@example.org>",
            ),
        ),
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (b"", ("bash", "5.2-1")),
        (b"Source: bash\n", ("bash", "5.2-1")),
        (b"Source: other\n", ("other", "5.2-1")),
        (b"Source: other (1:2-3)\n", ("other", "1:2-3")),
        (b"source: other(1:2-3)\n", ("other", "1:2-3")),
        (b"Source: other ()\n", ("other", "5.2-1")),
        (b"Source: (1)\n", ("bash", "5.2-1")),
    ],
)
def test_the_source_package(source: bytes, expected: tuple[str, str]) -> None:
    (package,) = read(b"Package: bash\nVersion: 5.2-1\n" + source).packages

    assert (package.source_name, package.source_version) == expected


@pytest.mark.parametrize(
    "state", ["installed", "unpacked", "half-configured", "half-installed", "triggers-awaited", "triggers-pending"]
)
def test_states_with_files_on_disk_count(state: str) -> None:
    assert len(read(f"Package: a\nStatus: install ok {state}\nVersion: 1\n".encode()).packages) == 1


@pytest.mark.parametrize(
    "state", ["deinstall ok config-files", "unknown ok not-installed", "purge reinstreq not-installed"]
)
def test_states_without_files_do_not_count_and_are_no_gap(state: str) -> None:
    evidence = read(f"Package: a\nStatus: {state}\n\nPackage: b\nStatus: install ok installed\nVersion: 1\n".encode())

    assert [package.name for package in evidence.packages] == ["b"]
    assert evidence.gaps == ()


def test_a_distroless_stanza_has_no_status() -> None:
    path = "var/lib/dpkg/status.d/base"
    evidence = read(b"Package: base-files\nVersion: 12.4\nArchitecture: amd64\n", path)

    assert [(p.name, p.version, p.path) for p in evidence.packages] == [("base-files", "12.4", path)]


def test_one_package_for_two_architectures_is_two() -> None:
    stanza = "Package: libc6\nStatus: install ok installed\nVersion: 2.36-9\nArchitecture: {}\n"

    evidence = read((stanza.format("amd64") + "\n" + stanza.format("i386")).encode())

    assert [package.arch for package in evidence.packages] == ["amd64", "i386"]


@pytest.mark.parametrize(
    "stanza", [b"Version: 1\n", b"Package: a\nStatus: install ok installed\n", b"Package: a\x00b\nVersion: 1\n"]
)
def test_a_bad_stanza_is_a_gap_and_the_next_one_is_read(stanza: bytes) -> None:
    evidence = read(stanza + b"\nPackage: good\nVersion: 1\n")

    assert [package.name for package in evidence.packages] == ["good"]
    assert [gap.subject for gap in evidence.gaps] == [STATUS]


def test_reading_stops_at_the_limit_of_records() -> None:
    limits = replace(DEFAULT_LIMITS, packages_per_layer=3)
    data = b"Package: a\n\n" + b"".join(b"Package: p%d\nVersion: 1\n\n" % number for number in range(9))

    evidence = ECOSYSTEM.read(STATUS, HeldContent(data), limits)

    assert [package.name for package in evidence.packages] == ["p0", "p1"]
    assert [gap.kind for gap in evidence.gaps] == ["unreadable", "limit"]


def test_a_line_of_megabytes_is_only_a_long_line() -> None:
    evidence = read(b"Package: a\nDepends: " + b"x" * 3_000_000 + b"\nVersion: 1\n")

    assert [package.version for package in evidence.packages] == ["1"]


def test_a_list_names_the_files_that_other_catalogers_could_report() -> None:
    evidence = read(
        b"/.\n/usr\n/usr/bin\n/usr/bin/pip3\n/usr/lib/python3/dist-packages/pip-23.0.1.dist-info/METADATA\n"
        b"/usr/share/doc/python3-pip/copyright\n/usr/lib/python3/dist-packages/old.egg-info\n/usr/libexec/docker/cli-plugins/buildx\n"
        b"/package.json\n\n",
        "var/lib/dpkg/info/python3-pip:all.list",
    )

    assert evidence.packages == ()
    assert evidence.owns == (
        ("usr/bin/pip3", "python3-pip"),
        ("usr/lib/python3/dist-packages/pip-23.0.1.dist-info/METADATA", "python3-pip"),
        ("usr/lib/python3/dist-packages/old.egg-info", "python3-pip"),
        ("usr/libexec/docker/cli-plugins/buildx", "python3-pip"),
        ("package.json", "python3-pip"),
    )


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (STATUS, True),
        ("var/lib/dpkg/status-old", False),
        ("var/lib/dpkg/available", False),
        ("srv/var/lib/dpkg/status", False),
        ("var/lib/dpkg/status.d/libc6", True),
        ("var/lib/dpkg/status.d/libc6.md5sums", False),
        ("var/lib/dpkg/info/libc6:amd64.list", True),
        ("var/lib/dpkg/info/libc6:amd64.md5sums", False),
    ],
)
def test_which_files_are_wanted(path: str, wanted: bool) -> None:
    assert ECOSYSTEM.wants(path) is wanted
    assert not wanted or path.rpartition("/")[0] in ECOSYSTEM.directories


WORD = st.from_regex(r"[a-z0-9][a-z0-9+.-]{1,20}", fullmatch=True)
VERSION = st.from_regex(r"([0-9]:)?[0-9][A-Za-z0-9.+~]{0,15}(-[0-9a-z.+~]{1,8})?", fullmatch=True)


@given(st.lists(st.tuples(WORD, VERSION, st.sampled_from(["amd64", "all"]), WORD, VERSION), unique=True, max_size=8))
@settings(deadline=None, max_examples=50)
def test_what_is_written_is_read_back(records: list[tuple[str, str, str, str, str]]) -> None:
    written = "\n".join(
        f"Package: {name}\nStatus: install ok installed\nArchitecture: {arch}\nSource: {source} ({source_version})\n"
        f"Version: {version}\nDescription: x\n folded\n"
        for name, version, arch, source, source_version in records
    )

    evidence = read(written.encode())

    assert [(p.name, p.version, p.arch, p.source_name, p.source_version) for p in evidence.packages] == records
    assert evidence.gaps == ()


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: b"Package: a\nVersion: 1\nSource:" + tail))
@settings(deadline=None)
def test_no_bytes_break_the_reader(data: bytes) -> None:
    assert all(package.name and package.version for package in read(data).packages)
    assert read(data, "var/lib/dpkg/info/a.list").packages == ()
