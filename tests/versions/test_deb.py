from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.versions import compare
from sensor.versions.deb import DEB, is_valid
from sensor.versions.order import LONGEST_VERSION

from .tables import assert_total_order, assert_unparsable_is_lowest, versions_like, wrong_cases

_TEXTS = versions_like("01a~+.-:")


@pytest.mark.parametrize("table", ["debian-versions", "debian-versions-generated"])
def test_orders_all_versions_as_dpkg_did(table: str) -> None:
    assert wrong_cases(DEB, table) == []


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("1.0~rc1", "1.0"),
        ("1.0~~", "1.0~"),
        ("1.0", "1.0a"),
        ("1.0a", "1.0+"),
        ("9:1", "10:0.1"),
        ("99", "1:0"),
        ("1.0-1", "1.0-1+b1"),
        ("1.0-1~bpo12+1", "1.0-1"),
        ("3.0.11-1~deb12u1", "3.0.11-1~deb12u2"),
        ("1.2.3-rc-1", "1.2.3-rc-2"),
        ("0~1", ""),
        ("1.9", "1.10"),
    ],
)
def test_lower_and_higher(lower: str, higher: str) -> None:
    if higher:
        assert compare(DEB, lower, higher) == -1
    else:  # a revision that starts with zero and a tilde is below the missing one
        assert compare(DEB, f"1-{lower}", "1") == -1


@pytest.mark.parametrize(
    ("a", "b"), [("1.0", "0:1.0"), ("1.0", "1.0-0"), ("0.0.0", "0.0.0-00"), ("1.01", "1.1"), ("1.", "1.0")]
)
def test_equal_spellings(a: str, b: str) -> None:
    assert compare(DEB, a, b) == 0


@pytest.mark.parametrize("version", ["2.4.18-5woody1.", "1:2", "a", "1_2"])
def test_accepts_what_archives_hold(version: str) -> None:
    assert is_valid(version)


@pytest.mark.parametrize("version", ["", "1 2", "(1.5.6-2", "x:1", "1:", "1\n", "１.０", "1" * (LONGEST_VERSION + 1)])
def test_other_texts_are_below_every_version(version: str) -> None:
    assert_unparsable_is_lowest(DEB, version, "0~~")


@settings(deadline=None, max_examples=150)
@given(_TEXTS, _TEXTS, _TEXTS)
def test_is_a_total_order(a: str, b: str, c: str) -> None:
    assert_total_order(DEB, a, b, c)


_PARTS = st.text(alphabet="019az.+~", min_size=1, max_size=6).map(lambda tail: f"1{tail}")
_VERSIONS = st.builds(
    lambda epoch, upstream, revision: f"{epoch}{upstream}{revision}",
    st.sampled_from(["", "0:", "1:"]),
    _PARTS,
    st.one_of(st.just(""), st.text(alphabet="019az.+~", min_size=1, max_size=4).map(lambda text: f"-{text}")),
)


@settings(deadline=None, max_examples=120)
@given(_VERSIONS, _VERSIONS)
def test_agrees_with_the_dpkg_of_this_machine(a: str, b: str) -> None:
    relation = {-1: "lt", 0: "eq", 1: "gt"}[compare(DEB, a, b)]
    assert subprocess.run(["dpkg", "--compare-versions", a, relation, b], check=False).returncode == 0
