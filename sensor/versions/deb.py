"""The order of dpkg: `[epoch:]upstream[-revision]` (deb-version(7), "Sorting algorithm").

A key holds the epoch and one string for each of the two other parts, encoded so that plain string comparison gives dpkg's order:
text is spelled in an alphabet where `~` comes before the end of the text, the end before letters, letters before all else, and a number is its
count of digits followed by the digits.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sensor.versions.order import COMPARABLE, KEYS_KEPT, LONGEST_VERSION, Key, VersionOrder, unparsable_key

_ALLOWED = re.compile(r"(?:(?P<epoch>[0-9]+):)?(?P<rest>[A-Za-z0-9.+~_-]+)")
_PAIRS = re.compile(r"([^0-9]*)0*([0-9]*)")
_END = "\x02"
_ALPHABET = str.maketrans({"~": "\x01", **{other: chr(256 + ord(other)) for other in ".+_-"}})


def _part(text: str) -> str:
    """Alternating text and number, text first; the empty pair that the pattern finds at the end marks the end."""
    encoded = "".join(
        f"{word.translate(_ALPHABET)}{_END}{chr(len(number))}{number}" for word, number in _PAIRS.findall(text)
    )
    return encoded if text else encoded * 2  # an empty part equals 0, which is one pair and the end


def is_valid(version: str) -> bool:
    """Whether dpkg could compare the version. Looser than Debian policy: dots at the end stand in real advisories."""
    return len(version) <= LONGEST_VERSION and _ALLOWED.fullmatch(version) is not None


@lru_cache(maxsize=KEYS_KEPT)
def key(version: str) -> Key:
    """A missing epoch is 0, a missing revision equals the revision 0."""
    match = _ALLOWED.fullmatch(version) if len(version) <= LONGEST_VERSION else None
    if match is None:
        return unparsable_key(version)
    upstream, _, revision = match["rest"].rpartition("-")
    if not upstream:
        upstream, revision = match["rest"], ""
    return (COMPARABLE, int(match["epoch"] or 0), _part(upstream), _part(revision))


DEB = VersionOrder(name="deb", key=key, is_valid=is_valid)
