"""Whether one version is affected by one OSV entry (OSV schema 1.7, "Evaluation"), in which range, and which fix is next.

Knows nothing about packages or records: that is `scan.match`. Says "undecided" instead of guessing where versions cannot be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sensor.model.advisory import Affected, Range
from sensor.versions import VersionOrder
from sensor.versions.order import Key
from sensor.versions.semver import SEMVER

_BEFORE_EVERYTHING: Key = (-1,)
"""`introduced: "0"` is below pre-releases and epochs too: it is not the version 0."""

_SORT = {"introduced": 0, "fixed": 1, "last_affected": 2}
"""At equal versions an interval opens before it closes, so that introduced = fixed is empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """The version to judge and how to compare it. `read_bound` prepares a range's bound (to drop an epoch that the version lacks)."""

    version: str
    order: VersionOrder
    read_bound: Callable[[str], str] = str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`affected` is None where it cannot be told. `words` describe the matched range, `fixed` is the next fix in it (empty: none known)."""

    affected: bool | None
    words: str = ""
    fixed: str = ""


NOT_AFFECTED = Verdict(affected=False)
UNDECIDED = Verdict(affected=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Event:
    kind: str
    text: str
    key: Key
    position: int
    """Of the installed version against the bound: -1 below, 0 at, 1 above."""


class _IncomparableError(Exception):
    """A signal inside this module: the range and the version cannot be compared."""


def _events(range_: Range, installed: Installed) -> list[_Event]:
    """The range's events, lowest first, with the installed version's place."""
    order = SEMVER if range_.type == "SEMVER" else installed.order
    events = []
    for kind, text in range_.events:
        if kind == "limit" and text == "*":
            continue
        if text == "0" and kind in {"introduced", "fixed"}:
            events.append(_Event(kind=kind, text=text, key=_BEFORE_EVERYTHING, position=1))
            continue
        bound = order.read_bound(installed.read_bound(text))
        if not (order.is_valid(bound) and order.is_valid(installed.version)):
            raise _IncomparableError
        key, own = order.key(bound), order.key(order.seen_by(installed.version, bound))
        events.append(_Event(kind=kind, text=text, key=key, position=(own > key) - (own < key)))
    events.sort(key=lambda event: (event.key, _SORT.get(event.kind, 3)))
    return events


def judge_range(range_: Range, installed: Installed) -> Verdict:
    """Evaluate one range. A range without `introduced` holds nothing; `fixed: "0"` says "never affected"."""
    try:
        events = _events(range_, installed)
    except _IncomparableError:
        return UNDECIDED
    limits = [event for event in events if event.kind == "limit"]
    if limits and all(event.position >= 0 for event in limits):
        return NOT_AFFECTED
    events = [event for event in events if event.kind != "limit"]
    start: _Event | None = None
    end: _Event | None = None
    for event in events:
        if event.kind == "introduced":
            start = event if event.position >= 0 else start
        elif event.position > 0 or (event.kind == "fixed" and event.position == 0):
            start = None
        else:
            end = end or event
    if start is None:
        return NOT_AFFECTED
    fixed = next((event.text for event in events if event.kind == "fixed" and event.position < 0), "")
    return Verdict(affected=True, words=_words(start, end), fixed=fixed)


def _words(start: _Event, end: _Event | None) -> str:
    lower = "" if start.text == "0" else f"from {start.text}"
    if end is None:
        return f"{lower} on" if lower else "all versions"
    upper = f"before {end.text}" if end.kind == "fixed" else f"up to {end.text}"
    return f"{lower} {upper}" if lower else upper


def judge(entry: Affected, installed: Installed, *, with_list: bool) -> Verdict:
    """Evaluate one entry: any of its ranges, or, `with_list`, one of the versions it lists.

    A list is complete where there is one, so it decides where a range cannot be compared.
    """
    verdicts = [judge_range(range_, installed) for range_ in entry.ranges]
    matched = next((verdict for verdict in verdicts if verdict.affected), None)
    if matched:
        return matched
    if entry.versions and (with_list or not entry.ranges):
        if _is_listed(entry.versions, installed):
            return Verdict(affected=True, words=f"listed: {installed.version}")
        return NOT_AFFECTED
    return UNDECIDED if any(verdict.affected is None for verdict in verdicts) else NOT_AFFECTED


def _is_listed(versions: tuple[str, ...], installed: Installed) -> bool:
    if installed.version in versions:
        return True
    order = installed.order
    if not order.is_valid(installed.version):
        return False
    return any(
        order.key(order.seen_by(installed.version, listed)) == order.key(installed.read_bound(listed))
        for listed in versions
    )


def fixes_above(entry: Affected, installed: Installed) -> Iterator[tuple[Key, str]]:
    """Fixes of any range that are newer than the installed version. An older one would be a downgrade, not a fix."""
    for range_ in entry.ranges:
        try:
            events = _events(range_, installed)
        except _IncomparableError:
            continue
        yield from ((event.key, event.text) for event in events if event.kind == "fixed" and event.position < 0)
