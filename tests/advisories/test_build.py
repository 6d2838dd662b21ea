from __future__ import annotations

import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sensor.advisories.archive import Archive
from sensor.advisories.build import BuildReport, Progress, build_database, revision_of
from sensor.advisories.database import AdvisoryDatabase
from sensor.errors import AdvisoryError
from sensor.limits import DEFAULT_LIMITS
from sensor.model.advisory import Advisory
from tests.advisories.archives import archive, entry, record, write_fixtures, write_zip

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def advisory_of(path: Path, advisory_id: str) -> Advisory | None:
    opened = AdvisoryDatabase.open(path)
    try:
        return opened.advisory(advisory_id)
    finally:
        opened.close()


def fixes_of(path: Path, ecosystem: str, name: str) -> list[str]:
    opened = AdvisoryDatabase.open(path)
    try:
        return [v for e in opened.affected(ecosystem, name) for r in e.ranges for k, v in r.events if k == "fixed"]
    finally:
        opened.close()


def files(path: Path) -> list[str]:
    return sorted(found.name for found in path.iterdir() if found.name.startswith("advisories.db"))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "advisories.db"


class TestRealRecords:
    @pytest.fixture
    def report(self, tmp_path: Path, target: Path) -> BuildReport:
        return build_database(target, write_fixtures(tmp_path / "osv"), now=NOW)

    def test_counts(self, report: BuildReport) -> None:
        sources = {source.name: source for source in report.sources}
        assert sum(source.records for source in report.sources) == 30
        assert report.duplicates == 2  # the BellSoft record and the GHSA record are each in two archives
        assert sources["AlmaLinux"].dropped == {"not-security": 1}
        assert sources["PyPI"].dropped == {"withdrawn": 1}
        assert sources["PyPI"].empty_entries == 1
        assert sources["DHI"].dropped == {"withdrawn": 1, "nothing-usable": 2}
        assert sources["DHI"].unsupported == {"DHI": 2}
        assert sources["crates.io"].unsupported == {"crates.io": 1}
        assert sum(source.unreadable + source.too_large for source in report.sources) == 0
        assert report.records == 30 - 2 - 7  # 7 are withdrawn, no vulnerability, or about nothing that can be judged

    def test_leaves_only_the_database_and_its_lock(self, report: BuildReport, target: Path) -> None:
        assert files(target.parent) == ["advisories.db", "advisories.db.lock"]
        assert report.path == target
        assert report.size == target.stat().st_size

    def test_is_sound_for_sqlite(self, report: BuildReport, target: Path) -> None:
        connection = sqlite3.connect(target)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        orphans = "SELECT count(*) FROM affected WHERE advisory NOT IN (SELECT id FROM advisory)"
        assert connection.execute(orphans).fetchone() == (0,)
        connection.close()

    def test_record_in_two_archives_counts_once(self, report: BuildReport, target: Path) -> None:
        opened = AdvisoryDatabase.open(target)
        assert len(opened.affected("Alpaquita:stream", "xz")) == 1
        assert len(opened.affected("BellSoft Hardened Containers:stream", "xz")) == 1
        opened.close()


class TestCopies:
    @pytest.mark.parametrize("newer_first", [True, False])
    def test_the_later_copy_wins_whole(self, tmp_path: Path, target: Path, newer_first: bool) -> None:
        old = record("A-1", entry("npm", "old", "1"), entry("npm", "x", "1"), modified="2024-01-01T00:00:00Z")
        new = record("A-1", entry("npm", "x", "2"), modified="2024-01-01T00:00:00.5Z", summary="new")
        both = [archive(tmp_path / "a.zip", old), archive(tmp_path / "b.zip", new)]
        report = build_database(target, reversed(both) if newer_first else both)
        assert fixes_of(target, "npm", "x") == ["2"]
        assert fixes_of(target, "npm", "old") == []
        found = advisory_of(target, "A-1")
        assert found is not None
        assert found.summary == "new"
        assert (report.records, report.entries, report.duplicates) == (1, 1, 1)

    @pytest.mark.parametrize("newer_first", [True, False])
    def test_a_later_withdrawal_wins(self, tmp_path: Path, target: Path, newer_first: bool) -> None:
        other = record("A-2", entry("npm", "y"))
        old = record("A-1", entry("npm", "x"), modified="2024-01-01T00:00:00Z", aliases=["CVE-2024-0001"])
        new = record("A-1", modified="2024-01-02T00:00:00Z", withdrawn="2024-01-02T00:00:00Z")
        both = [archive(tmp_path / "a.zip", old, other), archive(tmp_path / "b.zip", new)]
        build_database(target, reversed(both) if newer_first else both)
        assert fixes_of(target, "npm", "x") == []
        assert advisory_of(target, "A-1") is None
        opened = AdvisoryDatabase.open(target)
        assert opened.advisories_for("CVE-2024-0001") == ()
        opened.close()

    def test_same_id_twice_in_one_archive(self, tmp_path: Path, target: Path) -> None:
        path = write_zip(
            tmp_path / "a.zip",
            {"A-1.json": record("A-1", entry("npm", "x", "1")), "copy/A-1.json": record("A-1", entry("npm", "x", "2"))},
        )
        report = build_database(target, [Archive(name="npm", path=path, origin="here")])
        assert fixes_of(target, "npm", "x") == ["1"]
        assert report.duplicates == 1

    def test_dates_in_the_future_do_not_hide_the_age(self, tmp_path: Path, target: Path) -> None:
        records = [
            record("A-1", entry("npm", "x"), modified="2099-01-01T00:00:00Z"),
            record("A-2", entry("npm", "x"), modified="2026-11-01T00:00:00Z"),
            record("A-3", entry("Go", "x"), modified="2099-01-01T00:00:00Z"),
        ]
        report = build_database(target, [archive(tmp_path / "a.zip", *records)], now=NOW)
        assert report.sources[0].newest == "2026-11-01T00:00:00Z"
        opened = AdvisoryDatabase.open(target)
        assert {e.name: e.newest for e in opened.summary().ecosystems} == {"npm": "2026-11-01T00:00:00Z", "Go": ""}
        opened.close()


