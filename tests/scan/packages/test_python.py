"""Python distributions: this environment against importlib.metadata, licences, and metadata that is none."""

import importlib.metadata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import DataError
from sensor.limits import DEFAULT_LIMITS
from sensor.model.package import Evidence, Package
from sensor.scan.packages.ecosystem import HeldContent
from sensor.scan.packages.python import ECOSYSTEM

METADATA = "usr/lib/python3/dist-packages/demo-1.0.dist-info/METADATA"


def read(data: bytes, path: str = METADATA) -> Evidence:
    return ECOSYSTEM.read(path, HeldContent(data), DEFAULT_LIMITS)


def test_agrees_with_the_standard_library_about_this_environment() -> None:
    compared = 0
    for distribution in importlib.metadata.distributions():
        for file in distribution.files or ():
            if not ECOSYSTEM.wants(str(file)):
                continue
            data = Path(str(distribution.locate_file(file))).read_bytes()
            (package,) = read(data, str(file)).packages
            if str(file).count("/") == 1:
                assert (package.name, package.version) == (distribution.metadata["Name"], distribution.version)
                compared += 1
    assert compared > 20


def test_only_the_header_is_read() -> None:
    evidence = read(
        b"Metadata-Version: 2.1\nName: Zope.Interface\nVersion: 6.0\nLicense: ZPL-2.1\n\nName: other\nVersion: 9\n"
    )

    assert evidence == Evidence(
        cataloger="python",
        path=METADATA,
        packages=(Package(type="pypi", name="Zope.Interface", version="6.0", path=METADATA, license="ZPL-2.1"),),
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("License-Expression: MIT OR Apache-2.0\nLicense: other\n", "MIT OR Apache-2.0"),
        ("License: BSD\nClassifier: License :: OSI Approved :: MIT License\n", "BSD"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License\n", "MIT License"),
        ("License: Copyright\n  many\n  lines\nClassifier: License :: OSI Approved :: BSD License\n", "BSD License"),
        (f"License: {'x' * 200}\n", ""),
        ("Classifier: License :: OSI Approved\nClassifier: Topic :: Internet\n", ""),
        ("Classifier: License :: OSI Approved :: A\nClassifier: License :: Public Domain\n", "A; Public Domain"),
        ("", ""),
    ],
)
def test_the_licence(fields: str, expected: str) -> None:
    (package,) = read(f"Name: demo\nVersion: 1.0\n{fields}".encode()).packages

    assert package.license == expected


def test_line_ends_marks_and_repeated_fields() -> None:
    (package,) = read(b"\xef\xbb\xbfNAME: demo\r\nname: second\r\nVersion: 1.0+cu118\r\n\r\nVersion: 2\r\n").packages

    assert (package.name, package.version) == ("demo", "1.0+cu118")


@pytest.mark.parametrize(
    "data", [b"", b"Version: 1\n", b"Name: demo\n", b"\x00\xff", b"Name:\nVersion: 1\n", b"\n\nbody"]
)
def test_a_file_without_a_name_or_version_is_unreadable(data: bytes) -> None:
    with pytest.raises(DataError, match="is not the metadata of a distribution"):
        read(data)


def test_an_unprintable_version_is_a_gap() -> None:
    evidence = read(b"Name: demo\nVersion: 1\x1b[0m\n")

    assert evidence.packages == ()
    assert len(evidence.gaps) == 1


def test_a_description_of_megabytes_costs_nothing() -> None:
    (package,) = read(b"Name: demo\nVersion: 1\n\n" + b"x: y\n" * 500_000).packages

    assert package.name == "demo"


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        (METADATA, True),
        ("a/demo-1.0.DIST-INFO/METADATA", True),
        ("a/demo.egg-info/PKG-INFO", True),
        ("a/demo-1.0-py3.11.egg/EGG-INFO/PKG-INFO", True),
        ("usr/lib/python2.7/argparse.egg-info", True),
        ("a/METADATA", False),
        ("PKG-INFO", False),
        ("a/demo-1.0/PKG-INFO", False),
        ("a/demo-1.0.dist-info/RECORD", False),
    ],
)
def test_which_files_are_wanted(path: str, wanted: bool) -> None:
    assert ECOSYSTEM.wants(path) is wanted


NAME = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True)


@given(
    NAME,
    st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,4}){0,3}(rc[0-9])?(\+[a-z0-9]{1,6})?", fullmatch=True),
    st.text(max_size=50),
)
@settings(deadline=None, max_examples=50)
def test_what_is_written_is_read_back(name: str, version: str, body: str) -> None:
    evidence = read(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nSummary: x\n  y\n\n{body}".encode())

    assert [(package.name, package.version) for package in evidence.packages] == [(name, version)]


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: b"Name: a\nVersion: " + tail))
@settings(deadline=None)
def test_no_bytes_break_the_reader(data: bytes) -> None:
    evidence = read_or_none(data)

    assert evidence is None or len(evidence.packages) + len(evidence.gaps) == 1


def read_or_none(data: bytes) -> Evidence | None:
    try:
        return read(data)
    except DataError:
        return None
