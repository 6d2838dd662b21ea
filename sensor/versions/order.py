"""What a version order is: a value that turns versions of one ecosystem into keys that Python compares.

Leaves the orders themselves to the modules beside this one, and the choice of an order to `ORDERS` in the package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

LONGEST_VERSION = 1_000
"""Characters. Longer texts are no versions; the bound keeps a hostile one from costing quadratic time and memory in the caches."""

KEYS_KEPT = 32_768
"""Keys each order remembers. One image against one database needs a few thousand, the next image mostly the same ones."""

Key: TypeAlias = tuple[object, ...]
"""Comparable with any other key of the same order; equal keys are equal versions. The first item is `COMPARABLE` or `UNPARSABLE`."""

UNPARSABLE = 0
COMPARABLE = 1


def unparsable_key(version: str) -> Key:
    """The key of a text that is no version: below every version, among its like in the order of the text."""
    return (UNPARSABLE, version)


def as_written(bound: str) -> str:
    """The default of `VersionOrder.read_bound`: bounds are written as the ecosystem writes versions."""
    return bound


def same_precision(installed: str, _bound: str) -> str:
    """The default of `VersionOrder.seen_by`: bounds of this order are as precise as installed versions."""
    return installed


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionOrder:
    """One way of ordering versions.

    `key` never raises and gives a total order over all texts. `is_valid` tells whether a text is a version at all; where it is not, an answer that
    depends on its key is worth nothing and the matcher says so. `seen_by(installed, bound)` is the installed version cut to the
    precision of a range's bound (rpm: a bound without a release speaks about the version only). `read_bound` repairs the ways in which
    published ranges are known to misspell versions; installed versions are never repaired.
    """

    name: str
    key: Callable[[str], Key]
    is_valid: Callable[[str], bool]
    seen_by: Callable[[str, str], str] = same_precision
    read_bound: Callable[[str], str] = as_written


def compare(order: VersionOrder, a: str, b: str) -> int:
    """-1, 0 or 1, as `a` is lower than, equal to or higher than `b`."""
    key_a, key_b = order.key(a), order.key(b)
    return (key_a > key_b) - (key_a < key_b)
