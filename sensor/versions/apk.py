"""The order of apk: `digits(.digits)*[letter](_suffix[number])*[~hash][-rN]` (apk-package(5), "Package version").

A key is the list of tokens, each (rank of its kind, value). Where two versions go on with tokens of different kinds, the rank decides: a
pre-release suffix is below the end, everything else of the grammar above it. Texts that break the grammar occur in real secdb data
(`2.7.16-33`, `0.8.21.r2`); like apk-tools 3, the key compares them up to the first token that cannot be read, which is below the end.
"""

from __future__ import annotations

import re
from enum import IntEnum
from functools import lru_cache
from typing import TypeAlias

from sensor.versions.order import COMPARABLE, KEYS_KEPT, LONGEST_VERSION, Key, VersionOrder, unparsable_key

_PRE_SUFFIXES = ("alpha", "beta", "pre", "rc")
_SUFFIXES = (*_PRE_SUFFIXES, "cvs", "svn", "git", "hg", "p")
_SUFFIX = re.compile("|".join(_SUFFIXES))
_FIRST = re.compile("[0-9]")
_DIGITS = re.compile("[0-9]*")
_HASH = re.compile("[0-9a-f]*")
_REVISION = re.compile("r(?![A-Za-z])")

_MISSPELT_REVISION = re.compile(r"([0-9][0-9a-z._]*?)(?:\.-r|-|\.r)([0-9]+)")


class _Kind(IntEnum):
    """Kinds of tokens, lowest first where two versions differ in how they go on."""

    PRE_SUFFIX = 0
    UNREADABLE = 1
    EMPTY = 2
    END = 3
    REVISION = 4
    HASH = 5
    SUFFIX_NUMBER = 6
    SUFFIX = 7
    LETTER = 8
    DIGITS = 9
    COMPONENT = 10


_AFTER_DIGIT = {_Kind.LETTER: _Kind.DIGITS, _Kind.SUFFIX: _Kind.SUFFIX_NUMBER}
"""What a digit continues, by the kind before it."""

_Token: TypeAlias = tuple[_Kind, int, str]


class _Reader:
    """Cuts one version into tokens, left to right."""

    __slots__ = ("_at", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def tokens(self) -> tuple[_Token, ...]:
        """All tokens, the last being END or UNREADABLE."""
        found: list[_Token] = []
        kind = _Kind.DIGITS
        while kind not in {_Kind.END, _Kind.UNREADABLE}:
            token, following = self._take(kind)
            found.append(token)
            kind = following if following is not None else self._next_kind(kind)
        found.append((kind, 0, ""))
        return tuple(found)

    def _take(self, kind: _Kind) -> tuple[_Token, _Kind | None]:
        """The token of this kind at the current place, and the kind after it where the token itself decides that."""
        if kind is _Kind.LETTER:
            self._at += 1
            return (kind, 0, self._text[self._at - 1]), None
        if kind is _Kind.SUFFIX:
            return self._take_suffix()
        if kind is _Kind.HASH:
            return (kind, 0, self._match(_HASH)), None
        if kind is _Kind.COMPONENT and self._text[self._at : self._at + 1] == "0":
            # A component with leading zeros is a fraction: more zeros are less, then the rest counts as digits of its own.
            rest = self._text[self._at :]
            zeros = len(rest) - len(rest.lstrip("0"))
            self._at += zeros
            return (kind, -zeros, ""), _Kind.DIGITS if self._at < len(self._text) else _Kind.END
        digits = self._match(_DIGITS)
        if kind is _Kind.COMPONENT and not digits:
            return (_Kind.EMPTY, 0, ""), None
        return (kind, *_number(digits)), None

    def _take_suffix(self) -> tuple[_Token, _Kind | None]:
        match = _SUFFIX.match(self._text, self._at)
        if match is None:
            # apk reads an unknown suffix as the last of the pre-releases and gives up after it.
            return (_Kind.PRE_SUFFIX, _PRE_SUFFIXES.index("rc"), ""), _Kind.UNREADABLE
        self._at = match.end()
        kind = _Kind.PRE_SUFFIX if match[0] in _PRE_SUFFIXES else _Kind.SUFFIX
        return (kind, _SUFFIXES.index(match[0]), ""), None

    def _match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        text = match[0] if match else ""
        self._at += len(text)
        return text

    def _next_kind(self, last: _Kind) -> _Kind:
        """What follows a token, by its first character; the separator is consumed."""
        if self._at >= len(self._text):
            return _Kind.END
        character = self._text[self._at]
        if "a" <= character <= "z":
            if last in {_Kind.DIGITS, _Kind.COMPONENT}:
                return _Kind.LETTER
        elif "0" <= character <= "9":
            return _AFTER_DIGIT.get(last, _Kind.UNREADABLE)
        return self._separated(character, last)

    def _separated(self, character: str, last: _Kind) -> _Kind:
        """What a separator announces, where it may stand after the last token."""
        self._at += 1
        if character == "." and last in {_Kind.DIGITS, _Kind.COMPONENT}:
            return _Kind.COMPONENT
        if character == "_" and last > _Kind.HASH:
            return _Kind.SUFFIX
        if character == "~" and last > _Kind.HASH:
            return _Kind.HASH
        if character == "-" and last is not _Kind.REVISION and _REVISION.match(self._text, self._at):
            self._at += 1
            return _Kind.REVISION
        return _Kind.UNREADABLE


def _number(digits: str) -> tuple[int, str]:
    """A number as (count of digits, digits): compares like the number, whatever its length."""
    digits = digits.lstrip("0")
    return len(digits), digits


def is_valid(version: str) -> bool:
    """Whether the text starts like a version. Looser than the grammar: what follows is compared as far as it can be read."""
    return len(version) <= LONGEST_VERSION and _FIRST.match(version) is not None


@lru_cache(maxsize=KEYS_KEPT)
def key(version: str) -> Key:
    """The tokens. Only over-long texts are unparsable."""
    if len(version) > LONGEST_VERSION:
        return unparsable_key(version)
    return (COMPARABLE, _Reader(version).tokens())


def read_bound(bound: str) -> str:
    """`2.7.16-33`, `10.2.22.r0` and `1.18.-r2` of real secdb data mean `2.7.16-r33`, `10.2.22-r0` and `1.18-r2`."""
    match = _MISSPELT_REVISION.fullmatch(bound)
    return f"{match[1]}-r{match[2]}" if match else bound


APK = VersionOrder(name="apk", key=key, is_valid=is_valid, read_bound=read_bound)
