"""Go programs: Debian's own, synthetic ones of every age, word size and byte order, and files that lie."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import DataError
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.model.package import Evidence
from sensor.scan.packages.ecosystem import HeldContent
from sensor.scan.packages.golang import ECOSYSTEM, NEEDLE
from tests.scan.packages.binaries import elf, inline_record, pointer_record, wrapped

PROGRAM = "usr/local/bin/tool"
MODULES = (
    "path\texample.org/tool\n"
    "mod\texample.org/tool\tv1.2.3\th1:a=\n"
    "dep\tgolang.org/x/net\tv0.17.0\th1:b=\n"
    "dep\tgithub.com/old/name\tv1.0.0\n"
    "=>\tgithub.com/new/name\tv1.1.0\th1:c=\n"
    "dep\tgithub.com/docker/docker\tv24.0.7+incompatible\th1:d=\n"
    "build\t-compiler=gc\nbuild\tCGO_ENABLED=0\n"
)
LINKED = [
    ("stdlib", "1.21.4"),
    ("example.org/tool", "v1.2.3"),
    ("golang.org/x/net", "v0.17.0"),
    ("github.com/new/name", "v1.1.0"),
    ("github.com/docker/docker", "v24.0.7+incompatible"),
]


def read(data: bytes, limits: Limits = DEFAULT_LIMITS) -> Evidence:
    return ECOSYSTEM.read(PROGRAM, HeldContent(data), limits)


def told(data: bytes) -> list[tuple[str, str]]:
    return [(package.name, package.version) for package in read(data).packages]


@pytest.mark.parametrize("program", ["skopeo", "docker-registry"])
def test_reads_a_program_of_debian(program: str) -> None:
    evidence = read((Path("/usr/bin") / program).read_bytes())

    (stdlib,) = evidence.packages  # Debian builds without modules, so that the toolchain is all there is
    assert stdlib.name == "stdlib"
    assert stdlib.version.startswith("1.")
    assert evidence.gaps == ()


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("big", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_reads_the_record_of_go_1_18_and_later(wide: bool, big: bool, named: bool) -> None:
    data = elf(inline_record("go1.21.4", wrapped(MODULES)), wide=wide, big=big, section=named)

    assert told(data) == LINKED
    assert {package.path for package in read(data).packages} == {PROGRAM}
    assert {package.type for package in read(data).packages} == {"golang"}


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("big", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_reads_the_pointers_of_older_go(wide: bool, big: bool, named: bool) -> None:
    data = elf(pointer_record("go1.21.4", wrapped(MODULES), wide=wide, big=big), wide=wide, big=big, section=named)

    assert told(data) == LINKED


@pytest.mark.parametrize("magic", [b"MZ", b"\xcf\xfa\xed\xfe"])
def test_reads_programs_for_other_systems(magic: bytes) -> None:
    data = magic.ljust(4096, b"\0") + inline_record("go1.21.4", wrapped(MODULES))

    assert told(data) == LINKED
    assert magic in ECOSYSTEM.magics


def test_old_programs_for_other_systems_are_told_as_unreadable() -> None:
    data = b"MZ".ljust(4096, b"\0") + pointer_record("go1.16", wrapped(MODULES), wide=True, big=False)

    with pytest.raises(DataError, match=r"before 1\.18"):
        read(data)


@pytest.mark.parametrize(
    ("toolchain", "told_version"),
    [
        ("go1.19.8", "1.19.8"),
        ("go1.21", "1.21"),
        ("go1.22rc1", "1.22rc1"),
        ("go1.22.3 X:boringcrypto", "1.22.3"),
        ("go1.20.4-fips", "1.20.4"),
        ("devel go1.21-abc123 Tue Mar 7", "devel go1.21-abc123 Tue Mar 7"),
        ("devel +abc123", "devel +abc123"),
        ("go1.2x", "go1.2x"),
    ],
)
def test_the_standard_library_has_the_release_of_the_toolchain(toolchain: str, told_version: str) -> None:
    assert told(elf(inline_record(toolchain, b""))) == [("stdlib", told_version)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mod\tm\t(devel)\t", ("m", "(devel)")),
        ("mod\tm\tv0.0.0-20240101120000-0123456789ab", ("m", "(devel)")),
        ("mod\tm\tv0.0.0-20240101120000-0123456789ab+dirty", ("m", "(devel)")),
        ("mod\tm\tv1.2.3+dirty", ("m", "v1.2.3+dirty")),
        ("dep\tm\tv0.0.0-20240101120000-0123456789ab\th1:x=", ("m", "v0.0.0-20240101120000-0123456789ab")),
        ("dep\tm\t\t", ("m", "(devel)")),
        ("dep\tm\tv1.0.0\n=>\t./staging/m\t(devel)\t", ("m", "(devel)")),
        ("dep\tm\tv1.0.0\n=>\t/src/m", ("m", "(devel)")),
        ("dep\tm\tv1.0.0\n=>\tC:\\src\\m", ("m", "(devel)")),
        ("dep\tm\tv1.0.0\n=>\tn\tv2.0.0", ("n", "v2.0.0")),
        ("dep\tm\tv1.0.0\n=>", ("m", "(devel)")),
        ("=>\tn\tv2.0.0\ndep\tm\tv1.0.0", ("m", "v1.0.0")),
    ],
)
def test_lines_of_the_record(line: str, expected: tuple[str, str]) -> None:
    assert told(elf(inline_record("go1.21.4", wrapped(line + "\n"))))[1:] == [expected]


def test_a_module_twice_counts_once() -> None:
    record = inline_record("go1.21.4", wrapped("dep\tm\tv1.0.0\ndep\tm\tv1.0.0\n"))

    assert told(elf(record)) == [("stdlib", "1.21.4"), ("m", "v1.0.0")]


def test_bad_lines_are_gaps() -> None:
    evidence = read(elf(inline_record("go1.21.4", wrapped("dep\tm\ndep\t\x1b\tv1\ndep\tgood\tv1.0.0\n"))))

    assert [package.name for package in evidence.packages] == ["stdlib", "good"]
    assert len(evidence.gaps) == 2


@pytest.mark.parametrize("modules", [b"", b"short", b"x" * 40, b"x" * 23 + b"\n" + b"y" * 15])
def test_without_sentinels_there_are_no_modules(modules: bytes) -> None:
    assert told(elf(inline_record("go1.21.4", modules))) == [("stdlib", "1.21.4")]


def test_the_magic_as_data_is_passed_over() -> None:
    misplaced = elf(b"x" + NEEDLE + bytes(64), section=False)

    assert read(misplaced) == Evidence(cataloger="golang", path=PROGRAM)


def test_the_record_is_found_behind_a_decoy() -> None:
    decoy = (NEEDLE + b"\x03\x00").ljust(64, b"\0")

    assert told(elf(decoy + inline_record("go1.21.4", wrapped(MODULES)), section=False)) == LINKED


@pytest.mark.parametrize(
    "record",
    [
        NEEDLE,
        NEEDLE + b"\x08\x02",
        (NEEDLE + b"\x08\x02").ljust(32, b"\0"),
        (NEEDLE + b"\x08\x02").ljust(32, b"\0") + b"\xff" * 20,
        (NEEDLE + b"\x08\x02").ljust(32, b"\0") + b"\x7fgo1.21",
        (NEEDLE + b"\x08\x02").ljust(32, b"\0") + b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01go1.21",
        (NEEDLE + b"\x08\x02").ljust(32, b"\0") + b"\0\0",
        (NEEDLE + b"\x05\x00").ljust(32, b"\0"),
        (NEEDLE + b"\x08\x00").ljust(32, b"\0"),
        (NEEDLE + b"\x08\x00").ljust(32, b"\xff"),
    ],
)
def test_a_record_that_lies_is_unreadable(record: bytes) -> None:
    with pytest.raises(DataError, match=r"Go program|no segment"):
        read(elf(record, section=True, padded=False))


def test_no_more_than_a_thousand_places_are_tried() -> None:
    decoys = (NEEDLE + b"\x03\x00") * 999

    assert told(elf(decoys + inline_record("go1.21.4", b""), section=False)) == [("stdlib", "1.21.4")]
    with pytest.raises(DataError):
        read(elf(decoys + decoys + inline_record("go1.21.4", b""), section=False))


@pytest.mark.parametrize("field", [range(32, 40), range(40, 48), range(54, 58), range(58, 64)])
def test_tables_that_lie_do_not_hide_the_record(field: range) -> None:
    data = bytearray(elf(inline_record("go1.21.4", wrapped(MODULES))))
    for position in field:
        data[position] = 0xFF

    assert told(bytes(data)) == LINKED


def test_a_text_above_the_limit_is_unreadable() -> None:
    data = elf(inline_record("go1.21.4", wrapped(MODULES)))

    with pytest.raises(DataError, match="more text"):
        read(data, replace(DEFAULT_LIMITS, metadata_file_bytes=50))


def test_a_string_of_no_length_is_empty() -> None:
    data = elf(pointer_record("go1.16", b"", wide=True, big=False))

    assert told(data) == [("stdlib", "1.16")]


NAME = st.from_regex(r"[a-z]{1,8}\.[a-z]{2,3}(/[A-Za-z0-9._-]{1,8}){0,3}", fullmatch=True)
VERSION = st.from_regex(r"v[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{1,2}(\+incompatible)?", fullmatch=True)


@given(
    modules=st.lists(st.tuples(NAME, VERSION), max_size=30, unique=True),
    wide=st.booleans(),
    big=st.booleans(),
    inline=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_what_is_written_is_read_back(modules: list[tuple[str, str]], wide: bool, big: bool, inline: bool) -> None:
    text = wrapped("path\tcommand\n" + "".join(f"dep\t{name}\t{version}\th1:x=\n" for name, version in modules))
    record = inline_record("go1.20", text) if inline else pointer_record("go1.20", text, wide=wide, big=big)

    assert told(elf(record, wide=wide, big=big)) == [("stdlib", "1.20"), *modules]


HONEST = elf(pointer_record("go1.16", wrapped(MODULES), wide=True, big=False))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A program with a few bytes of its tables overwritten."""
    data = bytearray(HONEST)
    for _ in range(draw(st.integers(min_value=1, max_value=8))):
        data[draw(st.integers(min_value=4, max_value=len(data) - 1))] = draw(st.integers(min_value=0, max_value=255))
    return bytes(data)


@given(
    damaged()
    | st.binary(max_size=64).map(lambda tail: b"\x7fELF" + tail)
    | st.binary(max_size=64).map(lambda tail: b"MZ".ljust(16, b"\0") + NEEDLE + tail)
    | st.integers(min_value=0, max_value=len(HONEST)).map(lambda size: HONEST[:size])
)
@settings(deadline=None, max_examples=300)
def test_no_bytes_break_the_reader(data: bytes) -> None:
    try:
        evidence = read(data)
    except DataError:
        evidence = Evidence(cataloger="golang", path=PROGRAM)

    assert all(package.type == "golang" for package in evidence.packages)


def test_a_program_is_asked_for_by_its_first_bytes_and_the_magic() -> None:
    assert b"\x7fELF" in ECOSYSTEM.magics
    assert ECOSYSTEM.needle == NEEDLE
    assert ECOSYSTEM.spooled
    assert len(NEEDLE) == 14
