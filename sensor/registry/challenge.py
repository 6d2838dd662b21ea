"""Reads WWW-Authenticate headers (RFC 9110, 11.6.1): several headers, several challenges in one, quoted strings with commas.

Pure, and never raises: what cannot be read is skipped, because an unreadable challenge is the same as none. What to do about a
challenge is `login`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\]|\\.)*"?'
_SEPARATORS = re.compile(r"[\s,]*")
_SCHEME = re.compile(rf"({_WORD})(?=[\s,]|$)")
_PARAMETER = re.compile(rf"[\s,]*({_WORD})\s*=\s*({_QUOTED}|[^\s,\"]*)")
_TOKEN68 = re.compile(r"[ \t]+([A-Za-z0-9._~+/-]+=*)[ \t]*(?=,|$)")
_MOST_CHARS = 16 * 1024
"""No server sends more; the rest is not looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One way to log in that a server offers. Scheme and parameter names are lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        return self.parameters.get(name, "")


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """All challenges of all WWW-Authenticate headers, in order. An empty header is no challenge (Harbor sends one)."""
    return tuple(challenge for header in headers for challenge in _parse_header(header[:_MOST_CHARS]))


def _parse_header(text: str) -> Iterable[Challenge]:
    at = 0
    while (at := _end_of_separators(text, at)) < len(text):
        scheme = _SCHEME.match(text, at)
        if scheme is None:
            # a stray character or a parameter without a scheme: go on after the next comma
            comma = text.find(",", at + 1)
            if comma < 0:
                return
            at = comma
            continue
        at = scheme.end()
        if lone := _TOKEN68.match(text, at):
            at = lone.end()
            yield Challenge(scheme=scheme[1].lower(), parameters={"token68": lone[1]})
            continue
        parameters: dict[str, str] = {}
        while found := _PARAMETER.match(text, at):
            at = found.end()
            parameters.setdefault(found[1].lower(), _unquote(found[2]))
        yield Challenge(scheme=scheme[1].lower(), parameters=parameters)


def _end_of_separators(text: str, at: int) -> int:
    found = _SEPARATORS.match(text, at)
    return found.end() if found else at


def _unquote(value: str) -> str:
    if not value.startswith('"'):
        return value
    inner = value[1:-1] if len(value) > 1 and value.endswith('"') else value[1:]
    return re.sub(r"\\(.)", r"\1", inner)
