from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sensor.advisories import database
from sensor.advisories.build import build_database
from sensor.advisories.database import AdvisoryDatabase, age_of, revision_of
from sensor.errors import AdvisoryError
from sensor.model.advisory import AdvisoryLookup, Range
from tests.advisories.archives import archive, entry, record, write_fixtures

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    build_database(tmp_path / "advisories.db", write_fixtures(tmp_path / "osv"), now=NOW)
    return tmp_path / "advisories.db"


@pytest.fixture
def opened(path: Path) -> Iterator[AdvisoryDatabase]:
    found = AdvisoryDatabase.open(path)
    yield found
    found.close()


class TestLookUps:
    def test_is_what_the_matcher_asks_for(self, opened: AdvisoryDatabase) -> None:
        lookup: AdvisoryLookup = opened
        assert lookup.has_ecosystem("Debian:12")
        assert not lookup.has_ecosystem("Debian:13")
        assert not lookup.has_ecosystem("Debian")

    def test_entries_come_back_whole(self, opened: AdvisoryDatabase) -> None:
        first, second = opened.affected("PyPI", "mistral")
        assert first.advisory == second.advisory == "PYSEC-2026-3486"
        assert (first.ecosystem, first.name) == ("PyPI", "mistral")
        assert first.ranges == (Range(type="ECOSYSTEM", events=(("introduced", "20.0.0"), ("fixed", "20.1.1"))),)
        assert (first.versions, second.versions) == (("20.0.0", "20.1.0"), ("21.0.0", "22.0.0"))

    def test_urgency_and_long_version_lists(self, opened: AdvisoryDatabase) -> None:
        assert [e.urgency for e in opened.affected("Debian:12", "tar")] == ["unimportant"]
        assert any(len(e.versions) > 30 for e in opened.affected("PyPI", "protobuf"))

    def test_names_are_exact(self, opened: AdvisoryDatabase) -> None:
        assert opened.affected("PyPI", "Mistral") == ()
        assert opened.affected("PyPI", "mistra") == ()
        assert opened.affected("Nowhere:1", "tar") == ()
        assert opened.affected("Debian:12", "' OR 1=1 --") == ()

    def test_a_record_comes_back_whole(self, opened: AdvisoryDatabase) -> None:
        found = opened.advisory("PYSEC-2025-182")
        assert found is not None
        assert (found.modified, found.published) == ("2026-05-21T14:54:41.170347Z", "2025-07-25T10:15:36.647Z")
        assert found.aliases == ("CVE-2025-8183",)
        assert found.severity == (("CVSS_V3", "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:N/I:N/A:H"),)
        assert found.details.startswith("NULL Pointer Dereference in µD3TN")
        assert found.url == "https://gitlab.com/d3tn/ud3tn/-/issues/255"
        assert not found.is_malware

    @pytest.mark.parametrize("name", ["PYSEC-2022-15", "ALBA-2020:5502", "CVE-2025-8183", "", "x" * 10_000, "\x00"])
    def test_no_record(self, opened: AdvisoryDatabase, name: str) -> None:
        assert opened.advisory(name) is None

    def test_records_of_a_vulnerability(self, opened: AdvisoryDatabase) -> None:
        assert [a.id for a in opened.advisories_for("CVE-2025-31115")] == ["BELL-CVE-2025-31115"]
        assert [a.id for a in opened.advisories_for("ALSA-2026:A009")] == ["ALSA-2026:A009"]
        assert opened.advisories_for("CVE-1999-0001") == ()

    def test_from_several_threads(self, opened: AdvisoryDatabase) -> None:
        answers: list[int] = []

        def ask(number: int) -> None:
            for turn in range(50):
                opened.advisory(f"no-{number}-{turn}")
                answers.append(len(opened.affected("PyPI", "mistral")))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [2] * 200


class TestSummary:
    def test_tells_what_from_where_and_how_old(self, opened: AdvisoryDatabase) -> None:
        summary = opened.summary()
        assert summary.revision == opened.revision
        assert summary.imported == "2026-11-24T12:00:00Z"
        assert summary.newest == "2026-11-24T00:00:00Z"
        assert summary.age(NOW) == timedelta(hours=12)
        names = {source.name: source for source in summary.sources}
        assert (names["PyPI"].records, names["PyPI"].newest) == (7, "2026-07-23T14:31:44.542360Z")
        assert len(names["PyPI"].sha256) == 64
        ecosystems = {item.name: item for item in summary.ecosystems}
        assert (ecosystems["Debian:12"].records, ecosystems["Debian:12"].entries) == (1, 1)
        assert ecosystems["AlmaLinux:8"].records == 4
        assert "DHI" not in ecosystems
        assert summary.records > 10

    @pytest.mark.parametrize(
        ("moment", "expected"),
        [
            ("2026-11-23T12:00:00Z", timedelta(days=1)),
            ("2026-11-23T12:00:00", timedelta(days=1)),
            ("2030-01-01T00:00:00Z", timedelta(0)),
            ("", timedelta.max),
        ],
    )
    def test_age(self, moment: str, expected: timedelta) -> None:
        assert age_of(moment, NOW) == expected


