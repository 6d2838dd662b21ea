"""apk: origins, virtual packages, letters whose case matters, and claimed files."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.limits import DEFAULT_LIMITS
from sensor.model.package import Evidence, Package
from sensor.scan.packages.apk import ECOSYSTEM
from sensor.scan.packages.ecosystem import HeldContent

INSTALLED = "lib/apk/db/installed"

LIBSSL = """C:Q1lrZ1kZpGrkkJnXz5A6hZ0gm4v3A=
P:libssl3
V:3.1.4-r1
A:x86_64
S:246846
I:622592
T:SSL shared libraries
U:https://www.openssl.org/
L:Apache-2.0
o:openssl
m:Ariadne Conill <ariadne@dereferenced.org>
t:1698253122
c:b784a22cad0c452586b438cb7a597d846fc09ff4
D:so:libc.musl-x86_64.so.1 so:libcrypto.so.3
p:so:libssl.so.3=3
r:libressl
F:lib
R:libssl.so.3
a:0:0:755
Z:Q1y2lh0KBuhYjIURfSDzPpgM1lPJE=
F:usr/lib
R:libssl.so.3
"""


def read(text: str | bytes, path: str = INSTALLED) -> Evidence:
    return ECOSYSTEM.read(path, HeldContent(text if isinstance(text, bytes) else text.encode()), DEFAULT_LIMITS)


def test_every_field_of_a_package() -> None:
    assert read(LIBSSL) == Evidence(
        cataloger="apk",
        path=INSTALLED,
        packages=(
            Package(
                type="apk",
                name="libssl3",
                version="3.1.4-r1",
                path=INSTALLED,
                arch="x86_64",
                source_name="openssl",
                source_version="3.1.4-r1",
                license="Apache-2.0",
            ),
        ),
    )


def test_without_an_origin_the_package_is_its_own() -> None:
    (package,) = read("P:tool\nV:1.0-r0\n").packages

    assert (package.source_name, package.source_version) == ("tool", "1.0-r0")


@pytest.mark.parametrize(
    "stanza",
    [
        "P:.build-deps\nV:20230101.120000\nA:noarch\nT:virtual meta package\nD:gcc\n",
        "P:build-deps\nV:20230101.120000\nA:noarch\n",
        "P:build-deps\nV:0\n",
        "P:.x\nV:1\n",
        "P:x\nV:1\nT:virtual meta package\n",
    ],
)
def test_virtual_packages_are_not_installed(stanza: str) -> None:
    evidence = read(stanza + "\n" + LIBSSL)

    assert [package.name for package in evidence.packages] == ["libssl3"]
    assert evidence.gaps == ()


def test_a_package_with_files_or_an_origin_is_real_whatever_its_version() -> None:
    evidence = read("P:a\nV:0\nF:bin\nR:a\n\nP:b\nV:0\no:b\n")

    assert [package.name for package in evidence.packages] == ["a", "b"]


def test_only_files_that_matter_are_claimed() -> None:
    evidence = read(
        "P:py3-pip\nV:23-r0\no:py3-pip\nF:\nR:package.json\nF:usr\nF:usr/bin\nR:pip\nM:0:0:1777\n"
        "F:usr/lib/python3.11/site-packages/pip-23.dist-info\nR:METADATA\nR:RECORD\nF:usr/share/doc\nR:readme\n"
    )

    assert evidence.owns == (
        ("package.json", "py3-pip"),
        ("usr/bin/pip", "py3-pip"),
        ("usr/lib/python3.11/site-packages/pip-23.dist-info/METADATA", "py3-pip"),
    )


def test_letters_after_the_first_directory_are_about_files() -> None:
    (package,) = read("P:a\nV:1-r0\no:a\nF:usr\nV:9-r9\n").packages

    assert package.version == "1-r0"


@pytest.mark.parametrize("stanza", ["V:1-r0\n", "P:a\nT:no version\n", "P:a\x07\nV:1\n", "nonsense\n"])
def test_a_bad_stanza_is_a_gap_and_the_next_one_is_read(stanza: str) -> None:
    evidence = read(stanza + "\n" + LIBSSL)

    assert [package.name for package in evidence.packages] == ["libssl3"]
    assert [gap.subject for gap in evidence.gaps] == [INSTALLED]


def test_reading_stops_at_the_limit_of_records() -> None:
    limits = replace(DEFAULT_LIMITS, packages_per_layer=2)

    evidence = ECOSYSTEM.read(INSTALLED, HeldContent(b"P:a\nV:1\n\n" * 2 + b"P:b\nV:1\n"), limits)

    assert [package.name for package in evidence.packages] == ["a"]
    assert [gap.kind for gap in evidence.gaps] == ["limit"]


def test_long_lines_and_windows_line_ends_are_fine() -> None:
    evidence = read(b"P:a\r\nV:1-r0\r\np:" + b"so:x " * 200_000 + b"\r\n\r\nP:b\r\nV:2-r0\r\n")

    assert [(package.name, package.version) for package in evidence.packages] == [("a", "1-r0"), ("b", "2-r0")]


def test_which_files_are_wanted() -> None:
    wanted = {
        path
        for path in (INSTALLED, f"usr/{INSTALLED}", "lib/apk/db/scripts.tar", f"srv/{INSTALLED}")
        if ECOSYSTEM.wants(path)
    }

    assert wanted == {INSTALLED, f"usr/{INSTALLED}"}
    assert {path.rpartition("/")[0] for path in wanted} == ECOSYSTEM.directories


WORD = st.from_regex(r"[a-z0-9][a-z0-9+._-]{1,20}", fullmatch=True)
VERSION = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}[a-z]?(_p[0-9])?-r[0-9]{1,2}", fullmatch=True)


@given(
    st.lists(
        st.tuples(WORD, VERSION, WORD, st.lists(WORD, max_size=3, unique=True)), unique_by=lambda r: r[0], max_size=8
    )
)
@settings(deadline=None, max_examples=50)
def test_what_is_written_is_read_back(records: list[tuple[str, str, str, list[str]]]) -> None:
    written = "\n".join(
        f"C:Q1\nP:{name}\nV:{version}\nA:x86_64\no:{origin}\nF:usr/bin\n"
        + "".join(f"R:{file}\nZ:Q1\n" for file in files)
        for name, version, origin, files in records
    )

    evidence = read(written)

    assert [(p.name, p.version, p.source_name) for p in evidence.packages] == [record[:3] for record in records]
    assert list(evidence.owns) == [(f"usr/bin/{file}", name) for name, _, _, files in records for file in files]


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: b"P:a\nV:1\nF:usr/bin\nR:" + tail))
@settings(deadline=None)
def test_no_bytes_break_the_reader(data: bytes) -> None:
    assert all(package.name and package.version for package in read(data).packages)
