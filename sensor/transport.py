"""Client sessions: TLS, proxy, pacing, retry, byte caps. The only place that opens sessions; `failures` has the words for what fails.

Knows nothing of registries or control planes: it takes a request and gives back a status, headers and bounded bytes. It never
follows a redirect by itself, because only the caller knows which credential must not cross an origin. Streamed bodies are given as
they came (a layer is hashed as the registry stores it); only `fetch` inflates an answer that was compressed unasked.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import aiohttp
import structlog

from sensor.errors import ConfigError, DataError, NetworkError
from sensor.failures import translate
from sensor.limits import DEFAULT_LIMITS, Limits
from sensor.pacing import Budgets, HostBudget, Rate
from sensor.reflection import secrets_shown, without_secrets
from sensor.route import Route, parse_url, retry_after, shown_host
from sensor.tls import NO_CERTIFICATE, certificate_of, client_context, stamp_of, tls_context
from sensor.version import VERSION

USER_AGENT = f"harborguard-sensor/{VERSION}"
RETRY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_LARGE_BODY = 1 << 18
_SAFE_TO_REPEAT = frozenset(
    {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"}
)  # idempotent by RFC 9110, 9.2.2; a POST may have been acted upon
_log = structlog.get_logger()


class HostParked(NetworkError):
    """Nothing was sent: the host has asked for a pause that is too long to sleep through. `retry_after` says what is left of it."""


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


_Stamps: TypeAlias = tuple[tuple[int, int, int] | None, ...]


@dataclass(slots=True)
class _Pool:
    """A session and how many requests use it; `stamps` identify the files of certificates that it was opened with."""

    session: aiohttp.ClientSession
    stamps: _Stamps
    client: ssl.SSLContext | None
    """For the hosts that know our certificate."""
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
        retry: Retry | None = None,
        budgets: Budgets | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`budgets` are shared with everything else that talks to the same hosts; without them this transport has its own."""
        self.route = route or Route()
        self.requests = 0
        """Requests sent so far, for the ledger and for tests."""
        self._limits = limits
        self._connections = connections_per_host
        self._keep_alive = keep_alive
        self._retry = retry or Retry()
        self._sleep = sleep
        self._budgets = budgets or Budgets()
        self._pool: _Pool | None = None

    def budget(self, url: str) -> HostBudget:
        """The budget of the host that a URL names: its pauses, rate and quota."""
        return self._budgets.of(shown_host(url))

    async def take_turn(self, what: str, rate: Rate | None) -> None:
        """Wait until one more request of some kind is due, over everybody who shares the budgets."""
        if rate is not None:
            budget = self._budgets.of(what)
            budget.pace(rate)
            if (turn := budget.reserve()) > 0:
                await self._sleep(turn)

    async def close(self) -> None:
        """Close all connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.session.close()

    async def fetch(
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
        plan = (
            (retry or (self._retry if method in {"GET", "HEAD"} else NO_RETRY))
            if method in _SAFE_TO_REPEAT
            else NO_RETRY
        )
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
                return complete(answer, data, headers or {}, body)
            pause = plan.pause(attempt, wait)
            if answer.status == 429 or (answer.status == 503 and wait is not None):
                self.budget(url).park(pause)
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
        await self._wait_while_parked(url, self._retry.most)
        async with self._send(method, url, headers, body, idle_seconds) as answer:
            yield answer

    async def pause(self, attempt: int, asked: float | None = None, *, plan: Retry | None = None) -> None:
        """Sleep as between two attempts, for callers that repeat a stream themselves."""
        await self._sleep((plan or self._retry).pause(attempt, asked))

    @contextlib.asynccontextmanager
    async def _send(
        self, method: str, url: str, headers: Mapping[str, str] | None, body: bytes | None, idle: float | None
    ) -> AsyncIterator[Streamed]:
        target = parse_url(url)
        proxy = self.route.proxy_for(target.host or "")
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._limits.connect_seconds, sock_read=idle or self._limits.idle_seconds
        )
        budget = self.budget(url)
        if (turn := budget.reserve()) > 0:
            await self._sleep(turn)
        self.requests += 1
        async with budget.slots(self._connections), self._session() as pool:
            own = pool.client if self.route.is_known_to(target.host or "") else None
            try:
                response = await pool.session.request(
                    method,
                    target,
                    headers={"User-Agent": USER_AGENT, **(headers or {})},
                    # a file object goes out in pieces; as one block a large body would hold up the event loop
                    data=io.BytesIO(body) if body is not None and len(body) > _LARGE_BODY else body,
                    allow_redirects=False,
                    proxy=proxy,
                    timeout=timeout,
                    ssl=own or True,
                )
            except aiohttp.ClientConnectorCertificateError as error:
                # asked directly, so not when a proxy stands in between
                seconds = self._limits.connect_seconds
                presented = NO_CERTIFICATE if proxy else await certificate_of(target.host, target.port, seconds)
                raise translate(error, url, presented) from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise translate(error, url) from error
            except ValueError as error:
                # the library refuses line breaks in headers, and a user name in the URL of a request that has a login already
                message = f"a request to {shown_host(url)} cannot be sent as it is"
                advice = "look for line breaks in credentials, and for user names in addresses"
                raise NetworkError(message, advice, retryable=False) from error
            # from here on an exception is the caller's own (a full disk, say) or was translated by _chunks
            try:
                answer = _streamed(response, url)
                budget.note(answer.headers)
                if answer.status in {429, 503} and (wait := retry_after(answer.headers)) is not None:
                    budget.park(wait)
                yield answer
            finally:
                if response.content.at_eof():
                    response.release()
                else:
                    response.close()

    async def _wait_while_parked(self, url: str, most: float) -> None:
        left = self.budget(url).parked_for
        if left > most:
            message = f"{shown_host(url)} has asked for a pause, {left:.0f} s of it are left"
            raise HostParked(message, "the request is made again afterwards", retry_after=left)
        if left > 0:
            await self._sleep(left)

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[_Pool]:
        """The current session, kept open until the request is over, whatever happens to the files of certificates meanwhile."""
        stamps = tuple(stamp_of(file) for file in self.route.files)
        if self._pool is None:
            self._pool = self._open(stamps)
        elif any(new not in {None, old} for new, old in zip(stamps, self._pool.stamps, strict=True)):
            await self._reopen(stamps)
        pool = self._pool
        pool.users += 1
        try:
            yield pool
        finally:
            pool.users -= 1
            if pool.retired and pool.users == 0:
                await pool.session.close()

    async def _reopen(self, stamps: _Stamps) -> None:
        """New connections use the changed files; running requests keep theirs. A broken file changes nothing."""
        old = self._pool
        assert old is not None  # noqa: S101 - for the type checker
        try:
            self._pool = self._open(stamps)
        except ConfigError as error:
            _log.warning("certificates_unusable", files=self.route.files, error=error.message)
            old.stamps = stamps
            return
        old.retired = True
        if old.users == 0:
            await old.session.close()

    def _open(self, stamps: _Stamps) -> _Pool:
        route = self.route
        # the library has made a context of the system's authorities at its import; a second one would cost 20 ms
        context: ssl.SSLContext | Literal[True] = tls_context(route.ca_file) if route.ca_file else True
        client = None
        if route.client_certificate:
            client = client_context(route.ca_file, route.client_certificate, route.client_key)
        connector = aiohttp.TCPConnector(
            ssl=context, limit=0, limit_per_host=self._connections, force_close=not self._keep_alive
        )
        session = aiohttp.ClientSession(
            connector=connector,
            auto_decompress=False,
            read_bufsize=1 << 20,
            requote_redirect_url=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Accept-Encoding",),
        )
        # the library repeats a GET whose connection broke, even on a new connection; without kept connections there are no stale ones to
        # excuse that, and a poll for jobs that is sent twice claims twice
        session._retry_connection = self._keep_alive  # noqa: SLF001 - there is no public switch
        return _Pool(session=session, stamps=stamps, client=client)


def complete(answer: Streamed, data: bytes, headers: Mapping[str, str], body: bytes | None = None) -> Reply:
    """The answer with its body; an error loses what it repeats of the request's secrets. `headers` and `body` are the request's."""
    if answer.status >= 400:
        data = without_secrets(data, secrets_shown(headers, body))
    return Reply(
        status=answer.status, url=answer.url, headers=answer.headers, body=data, header_lists=answer.header_lists
    )


def _streamed(response: aiohttp.ClientResponse, url: str) -> Streamed:
    lists: dict[str, list[str]] = {}
    for name, value in response.headers.items():
        lists.setdefault(name.lower(), []).append(value)
    return Streamed(
        status=response.status,
        url=url,
        headers={name: values[-1] for name, values in lists.items()},
        chunks=_chunks(response, url),
        header_lists={name: tuple(values) for name, values in lists.items()},
    )


async def _read(answer: Streamed, most: int) -> bytes:
    """The body, inflated when the other side compressed it although nobody asked. Never holds more than `most` bytes."""
    compressed = answer.headers.get("content-encoding", "").strip().lower() in {"gzip", "x-gzip"}
    inflater = zlib.decompressobj(wbits=31) if compressed else None
    body = bytearray()
    async for chunk in answer.chunks:
        try:
            body += inflater.decompress(chunk, most + 1 - len(body)) if inflater else chunk
        except zlib.error as error:
            message = f"the answer of {shown_host(answer.url)} is not the gzip stream that it claims to be"
            raise DataError(message) from error
        if len(body) > most:
            message = f"the answer of {shown_host(answer.url)} is larger than {most} bytes"
            raise DataError(
                message, "the limit protects the sensor from hostile answers; an honest registry stays far below it"
            )
    return bytes(body)


async def _chunks(response: aiohttp.ClientResponse, url: str) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise translate(error, url) from error