class TestRevision:
    def test_is_the_same_for_the_same_data_in_any_order(self) -> None:
        feeds = [("osv", 1)]
        assert revision_of([("A", "1"), ("B", "2")], feeds) == revision_of([("B", "2"), ("A", "1")], feeds)

    def test_changes_with_data_and_importer(self) -> None:
        revisions = {
            revision_of([("A", "1")], [("osv", 1)]),
            revision_of([("A", "2")], [("osv", 1)]),
            revision_of([("B", "1")], [("osv", 1)]),
            revision_of([("A", "1")], [("osv", 2)]),
        }
        assert len(revisions) == 4


class TestUnusableFiles:
    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(AdvisoryError, match="there is no advisory database") as caught:
            AdvisoryDatabase.open(tmp_path / "advisories.db")
        assert "advisories import" in caught.value.advice
        assert list(tmp_path.iterdir()) == []

    def test_directory(self, tmp_path: Path) -> None:
        with pytest.raises(AdvisoryError, match="cannot read"):
            AdvisoryDatabase.open(tmp_path)

    @pytest.mark.parametrize("data", [b"", b"no database at all" * 20, b"SQLite format 3\0" + bytes(84)])
    def test_something_else(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "advisories.db"
        path.write_bytes(data)
        with pytest.raises(AdvisoryError) as caught:
            AdvisoryDatabase.open(path)
        assert "advisories import" in caught.value.advice

    def test_other_database(self, tmp_path: Path) -> None:
        path = tmp_path / "advisories.db"
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE x(y)")
        other.close()
        with pytest.raises(AdvisoryError, match="is not an advisory database"):
            AdvisoryDatabase.open(path)

    def test_other_schema(self, path: Path) -> None:
        with sqlite3.connect(path) as other:
            other.execute("PRAGMA user_version = 99")
        other.close()
        with pytest.raises(AdvisoryError, match="was made for schema 99"):
            AdvisoryDatabase.open(path)

    @pytest.mark.parametrize("statement", ["DELETE FROM property", "DROP TABLE property"])
    def test_incomplete(self, path: Path, statement: str) -> None:
        with sqlite3.connect(path) as other:
            other.execute(statement)
        other.close()
        with pytest.raises(AdvisoryError, match="is damaged"):
            AdvisoryDatabase.open(path)

    def test_cut_short(self, path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) - 4096])
        with pytest.raises(AdvisoryError, match=r"is damaged: it has \d+ bytes instead of \d+"):
            AdvisoryDatabase.open(path)

    def test_damage_in_the_middle_is_an_advisory_error_at_the_look_up(self, path: Path) -> None:
        data = path.read_bytes()
        path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))
        with pytest.raises(AdvisoryError, match="is damaged"):
            AdvisoryDatabase.open(path)

    @pytest.mark.parametrize("column", ["facts", "texts"])
    def test_bad_blob_of_a_record(self, path: Path, column: str) -> None:
        with sqlite3.connect(path) as other:
            other.execute(f"UPDATE advisory SET {column} = x'ff00'")
        other.close()
        opened = AdvisoryDatabase.open(path)
        with pytest.raises(AdvisoryError, match="is damaged"):
            opened.advisory("PYSEC-2025-182")
        opened.close()

    def test_bad_blob_of_an_entry(self, path: Path) -> None:
        with sqlite3.connect(path) as other:
            other.execute("UPDATE affected SET data = x'7a00'")
        other.close()
        opened = AdvisoryDatabase.open(path)
        with pytest.raises(AdvisoryError, match="is damaged"):
            opened.affected("Debian:12", "tar")
        opened.close()

    def test_path_with_characters_that_mean_something_in_a_uri(self, tmp_path: Path) -> None:
        target = tmp_path / "a?b#c%20d.db"
        build_database(target, [archive(tmp_path / "npm.zip", record("A-1", entry("npm", "x")))])
        opened = AdvisoryDatabase.open(target)
        assert opened.advisory("A-1") is not None
        opened.close()


def test_nothing_can_be_written(opened: AdvisoryDatabase) -> None:
    with pytest.raises(AdvisoryError, match="readonly"):
        opened._query("DELETE FROM advisory")


def test_an_open_handle_keeps_its_file_when_another_takes_its_place(path: Path, tmp_path: Path) -> None:
    old = AdvisoryDatabase.open(path)
    build_database(path, [archive(tmp_path / "npm.zip", record("A-1", entry("npm", "x")))])
    new = AdvisoryDatabase.open(path)
    assert old.advisory("A-1") is None
    assert old.affected("PyPI", "mistral")
    assert new.advisory("A-1") is not None
    assert new.affected("PyPI", "mistral") == ()
    assert old.revision != new.revision
    old.close()
    new.close()


def test_packing_is_smaller_for_long_lists() -> None:
    from sensor.model.advisory import Affected

    versions = tuple(f"1.0.{n}" for n in range(500))
    packed = database.pack_entry(Affected(advisory="A", ecosystem="PyPI", name="x", versions=versions))
    assert len(packed) < sum(map(len, versions)) / 2
