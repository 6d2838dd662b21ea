"""Client sessions: TLS, proxy, pacing, retry, byte caps. The only place that opens sessions and translates client errors.

Knows nothing of registries or control planes: it takes a request and gives back a status, headers and bounded bytes. It never
follows a redirect by itself, because only the caller knows which credential must not cross an origin. Bodies are given as they came
(`auto_decompress` off): a layer is hashed as the registry stores it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from sensor.errors import ConfigError, DataError, NetworkError
from sensor.limits import DEFAULT_LIMITS, Limits

USER_AGENT = "harborguard-sensor/0.1"
RETRY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_ALWAYS_DIRECT = (
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "fd00:ec2::254",
    "fd00:ec2::23",
    "metadata.google.internal",
)
_LONGEST_PAUSE = 900.0
"""Seconds a server may ask us to wait; more is rescheduled by the caller, not slept here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How to reach the hosts of one configured connection."""

    ca_file: str = ""
    proxy: str = ""
    no_proxy: tuple[str, ...] = ()

    def proxy_for(self, host: str) -> str | None:
        """The proxy for a host, or None for a direct connection. Metadata services are always direct."""
        if not self.proxy or self.proxy == "direct" or host in _ALWAYS_DIRECT:
            return None
        return None if any(_host_matches(host, pattern) for pattern in self.no_proxy) else self.proxy


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how patiently one request is repeated. Pauses are full jitter below `first * 2**n`, capped by `most` seconds."""

    attempts: int = 5
    first: float = 1.0
    most: float = 60.0


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
    """An answer whose body is still on the wire."""

    status: int
    url: str
    headers: Mapping[str, str]
    chunks: AsyncIterator[bytes]


@dataclass(slots=True)
class _Parking:
    """Hosts that asked for a pause, with the monotonic time until which they are left alone."""

    until: dict[str, float] = field(default_factory=dict)


