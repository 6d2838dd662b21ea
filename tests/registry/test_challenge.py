"""WWW-Authenticate headers, good and bad."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensor.registry.challenge import Challenge, parse_challenges


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], []),
        ([""], []),
        (
            ['Bearer realm="https://a/token",service="s",scope="repository:a/b:pull,push"'],
            [("bearer", {"realm": "https://a/token", "service": "s", "scope": "repository:a/b:pull,push"})],
        ),
        (
            ['BASIC realm="Sonatype Nexus Repository Manager"'],
            [("basic", {"realm": "Sonatype Nexus Repository Manager"})],
        ),
        (["Basic"], [("basic", {})]),
        (['Bearer realm="x", Basic realm="y"'], [("bearer", {"realm": "x"}), ("basic", {"realm": "y"})]),
        (['Bearer realm="x"', "", 'Basic realm="y"'], [("bearer", {"realm": "x"}), ("basic", {"realm": "y"})]),
        (['Basic realm="a \\"quoted\\", word"'], [("basic", {"realm": 'a "quoted", word'})]),
        (["Negotiate, Basic realm=plain"], [("negotiate", {}), ("basic", {"realm": "plain"})]),
        (["Negotiate YII+/a==, Bearer realm=x"], [("negotiate", {"token68": "YII+/a=="}), ("bearer", {"realm": "x"})]),
        (['Bearer  REALM = "x" , Service="s"'], [("bearer", {"realm": "x", "service": "s"})]),
        (['Bearer realm="x",realm="evil"'], [("bearer", {"realm": "x"})]),
        (['Bearer realm="never closed, scope=a'], [("bearer", {"realm": "never closed, scope=a"})]),
        (['realm="without a scheme", Basic realm=y'], [("basic", {"realm": "y"})]),
        (['"""', ",,,", "=", "\x00"], []),
    ],
)
def test_reads(headers: list[str], expected: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_challenges(headers) == tuple(Challenge(scheme=s, parameters=p) for s, p in expected)


def test_a_missing_parameter_is_empty() -> None:
    assert Challenge(scheme="basic")["realm"] == ""


@given(st.lists(st.text(max_size=80), max_size=4))
@settings(deadline=None, max_examples=200)
def test_nothing_makes_it_raise(headers: list[str]) -> None:
    for challenge in parse_challenges(headers):
        assert challenge.scheme == challenge.scheme.lower()


_words = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8)
_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(st.lists(st.tuples(_words, st.dictionaries(_words, _values, min_size=1, max_size=4)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=100)
def test_what_is_written_by_the_book_is_read_back(challenges: list[tuple[str, dict[str, str]]]) -> None:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    text = ", ".join(f"{s} " + ", ".join(f"{k}={quoted(v)}" for k, v in p.items()) for s, p in challenges)
    assert parse_challenges([text]) == tuple(Challenge(scheme=s, parameters=p) for s, p in challenges)


@pytest.mark.parametrize("piece", [",", " ", "a,", 'a="', "a=", '\\"', "=", "a "])
def test_a_hostile_header_is_read_in_no_time(piece: str) -> None:
    begun = time.monotonic()
    parse_challenges([piece * 200_000])
    assert time.monotonic() - begun < 1
