"""Client sessions: TLS, proxy, pacing, retry, byte caps. The only place that opens sessions and translates client errors.

Knows nothing of registries or control planes: it takes a request and gives back a status, headers and bounded bytes. It never
follows a redirect by itself, because only the caller knows which credential must not cross an origin. Streamed bodies are given as
they came (a layer is hashed as the registry stores it); only `fetch` inflates an answer that was compressed unasked.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import random
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp
import structlog
from yarl import URL

from sensor.errors import ConfigError, DataError, NetworkError
from sensor.limits import DEFAULT_LIMITS, Limits

USER_AGENT = "harborguard-sensor/0.1"
RETRY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
METADATA_HOSTS = (
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "metadata.google.internal",
)
"""The clouds' metadata services: never behind a proxy, and never a place that an answer from outside may send us to."""
_LONGEST_PAUSE = 900.0
"""Seconds a server may ask us to wait; more is rescheduled by the caller, not slept here."""
_SAFE_TO_REPEAT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""Idempotent by RFC 9110, 9.2.2. A POST is never sent twice: the first may have been acted upon."""
_log = structlog.get_logger()


class NotTls(NetworkError):
    """A TLS greeting was answered with something else: a plain-HTTP port."""

    retryable = False


class TlsOnly(NetworkError):
    """Plain HTTP was sent to a port that speaks TLS."""

    retryable = False


class HostParked(NetworkError):
    """Nothing was sent: the host has asked for a pause that is too long to sleep through. `retry_after` says what is left of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How to reach the hosts of one configured connection."""

    ca_file: str = ""
    proxy: str = ""
    no_proxy: tuple[str, ...] = ()

    def proxy_for(self, host: str) -> str | None:
        """The proxy for a host, or None for a direct connection. Metadata services are always direct."""
        if not self.proxy or self.proxy == "direct" or host in METADATA_HOSTS:
            return None
        return None if any(_host_matches(host, pattern) for pattern in self.no_proxy) else self.proxy


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how patiently one request is repeated. Pauses are full jitter below `first * 2**n`, capped by `most` seconds."""

    attempts: int = 5
    first: float = 1.0
    most: float = 60.0

    def pause(self, attempt: int, asked: float | None = None) -> float:
        """Seconds to wait after the given attempt (from 0), and at least what the other side asked for."""
        return max(random.uniform(0, min(self.most, self.first * 2**attempt)), asked or 0.0)


