from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.model.advisory import Affected, Range
from sensor.scan.ranges import Installed, fixes_above, judge, judge_range
from sensor.versions import order_of
from sensor.versions.rpm import without_epoch


def installed(version: str, ecosystem: str = "PyPI", **more) -> Installed:
    order = order_of(ecosystem)
    assert order is not None
    return Installed(version=version, order=order, **more)


def events(text: str, kind: str = "ECOSYSTEM") -> Range:
    """`introduced 0, fixed 1.2` as a range."""
    pairs = tuple(tuple(part.split(" ", 1)) for part in text.split(", ")) if text else ()
    return Range(type=kind, events=pairs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("range_", "version", "affected"),
    [
        ("introduced 0, fixed 1.2", "1.1", True),
        ("introduced 0, fixed 1.2", "1.2", False),
        ("introduced 0, fixed 1.2", "1.2rc1", True),
        ("introduced 0, fixed 1.2", "0.dev0", True),
        ("introduced 1.0, fixed 1.2", "0.9", False),
        ("introduced 1.0, fixed 1.2", "1.0", True),
        ("introduced 0, last_affected 1.2", "1.2", True),
        ("introduced 0, last_affected 1.2", "1.2.1", False),
        ("introduced 0", "99", True),
        ("introduced 2.0", "1.9", False),
        ("introduced 2.0", "2.0", True),
        ("fixed 1.2", "1.0", False),
        ("last_affected 1.2", "1.0", False),
        ("", "1.0", False),
        ("introduced 0, fixed 0", "1.0", False),
        ("fixed 0", "1.0", False),
        ("introduced 1.2, fixed 1.2", "1.2", False),
        ("introduced 1.2, last_affected 1.2", "1.2", True),
        ("introduced 1.2, last_affected 1.2", "1.3", False),
        ("fixed 1.2, introduced 0", "1.1", True),
        ("introduced 0, fixed 1.0, introduced 2.0, fixed 2.5", "1.5", False),
        ("fixed 2.5, introduced 2.0, introduced 0, fixed 1.0", "2.4", True),
        ("introduced 0, limit 2.0", "1.9", True),
        ("introduced 0, limit 2.0", "2.0", False),
        ("introduced 0, limit 1.0, limit 2.0", "1.5", True),
        ("introduced 0, limit *", "99", True),
    ],
)
def test_evaluates_events_as_the_schema_says(range_: str, version: str, affected: bool) -> None:
    assert judge_range(events(range_), installed(version)).affected is affected


@pytest.mark.parametrize(
    ("range_", "version", "words", "fixed"),
    [
        ("introduced 0", "1.0", "all versions", ""),
        ("introduced 0, fixed 1.2", "1.0", "before 1.2", "1.2"),
        ("introduced 1.0, fixed 1.2", "1.0", "from 1.0 before 1.2", "1.2"),
        ("introduced 1.0, last_affected 1.2", "1.0", "from 1.0 up to 1.2", ""),
        ("introduced 0, last_affected 1.2", "1.0", "up to 1.2", ""),
        ("introduced 1.0", "1.0", "from 1.0 on", ""),
        (
            "introduced 0, fixed 1.0, introduced 2.0, fixed 2.5, introduced 3, fixed 3.1",
            "2.1",
            "from 2.0 before 2.5",
            "2.5",
        ),
        ("introduced 0, fixed 1.0, introduced 2.0, fixed 2.5", "0.1", "before 1.0", "1.0"),
    ],
)
def test_tells_the_range_and_the_next_fix(range_: str, version: str, words: str, fixed: str) -> None:
    verdict = judge_range(events(range_), installed(version))
    assert verdict.affected
    assert (verdict.words, verdict.fixed) == (words, fixed)


def test_introduced_zero_is_below_epochs_and_tildes() -> None:
    assert judge_range(events("introduced 0, fixed 1:2"), installed("0~~1", "Debian:12")).affected
    assert judge_range(events("introduced 0", "SEMVER"), installed("0.0.0-0", "npm")).affected


def test_a_semver_range_of_another_ecosystem_is_read_as_semver() -> None:
    assert judge_range(events("introduced 0, fixed 1.0.0-rc.2", "SEMVER"), installed("1.0.0-rc.1")).affected


