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
from sensor.version import VERSION

USER_AGENT = f"harborguard-sensor/{VERSION}"
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


class Unresolved(NetworkError):
    """The host's name has no address here."""


class Untrusted(NetworkError):
    """The certificate of the other side is not to be trusted."""

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
            (retry or (Retry() if method in {"GET", "HEAD"} else NO_RETRY)) if method in _SAFE_TO_REPEAT else NO_RETRY
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
        proxy = self.route.proxy_for(target.host or "")
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self._limits.connect_seconds, sock_read=idle or self._limits.idle_seconds
        )
        self.requests += 1
        async with self._session() as session:
            try:
                response = await session.request(
                    method,
                    target,
                    headers={"User-Agent": USER_AGENT, **(headers or {})},
                    data=body,
                    allow_redirects=False,
                    proxy=proxy,
                    timeout=timeout,
                )
            except aiohttp.ClientConnectorCertificateError as error:
                issuer = "" if proxy else await _issuer_of(target, self._limits.connect_seconds)
                raise translate(error, url, issuer) from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise translate(error, url) from error
            # from here on an exception is the caller's own (a full disk, say) or was translated by _chunks
            try:
                answer = _streamed(response, url)
                if answer.status in {429, 503} and (wait := retry_after(answer.headers)) is not None:
                    self._park(url, wait)
                yield answer
            finally:
                if response.content.at_eof():
                    response.release()
                else:
                    response.close()

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

    @contextlib.asynccontextmanager
    async def _session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """The current session, kept open until the request is over, whatever happens to the CA file meanwhile."""
        stamp = _stamp_of(self.route.ca_file)
        if self._pool is None:
            self._pool = self._open(tls_context(self.route.ca_file), stamp)
        elif stamp is not None and stamp != self._pool.stamp:
            await self._reopen(stamp)
        pool = self._pool
        pool.users += 1
        try:
            yield pool.session
        finally:
            pool.users -= 1
            if pool.retired and pool.users == 0:
                await pool.session.close()

    async def _reopen(self, stamp: tuple[int, int, int]) -> None:
        """New connections trust the changed CA file; running requests keep theirs. A broken file changes nothing."""
        old = self._pool
        assert old is not None  # noqa: S101 - for the type checker
        try:
            context = tls_context(self.route.ca_file)
        except ConfigError as error:
            _log.warning("ca_file_unusable", path=self.route.ca_file, error=error.message)
            old.stamp = stamp
            return
        self._pool = self._open(context, stamp)
        old.retired = True
        if old.users == 0:
            await old.session.close()

    def _open(self, context: ssl.SSLContext, stamp: tuple[int, int, int] | None) -> _Pool:
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
        return _Pool(session=session, stamp=stamp)


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


def translate(error: BaseException, url: str, issuer: str = "") -> NetworkError:  # noqa: PLR0911 - a table in prose
    """Turn a client library's exception into a NetworkError that says what to do."""
    host = _shown_host(url)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        by = f", which was issued by {issuer}," if issuer else ""
        return Untrusted(
            f"the certificate of {host}{by} is not trusted: {_certificate_reason(error.certificate_error)}",
            "name the PEM file of the issuing authority in ca_file",
        )
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return NetworkError(f"the proxy for {host} cannot be reached: {error}", "check http.proxy and http.no_proxy")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return NetworkError(
            f"the proxy refused {host} with status {error.status}",
            "check the proxy's credentials and rules, or add the host to http.no_proxy",
            retryable=error.status >= 500,
        )
    if isinstance(error, (aiohttp.ClientConnectorSSLError, aiohttp.ClientSSLError, ssl.SSLError)):
        return _translate_tls(str(error), host)
    if isinstance(error, (aiohttp.ClientConnectorDNSError, socket.gaierror)):
        return Unresolved(f"the name {host} cannot be resolved", "check the host name and the resolver")
    if isinstance(error, TimeoutError):
        return NetworkError(f"{host} did not answer in time", "check the network path and any firewall in between")
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = os.strerror(error.os_error.errno) if error.os_error.errno else error.os_error
        return NetworkError(f"cannot connect to {host}: {reason}", "check host, port and firewall")
    if isinstance(error, aiohttp.InvalidURL):
        return NetworkError(f"not a usable URL for {host}", retryable=False)
    if isinstance(error, aiohttp.ClientResponseError) and any(mark in str(error) for mark in _TLS_RECORDS):
        return TlsOnly(f"{host} speaks TLS, but was asked in plain HTTP", "write https:// in front of the host")
    return NetworkError(f"the connection to {host} broke: {type(error).__name__}")


_TLS_RECORDS = ("\x15\x03", "\\x15\\x03")
"""The start of a TLS alert, as it stands in a complaint about a malformed status line."""


