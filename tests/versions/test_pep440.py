from __future__ import annotations

import pytest
from hypothesis import given, settings

from sensor.versions import compare
from sensor.versions.order import LONGEST_VERSION
from sensor.versions.pep440 import PEP440, read_bound, seen_by

from .tables import assert_total_order, assert_unparsable_is_lowest, versions_like, wrong_cases

_TEXTS = versions_like("01a.-+!rcdev")


@pytest.mark.parametrize("table", ["pypi-versions", "pypi-versions-generated"])
def test_orders_all_versions_as_the_tables_say(table: str) -> None:
    assert wrong_cases(PEP440, table) == []


@pytest.mark.parametrize(
    ("lower", "higher"),
    [("1.0.dev1", "1.0a1"), ("1.0rc1", "1.0"), ("1.0", "1.0+cu118"), ("1.0", "1.0.post1"), ("2024.1", "1!0.1")],
)
def test_lower_and_higher(lower: str, higher: str) -> None:
    assert compare(PEP440, lower, higher) == -1


@pytest.mark.parametrize(("a", "b"), [("1.0", "v1.0.0"), ("1.0-alpha.1", "1.0a1"), ("1.0-1", "1.0.post1")])
def test_equal_spellings(a: str, b: str) -> None:
    assert compare(PEP440, a, b) == 0


@pytest.mark.parametrize("version", ["", "0.1-bulbasaur", "0.1.0.dev-120828c", "2019-09-12", "1." * LONGEST_VERSION])
def test_legacy_texts_are_below_every_version(version: str) -> None:
    assert_unparsable_is_lowest(PEP440, version, "0.dev0")


def test_a_bound_without_local_part_speaks_about_the_public_version() -> None:
    assert seen_by("2.0.1+cu118", "2.0.1") == "2.0.1"
    assert seen_by("2.0.1+cu118", "2.0.1+cu121") == "2.0.1+cu118"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2.6.0-NA", "2.6.0"),
        ("2.6.0-cu124", "2.6.0"),
        ("1.0-1", "1.0-1"),
        ("2.9.0-beta1", "2.9.0-beta1"),
        ("2024-09-25", "2024-09-25"),
        ("x.y-1", "x.y-1"),
        ("2.6.0", "2.6.0"),
    ],
)
def test_reads_bounds_as_they_were_meant(written: str, meant: str) -> None:
    assert read_bound(written) == meant


@settings(deadline=None, max_examples=150)
@given(_TEXTS, _TEXTS, _TEXTS)
def test_is_a_total_order(a: str, b: str, c: str) -> None:
    assert_total_order(PEP440, a, b, c)
