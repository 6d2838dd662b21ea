"""os-release(5), as distributions write it and as they should not."""

import platform

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.model.package import OsRelease
from sensor.scan.distro import OS_RELEASE_PATHS, parse_os_release


def test_reads_a_debian_release() -> None:
    release = parse_os_release(
        b'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n'
        b'VERSION="12 (bookworm)"\nVERSION_CODENAME=bookworm\nID=debian\nHOME_URL="https://www.debian.org/"\n'
    )

    assert release == OsRelease(
        id="debian", version_id="12", version_codename="bookworm", pretty_name="Debian GNU/Linux 12 (bookworm)"
    )


def test_reads_what_a_derivative_says_of_its_parents_and_its_cpe() -> None:
    release = parse_os_release(
        b'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.3"\nCPE_NAME="cpe:/o:rocky:rocky:9::baseos"\n'
    )

    assert release is not None
    assert release.id_like == ("rhel", "centos", "fedora")
    assert release.cpe_name == "cpe:/o:rocky:rocky:9::baseos"


def test_a_rolling_release_has_no_version() -> None:
    assert parse_os_release(b"ID=debian\nPRETTY_NAME='Debian GNU/Linux trixie/sid'\n") == OsRelease(
        id="debian", pretty_name="Debian GNU/Linux trixie/sid"
    )


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"VERSION_ID=3.18.4", "3.18.4"),
        (b"VERSION_ID='3.18.4'", "3.18.4"),
        (b'VERSION_ID="3.18.4"', "3.18.4"),
        (b"  VERSION_ID=3.18.4  \r", "3.18.4"),
        (b'VERSION_ID="a\\"b\\$c\\\\d\\`e"', 'a"b$c\\d`e'),
        (b"VERSION_ID='a\\$b'", "a\\$b"),
        (b"VERSION_ID=1\nVERSION_ID=2", "2"),
        (b"#VERSION_ID=1", ""),
        (b"VERSION_ID", ""),
        (b"VERSION_ID=", ""),
        (b'VERSION_ID="', '"'),
        (b'VERSION_ID=""', ""),
        (b'VERSION_ID="1\x1b[31m2\x00"', "1[31m2"),
        ("VERSION_ID=1\u202e2".encode(), "12"),
        (b"VERSION_ID=" + b"9" * 5000, "9" * 200),
    ],
)
def test_values_are_unquoted_in_the_way_of_a_shell_and_made_harmless(line: bytes, value: str) -> None:
    release = parse_os_release(b"ID=x\n" + line + b"\n")

    assert release is not None
    assert release.version_id == value


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b"NAME=Something\n", b"ID=\n", b"ID=''\n", b"\x00\xff\xfe", b"# ID=debian"]
)
def test_without_an_id_there_is_no_distribution(data: bytes) -> None:
    assert parse_os_release(data) is None


def test_an_id_in_capitals_is_the_same_distribution() -> None:
    release = parse_os_release(b"ID=Alpine\n")

    assert release is not None
    assert release.id == "alpine"


def test_agrees_with_the_standard_library_about_this_machine() -> None:
    ours = parse_os_release(_own_release())
    theirs = platform.freedesktop_os_release()

    assert ours is not None
    assert (ours.id, ours.version_id, ours.pretty_name) == (
        theirs["ID"],
        theirs.get("VERSION_ID", ""),
        theirs["PRETTY_NAME"],
    )


def _own_release() -> bytes:
    with open("/etc/os-release", "rb") as file:  # noqa: PTH123
        return file.read()


def test_both_standard_places_are_named() -> None:
    assert frozenset({"etc/os-release", "usr/lib/os-release"}) == OS_RELEASE_PATHS


@given(st.binary(max_size=300) | st.binary(max_size=100).map(lambda tail: b'ID="' + tail))
@settings(deadline=None)
def test_no_bytes_break_the_reader(data: bytes) -> None:
    release = parse_os_release(data)

    assert release is None or (release.id and all(text.isprintable() for text in (release.id, release.pretty_name)))
