"""Berkeley DB and NDB: files that libdb wrote and rpm reads, both byte orders, and files that lie."""

import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensor.errors import DataError
from sensor.limits import DEFAULT_LIMITS
from sensor.model.package import Evidence
from sensor.scan.packages.ecosystem import HeldContent
from sensor.scan.packages.rpm import ECOSYSTEM
from tests.fakes.rpmdb import RpmPackage, blob, ndb, write_berkeley

BERKELEY, NDB = "var/lib/rpm/Packages", "usr/lib/sysimage/rpm/Packages.db"
FEW = replace(DEFAULT_LIMITS, packages_per_layer=3)


def package(number: int, files: int = 0) -> RpmPackage:
    """A package whose header takes from a few hundred bytes to several pages."""
    return RpmPackage(
        name=f"package-{number}",
        version="1.2",
        release="3.el8",
        epoch=number % 2 or None,
        files=tuple(f"/usr/share/package-{number}/file-{index}" for index in range(files)),
    )


PACKAGES = [package(number, files=number * 7 % 400) for number in range(60)]
BLOBS = [blob(each) for each in PACKAGES]


def read(data: bytes, path: str = BERKELEY, limits: object = DEFAULT_LIMITS) -> Evidence:
    return ECOSYSTEM.read(path, HeldContent(data), limits)  # type: ignore[arg-type]


def names(evidence: Evidence) -> set[str]:
    return {found.name for found in evidence.packages}


@pytest.mark.parametrize("page_bytes", [512, 4096, 65536])
@pytest.mark.parametrize("big_endian", [False, True])
def test_every_package_of_a_berkeley_db(tmp_path: Path, page_bytes: int, big_endian: bool) -> None:
    evidence = read(write_berkeley(tmp_path / "Packages", BLOBS, page_bytes=page_bytes, big_endian=big_endian))

    assert names(evidence) == {each.name for each in PACKAGES}
    assert {(found.name, found.version) for found in evidence.packages} >= {
        ("package-1", "1:1.2-3.el8"),
        ("package-2", "1.2-3.el8"),
    }
    assert evidence.gaps == ()


def test_rpm_reads_the_same_berkeley_db(tmp_path: Path) -> None:
    data = write_berkeley(tmp_path / "Packages", BLOBS)
    told = subprocess.run(
        ["rpm", "--define", "_db_backend bdb_ro", "--dbpath", str(tmp_path), "-qa", "--qf", "%{NAME}\n"],
        check=True, capture_output=True, text=True,
    ).stdout.split()  # fmt: skip

    assert names(read(data)) == set(told)


@pytest.mark.parametrize("path", [NDB, "var/lib/rpm/Packages.db"])
def test_every_package_of_an_ndb(path: str) -> None:
    evidence = read(ndb(BLOBS), path)

    assert [found.name for found in evidence.packages] == [each.name for each in PACKAGES]
    assert {found.path for found in evidence.packages} == {path}
    assert evidence.gaps == ()


def test_an_empty_database_has_no_packages(tmp_path: Path) -> None:
    assert read(write_berkeley(tmp_path / "Packages", [])).packages == ()
    assert read(ndb([]), NDB).packages == ()


@pytest.mark.parametrize("path", [BERKELEY, NDB])
def test_a_header_that_is_none_costs_that_package_only(tmp_path: Path, path: str) -> None:
    blobs = [BLOBS[1], b"nonsense" * 200, BLOBS[2]]
    evidence = read(ndb(blobs) if path == NDB else write_berkeley(tmp_path / "Packages", blobs), path)

    assert names(evidence) == {"package-1", "package-2"}
    assert [(gap.kind, gap.subject) for gap in evidence.gaps] == [("unreadable", path)]


@pytest.mark.parametrize("path", [BERKELEY, NDB])
def test_more_packages_than_the_limit_are_told(tmp_path: Path, path: str) -> None:
    evidence = read(ndb(BLOBS) if path == NDB else write_berkeley(tmp_path / "Packages", BLOBS), path, FEW)

    assert len(evidence.packages) <= 3
    assert "limit" in {gap.kind for gap in evidence.gaps}


def changed(data: bytes, offset: int, layout: str, *values: int) -> bytes:
    """The same file with other numbers at an offset."""
    return data[:offset] + struct.pack(layout, *values) + data[offset + struct.calcsize(layout) :]


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [(25, "B", 9), (20, "<I", 0), (20, "<I", 1000), (20, "<I", 1 << 20), (20, "<I", 65536)],
)
def test_a_berkeley_db_with_a_senseless_first_page_is_unreadable(
    tmp_path: Path, offset: int, layout: str, value: int
) -> None:
    data = write_berkeley(tmp_path / "Packages", BLOBS[:2])
    with pytest.raises(DataError, match="Berkeley DB"):
        read(changed(data, offset, layout, value))


