"""Patterns of names: pure, and safe against any pattern and any name.

Names come from outside and patterns from the configuration, so matching takes time linear in the name whatever the pattern: the
pattern becomes a small automaton whose states are the bits of one integer (a backtracking regular expression would not do).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache


class Glob:
    """One compiled pattern: `*` within a component, `**` across, `?`, `[a-z]`, `[!a-z]`; case counts; a lone `*` is everything.

    `**/` at the start of a component also stands for no component at all, as in git: `**/app` matches `app` and `team/app`. A bracket
    that is never closed is an ordinary character. Neither `?` nor a class matches a slash.
    """

    __slots__ = ("_across", "_classes", "_entries", "_final", "_leave", "_skips", "_start", "_within", "pattern")

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        # Bit n of each mask speaks about state n, the place before token n; the last state is the end of the pattern.
        self._across = self._within = self._skips = self._entries = 0
        self._leave: dict[str, int] = {}
        self._classes: list[tuple[int, re.Pattern[str]]] = []
        bit = 1
        for kind, token in _tokens(pattern):
            match kind:
                case "entry":  # of `**/`: its stars follow, or are passed over together with their slash
                    self._skips |= bit
                    self._entries |= bit
                case "components":
                    self._across |= bit
                    self._leave["/"] = self._leave.get("/", 0) | bit
                case "across":
                    self._skips |= bit
                    self._across |= bit
                case "within":
                    self._skips |= bit
                    self._within |= bit
                case "class":
                    self._classes.append((bit, re.compile(token)))
                case _:
                    self._leave[token] = self._leave.get(token, 0) | bit
            bit <<= 1
        self._final = bit
        self._start = self._closed(1)

    def matches(self, name: str) -> bool:
        """Whether the whole name matches."""
        if self.pattern == "*":
            return True  # every registry's default: not worth a step a character
        states = self._start
        for character in name:
            leave = self._leave.get(character, 0)
            for bit, characters in self._classes:
                if characters.fullmatch(character):
                    leave |= bit
            stay = self._across if character == "/" else self._across | self._within
            states = self._closed(states & stay | (states & leave) << 1)
            if not states:
                return False
        return bool(states & self._final)

    def _closed(self, states: int) -> int:
        """Add the states that are reached without a character, because stars may match nothing."""
        while True:
            more = states | (states & self._skips) << 1 | (states & self._entries) << 2
            if more == states:
                return states
            states = more


@lru_cache(maxsize=1024)
def compile_glob(pattern: str) -> Glob:
    """The compiled form of a pattern; the same pattern is compiled once."""
    return Glob(pattern)


def _tokens(pattern: str) -> Iterator[tuple[str, str]]:
    if pattern == "*":
        yield "across", ""
        return
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if character == "*":
            end = at
            while end < len(pattern) and pattern[end] == "*":
                end += 1
            if end - at == 2 and pattern[end : end + 1] == "/" and pattern[at - 1 : at] in {"", "/"}:
                yield "entry", ""
                yield "components", ""
                end += 1
            else:
                yield ("within" if end - at == 1 else "across"), ""
            at = end
        elif character == "?":
            yield "class", "[^/]"
            at += 1
        elif character == "[" and (found := _CLASS.match(pattern, at)):
            yield "class", _class(found["negated"], found["members"])
            at = found.end()
        else:
            yield "literal", character
            at += 1


_CLASS = re.compile(r"\[(?P<negated>!?+)(?P<members>.[^\]]*)\]", re.DOTALL)
"""As in the shell: a closing bracket in the first place is a member."""


def _class(negated: str, members: str) -> str:
    """The regular expression of a class, for one character. A range that runs backwards is empty, as in the shell."""
    parts: list[str] = []
    at = 0
    while at < len(members):
        if members[at + 1 : at + 2] == "-" and at + 2 < len(members):
            low, high = members[at], members[at + 2]
            if low <= high:
                parts.append(f"{re.escape(low)}-{re.escape(high)}")
            at += 3
        else:
            parts.append(re.escape(members[at]))
            at += 1
    inside = "".join(parts)
    if negated:
        return f"[^/{inside}]"
    return f"(?!/)[{inside}]" if inside else "(?!)"
