"""Stanzas of fields: folding, case, line ends, and the end of the header."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.scan.packages.stanzas import blocks, read_header, read_stanza

WANTED = frozenset({b"name", b"license"})


def test_reads_wanted_fields_in_any_case_and_passes_over_the_rest() -> None:
    assert read_stanza(b"NAME: a\nOther: b\nnot a field\nlicense : c", WANTED) == {"name": ["a"], "license": ["c"]}


def test_repeated_fields_keep_their_order() -> None:
    assert read_stanza(b"Name: a\nName: b", WANTED) == {"name": ["a", "b"]}


def test_folded_lines_belong_to_the_field_before() -> None:
    stanza = read_stanza(b" stray\nOther: x\n folded\nName: a\n  b\n\tc\nLicense: d", WANTED)

    assert stanza == {"name": ["a\nb\nc"], "license": ["d"]}


def test_blank_blocks_are_not_told() -> None:
    assert list(blocks(b"\n\n\nName: a\n\n  \n\n\nName: b\n")) == [b"Name: a", b"Name: b\n"]
    assert list(blocks(b"a\r\n\r\nb")) == [b"a", b"b"]
    assert list(blocks(b" \n\n ")) == []


def test_a_value_folded_without_end_is_cut_and_costs_linear_time() -> None:
    stanza = read_stanza(b"Name: a\n" + b" x\n" * 300_000 + b"License: b\n" * 5_000, WANTED)

    assert stanza["name"][0].count("\n") == 999
    assert len(stanza["license"]) == 1_000


@pytest.mark.parametrize(
    "data",
    [
        b"Name: a\n\nName: b",
        b"Name: a\r\n\r\nName: b",
        b"\xef\xbb\xbfName: a\n\n",
        b"\n\r\nName: a",
        b"Name: a\r\nX: y\n\r\nName: b",
    ],
)
def test_a_header_ends_at_the_first_empty_line(data: bytes) -> None:
    assert read_header(data, WANTED) == {"name": ["a"]}


def test_bytes_that_are_not_utf8_are_replaced() -> None:
    assert read_stanza(b"Name: a\xffb", WANTED) == {"name": ["a\ufffdb"]}


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_no_bytes_break_the_readers(data: bytes) -> None:
    assert set(read_header(data, WANTED)) <= {"name", "license"}
    assert b"".join(blocks(data)).split() == data.split()
