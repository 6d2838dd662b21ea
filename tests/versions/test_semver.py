from __future__ import annotations

import pytest
from hypothesis import given, settings

from sensor.versions import compare
from sensor.versions.order import LONGEST_VERSION
from sensor.versions.semver import SEMVER

from .tables import assert_total_order, assert_unparsable_is_lowest, versions_like, wrong_cases

_TEXTS = versions_like("01a.-+v")


def test_orders_all_versions_as_the_table_says() -> None:
    assert wrong_cases(SEMVER, "semver-versions") == []


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("1.0.0-alpha", "1.0.0"),
        ("1.0.0-1", "1.0.0-a"),
        ("1.0.0-9", "1.0.0-10"),
        ("1.0.0-a", "1.0.0-a.0"),
        ("1.20.0-0", "1.20.0-rc.1"),
        ("0.0.0-20220606222826-f59ce19ec6b6", "0.0.0-20220926161630-eccd6366d1be"),
        ("0.0.0-20220606222826-f59ce19ec6b6", "0.1.0"),
        ("1.9.0", "1.10.0"),
    ],
)
def test_lower_and_higher(lower: str, higher: str) -> None:
    assert compare(SEMVER, lower, higher) == -1


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("v1.2.3", "1.2.3"),
        ("1.2", "1.2.0"),
        ("1", "1.0.0.0"),
        ("1.2.3+incompatible", "1.2.3"),
        ("=1.2.3", "1.2.3"),
        ("01.2", "1.2"),
    ],
)
def test_equal_spellings(a: str, b: str) -> None:
    assert compare(SEMVER, a, b) == 0


@pytest.mark.parametrize(
    "version", ["", "(devel)", "3.0.RC3", "1.0.0.beta.3", "~", "x", "1..2", "1" * (LONGEST_VERSION + 1)]
)
def test_other_texts_are_below_every_version(version: str) -> None:
    assert_unparsable_is_lowest(SEMVER, version, "0.0.0-0")


@settings(deadline=None, max_examples=150)
@given(_TEXTS, _TEXTS, _TEXTS)
def test_is_a_total_order(a: str, b: str, c: str) -> None:
    assert_total_order(SEMVER, a, b, c)
