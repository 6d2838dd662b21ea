from __future__ import annotations

import pytest

from sensor.model.advisory import Advisory
from sensor.scan.canonical import other_names, tracker_cve, vulnerability_names


def names(advisory: Advisory, *, is_distro: bool) -> list[str]:
    return [name.id for name in vulnerability_names(advisory, is_distro=is_distro)]


@pytest.mark.parametrize(
    ("advisory_id", "cve"),
    [
        ("CVE-2023-0001", "CVE-2023-0001"),
        ("DEBIAN-CVE-2023-45853", "CVE-2023-45853"),
        ("ALPINE-CVE-2019-14697", "CVE-2019-14697"),
        ("DSA-5532-1", ""),
        ("CVE-2007-01-09", ""),
        ("xCVE-2023-0001", ""),
    ],
)
def test_tracker_records_are_named_after_one_cve(advisory_id: str, cve: str) -> None:
    assert tracker_cve(advisory_id) == cve


def test_an_erratum_is_about_each_cve_that_it_covers() -> None:
    erratum = Advisory(id="ALSA-2023:1", upstream=("CVE-2023-0002", "CVE-2023-0001"), aliases=("CVE-2023-0001",))
    assert names(erratum, is_distro=True) == ["CVE-2023-0001", "CVE-2023-0002"]


def test_a_tracker_record_is_about_its_own_cve_only() -> None:
    record = Advisory(id="DEBIAN-CVE-2023-0001", upstream=("CVE-2023-0001", "CVE-2023-0009"))
    assert names(record, is_distro=True) == ["CVE-2023-0001"]


@pytest.mark.parametrize("advisory_id", ["ALBA-2019:0973", "ALEA-2021:4239", "RHBA-2024:1"])
def test_errata_without_cves_that_fix_bugs_are_no_vulnerabilities(advisory_id: str) -> None:
    assert names(Advisory(id=advisory_id), is_distro=True) == []
    assert names(Advisory(id=advisory_id, upstream=("CVE-2023-0001",)), is_distro=True) == ["CVE-2023-0001"]


def test_a_security_advisory_without_cve_keeps_its_own_id() -> None:
    assert names(Advisory(id="DSA-3481-1"), is_distro=True) == ["DSA-3481-1"]


def test_records_of_one_language_vulnerability_share_the_cve() -> None:
    records = [
        Advisory(id="GHSA-aaaa-bbbb-cccc", aliases=("CVE-2023-0001", "PYSEC-2023-1")),
        Advisory(id="PYSEC-2023-1", aliases=("CVE-2023-0001", "GHSA-aaaa-bbbb-cccc")),
        Advisory(id="CVE-2023-0001"),
    ]
    assert {name for record in records for name in names(record, is_distro=False)} == {"CVE-2023-0001"}


def test_records_without_exactly_one_cve_keep_their_id_but_share_a_group() -> None:
    first = Advisory(id="GHSA-aaaa-bbbb-cccc", aliases=("CVE-2023-0001", "CVE-2023-0002", "PYSEC-2023-1"))
    second = Advisory(id="PYSEC-2023-1", aliases=("CVE-2023-0001", "CVE-2023-0002", "GHSA-aaaa-bbbb-cccc"))
    (one,) = vulnerability_names(first, is_distro=False)
    (two,) = vulnerability_names(second, is_distro=False)
    assert (one.id, two.id) == ("GHSA-aaaa-bbbb-cccc", "PYSEC-2023-1")
    assert one.group == two.group


def test_malware_is_called_by_its_own_name() -> None:
    assert names(Advisory(id="MAL-2024-1", is_malware=True, aliases=("CVE-2024-0001",)), is_distro=False) == [
        "MAL-2024-1"
    ]


def test_other_cves_of_an_erratum_are_not_other_names() -> None:
    erratum = Advisory(id="DSA-1-1", aliases=("CVE-2023-0001", "CVE-2023-0002", "X-9"))
    assert other_names(erratum, "CVE-2023-0001") == {"DSA-1-1", "X-9"}
    assert other_names(Advisory(id="GHSA-1", aliases=("CVE-2023-0001",)), "GHSA-1") == {"CVE-2023-0001"}
