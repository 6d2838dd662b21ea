"""Ranges of versions: npm's meaning, tags of images as their subject."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.errors import DataError
from sensor.versions.semver_range import parse_range


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=1.2 <3 || ^4", ["1.2.0", "v1.2", "2.99.0", "4.0.0", "4.9"], ["1.1.9", "3.0.0", "5.0.0", "3.9.9"]),
        ("~1.2", ["1.2.0", "1.2.99"], ["1.3.0", "1.1.0", "1.3.0-alpha"]),
        ("~1.2.3", ["1.2.3", "1.2.9"], ["1.2.2", "1.3.0"]),
        ("~1", ["1.0.0", "1.9.9"], ["2.0.0", "0.9.0"]),
        ("~>1.2.3", ["1.2.3"], ["1.3.0"]),
        ("~0.2.3", ["0.2.3", "0.2.9"], ["0.3.0"]),
        ("1.x", ["1.0.0", "1", "v1.7.2"], ["2.0.0", "0.9.9", "2.0.0-rc1"]),
        ("1.2.*", ["1.2.0", "1.2.5"], ["1.3.0"]),
        ("1.2", ["1.2.0", "1.2.5"], ["1.3.0", "1.1.9"]),
        ("1", ["1.2.0"], ["2.0.0"]),
        ("=1.2.3", ["1.2.3", "v1.2.3"], ["1.2.4", "1.2.2", "1.2.3-rc1"]),
        ("v1.2.3", ["1.2.3"], ["1.2.4"]),
        ("^1.2.3", ["1.2.3", "1.9.0"], ["2.0.0", "1.2.2", "2.0.0-0"]),
        ("^0.2.3", ["0.2.3", "0.2.9"], ["0.3.0", "0.2.2"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4", "0.0.2"]),
        ("^0.0", ["0.0.0", "0.0.9"], ["0.1.0"]),
        ("^0", ["0.0.1", "0.9.0"], ["1.0.0"]),
        ("^1.2.x", ["1.2.0", "1.9.0"], ["2.0.0", "1.1.0"]),
        ("1.2.3 - 2.3.4", ["1.2.3", "2.3.4"], ["2.3.5", "1.2.2"]),
        ("1.2 - 2.3", ["1.2.0", "2.3.9"], ["2.4.0", "1.1.9"]),
        ("1.2 - 2", ["2.9.9"], ["3.0.0"]),
        (">1.2", ["1.3.0"], ["1.2.9"]),
        (">1", ["2.0.0"], ["1.9.9"]),
        (">1.2.3", ["1.2.4"], ["1.2.3"]),
        ("<=1.2", ["1.2.9", "0.1.0"], ["1.3.0"]),
        ("<=1.2.3", ["1.2.3"], ["1.2.4"]),
        ("<2", ["1.9.9"], ["2.0.0", "2.0.0-rc1"]),
        (">= 1.2.3, < 2.0.0", ["1.2.3", "1.9.9"], ["2.0.0"]),
        (">=1.2 <1.4 || >=2", ["1.3.9", "2.0.0"], ["1.4.0"]),
        ("*", ["0.0.0", "99.1.2", "v3"], ["1.0.0-rc1"]),
        ("x", ["1.0.0"], ["word"]),
        (">=*", ["1.0.0"], []),
        ("<*", [], ["0.0.0", "1.0.0"]),
        (">*", [], ["99.0.0"]),
        # pre-releases: only of the three numbers that the same alternative names one of
        (">=1.2.3-beta.2 <2", ["1.2.3-beta.2", "1.2.3-beta.10", "1.2.3-rc1", "1.9.0"], ["1.2.3-beta.1", "1.2.4-beta.3"]),
        ("^1.2.3-rc.1 || 3.x", ["1.2.3-rc.2", "3.1.0"], ["3.1.0-rc.1", "1.3.0-rc.1"]),
        ("1.2.3-alpine", ["1.2.3-alpine"], ["1.2.3", "1.2.3-debian", "1.2.4-alpine"]),
        # four numbers, as images have them
        ("^1.2", ["1.2.3.4"], ["2.0.0.1"]),
        ("1.2.3+build5", ["1.2.3"], ["1.2.4"]),
    ],
)  # fmt: skip
def test_ranges(text: str, inside: list[str], outside: list[str]) -> None:
    found = parse_range(text)
    assert [version for version in inside if not found.covers(version)] == []
    assert [version for version in outside if found.covers(version)] == []


@pytest.mark.parametrize(
    "tag", ["latest", "", "stable", "bookworm", "1.x", "1.2.", "release-1.2.3", "1..2", "vv", "-1", "1_2"]
)
def test_words_are_in_no_range(tag: str) -> None:
    assert not parse_range("*").covers(tag)
    assert not parse_range(">=0.0.0-0").covers(tag)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("^1 ||", "is empty"),
        ("|| ^1", "is empty"),
        ("latest", "not a version: 'latest'"),
        (">=", "not a range"),
        (">>1", "not a range"),
        ("1.2.3.4", "not a version"),
        ("01.2.3", "not a version"),
        ("1.2-beta", "needs all three numbers"),
        ("1.x-beta", "needs all three numbers"),
        ("1.2 -1.3", "not a version: '-1.3'"),
        ("1 - 2 - 3", "not a version: '-'"),
        ("1 | 2", "not a version: '|'"),
        ("1\n", "at most"),
        ("1 || " * 100, "at most 256"),
        ("9999999999.0.0", "not a version"),
    ],
)
def test_what_is_no_range_is_refused_with_words(text: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint.replace("|", r"\|")) as raised:
        parse_range(text)
    assert "expected a range" in raised.value.advice


TRIPLES = st.tuples(*[st.integers(0, 3)] * 3)


def shown(triple: tuple[int, ...]) -> str:
    return ".".join(map(str, triple))


def oracle(operator: str, bound: tuple[int, ...], version: tuple[int, int, int]) -> bool:
    """The meaning of a comparator over released versions, from npm's documentation and without bounds or keys."""
    cut = version[: len(bound)]
    match operator:
        case "<":
            return cut < bound
        case "<=":
            return cut <= bound
        case ">":
            return cut > bound
        case ">=":
            return cut >= bound
        case "~":
            same = min(len(bound), 2)
            return cut >= bound and version[:same] == bound[:same]
        case "^":
            same = 1
            while same < len(bound) and not any(bound[:same]):
                same += 1
            return cut >= bound and version[:same] == bound[:same]
        case _:
            return cut == bound


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(["<", "<=", ">", ">=", "~", "^", "=", ""]), TRIPLES, st.integers(1, 3), TRIPLES)
def test_comparators_mean_what_the_oracle_says(
    operator: str, triple: tuple[int, ...], precision: int, version: tuple[int, int, int]
) -> None:
    bound = triple[:precision]
    assert parse_range(operator + shown(bound)).covers(shown(version)) is oracle(operator, bound, version)


@settings(deadline=None, max_examples=200)
@given(TRIPLES, TRIPLES, TRIPLES, st.sampled_from(["", "v"]))
def test_spaces_are_and_bars_are_or(
    low: tuple[int, ...], high: tuple[int, ...], version: tuple[int, ...], prefix: str
) -> None:
    above, below = f">={shown(low)}", f"<{shown(high)}"
    tag = prefix + shown(version)
    assert parse_range(f"{above} {below}").covers(tag) is (low <= version < high)
    assert parse_range(f"{above} || {below}").covers(tag) is (version >= low or version < high)
    assert parse_range(f"{shown(low)} - {shown(high)}").covers(tag) is (low <= version <= high)


@settings(deadline=None, max_examples=200)
@given(st.text("0123.xX*<>=~^|-, vabc", max_size=20), st.text("0123.-vabc", max_size=12))
def test_any_text_is_read_or_refused(text: str, version: str) -> None:
    try:
        found = parse_range(text)
    except DataError:
        return
    assert found.covers(version) in {True, False}
    assert not found.covers("latest")
