from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.advisories.feeds.feed import Dropped, Record
from sensor.advisories.feeds.osv import OSV, moment, parse
from sensor.errors import DataError
from sensor.limits import DEFAULT_LIMITS
from sensor.model.advisory import Range
from tests.advisories.archives import entry, real, record


def kept(data: bytes) -> Record:
    parsed = parse(data, DEFAULT_LIMITS)
    assert isinstance(parsed, Record)
    return parsed


def dropped(data: bytes) -> Dropped:
    parsed = parse(data, DEFAULT_LIMITS)
    assert isinstance(parsed, Dropped)
    return parsed


class TestRealRecords:
    def test_several_entries_for_one_package_and_versions_without_ranges(self) -> None:
        found = kept(real("PyPI/PYSEC-2026-3486"))
        assert [(e.name, e.versions) for e in found.affected] == [
            ("mistral", ("20.0.0", "20.1.0")),
            ("mistral", ("21.0.0", "22.0.0")),
        ]
        assert found.affected[0].ranges == (
            Range(type="ECOSYSTEM", events=(("introduced", "20.0.0"), ("fixed", "20.1.1"))),
        )
        assert found.affected[1].ranges == ()
        assert found.advisory.aliases == ("CVE-2026-41283", "GHSA-9hfw-w3f4-c4p8")
        assert found.advisory.url == "https://nvd.nist.gov/vuln/detail/CVE-2026-41283"

    def test_git_ranges_go_and_their_neighbours_stay(self) -> None:
        (found,) = kept(real("PyPI/PYSEC-2020-66")).affected
        assert [range_.type for range_ in found.ranges] == ["ECOSYSTEM"]
        assert "1.4.4" in found.versions

    def test_last_affected(self) -> None:
        (found,) = kept(real("PyPI/PYSEC-2024-282")).affected
        assert found.ranges[0].events == (("introduced", "0"), ("last_affected", "2.3.9"))

    def test_text_outside_ascii(self) -> None:
        assert "µD3TN" in kept(real("PyPI/PYSEC-2025-182")).advisory.details

    @pytest.mark.parametrize("path", ["PyPI/PYSEC-2022-15", "Go/GO-2022-0617", "DHI/CVE-2023-25810"])
    def test_withdrawn(self, path: str) -> None:
        assert dropped(real(path)).reason == "withdrawn"

    def test_entry_that_names_nothing_matches_nothing_but_its_severity_is_lent(self) -> None:
        found = kept(real("PyPI/PYSEC-2022-43180"))
        assert (found.affected, found.empty) == ((), 1)
        assert found.advisory.severity[0][0] == "CVSS_V3"

    @pytest.mark.parametrize("path", ["DHI/CVE-2011-1015", "DHI/CVE-2019-20445"])
    def test_ecosystem_that_cannot_be_judged(self, path: str) -> None:
        found = dropped(real(path))
        assert (found.reason, set(found.unsupported)) == ("nothing-usable", {"DHI"})

    def test_a_word_that_judges_nothing_is_not_lent(self) -> None:
        assert dropped(real("Bitnami/BIT-node-2025-23088")).unsupported == ("Bitnami",)

    def test_severity_of_an_unsupported_ecosystem_is_kept_for_others(self) -> None:
        found = kept(real("crates.io/RUSTSEC-2018-0010"))
        assert (found.affected, found.unsupported) == ((), ("crates.io",))
        assert found.advisory.severity
        assert any(name.startswith("CVE-") for name in found.advisory.aliases)

    def test_record_of_many_ecosystems(self) -> None:
        found = kept(real("Go/GHSA-77rm-9x9h-xj3g"))
        assert {e.ecosystem for e in found.affected} == {"Go", "PyPI"}
        assert set(found.unsupported) >= {"NuGet", "Packagist", "Maven"}
        assert found.advisory.rating == "HIGH"

    def test_alma_cves_come_from_related_and_the_rating_from_the_summary(self) -> None:
        advisory = kept(real("AlmaLinux/ALSA-2022:0899")).advisory
        assert (advisory.aliases, advisory.upstream) == ((), ("CVE-2022-23308",))
        assert advisory.rating == "Moderate"
        assert advisory.url == "https://vulners.com/cve/CVE-2022-23308"

    def test_alma_record_without_a_cve_stays_under_its_own_name(self) -> None:
        advisory = kept(real("AlmaLinux/ALSA-2026:19367")).advisory
        assert (advisory.upstream, advisory.rating) == ((), "Important")
        assert advisory.url == "https://access.redhat.com/errata/RHSA-2026:19367"

    def test_bug_fix_erratum_counts_only_with_a_cve(self) -> None:
        assert dropped(real("AlmaLinux/ALBA-2020:5502")).reason == "not-security"
        assert kept(real("AlmaLinux/ALBA-2019:3693")).advisory.upstream == ("CVE-2018-18074",)
        assert kept(real("AlmaLinux/ALEA-2021:4539")).affected

    def test_module_builds_keep_their_release(self) -> None:
        fixes = [v for e in kept(real("AlmaLinux/ALSA-2021:4916")).affected for r in e.ranges for k, v in r.events]
        assert any(".module_el8" in fix for fix in fixes)

    def test_id_with_a_letter_and_a_colon(self) -> None:
        assert kept(real("AlmaLinux/ALSA-2026:A009")).advisory.id == "ALSA-2026:A009"

    def test_rocky(self) -> None:
        advisory = kept(real("Rocky Linux/RLSA-2023:3220")).advisory
        assert len(advisory.upstream) == 7
        assert advisory.rating == "Important"

    def test_bellsoft_names_two_distributions(self) -> None:
        found = kept(real("Alpaquita/BELL-CVE-2025-31115"))
        assert [e.ecosystem for e in found.affected] == ["Alpaquita:stream", "BellSoft Hardened Containers:stream"]

    def test_azure_rating_stands_at_the_entry(self) -> None:
        assert kept(real("Azure Linux/AZL-34752-1")).advisory.rating == "HIGH"

    def test_debian_urgency_and_no_fix(self) -> None:
        (found,) = kept(real("Debian/DEBIAN-CVE-2005-2541")).affected
        assert (found.ecosystem, found.name, found.urgency) == ("Debian:12", "tar", "unimportant")
        assert found.ranges[0].events == (("introduced", "0"),)

    def test_debian_advisory_covers_several(self) -> None:
        advisory = kept(real("Debian/DLA-1658-1")).advisory
        assert advisory.upstream == ("CVE-2018-19968", "CVE-2018-19970")
        assert advisory.url == "https://security-tracker.debian.org/tracker/DLA-1658-1"

    def test_dates_of_the_year_one(self) -> None:
        assert kept(real("Go/GO-2023-2044")).advisory.modified == "0001-01-01T00:00:00Z"

    def test_npm(self) -> None:
        assert kept(real("npm/NSWG-ECO-334")).affected[0].ranges[0].type == "SEMVER"
        assert kept(real("npm/GHSA-64r3-582j-frqm")).advisory.url == ""  # its only link is plain http


