from __future__ import annotations

from pathlib import Path

import pytest

from sensor.advisories.build import build_database
from sensor.advisories.database import AdvisoryDatabase
from tests.advisories.archives import archive, entry, record
from tests.advisories.test_build import advisory_of


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "advisories.db"


class TestNames:
    def test_aliases_are_closed_over_all_archives(self, tmp_path: Path, target: Path) -> None:
        build_database(
            target,
            [
                archive(tmp_path / "a.zip", record("PYSEC-1", entry("PyPI", "x"), aliases=["GHSA-1"])),
                archive(tmp_path / "b.zip", record("GHSA-1", entry("PyPI", "x"), aliases=["CVE-2024-0001"])),
                archive(tmp_path / "c.zip", record("BIT-1", entry("npm", "x"), aliases=["CVE-2024-0001"])),
                archive(tmp_path / "d.zip", record("GHSA-2", entry("npm", "x"), aliases=["CVE-2024-0002"])),
                archive(tmp_path / "e.zip", record("CVE-2024-0001", entry("npm", "x"))),
            ],
        )
        opened = AdvisoryDatabase.open(target)
        everything = {"PYSEC-1", "GHSA-1", "BIT-1", "CVE-2024-0001"}
        for name in everything:
            found = opened.advisory(name)
            assert found is not None
            assert set(found.aliases) == everything - {name}
            assert {a.id for a in opened.advisories_for(name)} == everything
        assert [a.id for a in opened.advisories_for("CVE-2024-0002")] == ["GHSA-2"]
        opened.close()

    def test_errata_do_not_merge_the_cves_that_they_cover(self, tmp_path: Path, target: Path) -> None:
        build_database(
            target,
            [
                archive(
                    tmp_path / "a.zip",
                    record("DSA-1", entry("Debian:12", "x"), aliases=["CVE-2024-0001", "CVE-2024-0002"]),
                    record("GHSA-1", entry("npm", "x"), aliases=["CVE-2024-0001"]),
                    record("GHSA-2", entry("npm", "x"), aliases=["CVE-2024-0002"]),
                )
            ],
        )
        opened = AdvisoryDatabase.open(target)
        found = opened.advisory("GHSA-1")
        assert found is not None
        assert found.aliases == ("CVE-2024-0001",)
        assert {a.id for a in opened.advisories_for("CVE-2024-0001")} == {"DSA-1", "GHSA-1"}
        opened.close()

    def test_upstream_is_followed_upwards_only(self, tmp_path: Path, target: Path) -> None:
        build_database(
            target,
            [
                archive(
                    tmp_path / "a.zip",
                    record(
                        "USN-1", entry("Ubuntu:24.04:LTS", "x"), upstream=["UBUNTU-CVE-2024-0001", "GHSA-1", "NONE-1"]
                    ),
                    record("UBUNTU-CVE-2024-0001", entry("Ubuntu:24.04:LTS", "x"), upstream=["CVE-2024-0001", "USN-1"]),
                    record("GHSA-1", entry("npm", "x"), aliases=["CVE-2024-0002"]),
                )
            ],
        )
        usn, ubuntu, ghsa = (advisory_of(target, name) for name in ("USN-1", "UBUNTU-CVE-2024-0001", "GHSA-1"))
        assert usn is not None
        assert ubuntu is not None
        assert ghsa is not None
        assert usn.upstream == ("UBUNTU-CVE-2024-0001", "GHSA-1", "NONE-1", "CVE-2024-0002", "CVE-2024-0001")
        assert set(ubuntu.upstream) >= {"CVE-2024-0001", "USN-1"}
        assert (ghsa.upstream, ghsa.aliases) == ((), ("CVE-2024-0002",))

    def test_an_absurd_number_of_aliases_stays_with_each_record(self, tmp_path: Path, target: Path) -> None:
        records = [record(f"A-{n}", entry("npm", "x"), aliases=[f"A-{n + 1}"]) for n in range(1100)]
        build_database(target, [archive(tmp_path / "a.zip", *records)])
        found = advisory_of(target, "A-7")
        assert found is not None
        assert found.aliases == ("A-8",)
