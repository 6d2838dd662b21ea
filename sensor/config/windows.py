"""The hours in which new images are scanned: `22:00-06:00`, `sat-sun`, `mon-fri 20:00-07:00`.

Wall-clock time of the machine. A window that passes midnight belongs to the day on which it begins: `fri 22:00-06:00` is open on Saturday at
three. Pure: what is done in a window, and where the time comes from, is left to others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MINUTES = 24 * 60
_TIMES = re.compile(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})")
_EXPECTED = "expected hours, days or both, such as 22:00-06:00, sat-sun, mon-fri 20:00-07:00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One stretch of time, every week. Minutes count from midnight; `end` is behind `start` and may lie in the next day."""

    days: frozenset[int] = frozenset(range(7))
    """0 is Monday; the days on which it begins."""
    start: int = 0
    end: int = _MINUTES

    def holds(self, now: datetime) -> bool:
        """Whether a moment lies in it; the end does not."""
        minute, day = now.hour * 60 + now.minute, now.weekday()
        today = day in self.days and self.start <= minute < self.end
        return today or ((day - 1) % 7 in self.days and minute + _MINUTES < self.end)


@dataclass(frozen=True, slots=True)
class Windows:
    """All windows of a registry. None at all: always open."""

    windows: tuple[Window, ...] = ()

    def is_open(self, now: datetime) -> bool:
        """Whether new images are scanned now. `now` is local time, with or without a zone."""
        return not self.windows or any(window.holds(now) for window in self.windows)

    def opens_in(self, now: datetime) -> float:
        """Seconds until it opens; 0 when it is open. Real seconds: the hour that a change of clocks takes or gives is counted right."""
        if self.is_open(now):
            return 0.0
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        # two weeks: in the night when clocks go forward, a window inside the hour that they skip does not open at all
        starts = sorted({timedelta(days=day, minutes=window.start) for window in self.windows for day in range(15)})
        moments = ((midnight + start).timestamp() for start in starts)
        return next(
            moment - now.timestamp()
            for moment in moments
            if moment > now.timestamp() and self.is_open(datetime.fromtimestamp(moment, now.tzinfo))
        )


def parse_windows(texts: Sequence[str]) -> Windows:
    """The windows that a registry's `windows` name.

    Raises:
        ValueError: one of them is not written like a window; the message says what is expected.
    """
    return Windows(tuple(parse_window(text) for text in texts))


def parse_window(text: str) -> Window:
    """One window: days, hours, or days and hours.

    Raises:
        ValueError: it is not written like that; the message says what is expected.
    """
    days, *hours = text.lower().split() or [""]
    if not hours and ":" in days:
        start, end = _hours(days)
        return Window(start=start, end=end)
    if len(hours) > 1:
        raise ValueError(_EXPECTED)
    start, end = _hours(hours[0]) if hours else (0, _MINUTES)
    return Window(days=_days(days), start=start, end=end)


def check_window(text: str) -> str:
    """What is wrong with a window, or an empty string."""
    try:
        parse_window(text)
    except ValueError as error:
        return str(error)
    return ""


def _hours(text: str) -> tuple[int, int]:
    found = _TIMES.fullmatch(text)
    if found is None:
        raise ValueError(_EXPECTED)
    hour, minute, until, past = map(int, found.groups())
    start, end = hour * 60 + minute, until * 60 + past
    if minute > 59 or past > 59 or start >= _MINUTES or end > _MINUTES:
        message = "hours go from 00:00 to 24:00"
        raise ValueError(message)
    if start == end:
        message = "begins when it ends; leave the hours out for whole days"
        raise ValueError(message)
    return start, end if end > start else end + _MINUTES


def _days(text: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in _DAYS or (dash and last not in _DAYS):
            raise ValueError(_EXPECTED)
        start = _DAYS.index(first)
        length = (_DAYS.index(last) - start) % 7 if dash else 0
        days |= {(start + offset) % 7 for offset in range(length + 1)}
    return frozenset(days)