class TestNames:
    def test_cves_in_the_aliases_of_a_distribution_are_covered_not_equal(self) -> None:
        data = record("DSA-1-1", entry("Debian:12", "x"), aliases=["CVE-2024-0001", "CVE-2024-0002", "X-1"])
        advisory = kept(data).advisory
        assert (advisory.aliases, advisory.upstream) == (("X-1",), ("CVE-2024-0001", "CVE-2024-0002"))

    def test_related_is_not_read_where_upstream_tells(self) -> None:
        data = record("RLSA-1", entry("Rocky Linux:9", "x"), upstream=["CVE-2024-0001"], related=["CVE-2024-0002"])
        assert kept(data).advisory.upstream == ("CVE-2024-0001",)

    def test_related_of_a_language_record_is_nothing(self) -> None:
        data = record("GHSA-1", entry("npm", "x"), related=["CVE-2024-0002"])
        assert (kept(data).advisory.aliases, kept(data).advisory.upstream) == ((), ())

    def test_own_id_empty_and_overlong_names_and_repetitions_go(self) -> None:
        data = record("GHSA-1", entry("npm", "x"), aliases=["GHSA-1", "", "CVE-2024-0001", "CVE-2024-0001", "x" * 300])
        assert kept(data).advisory.aliases == ("CVE-2024-0001",)

    @pytest.mark.parametrize(
        ("ecosystem", "name", "normal"),
        [("PyPI", "Foo.Bar_baz", "foo-bar-baz"), ("npm", "@Scope/X", "@Scope/X"), ("Debian:12", " tar ", "tar")],
    )
    def test_packages_are_stored_under_their_normal_name(self, ecosystem: str, name: str, normal: str) -> None:
        assert kept(record("A-1", entry(ecosystem, name))).affected[0].name == normal

    def test_malware(self) -> None:
        data = record("MAL-2024-1", {"package": {"ecosystem": "npm", "name": "bad"}, "versions": ["1.0.0"]})
        assert kept(data).advisory.is_malware
        assert kept(data).affected[0].versions == ("1.0.0",)


