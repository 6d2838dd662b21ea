"""Globs as the configuration promises them."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensor.catalog.globs import compile_glob


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*", ["", "a", "team/app", "a/b/c"], []),
        ("**", ["", "a", "team/app"], []),
        ("team/*", ["team/app", "team/"], ["team", "team/app/x", "steam/app"]),
        ("team/**", ["team/app", "team/app/x"], ["team", "other/app"]),
        ("**/app", ["app", "team/app", "a/b/app"], ["myapp", "team/myapp", "app/x"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb", "b", "a/b/c"]),
        ("a/**/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["a/xb"]),
        ("a**b", ["ab", "a/b", "axx/yb"], ["a/c"]),
        ("*-dev", ["1-dev", "-dev"], ["1-dev2", "x/1-dev"]),
        ("v?", ["v1", "vx"], ["v", "v10", "v/"]),
        ("v[0-9]*", ["v1", "v1.2"], ["va", "v"]),
        ("v[!0-9]", ["va"], ["v1", "v/", "v"]),
        ("[a-c]/[x-z]", ["a/x", "c/z"], ["a/a", "d/x"]),
        ("[]]", ["]"], ["[", "x"]),
        ("[!]]", ["x"], ["]", "/"]),
        ("[]", ["[]"], ["", "["]),
        ("[!]", ["[!]"], ["!", "x"]),
        ("[a", ["[a"], ["a"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("[z-a]", [], ["a", "z", "-"]),
        ("[^a]", ["^", "a"], ["b"]),
        ("[a/]", ["a"], ["/"]),
        ("[!z-a]", ["a", "z"], ["/", ""]),
        (r"[\d.]", ["d", ".", "\\"], ["1"]),
        ("a.b+c(d)", ["a.b+c(d)"], ["aXb+c(d)"]),
        ("App", ["App"], ["app"]),
        ("", [""], ["a"]),
        ("***", ["", "a/b"], []),
    ],
)
def test_globs(pattern: str, matching: list[str], others: list[str]) -> None:
    glob = compile_glob(pattern)
    assert [name for name in matching if not glob.matches(name)] == []
    assert [name for name in others if glob.matches(name)] == []


def naive(pattern: str, name: str) -> bool:
    """The meaning of a pattern, tried out recursively: exponential, and written without looking at the automaton."""
    return pattern == "*" or naive_rest(pattern, 0, name, 0)


def naive_rest(pattern: str, p: int, name: str, n: int) -> bool:
    if p == len(pattern):
        return n == len(name)
    if pattern[p] == "*":
        return naive_stars(pattern, p, name, n)
    if n == len(name):
        return False
    if pattern[p] == "[" and (found := naive_class(pattern, p)):
        members, negated, p = found
        fits = name[n] != "/" and (name[n] in members) != negated
    else:
        fits = name[n] != "/" if pattern[p] == "?" else pattern[p] == name[n]
        p += 1
    return fits and naive_rest(pattern, p, name, n + 1)


def naive_stars(pattern: str, p: int, name: str, n: int) -> bool:
    end = p
    while end < len(pattern) and pattern[end] == "*":
        end += 1
    if end - p == 2 and pattern[end : end + 1] == "/" and (p == 0 or pattern[p - 1] == "/"):
        slashes = [at for at in range(n, len(name)) if name[at] == "/"]
        return any(naive_rest(pattern, end + 1, name, at) for at in (n, *(slash + 1 for slash in slashes)))
    for stop in range(n, len(name) + 1):
        if naive_rest(pattern, end, name, stop):
            return True
        if name[stop : stop + 1] == "/" and end - p == 1:
            return False
    return False


def naive_class(pattern: str, p: int) -> tuple[set[str], bool, int] | None:
    first = p + 1 + (pattern[p + 1 : p + 2] == "!")
    close = pattern.find("]", first + 1)
    if close < 0:
        return None
    text, members = pattern[first:close], set()
    while text:
        if len(text) > 2 and text[1] == "-":
            members |= {chr(code) for code in range(ord(text[0]), ord(text[2]) + 1)}
            text = text[3:]
        else:
            members.add(text[0])
            text = text[1:]
    return members, first == p + 2, close + 1


@given(st.text("ab/*?", max_size=8), st.text("ab/", max_size=8))
def test_stars_mean_what_the_naive_matcher_says(pattern: str, name: str) -> None:
    assert compile_glob(pattern).matches(name) == naive(pattern, name)


@given(st.text("ab-c/*?[]!^\\", max_size=9), st.text("abc-/]^\\", max_size=6))
def test_classes_mean_what_the_naive_matcher_says(pattern: str, name: str) -> None:
    assert compile_glob(pattern).matches(name) == naive(pattern, name)


@given(st.text("abc/.*?[]", max_size=10))
def test_a_pattern_of_no_special_character_matches_itself_only(name: str) -> None:
    pattern = re.sub(r"[*?\[]", "x", name)
    assert compile_glob(pattern).matches(pattern)
    assert not compile_glob(pattern).matches(pattern + "x")


def test_time_does_not_explode_with_stars() -> None:
    started = time.perf_counter()
    assert not compile_glob("*a" * 30 + "b").matches("a" * 255)
    assert not compile_glob("**a*" * 30 + "b").matches("a/" * 127)
    assert time.perf_counter() - started < 1
