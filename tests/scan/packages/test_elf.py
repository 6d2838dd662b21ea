"""ELF: sections and addresses of real and synthetic files, and tables that lie."""

import sys
from pathlib import Path

import pytest

from sensor.errors import DataError
from sensor.scan.packages.elf import Elf
from tests.scan.packages.binaries import ADDRESS, elf

BODY = b"0123456789abcdef"


def test_reads_the_interpreter_that_runs_this() -> None:
    view = memoryview(Path(sys.executable).resolve().read_bytes())
    parsed = Elf(view)
    text = parsed.section(b".text")

    assert parsed.segments
    assert text is not None
    assert parsed.offset_of(text.address, text.size) == text.offset


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("big", [True, False])
def test_finds_sections_and_addresses(wide: bool, big: bool) -> None:
    data = elf(BODY, wide=wide, big=big)
    parsed = Elf(memoryview(data))
    section = parsed.section(b".go.buildinfo")

    assert section is not None
    assert data[section.offset : section.offset + len(BODY)] == BODY
    assert parsed.offset_of(ADDRESS + 4, 4) == section.offset + 4
    assert parsed.section(b".text") is None


def test_a_file_without_a_section_table_has_no_sections() -> None:
    assert Elf(memoryview(elf(BODY, section=False))).section(b".go.buildinfo") is None


@pytest.mark.parametrize(("address", "size"), [(0, 1), (ADDRESS - 1, 4), (ADDRESS, 10_000_000), (2**64 - 1, 8)])
def test_an_address_outside_of_all_segments_is_refused(address: int, size: int) -> None:
    with pytest.raises(DataError, match="in no segment"):
        Elf(memoryview(elf(BODY))).offset_of(address, size)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF",
        b"\x7fELF\x03\x01" + bytes(100),
        b"\x7fELF\x02\x03" + bytes(100),
        b"MZ" + bytes(100),
        elf(BODY)[:40],
        elf(BODY)[:70],
    ],
)
def test_what_is_no_elf_file_is_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        Elf(memoryview(data))


def test_a_section_that_reaches_behind_the_end_is_not_there() -> None:
    data = elf(BODY, section_bytes=1_000_000)

    assert Elf(memoryview(data)).section(b".go.buildinfo") is None


def test_a_segment_that_reaches_behind_the_end_is_not_there() -> None:
    data = elf(BODY, segment_bytes=1_000_000)

    assert Elf(memoryview(data)).segments == ()


def test_a_section_without_bytes_in_the_file_is_not_there() -> None:
    assert Elf(memoryview(elf(BODY, section_type=8))).section(b".go.buildinfo") is None


@pytest.mark.parametrize("index", [3, 65_535])
def test_names_in_a_section_that_does_not_exist_are_no_names(index: int) -> None:
    assert Elf(memoryview(elf(BODY, names_index=index))).section(b".go.buildinfo") is None
