r"""Regular expressions of the configuration, matched in time linear in the text whatever the expression.

Python's own `re` tries one way after the other: `(a|aa)+b` takes a sensor out of service with one tag of 128 characters. Refusing nested
quantifiers would not do (`.*.*.*.*x` has none, and harmless ones look like harmful ones), so the expression becomes a small program that
follows all ways at once, as RE2 and Go do. The price is RE2's: no look-around and no back-references, which are refused with words.

Read: characters, `.`, classes, `\d \w \s` and their opposites, groups, `|`, `* + ? {m} {m,} {,n} {m,n}` (lazy ones mean the same here, where
the whole text matches or does not), `^ $`, and `(?i)` in front. Leaves what is matched with it to `catalog.rules`.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from functools import lru_cache

LONGEST_PATTERN = 512
_MOST_STEPS = 2000
"""Steps of a program: what a repetition of a repetition is worth, and what one character may cost."""
_DEEPEST = 40
_MOST_REPEATED = 1000
_REMEMBERED = 4096
"""Moves that one expression remembers; they are forgotten together. Tags of one registry look alike, so nearly all are among them."""

_DIGITS = frozenset(string.digits)
_WORD = frozenset(string.ascii_letters + string.digits + "_")
_SPACE = frozenset(" \t\n\r\f\v")
_SHORTHANDS = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_NOT_HERE = "is not known here (RE2's syntax: no look-around, no back-references)"


@dataclass(frozen=True, slots=True)
class _Characters:
    """One character of a set, or not of it."""

    members: frozenset[str]
    negated: bool = False

    def has(self, character: str) -> bool:
        return (character in self.members) is not self.negated


@dataclass(frozen=True, slots=True)
class _Edge:
    """The start or the end of the text."""

    is_start: bool


@dataclass(frozen=True, slots=True)
class _Split:
    """Go on at both places."""

    first: int
    second: int


_Step = _Characters | _Edge | _Split
_Piece = list[_Step]
"""A part of a program. Places in it count from its own start, so that it can be repeated; its end is the place behind its last step."""


class Regex:
    """A compiled expression."""

    __slots__ = ("_moves", "_program", "pattern")

    def __init__(self, pattern: str, program: tuple[_Step, ...]) -> None:
        self.pattern = pattern
        self._program = program
        self._moves: dict[tuple[frozenset[int], bool, str], frozenset[int]] = {}

    def matches(self, text: str) -> bool:
        """Whether the whole text matches."""
        places, at_start = frozenset({0}), True
        for character in text:
            move = (places, at_start, character)
            known = self._moves.get(move)
            if known is None:
                known = self._after(*move)
                if len(self._moves) >= _REMEMBERED:
                    self._moves.clear()
                self._moves[move] = known
            if not known:
                return False
            places, at_start = known, False
        return len(self._program) in self._reached(places, at_start=at_start, at_end=True)

    def _after(self, places: frozenset[int], at_start: bool, character: str) -> frozenset[int]:  # noqa: FBT001
        program, found = self._program, set[int]()
        for place in self._reached(places, at_start=at_start, at_end=False):
            step = program[place] if place < len(program) else None
            if isinstance(step, _Characters) and step.has(character):
                found.add(place + 1)
        return frozenset(found)

    def _reached(self, places: frozenset[int], *, at_start: bool, at_end: bool) -> set[int]:
        """All places that are reached without a character."""
        found: set[int] = set()
        waiting = list(places)
        while waiting:
            place = waiting.pop()
            if place in found:
                continue
            found.add(place)
            step = self._program[place] if place < len(self._program) else None
            if isinstance(step, _Split):
                waiting += (step.first, step.second)
            elif isinstance(step, _Edge) and (at_start if step.is_start else at_end):
                waiting.append(place + 1)
        return found


@lru_cache(maxsize=256)
def compile_regex(pattern: str) -> Regex:
    """Compile an expression; the same one is compiled once.

    Raises:
        ValueError: it is not one, or uses what is not known here; the message says which.
    """
    if not pattern or len(pattern) > LONGEST_PATTERN or not pattern.isprintable():
        message = f"expected an expression of 1 to {LONGEST_PATTERN} characters"
        raise ValueError(message)
    reader = _Reader(pattern)
    return Regex(pattern, tuple(reader.read()))


def check_regex(pattern: str) -> str:
    """What is wrong with a regular expression, or an empty string."""
    try:
        compile_regex(pattern)
    except ValueError as error:
        return str(error)
    return ""


@dataclass(slots=True)
class _Reader:
    """Reads one expression by recursive descent."""

    pattern: str
    at: int = 0
    depth: int = 0
    folded: bool = field(default=False)
    """Whether case does not count."""

    def read(self) -> _Piece:
        if self.pattern.startswith("(?i)"):
            self.folded, self.at = True, 4
        piece = self._alternatives()
        if self.at < len(self.pattern):
            raise ValueError("a ) is not opened")
        return piece

    def _peek(self, count: int = 1) -> str:
        return self.pattern[self.at : self.at + count]

    def _take(self) -> str:
        if self.at >= len(self.pattern):
            raise ValueError("it ends in the middle")
        self.at += 1
        return self.pattern[self.at - 1]

    def _alternatives(self) -> _Piece:
        piece = self._sequence()
        while self._peek() == "|":
            self.at += 1
            piece = _either(piece, self._sequence())
        return piece

    def _sequence(self) -> _Piece:
        piece: _Piece = []
        while self._peek() not in {"", "|", ")"}:
            piece = _bounded(_joined(piece, self._repeated()))
        return piece

    def _repeated(self) -> _Piece:
        is_edge = self._peek() in {"^", "$"}
        piece = self._one()
        quantified = False
        while (counts := self._counts()) is not None:
            if quantified:
                raise ValueError("a quantifier follows a quantifier")
            quantified = True
            if is_edge:
                raise ValueError("there is nothing to repeat about ^ and $")
            piece = _times(piece, *counts)
            if self._peek() == "?":
                self.at += 1  # lazy
        return piece

    def _counts(self) -> tuple[int, int | None] | None:
        """The least and the most of a quantifier, or None where there is none."""
        match self._peek():
            case "*":
                counts: tuple[int, int | None] = (0, None)
            case "+":
                counts = (1, None)
            case "?":
                counts = (0, 1)
            case "{":
                return self._braces()
            case _:
                return None
        self.at += 1
        return counts

    def _braces(self) -> tuple[int, int | None]:
        end = self.pattern.find("}", self.at)
        least, comma, most = self.pattern[self.at + 1 : end].partition(",")
        numbers = [part for part in (least, most) if part]
        if end < 0 or not numbers or not all(part.isascii() and part.isdecimal() and len(part) < 5 for part in numbers):
            raise ValueError("expected {2}, {2,} or {2,5}; a brace itself is written \\{")
        self.at = end + 1
        low = int(least or 0)
        high = low if not comma else int(most) if most else None
        if max(low, high or 0) > _MOST_REPEATED or (high is not None and low > high):
            message = f"counts rise, to at most {_MOST_REPEATED}"
            raise ValueError(message)
        return low, high

    def _one(self) -> _Piece:
        match character := self._take():
            case "(":
                return self._group()
            case "[":
                return [self._class()]
            case ".":
                return [_Characters(frozenset("\n"), negated=True)]
            case "^" | "$":
                return [_Edge(is_start=character == "^")]
            case "*" | "+" | "?" | "{":
                message = f"there is nothing for {character} to repeat"
                raise ValueError(message)
            case "\\":
                return [self._characters(self._escaped())]
            case _:
                return [self._characters(frozenset(character))]

    def _group(self) -> _Piece:
        if self._peek(2) == "?:":
            self.at += 2
        elif self._peek(3) == "?P<":
            end = self.pattern.find(">", self.at)
            if not self.pattern[self.at + 3 : max(end, 0)].isidentifier():
                raise ValueError("a group's name is not closed by >")
            self.at = end + 1
        elif self._peek() == "?":
            message = f"({self._peek(3)} {_NOT_HERE}"
            raise ValueError(message)
        self.depth += 1
        if self.depth > _DEEPEST:
            raise ValueError("too many groups within groups")
        piece = self._alternatives()
        if self._peek() != ")":
            raise ValueError("a ( is not closed")
        self.at += 1
        self.depth -= 1
        return piece

    def _class(self) -> _Characters:
        negated = self._peek() == "^"
        self.at += negated
        members: set[str] = set()
        first = True
        while (character := self._member()) != "]" or first:
            first = False
            low = self._escaped() if character == "\\" else frozenset(character)
            if self._peek() == "-" and self._peek(2) != "-]":
                self.at += 1
                high = self._escaped() if (end := self._member()) == "\\" else frozenset(end)
                members |= _range(low, high)
            else:
                members |= low
        return self._characters(frozenset(members), negated=negated)

    def _member(self) -> str:
        if self.at >= len(self.pattern):
            raise ValueError("a [ is not closed")
        return self._take()

    def _escaped(self) -> frozenset[str]:
        character = self._take()
        if character in _SHORTHANDS:
            return _SHORTHANDS[character]
        if character.lower() in _SHORTHANDS:
            return frozenset(map(chr, range(128))) - _SHORTHANDS[character.lower()]
        if character.isalnum():
            message = f"\\{character} {_NOT_HERE}"
            raise ValueError(message)
        return frozenset(character)

    def _characters(self, members: frozenset[str], *, negated: bool = False) -> _Characters:
        if self.folded:
            members = members | {c.lower() for c in members} | {c.upper() for c in members}
        return _Characters(members, negated)


def _range(low: frozenset[str], high: frozenset[str]) -> set[str]:
    if len(low) != 1 or len(high) != 1:
        raise ValueError("a range in a class goes from one character to another")
    (start,), (end,) = low, high
    if start > end:
        message = f"the range {start}-{end} is upside down"
        raise ValueError(message)
    return set(map(chr, range(ord(start), ord(end) + 1)))


# --- pieces of programs -----------------------------------------------------------------------------------------------------------


def _moved(piece: _Piece, by: int) -> _Piece:
    return [_Split(step.first + by, step.second + by) if isinstance(step, _Split) else step for step in piece]


def _joined(*pieces: _Piece) -> _Piece:
    whole: _Piece = []
    for piece in pieces:
        whole += _moved(piece, len(whole))
    return whole


def _either(one: _Piece, other: _Piece) -> _Piece:
    """Split to both; the first jumps over the second."""
    end = 1 + len(one) + 1 + len(other)
    return _bounded([_Split(1, len(one) + 2), *_moved(one, 1), _Split(end, end), *_moved(other, len(one) + 2)])


def _times(piece: _Piece, least: int, most: int | None) -> _Piece:
    if len(piece) * max(least, most or 1) > _MOST_STEPS:
        raise ValueError("it repeats too much")
    size = len(piece)
    whole = _joined(*[piece] * least)
    if most is None:
        loop: _Piece = [_Split(1, size + 2), *_moved(piece, 1), _Split(0, 0)]
        return _joined(whole, loop)
    optional: _Piece = [_Split(1, size + 1), *_moved(piece, 1)]
    return _joined(whole, *[optional] * (most - least))


def _bounded(piece: _Piece) -> _Piece:
    if len(piece) > _MOST_STEPS:
        raise ValueError("it is too large")
    return piece
