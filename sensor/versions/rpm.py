"""The order of rpm: `[epoch:]version[-release]`, each part compared segment by segment (rpm-version(7)).

A part becomes one string in which every segment starts with a character that ranks its kind, so that plain string comparison gives rpm's order:
`~` below the end, the end below `^`, then letters, then numbers. A number is its count of digits followed by the digits.
"""

from __future__ import annotations

import re
from functools import lru_cache

from sensor.versions.order import COMPARABLE, KEYS_KEPT, LONGEST_VERSION, UNPARSABLE, Key, VersionOrder, unparsable_key

_SEGMENT = re.compile(r"(?P<mark>[~^])|(?P<letters>[A-Za-z]+)|0*(?P<number>[0-9]+)")
_EVR = re.compile(r"(?:(?P<epoch>[0-9]+):)?(?P<version>[^:-]*[A-Za-z0-9][^:-]*)(?:-(?P<release>[^:-]*))?")
_TILDE, _END, _CARET, _LETTERS, _NUMBER = "\x01", "\x02", "\x03", "\x04", "\x05"


def _segments(text: str) -> str:
    encoded = []
    for mark, letters, number in _SEGMENT.findall(text):
        if mark:
            encoded.append(_TILDE if mark == "~" else _CARET)
        elif letters:
            encoded.append(_LETTERS + letters)
        else:
            digits = number.lstrip("0")
            encoded.append(_NUMBER + chr(len(digits)) + digits)
    return "".join(encoded) + _END


def is_valid(version: str) -> bool:
    """Whether the text is `[epoch:]version[-release]` with a numeric epoch and at least one letter or digit in the version."""
    return len(version) <= LONGEST_VERSION and _EVR.fullmatch(version) is not None


@lru_cache(maxsize=KEYS_KEPT)
def key(version: str) -> Key:
    """A missing epoch is 0. A missing release is below every release: see `seen_by` for bounds without one."""
    if len(version) > LONGEST_VERSION:
        return unparsable_key(version)
    match = _EVR.fullmatch(version)
    if match is None:
        # An epoch of letters, a second dash, only marks: not rpm's, but its segments still tell older from newer.
        return (UNPARSABLE, _segments(version))
    release = match["release"]
    return (
        COMPARABLE,
        int(match["epoch"] or 0),
        _segments(match["version"]),
        "" if release is None else _segments(release),
    )


def seen_by(installed: str, bound: str) -> str:
    """The installed version without its release where the bound has none (`1.2-3` lies in "up to 1.2")."""
    return installed if "-" in bound else installed.partition("-")[0]


def without_epoch(version: str) -> str:
    """`version-release`, as the name of a source package tells it: SOURCERPM carries no epoch."""
    epoch, colon, rest = version.partition(":")
    return rest if colon and epoch.isdecimal() else version


RPM = VersionOrder(name="rpm", key=key, is_valid=is_valid, seen_by=seen_by)