class TestSeverity:
    def test_judgements_about_the_package_come_first(self) -> None:
        data = record(
            "GHSA-1",
            entry("npm", "x", severity=[{"type": "CVSS_V3", "score": "CVSS:3.1/own"}]),
            severity=[{"type": "CVSS_V3", "score": "CVSS:3.1/record"}, {"type": "CVSS_V3", "score": "CVSS:3.1/own"}],
        )
        assert kept(data).advisory.severity == (("CVSS_V3", "CVSS:3.1/own"), ("CVSS_V3", "CVSS:3.1/record"))

    def test_ubuntu_priority(self) -> None:
        by_type = record(
            "UBUNTU-CVE-2024-1", entry("Ubuntu:24.04:LTS", "x"), severity=[{"type": "Ubuntu", "score": "low"}]
        )
        by_entry = record("USN-1", entry("Ubuntu:24.04:LTS", "x", ecosystem_specific={"ubuntu_priority": "high"}))
        assert kept(by_type).advisory.rating == "low"
        assert kept(by_entry).advisory.rating == "high"

    def test_summary_of_a_language_record_is_no_rating(self) -> None:
        assert kept(record("GHSA-1", entry("npm", "x"), summary="Critical: fix it")).advisory.rating == ""

    def test_unknown_is_taken_only_alone(self) -> None:
        alone = record("GHSA-1", entry("npm", "x"), database_specific={"severity": "Unknown"})
        beside = record(
            "AZL-1",
            entry("Azure Linux:3", "x", database_specific={"severity": "HIGH"}),
            database_specific={"severity": "Unknown"},
        )
        assert kept(alone).advisory.rating == "Unknown"
        assert kept(beside).advisory.rating == "HIGH"

    @pytest.mark.parametrize("value", [7.5, None, ["HIGH"], {"level": 1}, "x" * 65])
    def test_free_form_fields_of_any_type_do_no_harm(self, value: Any) -> None:
        specific = {"severity": value, "urgency": value, "binaries": value, "ubuntu_priority": value}
        data = record("RHSA-1:1", entry("Red Hat:x", "y", ecosystem_specific=specific), database_specific=specific)
        found = kept(data)
        assert found.advisory.rating == ""
        assert found.affected[0].urgency == ""


class TestBinaries:
    @pytest.mark.parametrize(
        ("binaries", "expected"),
        [
            ([{"libfoo1": "1.2", "foo": "1.2"}], ("libfoo1", "foo")),
            ([{"binary_name": "foo", "binary_version": "1"}, "bar", 7, ""], ("foo", "bar")),
            ([{"binary_name": None}], ()),
            ({"x86_64": ["foo-libs-1.2-3.oe2403.x86_64.rpm", 7, "odd"], "src": "no list"}, ("foo-libs",)),
        ],
    )
    def test_forms(self, binaries: Any, expected: tuple[str, ...]) -> None:
        data = record("SUSE-1", entry("SUSE:Linux", "foo", ecosystem_specific={"binaries": binaries}))
        assert kept(data).affected[0].binaries == expected

    def test_only_where_they_decide_anything(self) -> None:
        data = record("USN-1", entry("Ubuntu:24.04:LTS", "x", ecosystem_specific={"binaries": [{"y": "1"}]}))
        assert kept(data).affected[0].binaries == ()


class TestRanges:
    def test_versions_of_a_distribution_only_repeat_its_ranges(self) -> None:
        assert kept(record("D-1", entry("Debian:12", "x", versions=["1"]))).affected[0].versions == ()
        without = {"package": {"ecosystem": "Debian:12", "name": "x"}, "versions": ["1"]}
        assert kept(record("D-1", without)).affected[0].versions == ("1",)

    def test_all_keys_of_an_event_and_their_order(self) -> None:
        data = record(
            "A-1",
            {
                "package": {"ecosystem": "npm", "name": "x"},
                "ranges": [
                    {
                        "type": "SEMVER",
                        "events": [{"limit": "9", "introduced": "1"}, {"last_affected": "3"}, {"new": "4"}],
                    },
                    {"type": "ECOSYSTEM", "events": [{"other": "1"}]},
                    {"type": "FUTURE", "events": [{"introduced": "0"}]},
                    {"type": "SEMVER", "events": None},
                ],
            },
        )
        assert kept(data).affected[0].ranges == (
            Range(type="SEMVER", events=(("introduced", "1"), ("limit", "9"), ("last_affected", "3"))),
        )

    def test_a_range_without_introduced_is_left_to_the_matcher(self) -> None:
        data = record(
            "A-1",
            {"package": {"ecosystem": "npm", "name": "x"}, "ranges": [{"type": "SEMVER", "events": [{"fixed": "2"}]}]},
        )
        assert kept(data).affected[0].ranges[0].events == (("fixed", "2"),)

    @pytest.mark.parametrize(
        "claim",
        [
            {},
            {"package": None},
            {"package": {"ecosystem": "", "name": "x"}},
            {"package": {"ecosystem": "npm", "name": " "}},
            {
                "package": {"ecosystem": "npm", "name": "x"},
                "ranges": [{"type": "GIT", "events": [{"introduced": "0"}]}],
            },
            {"package": {"ecosystem": "npm", "name": "x"}, "ranges": None, "versions": None},
        ],
    )
    def test_entry_about_nothing(self, claim: dict[str, Any]) -> None:
        found = dropped(record("A-1", claim))
        assert (found.reason, found.empty) == ("nothing-usable", 1)