class Transport:
    """One pool of connections with one route. Close it when done."""

    def __init__(
        self,
        route: Route | None = None,
        *,
        limits: Limits = DEFAULT_LIMITS,
        connections_per_host: int = 8,
        keep_alive: bool = True,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.route = route or Route()
        self.requests = 0
        """Requests sent so far, for the ledger and for tests."""
        self._limits = limits
        self._connections = connections_per_host
        self._keep_alive = keep_alive
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None
        self._parking = _Parking()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def fetch(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        most_bytes: int | None = None,
        retry: Retry | None = None,
    ) -> Reply:
        """Send a request and read the whole answer, at most `most_bytes` of it.

        Statuses in RETRY_STATUSES and network errors are repeated as `retry` says (default: five attempts for GET and HEAD, one for
        anything else); the last answer is returned whatever its status.

        Raises:
            NetworkError: no answer.
            DataError: the body is larger than allowed.
        """
        plan = retry or (Retry() if method in {"GET", "HEAD"} else NO_RETRY)
        for attempt in range(plan.attempts):
            last = attempt == plan.attempts - 1
            try:
                async with self.stream(method, url, headers=headers, body=body) as answer:
                    data = await _read(answer, self._limits.page_bytes if most_bytes is None else most_bytes, method)
                    reply = Reply(status=answer.status, url=answer.url, headers=answer.headers, body=data)
            except NetworkError as error:
                if last or not error.retryable:
                    raise
                await self._sleep(_pause(plan, attempt, error.retry_after))
                continue
            wait = retry_after(reply.headers)
            if reply.status not in RETRY_STATUSES or last or (wait is not None and wait > plan.most):
                return reply
            await self._sleep(_pause(plan, attempt, wait))
        raise AssertionError  # pragma: no cover - the loop returns or raises

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> AsyncIterator[Streamed]:
        """Send a request and hand out the body as it comes. One attempt, no redirects.

        Raises:
            NetworkError: no answer, or the body broke off.
        """
        session = await self._open()
        target = URL(url, encoded=True)
        host = target.host or ""
        self.requests += 1
        try:
            async with session.request(
                method,
                target,
                headers={"User-Agent": USER_AGENT, **(headers or {})},
                data=body,
                allow_redirects=False,
                proxy=self.route.proxy_for(host),
            ) as response:
                yield Streamed(
                    status=response.status,
                    url=url,
                    headers={name.lower(): value for name, value in response.headers.items()},
                    chunks=_chunks(response, url),
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise translate(error, url) from error

    async def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                ssl=tls_context(self.route.ca_file),
                limit=0,
                limit_per_host=self._connections,
                force_close=not self._keep_alive,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                auto_decompress=False,
                read_bufsize=1 << 20,
                requote_redirect_url=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(
                    total=None, sock_connect=self._limits.connect_seconds, sock_read=self._limits.idle_seconds
                ),
                skip_auto_headers=("Accept-Encoding",),
            )
        return self._session


def tls_context(ca_file: str) -> ssl.SSLContext:
    """The system's certificate authorities, plus those of a PEM file.

    Raises:
        ConfigError: the file is missing or holds no certificate.
    """
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            message = f"cannot load certificate authorities from {ca_file}: {error}"
            raise ConfigError(message, "ca_file must be a PEM file with at least one certificate") from error
    return context


def translate(error: BaseException, url: str) -> NetworkError:
    """Turn a client library's exception into a NetworkError that says what to do."""
    host = _shown_host(url)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return NetworkError(
            f"the certificate of {host} is not trusted: {error.certificate_error}",
            "name the issuing authority's PEM file in ca_file",
            retryable=False,
        )
    if isinstance(error, (aiohttp.ClientConnectorSSLError, aiohttp.ClientSSLError, ssl.SSLError)):
        if "WRONG_VERSION_NUMBER" in str(error) or "record layer failure" in str(error).lower():
            return NetworkError(
                f"{host} does not speak TLS",
                "it may be a plain-HTTP port: use the right port, or insecure: true for a trusted internal registry",
                retryable=False,
            )
        return NetworkError(f"TLS with {host} failed: {error}", "check the port and the TLS set-up", retryable=False)
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return NetworkError(f"the proxy for {host} cannot be reached: {error}", "check http.proxy and http.no_proxy")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return NetworkError(
            f"the proxy refused {host} with status {error.status}",
            "check the proxy's credentials and rules, or add the host to http.no_proxy",
            retryable=error.status >= 500,
        )
    if isinstance(error, (aiohttp.ClientConnectorDNSError, socket.gaierror)):
        return NetworkError(f"the name {host} cannot be resolved", "check the host name and the resolver")
    if isinstance(error, TimeoutError):
        return NetworkError(f"{host} did not answer in time", "check the network path and any firewall in between")
    if isinstance(error, aiohttp.ClientConnectorError):
        return NetworkError(
            f"cannot connect to {host}: {error.os_error.strerror or error.os_error}", "check host, port and firewall"
        )
    if isinstance(error, aiohttp.InvalidURL):
        return NetworkError(f"not a usable URL for {host}", retryable=False)
    return NetworkError(f"the connection to {host} broke: {type(error).__name__}")


def redirect_target(url: str, location: str) -> str:
    """Resolve a Location header against the request's URL, byte for byte (signatures must not be re-quoted).

    Raises:
        DataError: not an http or https URL.
    """
    try:
        target = URL(url, encoded=True).join(URL(location, encoded=True))
    except ValueError as error:
        raise DataError("a redirect leads to an unusable URL") from error
    if target.scheme not in {"http", "https"} or not target.host:
        raise DataError("a redirect leads to an unusable URL")
    return str(target)


def same_origin(first: str, second: str) -> bool:
    """Whether scheme, host and port of two URLs are equal: only then a credential may be sent again."""
    a, b = URL(first, encoded=True), URL(second, encoded=True)
    return (a.scheme, a.host, a.port) == (b.scheme, b.host, b.port)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from Retry-After: an integer or an HTTP date (RFC 9110, 10.2.3); None when absent or unreadable."""
    text = headers.get("retry-after", "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return min(max(seconds, 0.0), _LONGEST_PAUSE) if seconds == seconds else None  # noqa: PLR0124 - NaN


async def _read(answer: Streamed, most: int, method: str) -> bytes:
    if method == "HEAD":
        return b""
    parts: list[bytes] = []
    size = 0
    async for chunk in answer.chunks:
        size += len(chunk)
        if size > most:
            message = f"the answer of {_shown_host(answer.url)} is larger than {most} bytes"
            raise DataError(message, "the limit protects the sensor; see docs/limits")
        parts.append(chunk)
    return b"".join(parts)


async def _chunks(response: aiohttp.ClientResponse, url: str) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise translate(error, url) from error


def _pause(plan: Retry, attempt: int, asked: float | None) -> float:
    jittered = random.uniform(0, min(plan.most, plan.first * 2**attempt))
    return max(jittered, asked or 0.0)


def _shown_host(url: str) -> str:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    return f"{parts.hostname}:{port}" if port else (parts.hostname or "?")


def _host_matches(host: str, pattern: str) -> bool:
    if pattern == "*" or host == pattern or host.endswith("." + pattern.lstrip(".")):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return False
