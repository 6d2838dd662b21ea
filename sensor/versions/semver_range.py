"""Ranges of semantic versions as npm writes them: `>=1.2 <3 || ^4`, `~1.2`, `1.x`, `1.2 - 1.5`.

Tags of images are what they are asked about, so versions are read as loosely as `semver` reads them: a leading `v`, one to any count of numbers
(missing ones are 0). A pre-release is in a range only where a bound of the same alternative names a pre-release of the same three numbers, as
in npm: `>=1.2` is not meant to bring `1.3.0-rc1`, nor `1.3.0-alpine`. A text that is no version (`latest`) is in no range, not even in `*`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from sensor.errors import DataError
from sensor.versions.order import Key
from sensor.versions.semver import is_valid, key

_LONGEST_RANGE = 256
_PARTIAL = re.compile(
    r"[vV]?(?P<major>0|[1-9][0-9]{0,8}|[xX*])(?:\.(?P<minor>0|[1-9][0-9]{0,8}|[xX*]))?(?:\.(?P<patch>0|[1-9][0-9]{0,8}|[xX*]))?"
    r"(?:-(?P<pre>[0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?"
)
_COMPARATOR = re.compile(r"(?P<operator>>=|<=|~>|[<>=^~]|)\s*(?P<version>[^\s<>=^~,]+)\s*,?\s*")
_HYPHEN = re.compile(r"(\S+)\s+-\s+(\S+)")
_COMPARE = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_EXPECTED = "expected a range such as `>=1.2 <3 || ^4`, ~1.2, 1.x, or `1.2 - 1.5`"


@dataclass(frozen=True, slots=True)
class _Bound:
    """One comparison. `pre` holds the three numbers when the range itself names a pre-release of them."""

    compare: str
    version: Key
    pre: tuple[int, ...] | None = None

    def holds(self, version: Key) -> bool:
        return bool(_COMPARE[self.compare](version, self.version))


@dataclass(frozen=True, slots=True)
class SemverRange:
    """A parsed range. `text` is as it was written."""

    text: str
    alternatives: tuple[tuple[_Bound, ...], ...]

    def covers(self, version: str) -> bool:
        """Whether a version is in the range; a text that is no version never is."""
        if not is_valid(version):
            return False
        place = key(version)
        numbers = _numbers(version) if "-" in version else None
        return any(
            all(bound.holds(place) for bound in bounds)
            and (numbers is None or any(bound.pre == numbers for bound in bounds))
            for bounds in self.alternatives
        )


@lru_cache(maxsize=256)
def parse_range(text: str) -> SemverRange:
    """Read a range.

    Raises:
        DataError: it is not written like one.
    """
    if len(text) > _LONGEST_RANGE or not text.isprintable():
        message = f"a range has at most {_LONGEST_RANGE} characters"
        raise DataError(message, _EXPECTED)
    return SemverRange(text, tuple(tuple(_alternative(part.strip())) for part in text.split("||")))


@dataclass(frozen=True, slots=True)
class _Partial:
    """A version of a range, of which any number but the first may be missing, and all may be `x`."""

    numbers: tuple[int, ...]
    pre: str = ""

    @property
    def is_full(self) -> bool:
        return len(self.numbers) == 3

    def bound(self, compare: str) -> _Bound:
        if not self.pre:
            return _Bound(compare, key(_written(self.numbers)))
        return _Bound(compare, key(f"{_written(self.numbers)}-{self.pre}"), self.numbers)

    def below_next(self, place: int) -> _Bound:
        """Below what comes when the number at a place rises; not even a pre-release of that."""
        raised = (*self.numbers[:place], self.numbers[place] + 1)
        return _Partial(raised).first_of("<")

    def first_of(self, compare: str) -> _Bound:
        """A bound at the lowest pre-release of these numbers. It admits none by itself: nobody wrote it."""
        return _Bound(compare, key(f"{_written(self.numbers)}-0"))


_NOTHING = _Bound("<", key("0.0.0-0"))


def _alternative(text: str) -> Iterator[_Bound]:
    if not text:
        raise DataError("a range, or one side of ||, is empty", _EXPECTED)
    if hyphen := _HYPHEN.fullmatch(text):
        low, high = _partial(hyphen[1]), _partial(hyphen[2])
        yield from _bounds(">=", low)
        yield from _bounds("<=", high)
        return
    at = 0
    while at < len(text):
        found = _COMPARATOR.match(text, at)
        if found is None:
            message = f"not a range: {text!r}"
            raise DataError(message, _EXPECTED)
        yield from _bounds(found["operator"], _partial(found["version"]))
        at = found.end()


def _partial(text: str) -> _Partial:
    found = _PARTIAL.fullmatch(text)
    if found is None:
        message = f"not a version: {text!r}"
        raise DataError(message, _EXPECTED)
    numbers: list[int] = []
    for part in found.group("major", "minor", "patch"):
        if part is None or not part.isdecimal():
            break
        numbers.append(int(part))
    if found["pre"] and len(numbers) < 3:
        message = f"a pre-release needs all three numbers: {text!r}"
        raise DataError(message, _EXPECTED)
    return _Partial(tuple(numbers), found["pre"] or "")


def _bounds(compare: str, version: _Partial) -> tuple[_Bound, ...]:  # noqa: PLR0911 - a table
    """One comparator as plain bounds."""
    given = len(version.numbers)
    if not given:
        # `*`: all versions; nothing is above or below all of them
        return (_NOTHING,) if compare in {"<", ">"} else (version.bound(">="),)
    match compare:
        case "^":
            leading = next((n for n, number in enumerate(version.numbers) if number), given - 1)
            return version.bound(">="), version.below_next(leading)
        case "~" | "~>":
            return version.bound(">="), version.below_next(min(given - 1, 1))
        case ">=":
            return (version.bound(">="),)
        case "<":
            return (version.bound("<"),) if version.is_full else (version.first_of("<"),)
        case ">" if version.is_full:
            return (version.bound(">"),)
        case ">":
            raised = (*version.numbers[:-1], version.numbers[-1] + 1)
            return (_Partial(raised).bound(">="),)
        case "<=":
            return (version.bound("<="),) if version.is_full else (version.below_next(given - 1),)
        case _ if version.is_full:
            return version.bound(">="), version.bound("<=")
        case _:
            return version.bound(">="), version.below_next(given - 1)


def _written(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, (*numbers, 0, 0, 0)[:3]))


def _numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a valid version."""
    numbers = tuple(map(int, re.findall(r"[0-9]+", version.partition("-")[0])))
    return (*numbers, 0, 0, 0)[:3]
