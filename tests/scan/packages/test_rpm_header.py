"""The header blob of rpm: every bound, and damage of every kind."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import DataError
from sensor.limits import DEFAULT_LIMITS
from sensor.scan.packages import rpm_header as tags
from sensor.scan.packages.rpm_header import RpmHeader
from tests.fakes.rpmdb import (
    I18N_STRING,
    INT32,
    STRING,
    STRING_ARRAY,
    RpmPackage,
    blob,
    header_blob,
    numbers,
    string,
    strings,
)

BASH = RpmPackage(
    name="bash", version="5.1", release="9", epoch=4, files=("/usr/bin/bash", "/usr/bin/sh", "/etc/x", "/METADATA")
)


def test_reads_strings_numbers_and_files() -> None:
    header = RpmHeader(blob(BASH), DEFAULT_LIMITS)

    assert (header.text(tags.NAME), header.number(tags.EPOCH), header.text(tags.VENDOR)) == ("bash", 4, "")
    assert list(header.telling_files()) == ["usr/bin/bash", "usr/bin/sh", "METADATA"]


def test_missing_tags_are_empty() -> None:
    header = RpmHeader(header_blob([]), DEFAULT_LIMITS)

    assert (header.text(tags.NAME), header.number(tags.EPOCH), list(header.telling_files())) == ("", 0, [])


def test_of_several_strings_the_first_counts() -> None:
    header = RpmHeader(header_blob([strings(tags.LICENSE, ["MIT", "ISC"], I18N_STRING)]), DEFAULT_LIMITS)

    assert header.text(tags.LICENSE) == "MIT"


def test_bytes_behind_the_header_are_padding() -> None:
    assert RpmHeader(blob(BASH) + bytes(100), DEFAULT_LIMITS).text(tags.NAME) == "bash"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(7),
        struct.pack(">II", 65_536, 0) + bytes(65_536 * 16),
        struct.pack(">II", 2**32 - 1, 2**32 - 1),
        struct.pack(">II", 1, 0),
        struct.pack(">II", 0, 1),
        struct.pack(">IIIIII", 1, 4, tags.NAME, STRING, 4, 1) + b"abc\0",
        struct.pack(">IIIIII", 1, 4, tags.NAME, STRING, 2**32 - 1, 1) + b"abc\0",
        struct.pack(">IIIIII", 1, 4, tags.NAME, STRING, 0, 0) + b"abc\0",
        blob(BASH)[:-1],
    ],
)
def test_a_header_that_breaks_a_bound_is_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        RpmHeader(data, DEFAULT_LIMITS)


def test_the_number_of_entries_is_limited() -> None:
    with pytest.raises(DataError, match="more entries"):
        RpmHeader(blob(BASH), replace(DEFAULT_LIMITS, rpm_index_entries=3))


@pytest.mark.parametrize("entry", [(tags.NAME, INT32, b"abc\0", 1), (tags.NAME, 99, b"abc\0", 1)])
def test_a_string_of_another_type_is_refused(entry: tuple[int, int, bytes, int]) -> None:
    with pytest.raises(DataError, match="tag 1000 is not a string"):
        RpmHeader(header_blob([entry]), DEFAULT_LIMITS).text(tags.NAME)


def test_a_string_without_end_is_refused() -> None:
    data = struct.pack(">IIIIII", 1, 4, tags.NAME, STRING, 0, 1) + b"abcd"

    with pytest.raises(DataError, match="tag 1000 is not a string"):
        RpmHeader(data, DEFAULT_LIMITS).text(tags.NAME)


@pytest.mark.parametrize(
    "entry",
    [
        (tags.EPOCH, STRING, b"abc\0", 1),
        (tags.EPOCH, INT32, bytes(4), 2**31),
        (tags.EPOCH, INT32, bytes(4), 2**32 - 1),
    ],
)
def test_numbers_that_are_not_there_are_refused(entry: tuple[int, int, bytes, int]) -> None:
    with pytest.raises(DataError, match="numbers that it claims"):
        RpmHeader(header_blob([entry]), DEFAULT_LIMITS).number(tags.EPOCH)


@pytest.mark.parametrize(
    "entries",
    [
        [strings(tags.BASENAMES, ["a"])],
        [strings(tags.BASENAMES, ["a"]), numbers(tags.DIRINDEXES, [0])],
        [strings(tags.BASENAMES, ["a"]), numbers(tags.DIRINDEXES, [1]), strings(tags.DIRNAMES, ["/"])],
        [strings(tags.BASENAMES, ["a"]), numbers(tags.DIRINDEXES, [2**32 - 1]), strings(tags.DIRNAMES, ["/"])],
        [strings(tags.BASENAMES, ["a", "b"]), numbers(tags.DIRINDEXES, [0]), strings(tags.DIRNAMES, ["/"])],
        [(tags.BASENAMES, STRING_ARRAY, b"a\0", 2**32 - 1)],
        [(tags.BASENAMES, STRING_ARRAY, b"a\0b", 30)],
        [(tags.BASENAMES, INT32, b"a\0b\0", 2)],
    ],
)
def test_lists_of_files_that_do_not_fit_are_refused(entries: list[tuple[int, int, bytes, int]]) -> None:
    with pytest.raises(DataError):
        list(RpmHeader(header_blob(entries), DEFAULT_LIMITS).telling_files())


TAGS = st.tuples(
    st.sampled_from([tags.NAME, tags.EPOCH, tags.DIRINDEXES, tags.BASENAMES, tags.DIRNAMES]),
    st.integers(min_value=0, max_value=9),
    st.binary(max_size=12),
    st.integers(min_value=0, max_value=2**32 - 1),
)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An honest header with a few bytes overwritten."""
    data = bytearray(blob(BASH))
    for _ in range(draw(st.integers(min_value=1, max_value=6))):
        data[draw(st.integers(min_value=0, max_value=len(data) - 1))] = draw(st.integers(min_value=0, max_value=255))
    return bytes(data)


@given(st.lists(TAGS, max_size=6).map(header_blob) | st.binary(max_size=80) | damaged())
@settings(deadline=None)
def test_no_bytes_break_the_reader(data: bytes) -> None:
    found: list[object] = []
    try:
        header = RpmHeader(data, DEFAULT_LIMITS)
        found += [header.text(tags.NAME), header.number(tags.EPOCH), *header.telling_files()]
    except DataError as error:
        found.append(error.message)

    assert found


def test_the_fake_agrees_with_the_format_that_the_sheet_measured() -> None:
    data = blob(BASH)
    entries, data_bytes = struct.unpack_from(">II", data)

    assert len(data) == 8 + 16 * entries + data_bytes
    assert struct.unpack_from(">II", data, 8) == (63, 7)


def test_a_name_that_is_not_utf8_is_replaced() -> None:
    data = header_blob([(tags.NAME, STRING, b"ab\xff\0", 1), string(tags.VERSION, "1")])

    assert RpmHeader(data, DEFAULT_LIMITS).text(tags.NAME) == "ab\ufffd"
