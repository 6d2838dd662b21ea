"""Reads the version tables, and states what every order owes: never an error, and a total order over all texts."""

from __future__ import annotations

import gzip
from pathlib import Path

from hypothesis import strategies as st

from sensor.versions import VersionOrder, compare

_TABLES = Path(__file__).parents[1] / "fixtures" / "versions"
_SIGNS = {"<": -1, "=": 0, "==": 0, ">": 1}


def read_table(name: str) -> list[tuple[str, str, int]]:
    """(a, b, expected comparison) of each line."""
    lines = gzip.decompress((_TABLES / f"{name}.txt.gz").read_bytes()).decode().splitlines()
    cases = []
    for line in map(str.strip, lines):
        if line and not line.startswith(("#", "//")):
            a, sign, b = line.split(" ")
            cases.append((a, b, _SIGNS[sign]))
    return cases


def wrong_cases(order: VersionOrder, name: str) -> list[tuple[str, str, int]]:
    """The lines of a table that the order answers differently, in either direction."""
    return [
        (a, b, expected)
        for a, b, expected in read_table(name)
        if compare(order, a, b) != expected or compare(order, b, a) != -expected
    ]


def versions_like(alphabet: str) -> st.SearchStrategy[str]:
    """Short texts of an alphabet (so that equal and nearly equal ones are met), mixed with arbitrary ones."""
    return st.one_of(st.text(alphabet=alphabet, max_size=8), st.text(max_size=12))


def assert_total_order(order: VersionOrder, a: str, b: str, c: str) -> None:
    """Reflexive, antisymmetric, transitive, and answered at all."""
    assert compare(order, a, a) == 0
    assert compare(order, a, b) == -compare(order, b, a)
    low, middle, high = sorted((a, b, c), key=order.key)
    assert compare(order, low, middle) <= 0
    assert compare(order, middle, high) <= 0
    assert compare(order, low, high) <= 0
    if compare(order, a, b) == 0:
        assert compare(order, a, c) == compare(order, b, c)


def assert_unparsable_is_lowest(order: VersionOrder, unparsable: str, lowest_real: str) -> None:
    """A text that is no version stands below every version and says so."""
    assert not order.is_valid(unparsable)
    assert order.is_valid(lowest_real)
    assert compare(order, unparsable, lowest_real) == -1