NO_RETRY = Retry(attempts=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A complete answer. Header names are lower case; of repeated headers all values are kept in `header_lists`."""

    status: int
    url: str
    headers: Mapping[str, str]
    body: bytes
    header_lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """An answer whose body is still on the wire, exactly as the other side stores it."""

    status: int
    url: str
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]
    header_lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class _Pool:
    """A session and how many requests use it; `stamp` identifies the CA file that it was opened with."""

    session: aiohttp.ClientSession
    stamp: tuple[int, int, int] | None
    users: int = 0
    retired: bool = False


class Transport:
    """Connections with one route. Close it when done.

    A host that answers 429, or 503 with Retry-After, is parked: requests to it wait, other hosts are not affected. A request with
    NO_RETRY is paced by its caller and does not wait.
    """

    def __init__(
        self,
        route: Route | None = None,
        *,
        limits: Limits = DEFAULT_LIMITS,
        connections_per_host: int = 8,
        keep_alive: bool = True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.route = route or Route()
        self.requests = 0
        """Requests sent so far, for the ledger and for tests."""
        self._limits = limits
        self._connections = connections_per_host
        self._keep_alive = keep_alive
        self._sleep = sleep
        self._clock = clock
        self._pool: _Pool | None = None
        self._parked: dict[str, float] = {}

    async def close(self) -> None:
        """Close all connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.session.close()

    async def fetch(  # noqa: PLR0913 - one request has this many properties
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        most_bytes: int | None = None,
        retry: Retry | None = None,
        idle_seconds: float | None = None,
    ) -> Reply:
        """Send a request and read the whole answer, at most `most_bytes` of it (inflated).

        Statuses in RETRY_STATUSES and network errors are repeated as `retry` says (default: five attempts for GET and HEAD, one for
        anything else; POST and PATCH are never repeated); the last answer is returned whatever its status.

        Raises:
            NetworkError: no answer.
            DataError: the body is larger than allowed.
        """
        plan = (retry or (Retry() if method in {"GET", "HEAD"} else NO_RETRY)) if method in _SAFE_TO_REPEAT else NO_RETRY
        most = self._limits.page_bytes if most_bytes is None else most_bytes
        for attempt in range(plan.attempts):
            last = attempt == plan.attempts - 1
            if plan.attempts > 1:
                await self._wait_while_parked(url, plan.most)
            try:
                async with self._send(method, url, headers, body, idle_seconds) as answer:
                    data = b"" if method == "HEAD" else await _read(answer, most)
            except NetworkError as error:
                if last or not error.retryable:
                    raise
                await self._sleep(plan.pause(attempt, error.retry_after))
                continue
            wait = retry_after(answer.headers)
            if answer.status not in RETRY_STATUSES or last or (wait is not None and wait > plan.most):
                return Reply(
                    status=answer.status, url=url, headers=answer.headers, body=data, header_lists=answer.header_lists
                )
            pause = plan.pause(attempt, wait)
            if answer.status == 429 or (answer.status == 503 and wait is not None):
                self._park(url, pause)
            else:
                await self._sleep(pause)
        raise AssertionError  # pragma: no cover - the loop returns or raises

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        idle_seconds: float | None = None,
    ) -> AsyncIterator[Streamed]:
        """Send a request and hand out the body as it comes. One attempt, no redirects.

        Raises:
            NetworkError: no answer, the body broke off, or the host is parked.
        """
        await self._wait_while_parked(url, Retry().most)
        async with self._send(method, url, headers, body, idle_seconds) as answer:
            yield answer

    async def pause(self, attempt: int, asked: float | None = None, *, plan: Retry | None = None) -> None:
        """Sleep as between two attempts, for callers that repeat a stream themselves."""
        await self._sleep((plan or Retry()).pause(attempt, asked))

    @contextlib.asynccontextmanager
    async def _send(
        self, method: str, url: str, headers: Mapping[str, str] | None, body: bytes | None, idle: float | None
    ) -> AsyncIterator[Streamed]:
        target = _parse_url(url)
        self.requests += 1
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._limits.connect_seconds, sock_read=idle or self._limits.idle_seconds
        )
        proxy = self.route.proxy_for(target.host or "")
        try:
            with self._session() as session:
                async with session.request(
                    method,
                    target,
                    headers={"User-Agent": USER_AGENT, **(headers or {})},
                    data=body,
                    allow_redirects=False,
                    proxy=proxy,
                    timeout=timeout,
                ) as response:
                    answer = _streamed(response, url)
                    if answer.status in {429, 503} and (wait := retry_after(answer.headers)) is not None:
                        self._park(url, wait)
                    yield answer
        except aiohttp.ClientConnectorCertificateError as error:
            issuer = "" if proxy else await _issuer_of(target, self._limits.connect_seconds)
            raise translate(error, url, issuer) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise translate(error, url) from error
        finally:
            await self._close_retired()

    def _park(self, url: str, seconds: float) -> None:
        host = _shown_host(url)
        self._parked[host] = max(self._parked.get(host, 0.0), self._clock() + seconds)

    async def _wait_while_parked(self, url: str, most: float) -> None:
        host = _shown_host(url)
        left = self._parked.get(host, 0.0) - self._clock()
        if left <= 0:
            self._parked.pop(host, None)
        elif left > most:
            message = f"{host} has asked for a pause, {left:.0f} s of it are left"
            raise HostParked(message, "the request is made again afterwards", retry_after=left)
        else:
            await self._sleep(left)

    @contextlib.contextmanager
    def _session(self) -> Iterator[aiohttp.ClientSession]:
        """The current session, held open until the request is over, whatever happens to the CA file meanwhile."""
        pool = self._current_pool()
        pool.users += 1
        try:
            yield pool.session
        finally:
            pool.users -= 1
            if pool.retired and pool.users == 0:
                self._retired.append(pool)