@pytest.mark.parametrize(
    ("range_", "version", "affected"),
    [
        ("introduced 0, fixed 1.0", "no-version", None),
        ("introduced 0, fixed 2024-09-12", "1.0", None),
        ("introduced 0", "no-version", True),
        ("introduced 0, fixed 0", "no-version", False),
    ],
)
def test_what_cannot_be_compared_is_undecided(range_: str, version: str, affected: bool | None) -> None:
    assert judge_range(events(range_), installed(version)).affected is affected


def test_bounds_less_precise_than_versions_are_compared_at_their_precision() -> None:
    assert judge_range(events("introduced 0, last_affected 2.0.1"), installed("2.0.1+cu118")).affected
    assert judge_range(events("introduced 0, last_affected 1.2"), installed("1.2-3.el9", "AlmaLinux:9")).affected
    assert not judge_range(events("introduced 0, fixed 1.2"), installed("1.2-3.el9", "AlmaLinux:9")).affected


def test_bounds_are_read_without_an_epoch_that_the_version_lacks() -> None:
    below = events("introduced 0, fixed 4:5.16-2")
    assert judge_range(below, installed("5.16-2", "AlmaLinux:9")).affected
    assert not judge_range(below, installed("5.16-2", "AlmaLinux:9", read_bound=without_epoch)).affected


def entry(*ranges: Range, versions: tuple[str, ...] = ()) -> Affected:
    return Affected(advisory="X-1", ecosystem="PyPI", name="x", ranges=ranges, versions=versions)


def test_any_range_of_an_entry_suffices() -> None:
    two = entry(events("introduced 0, fixed 1.0"), events("introduced 2.0, fixed 2.1"))
    assert judge(two, installed("2.0"), with_list=True).fixed == "2.1"
    assert judge(two, installed("1.0"), with_list=True).affected is False
    assert judge(entry(), installed("1.0"), with_list=True).affected is False


@pytest.mark.parametrize(
    ("version", "affected"),
    [("1.0", True), ("1.0.0", True), ("v1", True), ("1.0+local", True), ("1.1", False), ("odd", True), ("even", False)],
)
def test_listed_versions_are_compared_in_normal_form(version: str, affected: bool) -> None:
    verdict = judge(entry(versions=("1.0", "odd")), installed(version), with_list=True)
    assert verdict.affected is affected
    assert verdict.words == (f"listed: {version}" if affected else "")


def test_a_list_decides_where_ranges_cannot() -> None:
    listed = entry(events("introduced 0, fixed 2024-09-12"), versions=("1.0",))
    assert judge(listed, installed("1.0"), with_list=True).affected
    assert judge(listed, installed("2.0"), with_list=True).affected is False
    assert judge(listed, installed("2.0"), with_list=False).affected is None


def test_fixes_of_all_ranges_above_the_installed_version() -> None:
    many = entry(
        events("introduced 0, fixed 1.5"),
        events("introduced 2.0, last_affected 2.9"),
        events("introduced 3.0, fixed 3.1"),
        events("introduced 3.0, fixed unreadable"),
    )
    assert [text for _, text in fixes_above(many, installed("2.5"))] == ["3.1"]


_NUMBERS = st.integers(min_value=1, max_value=6)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["introduced", "fixed", "last_affected"]), _NUMBERS), max_size=6), _NUMBERS)
def test_agrees_with_the_schema_s_pseudo_code(pairs: list[tuple[str, int]], version: int) -> None:
    vulnerable = False
    for kind, bound in sorted(
        pairs, key=lambda pair: (pair[1], ["introduced", "fixed", "last_affected"].index(pair[0]))
    ):
        if kind == "introduced" and version >= bound:
            vulnerable = True
        elif (kind == "fixed" and version >= bound) or (kind == "last_affected" and version > bound):
            vulnerable = False
    range_ = Range(type="SEMVER", events=tuple((kind, f"{bound}.0") for kind, bound in pairs))  # type: ignore[misc]
    verdict = judge_range(range_, installed(str(version), "npm"))
    assert verdict.affected is vulnerable
    assert not verdict.fixed or int(verdict.fixed.partition(".")[0]) > version
