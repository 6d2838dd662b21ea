from __future__ import annotations

import contextlib
import os
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensor.advisories.archive import Archive, check_archive, opened, sources_of
from sensor.errors import AdvisoryError
from sensor.limits import DEFAULT_LIMITS, Limits
from tests.advisories.archives import archive, entry, record, write_zip

ONE = record("A-1", entry("npm", "x"))


def named(path: Path) -> Archive:
    return Archive(name="npm", path=path, origin="the archive")


def read_all(found: Archive, limits: Limits = DEFAULT_LIMITS) -> dict[str, bytes]:
    with opened(found, limits) as contents:
        return {file.name: file.read() for file in contents.files}


class TestZip:
    def test_gives_the_records_and_nothing_else(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.zip", {"A-1.json": ONE, "modified_id.csv": b"x", "b/A-2.json": ONE, "c/": b""})
        assert read_all(named(path)) == {"A-1.json": ONE, "b/A-2.json": ONE}

    @pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_unusual_compression(self, tmp_path: Path, compression: int) -> None:
        path = write_zip(tmp_path / "a.zip", {"A-1.json": ONE}, compression)
        with pytest.raises(AdvisoryError, match="compressed in an unusual way"):
            read_all(named(path))

    def test_encrypted(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.zip", {"A-1.json": ONE})
        data = bytearray(path.read_bytes())
        for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            data[data.index(signature) + offset] |= 1
        path.write_bytes(data)
        with pytest.raises(AdvisoryError, match="is broken: it is encrypted"):
            read_all(named(path))

    def test_too_many_members(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.zip", {f"A-{n}.json": ONE for n in range(4)})
        with pytest.raises(AdvisoryError, match="it has 4 members, more than 3"):
            read_all(named(path), replace(DEFAULT_LIMITS, advisory_records=3))

    def test_bomb_that_declares_its_size(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.zip", {"A-1.json": bytes(1 << 20), "A-2.json": bytes(1 << 20)})
        with pytest.raises(AdvisoryError, match="it inflates to more than"):
            read_all(named(path), replace(DEFAULT_LIMITS, advisory_inflated_bytes=1 << 20))

    def test_bomb_that_lies_about_its_size(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.zip", {"A-1.json": bytes(400_000)})
        data = bytearray(path.read_bytes())
        struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 100)
        struct.pack_into("<I", data, data.index(b"PK\x03\x04") + 22, 100)
        path.write_bytes(data)
        with pytest.raises(AdvisoryError, match="is broken: a record has another size"):
            read_all(named(path))

    def test_packed_size_that_makes_no_sense(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.zip", {"A-1.json": ONE})
        data = bytearray(path.read_bytes())
        struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 20, 1 << 30)
        path.write_bytes(data)
        with pytest.raises(AdvisoryError, match="larger packed than unpacked"):
            read_all(named(path))

    def test_names_outside_ascii_and_empty_members(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.zip", {"µ.json": ONE, "empty.json": b""})
        assert read_all(named(path)) == {"µ.json": ONE, "empty.json": b""}

    @given(st.integers(0, 500), st.integers(0, 255))
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_any_changed_byte_is_unseen_or_an_advisory_error(self, tmp_path: Path, at: int, value: int) -> None:
        path = write_zip(tmp_path / "a.zip", {f"A-{n}.json": ONE for n in range(2)})
        data = bytearray(path.read_bytes())
        data[at % len(data)] = value
        path.write_bytes(data)
        with contextlib.suppress(AdvisoryError):
            assert set(read_all(named(path)).values()) <= {ONE}

    def test_damaged_member(self, tmp_path: Path) -> None:
        path = write_zip(tmp_path / "a.zip", {"A-1.json": os.urandom(5000)}, zipfile.ZIP_STORED)
        data = bytearray(path.read_bytes())
        data[2000] ^= 0xFF
        path.write_bytes(data)
        with pytest.raises(AdvisoryError, match="is broken"):
            check_archive(named(path), DEFAULT_LIMITS)

    @pytest.mark.parametrize("at", [20, 60, 100, -40, -10])
    def test_cut_or_overwritten_anywhere_is_an_advisory_error(self, tmp_path: Path, at: int) -> None:
        whole = write_zip(tmp_path / "a.zip", {f"A-{n}.json": ONE for n in range(3)}).read_bytes()
        for number, data in enumerate((whole[:at], whole[:at] + bytes(8) + whole[at:][8:])):
            path = tmp_path / f"{number}.zip"
            path.write_bytes(data)
            with pytest.raises(AdvisoryError, match="is broken"):
                check_archive(named(path), DEFAULT_LIMITS)

    def test_no_zip_at_all(self, tmp_path: Path) -> None:
        path = tmp_path / "a.zip"
        path.write_bytes(b"<html>please log in</html>")
        with pytest.raises(AdvisoryError, match="File is not a zip file") as caught:
            check_archive(named(path), DEFAULT_LIMITS)
        assert "the old advisories stay in use" in caught.value.advice


class TestDirectory:
    def test_gives_the_records_below_in_order(self, tmp_path: Path) -> None:
        (tmp_path / "vulns" / "x").mkdir(parents=True)
        (tmp_path / "vulns" / "x" / "A-2.json").write_bytes(ONE)
        (tmp_path / "vulns" / "A-1.json").write_bytes(ONE)
        (tmp_path / "vulns" / "README.md").write_bytes(b"x")
        (tmp_path / "vulns" / "folder.json").mkdir()
        assert list(read_all(named(tmp_path / "vulns"))) == ["A-1.json", "x/A-2.json"]

    def test_checksum_sees_names_and_contents(self, tmp_path: Path) -> None:
        checksums = set()
        for number, (name, data) in enumerate([("A.json", b"1"), ("B.json", b"1"), ("A.json", b"2")]):
            folder = tmp_path / str(number)
            folder.mkdir()
            (folder / name).write_bytes(data)
            checksums |= {sha256 for _, sha256 in sources_of([named(folder)], DEFAULT_LIMITS)}
        assert len(checksums) == 3

    def test_a_large_file_is_not_read_for_the_checksum(self, tmp_path: Path) -> None:
        (tmp_path / "A.json").write_bytes(bytes(100))
        limits = replace(DEFAULT_LIMITS, advisory_record_bytes=50)
        with opened(named(tmp_path), limits) as contents:
            assert [file.size for file in contents.files] == [100]
        check_archive(named(tmp_path), limits)

    def test_too_many_files(self, tmp_path: Path) -> None:
        for number in range(4):
            (tmp_path / f"{number}.json").write_bytes(ONE)
        with pytest.raises(AdvisoryError, match="it has 4 files, more than 3"):
            read_all(named(tmp_path), replace(DEFAULT_LIMITS, advisory_records=3))

    def test_file_that_vanishes(self, tmp_path: Path) -> None:
        (tmp_path / "A.json").write_bytes(ONE)
        with opened(named(tmp_path), DEFAULT_LIMITS) as contents:
            (tmp_path / "A.json").unlink()
            with pytest.raises(AdvisoryError, match="cannot read the advisory archive"):
                next(contents.files)


def test_a_sound_archive_passes(tmp_path: Path) -> None:
    check_archive(archive(tmp_path / "a.zip", ONE), DEFAULT_LIMITS)


def test_an_archive_without_records_does_not(tmp_path: Path) -> None:
    with pytest.raises(AdvisoryError, match="it holds no records"):
        check_archive(named(write_zip(tmp_path / "a.zip", {"README": b""})), DEFAULT_LIMITS)