def pages_of(data: bytes, kind: int) -> list[int]:
    """Offsets of the pages of one type."""
    return [start for start in range(4096, len(data), 4096) if data[start + 25] == kind]


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (22, "<H", 0),
        (22, "<H", 4096),
        (22, "<H", 65535),
        (16, "<I", 0),
        (16, "<I", 1 << 31),
        (25, "B", 5),
    ],
)
def test_overflow_pages_that_lie_cost_their_package(tmp_path: Path, offset: int, layout: str, value: int) -> None:
    data = write_berkeley(tmp_path / "Packages", [blob(package(1, files=400)), BLOBS[2]])
    first = min(start for start in pages_of(data, 7) if data[start + 12 : start + 16] == bytes(4))
    evidence = read(changed(data, first + offset, layout, value))

    assert "package-1" not in names(evidence)
    assert {gap.kind for gap in evidence.gaps} == {"unreadable"}


def test_overflow_pages_in_a_circle_end_with_the_length_of_the_value(tmp_path: Path) -> None:
    data = write_berkeley(tmp_path / "Packages", [blob(package(1, files=400))])
    for start in pages_of(data, 7):
        data = changed(data, start + 16, "<I", start // 4096)

    assert names(read(data)) == set()


def leaf_item(data: bytes) -> int:
    """Offset of the value item of the first package on a leaf page."""
    for page in pages_of(data, 2) + pages_of(data, 13):
        (count,) = struct.unpack_from("<H", data, page + 20)
        starts = struct.unpack_from(f"<{count}H", data, page + 26)
        for start in starts[1::2]:
            if data[page + start] == 3:
                return page + int(start)
    raise AssertionError("no value lies on overflow pages")


@pytest.mark.parametrize(
    ("offset", "layout", "value"), [(0, "B", 2), (0, "B", 77), (4, "<I", 0), (4, "<I", 1 << 30), (8, "<I", 1 << 31)]
)
def test_values_that_lie_cost_their_package(tmp_path: Path, offset: int, layout: str, value: int) -> None:
    data = write_berkeley(tmp_path / "Packages", [blob(package(1, files=400))])
    evidence = read(changed(data, leaf_item(data) + offset, layout, value))

    assert evidence.packages == ()
    assert [gap.kind for gap in evidence.gaps] == ["unreadable"]


def test_records_that_share_their_pages_are_refused(tmp_path: Path) -> None:
    data = write_berkeley(tmp_path / "Packages", [blob(package(number, files=400)) for number in range(1, 9)])
    page = next(
        start for start in pages_of(data, 2) + pages_of(data, 13) if struct.unpack_from("<H", data, start + 20)[0]
    )
    item = data[leaf_item(data) : leaf_item(data) + 12]
    # 150 records, all with the value of one: 5 bytes of key and 12 of value, written from the end of the page
    starts, items = [], b""
    for _ in range(150):
        items = b"\x01\x01\0\0\0" + items
        starts.append(4096 - len(items))
        items = item + items
        starts.append(4096 - len(items))
    content = (
        data[page : page + 20] + struct.pack("<H", 300) + data[page + 22 : page + 26] + struct.pack("<300H", *starts)
    )
    forged = data[:page] + content + bytes(4096 - len(content) - len(items)) + items + data[page + 4096 :]
    with pytest.raises(DataError, match="overlap"):
        read(forged)


def test_records_that_share_their_blocks_are_refused() -> None:
    data = ndb([blob(package(1, files=400)), *([b"x"] * 200)])
    for slot in range(2, 202):
        data = changed(data, 32 + 16 * (slot - 1) + 4, "<II", 1, 256)
    with pytest.raises(DataError, match="overlap"):
        read(data, NDB)


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (32, "<I", 0),
        (36, "<I", 9),
        (40, "<I", 1 << 31),
        (40, "<I", 7),
        (4096, "<I", 0),
        (4100, "<I", 9),
        (4108, "<I", 1 << 31),
    ],
)
def test_slots_that_lie_cost_their_package(offset: int, layout: str, value: int) -> None:
    evidence = read(changed(ndb(BLOBS[1:3]), offset, layout, value), NDB)

    assert names(evidence) == {"package-2"}
    assert [gap.kind for gap in evidence.gaps] == ["unreadable"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"RpmP", "cut off"),
        (changed(ndb(BLOBS[:1]), 4, "<I", 1), "version 1"),
        (changed(ndb(BLOBS[:1]), 12, "<I", 1 << 20), "more slots"),
    ],
)
def test_an_ndb_with_a_senseless_head_is_unreadable(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(data, NDB)


@pytest.mark.parametrize("data", [bytes(12) + b"\x61\x15\x06\0", bytes(12) + b"\0\x06\x15\x61" + bytes(4000)])
def test_the_magic_alone_is_no_berkeley_db(data: bytes) -> None:
    with pytest.raises(DataError, match="Berkeley DB"):
        read(data)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return {
        BERKELEY: write_berkeley(tmp_path_factory.mktemp("rpm") / "Packages", BLOBS[:12], page_bytes=512),
        NDB: ndb(BLOBS[:12]),
    }


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from([BERKELEY, NDB]),
    changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=60),
    cut=st.none() | st.integers(0, 1 << 16),
)
def test_no_damage_is_more_than_unreadable(
    honest: dict[str, bytes], path: str, changes: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(honest[path])
    for offset, value in changes:
        data[offset % len(data)] = value
    try:
        evidence = read(bytes(data[:cut]), path)
    except DataError:
        return
    assert len(evidence.packages) <= 12 + len(changes)