class TestBadRecords:
    def test_are_counted_and_told_and_the_rest_is_kept(self, tmp_path: Path, target: Path) -> None:
        limits = replace(DEFAULT_LIMITS, advisory_record_bytes=2000)
        members = {f"bad-{n}.json": b"{" for n in range(7)} | {
            "A-1.json": record("A-1", entry("npm", "x")),
            "A-2.json": record("A-2", entry("npm", "x"), details="x" * 3000),
            "modified_id.csv": b"2024,A-1",
        }
        path = write_zip(tmp_path / "a.zip", members)
        report = build_database(target, [Archive(name="npm", path=path, origin="here")], limits=limits)
        (source,) = report.sources
        assert (source.records, source.unreadable, source.too_large) == (1, 7, 1)
        assert len(source.examples) == 5
        assert source.examples[0].startswith("bad-0.json: not an OSV record")
        assert report.records == 1

    def test_names_that_sqlite_could_trip_over(self, tmp_path: Path, target: Path) -> None:
        odd = "a\x00b'\"; DROP TABLE advisory"
        build_database(target, [archive(tmp_path / "a.zip", record("A-1", entry("npm", odd)))])
        assert fixes_of(target, "npm", odd) == ["2"]


class TestAllOrNothing:
    @pytest.fixture
    def old(self, tmp_path: Path, target: Path) -> bytes:
        build_database(target, [archive(tmp_path / "old.zip", record("OLD-1", entry("npm", "x")))])
        return target.read_bytes()

    def refused(self, target: Path, old: bytes, archives: list[Archive], match: str) -> AdvisoryError:
        with pytest.raises(AdvisoryError, match=match) as caught:
            build_database(target, archives)
        assert target.read_bytes() == old
        assert files(target.parent) == ["advisories.db", "advisories.db.lock"]
        return caught.value

    def test_no_archives(self, target: Path, old: bytes) -> None:
        self.refused(target, old, [], "there are no advisories")

    def test_a_broken_archive_after_a_good_one(self, tmp_path: Path, target: Path, old: bytes) -> None:
        good = archive(tmp_path / "good.zip", record("A-1", entry("npm", "x")))
        bad = Archive(name="bad", path=tmp_path / "bad.zip", origin="bad.zip")
        bad.path.write_bytes(good.path.read_bytes()[:-30])
        self.refused(target, old, [good, bad], "bad.zip is broken")

    def test_missing_archive(self, tmp_path: Path, target: Path, old: bytes) -> None:
        missing = Archive(name="x", path=tmp_path / "missing.zip", origin="missing.zip")
        self.refused(target, old, [missing], "cannot read the advisory archive missing.zip: No such file")

    def test_nothing_readable(self, tmp_path: Path, target: Path, old: bytes) -> None:
        path = write_zip(tmp_path / "a.zip", {"A.json": b"[]"})
        self.refused(target, old, [Archive(name="a", path=path, origin="a.zip")], "no readable record: A.json")

    def test_nothing_that_can_be_judged(self, tmp_path: Path, target: Path, old: bytes) -> None:
        self.refused(target, old, [archive(tmp_path / "a.zip", record("A-1", entry("Hex", "x")))], "hold nothing about")

    def test_an_error_out_of_progress(self, tmp_path: Path, target: Path, old: bytes) -> None:
        class Stop(Exception):
            pass

        def stop(_progress: Progress) -> None:
            raise Stop

        with pytest.raises(Stop):
            build_database(target, [archive(tmp_path / "a.zip", record("A-1", entry("npm", "x")))], progress=stop)
        assert target.read_bytes() == old
        assert files(target.parent) == ["advisories.db", "advisories.db.lock"]

    def test_kill_in_the_middle(self, tmp_path: Path, target: Path, old: bytes) -> None:
        records = [record(f"A-{n}", entry("npm", f"p{n}")) for n in range(2500)]
        found = archive(tmp_path / "a.zip", *records)
        program = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from sensor.advisories.archive import Archive\n"
            "from sensor.advisories.build import build_database\n"
            "def kill(progress):\n"
            "    if progress.done >= 2000:\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "a = Archive(name='a', path=Path(sys.argv[1]), origin='a')\n"
            "build_database(Path(sys.argv[2]), [a], progress=kill)\n"
        )
        command = [sys.executable, "-c", program, str(found.path), str(target)]
        killed = subprocess.run(command, check=False, timeout=60)
        assert killed.returncode == -signal.SIGKILL
        assert target.read_bytes() == old
        assert "advisories.db.new" in files(target.parent)
        report = build_database(target, [found])  # nothing is left in the way, the lock neither
        assert report.records == 2500
        assert files(target.parent) == ["advisories.db", "advisories.db.lock"]

    def test_full_disk(self, tmp_path: Path, target: Path, old: bytes) -> None:
        records = [record(f"A-{n}", entry("npm", f"p{n}"), details=str(n) * 2000) for n in range(1500)]
        found = archive(tmp_path / "a.zip", *records)
        program = (
            "import resource, signal, sys\n"
            "from pathlib import Path\n"
            "from sensor.advisories.archive import Archive\n"
            "from sensor.advisories.build import build_database\n"
            "from sensor.errors import AdvisoryError\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))\n"
            "a = Archive(name='a', path=Path(sys.argv[1]), origin='a')\n"
            "try:\n"
            "    build_database(Path(sys.argv[2]), [a])\n"
            "except AdvisoryError as error:\n"
            "    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
            "    sys.exit(7 if error.retryable and 'full or failing' in error.message else 8)\n"
        )
        assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
        command = [sys.executable, "-c", program, str(found.path), str(target)]
        assert subprocess.run(command, check=False, timeout=60).returncode == 7
        assert target.read_bytes() == old
        assert files(target.parent) == ["advisories.db", "advisories.db.lock"]

    def test_two_builds_at_once(self, tmp_path: Path, target: Path) -> None:
        found = archive(tmp_path / "a.zip", record("A-1", entry("npm", "x")))
        errors: list[str] = []

        def second(_progress: Progress) -> None:
            def build() -> None:
                try:
                    build_database(target, [found])
                except AdvisoryError as error:
                    errors.append(error.message)

            thread = threading.Thread(target=build)
            thread.start()
            thread.join()

        build_database(target, [found], progress=second)
        assert set(errors) == {"another import of advisories is running"}
        assert advisory_of(target, "A-1") is not None

    def test_no_directory(self, tmp_path: Path) -> None:
        found = archive(tmp_path / "a.zip", record("A-1", entry("npm", "x")))
        with pytest.raises(AdvisoryError, match="cannot write the advisory database"):
            build_database(tmp_path / "missing" / "advisories.db", [found])

    def test_something_that_is_no_file_stands_in_the_way(self, tmp_path: Path, target: Path) -> None:
        (tmp_path / "advisories.db.staging").mkdir()
        with pytest.raises(AdvisoryError, match="cannot write the advisory database"):
            build_database(target, [archive(tmp_path / "a.zip", record("A-1", entry("npm", "x")))])