def _translate_tls(text: str, host: str) -> NetworkError:
    if any(
        mark in text
        for mark in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "record layer failure")
    ):
        return NotTls(
            f"{host} does not speak TLS",
            "it may be a plain-HTTP port: use the right port, or insecure: true for a trusted internal registry",
        )
    return NetworkError(f"TLS with {host} failed: {text}", "check the port and the TLS set-up", retryable=False)


def _certificate_reason(error: Exception) -> str:
    return getattr(error, "verify_message", "") or str(error)


def was_never_sent(error: NetworkError) -> bool:
    """Whether a request surely never left: name, connection, TLS or proxy failed first. Only then may one that is not idempotent be repeated."""
    return isinstance(
        error.__cause__,
        (
            aiohttp.ClientConnectorError,
            aiohttp.ConnectionTimeoutError,
            aiohttp.ClientHttpProxyError,
            aiohttp.InvalidURL,
        ),
    )


def redirect_target(url: str, location: str) -> str:
    """Resolve a Location header against the request's URL, byte for byte (signatures must not be re-quoted).

    Raises:
        DataError: not an http or https URL.
    """
    try:
        target = URL(url, encoded=True).join(URL(location, encoded=True))
        usable = target.scheme in {"http", "https"} and bool(target.host) and target.port is not None
    except ValueError as error:
        raise DataError("a redirect leads to an unusable URL") from error
    if not usable:
        raise DataError("a redirect leads to an unusable URL")
    return str(target)


def same_origin(first: str, second: str) -> bool:
    """Whether scheme, host and port of two URLs are equal: only then a credential may be sent again."""
    a, b = URL(first, encoded=True), URL(second, encoded=True)
    return (a.scheme, a.host, a.port) == (b.scheme, b.host, b.port)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from Retry-After: an integer or an HTTP date (RFC 9110, 10.2.3); None when absent or unreadable.

    Docker Hub's API sends the same as a Unix time in X-Retry-After.
    """
    text = (headers.get("retry-after") or headers.get("x-retry-after") or "").strip()
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    else:
        seconds = seconds - time.time() if seconds > 1e9 else seconds
    return min(max(seconds, 0.0), _LONGEST_PAUSE) if seconds == seconds else None  # noqa: PLR0124 - NaN


def _parse_url(url: str) -> URL:
    try:
        target = URL(url, encoded=True)
        if target.host and target.port is not None:
            return target
    except ValueError:
        pass
    message = f"not a usable URL for {_shown_host(url)}"
    raise NetworkError(message, "check host and port", retryable=False)


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
            message = f"the answer of {_shown_host(answer.url)} is not the gzip stream that it claims to be"
            raise DataError(message) from error
        if len(body) > most:
            message = f"the answer of {_shown_host(answer.url)} is larger than {most} bytes"
            raise DataError(message, "the limit protects the sensor; see docs/limits")
    return bytes(body)


async def _chunks(response: aiohttp.ClientResponse, url: str) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise translate(error, url) from error


def _stamp_of(path: str) -> tuple[int, int, int] | None:
    """What changes when a file is rewritten or replaced; None while it is missing."""
    if not path:
        return None
    try:
        found = os.stat(path)  # noqa: PTH116 - one system call for each request
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


async def _issuer_of(target: URL, seconds: float) -> str:
    """Who signed the certificate that was refused: a second greeting that checks nothing, and on which nothing is sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(
                target.host, target.port, ssl=context, server_hostname=target.host
            )
    except (OSError, ValueError):
        return ""
    try:
        certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    return issuer_name(certificate or b"")


def issuer_name(certificate: bytes) -> str:
    """Common name and organisation of the issuer in a DER certificate (RFC 5280, 4.1), or "" when it cannot be read.

    The standard library decodes certificates only after it has verified them.
    """
    try:
        body = next(_der(next(_der(certificate))[1]))[1]
        fields = [value for tag, value in _der(body) if tag != 0xA0]  # [0] is the version
        names = {
            next(parts)[1]: next(parts)[1].decode("utf-8", "replace")
            for _, name_set in _der(fields[2])
            for _, attribute in _der(name_set)
            for parts in [_der(attribute)]
        }
    except (StopIteration, IndexError, ValueError):
        return ""
    found = [names[oid] for oid in (b"\x55\x04\x03", b"\x55\x04\x0a") if oid in names]
    return "".join(c if c.isprintable() else "?" for c in ", ".join(found))[:200]


def _der(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The (tag, content) elements that stand side by side in DER bytes."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            width = length & 0x7F
            length, at = int.from_bytes(data[at : at + width], "big"), at + width
        if at + length > len(data):
            raise ValueError
        yield tag, data[at : at + length]
        at += length


def _shown_host(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "?"
    return f"{parts.hostname}:{port}" if port else (parts.hostname or "?")


def _host_matches(host: str, pattern: str) -> bool:
    if pattern in {"*", host} or host.endswith("." + pattern.lstrip("*.")):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return False