class TestTolerance:
    def test_nulls_and_unknown_fields(self) -> None:
        data = record(
            "A-1",
            entry("npm", "x", severity=None, ecosystem_specific=None, database_specific=None, future={"a": 1}),
            aliases=None, upstream=None, related=None, severity=None, summary=None, details=None,
            references=None, published=None, withdrawn=None, database_specific=None, schema_version="9.9.9", credits=7,
        )  # fmt: skip
        assert kept(data).affected[0].name == "x"

    def test_byte_order_mark(self) -> None:
        assert kept(b"\xef\xbb\xbf" + record("A-1", entry("npm", "x"))).advisory.id == "A-1"

    def test_no_affected_at_all(self) -> None:
        assert dropped(b'{"id": "A-1"}').reason == "nothing-usable"

    @pytest.mark.parametrize(
        "data",
        [
            b'{"id": ""}',
            b'{"id": "a\\u0007b"}',
            json.dumps({"id": "x" * 257}).encode(),
            b'{"modified": "2024-01-01T00:00:00Z"}',
            b'{"id": 7}',
            b'{"id": "A", "affected": {}}',
            b'{"id": "A", "summary": "\\ud800"}',
            b'{"id": "A", "summary": "\xff"}',
            b'{"id": "A", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        ],
    )
    def test_what_is_no_record(self, data: bytes) -> None:
        with pytest.raises(DataError, match="not an OSV record"):
            parse(data, DEFAULT_LIMITS)

    def test_long_texts_are_cut(self) -> None:
        data = record("A-1", entry("npm", "x"), summary="s" * 9000, details="d" * 9000)
        parsed = parse(data, replace(DEFAULT_LIMITS, advisory_text_chars=100))
        assert isinstance(parsed, Record)
        assert (len(parsed.advisory.summary), len(parsed.advisory.details)) == (1024, 100)
        assert parsed.advisory.details.endswith("…")

    @pytest.mark.parametrize("url", ["javascript:alert(1)", "http://x/", "ftp://x", "https://" + "x" * 2000])
    def test_only_https_becomes_a_link(self, url: str) -> None:
        data = record("A-1", entry("npm", "x"), references=[{"type": "ADVISORY", "url": url}, {"url": "https://ok"}])
        assert kept(data).advisory.url == "https://ok"

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["id", "affected", "package", "ranges", "events", "name", "severity", "aliases"]),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=20,
        )
    )
    @settings(max_examples=200, deadline=None)
    def test_any_json_is_a_record_or_a_data_error(self, value: Any) -> None:
        try:
            parsed = parse(json.dumps(value).encode(), DEFAULT_LIMITS)
        except DataError:
            return
        assert isinstance(parsed, (Record, Dropped))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-01T10:00:00Z", "2024-05-01T10:00:00Z"),
        ("2024-05-01T10:00:00.123Z", "2024-05-01T10:00:00.123Z"),
        ("2024-05-01T12:00:00+02:00", "2024-05-01T10:00:00Z"),
        ("2024-05-01T10:00:00", "2024-05-01T10:00:00Z"),
        ("2024-05-01", "2024-05-01T00:00:00Z"),
        ("yesterday", ""),
        ("0001-01-01T00:00:00+14:00", ""),
        ("", ""),
    ],
)
def test_moments_are_utc(text: str, expected: str) -> None:
    assert moment(text) == expected


def test_reads_json_files_only() -> None:
    assert OSV.reads("PyPI/PYSEC-1.json")
    assert not OSV.reads("modified_id.csv")
