"""How much is asked of one host: pauses that it wants, a rate that its provider documents, connections, and the quota that it tells.

One budget a host, shared by everything in the process that talks to it, so that ten configured registries on one host are as polite as
one. No I/O here: `transport` asks before it sends and tells what came back.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

_SOURCE = re.compile(r"[0-9A-Fa-f.:-]{1,45}")
"""An address, or the UUID of an account."""
_MOST_HOSTS = 4096
"""Hosts remembered. References of jobs may name any number of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Requests a second that a provider's documentation allows, and how many may go at once after a rest."""

    per_second: float
    burst: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a host told about a quota: `remaining` of `limit` in `window` seconds (0: not told), counted for `source`."""

    limit: int
    remaining: int
    window: float = 0.0
    source: str = ""
    """An address or an account, as the host names it."""
    read_at: float = 0.0
    """On the budget's clock."""

    @property
    def share(self) -> float:
        """What is left, 0 to 1."""
        return min(1.0, self.remaining / self.limit) if self.limit > 0 else 1.0


def read_quota(headers: Mapping[str, str], now: float) -> Quota | None:
    """The quota in an answer's headers (names in lower case), or None when it tells none.

    `ratelimit-limit: 100;w=21600` with `ratelimit-remaining` and `docker-ratelimit-source` is Docker Hub's pull quota; GitHub and Docker
    Hub's API say `x-ratelimit-*`, GitLab `ratelimit-*` without a window.
    """
    for prefix in ("ratelimit", "x-ratelimit"):
        limit, window = _number(headers.get(f"{prefix}-limit", ""))
        remaining, other = _number(headers.get(f"{prefix}-remaining", ""))
        if limit is not None and remaining is not None:
            told = headers.get("docker-ratelimit-source", "")
            source = told if _SOURCE.fullmatch(told) else ""
            return Quota(limit=limit, remaining=remaining, window=float(window or other), source=source, read_at=now)
    return None


def _number(text: str) -> tuple[int | None, int]:
    """`93;w=21600` as 93 and 21600."""
    value, _, rest = text.strip().partition(";")
    window = rest.strip().removeprefix("w=")
    if not (value.isascii() and value.isdigit() and len(value) < 12):
        return None, 0
    return int(value), int(window) if window.isascii() and window.isdigit() and len(window) < 12 else 0


@dataclass(slots=True)
class HostBudget:
    """What may be asked of one host."""

    host: str
    clock: Callable[[], float]
    told: Callable[[str, Quota], None] = lambda _host, _quota: None
    quota: Quota | None = None
    """The last one told."""
    _parked_until: float = 0.0
    _rate: Rate | None = None
    _next: float = 0.0
    _slots: asyncio.Semaphore | None = None

    def park(self, seconds: float) -> None:
        """The host wants a pause; nobody asks it before that is over."""
        self._parked_until = max(self._parked_until, self.clock() + seconds)

    @property
    def knows_nothing(self) -> bool:
        """Whether a new budget would do the same: no pause, no quota, no rate, and nobody is asking."""
        asking = self._slots is not None and self._slots.locked()
        return not self.parked_for and self.quota is None and self._rate is None and not asking

    @property
    def parked_for(self) -> float:
        """Seconds that are left of a pause."""
        return max(0.0, self._parked_until - self.clock())

    def pace(self, rate: Rate | None) -> None:
        """Keep to a rate from now on; of two the slower holds."""
        if rate is not None and (self._rate is None or rate.per_second < self._rate.per_second):
            self._rate = rate

    def reserve(self) -> float:
        """Take the next place in the queue of requests; seconds to wait until it is one's turn.

        The generic cell rate algorithm: a request moves the moment of the next one by 1/rate, and `burst` of them may be ahead of it.
        """
        if self._rate is None:
            return 0.0
        now, interval = self.clock(), 1.0 / self._rate.per_second
        self._next = max(self._next, now)
        wait = self._next - (self._rate.burst - 1) * interval - now
        self._next += interval
        return max(0.0, wait)

    def slots(self, size: int) -> asyncio.Semaphore:
        """Connections to the host; the first who asks says how many."""
        if self._slots is None:
            self._slots = asyncio.Semaphore(size)
        return self._slots

    def note(self, headers: Mapping[str, str]) -> None:
        """Take in what an answer tells about the quota."""
        quota = read_quota(headers, self.clock())
        if quota is not None:
            news = self.quota is None or (quota.limit, quota.remaining) != (self.quota.limit, self.quota.remaining)
            self.quota = quota
            if news:
                self.told(self.host, quota)


@dataclass(slots=True)
class Budgets:
    """The budgets of all hosts that this process talks to."""

    clock: Callable[[], float] = time.monotonic
    told: Callable[[str, Quota], None] = lambda _host, _quota: None
    """Called with a host and its quota when that changed."""
    _hosts: dict[str, HostBudget] = field(default_factory=dict)

    def of(self, host: str) -> HostBudget:
        """The budget of host[:port]."""
        budget = self._hosts.get(host)
        if budget is None:
            if len(self._hosts) >= _MOST_HOSTS:
                self._forget()
            budget = self._hosts[host] = HostBudget(host, self.clock, self.told)
        return budget

    def __iter__(self) -> Iterator[HostBudget]:
        """All that are known."""
        return iter(tuple(self._hosts.values()))

    def _forget(self) -> None:
        """Drop the oldest host of which nothing is known that others would have to find out again."""
        idle = (host for host, budget in self._hosts.items() if budget.knows_nothing)
        oldest = next(idle, next(iter(self._hosts)))
        del self._hosts[oldest]


class Bandwidth:
    """Bytes a second, shared by all who read: each waits after what it has read, so that the average holds. 0 is no bound."""

    def __init__(self, bytes_per_second: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._free_at = 0.0

    def take(self, count: int) -> float:
        """Note some bytes; seconds to wait before reading on."""
        if not self._rate:
            return 0.0
        now = self._clock()
        self._free_at = max(self._free_at, now) + count / self._rate
        return self._free_at - now
