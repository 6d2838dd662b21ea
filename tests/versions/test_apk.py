from __future__ import annotations

import pytest
from hypothesis import given, settings

from sensor.versions import compare
from sensor.versions.apk import APK, is_valid, read_bound
from sensor.versions.order import LONGEST_VERSION

from .tables import assert_total_order, assert_unparsable_is_lowest, versions_like, wrong_cases

_TEXTS = versions_like("01a._-~rp")


@pytest.mark.parametrize("table", ["alpine-versions", "alpine-versions-generated"])
def test_orders_all_versions_as_apk_did(table: str) -> None:
    assert wrong_cases(APK, table) == []


def test_suffixes_in_order() -> None:
    names = ["_alpha", "_beta", "_pre", "_rc", "", "_cvs", "_svn", "_git", "_hg", "_p"]
    versions = [f"1.2{name}-r1" for name in names]
    assert sorted(set(versions), key=APK.key) == versions


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("1.2.4-r5", "1.2.4_git20230717-r4"),
        ("1.2.4_git20230717-r4", "1.2.4_git20230717-r5"),
        ("1.2.4_git20230717-r5", "1.2.5-r0"),
        ("3.1.4-r5", "3.1.4-r10"),
        ("1.1.1k-r0", "1.1.1l-r0"),
        ("1.1.1-r9", "1.1.1a-r0"),
        ("1.05", "1.5"),
        ("1.005", "1.05"),
        ("1.2-r0", "1.2~deadbeef-r0"),
        ("6.6.2_p1-r0", "6.6.2p1-r0"),
        ("8u372_p7-r0", "8u402_p7-r0"),
        ("1_rc1_p1", "1_rc1_p2"),
    ],
)
def test_lower_and_higher(lower: str, higher: str) -> None:
    assert compare(APK, lower, higher) == -1
    assert compare(APK, higher, lower) == 1


@pytest.mark.parametrize("version", ["", "a", ".1", "-r1", "_git1", "1" * (LONGEST_VERSION + 1)])
def test_a_version_starts_with_a_digit(version: str) -> None:
    assert not is_valid(version)


@pytest.mark.parametrize(
    "version", ["2.7.16-33", "0.8.21.r2", "4.10-1-r1", "1.18.-r2", "1_blah", "1A", "1~x", "1.2a.3"]
)
def test_compares_real_misspellings_without_an_error(version: str) -> None:
    assert is_valid(version)
    assert compare(APK, version, version) == 0
    assert compare(APK, version, "99-r0") == -1


def test_over_long_texts_are_lowest() -> None:
    assert_unparsable_is_lowest(APK, "9" * (LONGEST_VERSION + 1), "0_alpha")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2.7.16-33", "2.7.16-r33"),
        ("10.2.22.r0", "10.2.22-r0"),
        ("1.18.-r2", "1.18-r2"),
        ("1.2.3-r4", "1.2.3-r4"),
        ("1.2_git20200101-r0", "1.2_git20200101-r0"),
        ("4.10-1-r1", "4.10-1-r1"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_reads_bounds_as_they_were_meant(written: str, meant: str) -> None:
    assert read_bound(written) == meant


@settings(deadline=None, max_examples=200)
@given(_TEXTS, _TEXTS, _TEXTS)
def test_is_a_total_order(a: str, b: str, c: str) -> None:
    assert_total_order(APK, a, b, c)
