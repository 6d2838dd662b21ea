"""The order of Semantic Versioning 2.0.0 (section 11), read as loosely as npm and Go records demand.

Accepted beyond the specification: a leading `v` or `=`, any count of numbers (missing ones are 0), leading zeros. Build metadata is ignored.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sensor.versions.order import COMPARABLE, KEYS_KEPT, LONGEST_VERSION, Key, VersionOrder, unparsable_key

_VERSION = re.compile(
    r"\s*[=vV]*\s*(?P<numbers>[0-9]+(?:\.[0-9]+)*)(?:-(?P<pre>[0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.+-]*)?\s*"
)


def is_valid(version: str) -> bool:
    """Whether the text is numbers with an optional pre-release and build metadata."""
    return len(version) <= LONGEST_VERSION and _VERSION.fullmatch(version) is not None


@lru_cache(maxsize=KEYS_KEPT)
def key(version: str) -> Key:
    """(numbers, released, pre-release identifiers); a release is above all its pre-releases."""
    match = _VERSION.fullmatch(version) if len(version) <= LONGEST_VERSION else None
    if match is None:
        return unparsable_key(version)
    numbers = [int(number) for number in match["numbers"].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    if match["pre"] is None:
        return (COMPARABLE, tuple(numbers), 1, ())
    identifiers = tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in match["pre"].split("."))
    return (COMPARABLE, tuple(numbers), 0, identifiers)


SEMVER = VersionOrder(name="semver", key=key, is_valid=is_valid)