class TestProgress:
    def test_reaches_the_total_of_each_archive(self, tmp_path: Path, target: Path) -> None:
        seen: list[Progress] = []
        records = [record(f"A-{n}", entry("npm", "x")) for n in range(1200)]
        both = [archive(tmp_path / "a.zip", *records), archive(tmp_path / "b.zip", record("B-1", entry("Go", "x")))]
        build_database(target, both, progress=seen.append)
        assert [(p.archive, p.done, p.total) for p in seen] == [
            ("a", 0, 1200),
            ("a", 1000, 1200),
            ("a", 1200, 1200),
            ("b", 0, 1),
            ("b", 1, 1),
        ]
        assert {(p.archives_done, p.archives) for p in seen} == {(0, 2), (1, 2)}


def test_the_revision_is_known_without_a_build(tmp_path: Path, target: Path) -> None:
    found = [archive(tmp_path / "a.zip", record("A-1", entry("npm", "x")))]
    assert build_database(target, found).revision == revision_of(found)
    with zipfile.ZipFile(found[0].path, "a") as zipped:
        zipped.writestr("A-2.json", record("A-2", entry("npm", "x")))
    assert build_database(target, found).revision == revision_of(found)


def test_a_site_without_any_temporary_directory_sorts_in_memory(tmp_path: Path, target: Path) -> None:
    found = archive(tmp_path / "a.zip", record("A-1", entry("npm", "x")))
    program = (
        "import sys, tempfile\n"
        "from pathlib import Path\n"
        "from sensor.advisories.archive import Archive\n"
        "from sensor.advisories.build import build_database\n"
        "def none():\n"
        "    raise FileNotFoundError\n"
        "tempfile.gettempdir = none\n"
        "build_database(Path(sys.argv[2]), [Archive(name='a', path=Path(sys.argv[1]), origin='a')])\n"
    )
    command = [sys.executable, "-c", program, str(found.path), str(target)]
    assert subprocess.run(command, check=False, timeout=60).returncode == 0
    assert fixes_of(target, "npm", "x") == ["2"]
