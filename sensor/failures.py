"""What stands between us and an answer, told apart: the client library's exceptions become NetworkErrors that say what to do.

    NetworkError (sensor/errors.py)
    ├── Unresolved         the name has no address here
    ├── Refused            nobody listens, or there is no way there
    ├── TimedOut           no connection, or no answer, in time
    ├── ProxyUnreachable   the proxy itself: its name, its port
    ├── ProxyRefused       the proxy answered with a status of its own; 407 wants a login
    └── Untrusted, NotTls, TlsOnly (sensor/tls.py)

`transport` raises them; nobody else sees an exception of the client library.
"""

from __future__ import annotations

import os
import socket
import ssl

import aiohttp

from sensor.errors import NetworkError
from sensor.route import parse_url, shown_host
from sensor.tls import (
    NO_CERTIFICATE,
    Certificate,
    TlsOnly,
    is_about_our_certificate,
    is_tls_record,
    translate_tls,
    untrusted,
)


class Unresolved(NetworkError):
    """The host's name has no address here."""


class Refused(NetworkError):
    """Nobody accepts connections there, or there is no way to that network."""


class TimedOut(NetworkError):
    """No connection, or no answer, within the time for it. `connected` says which."""

    connected = False


class ProxyUnreachable(NetworkError):
    """The proxy cannot be reached; nothing was learned about the host behind it."""


class ProxyRefused(NetworkError):
    """The proxy answered instead of the host. `status` is its answer."""

    status = 0


def translate(error: BaseException, url: str, presented: Certificate = NO_CERTIFICATE) -> NetworkError:
    """Turn a client library's exception into a NetworkError that says what to do.

    `presented` is the certificate that was refused, where it could be looked at.
    """
    host = shown_host(url)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return untrusted(error.certificate_error, host, presented)
    if isinstance(error, (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError)):
        return _proxy(error, host)
    if isinstance(error, (aiohttp.ClientConnectorSSLError, aiohttp.ClientSSLError, ssl.SSLError)):
        return translate_tls(str(error), host)
    if isinstance(error, (aiohttp.ClientConnectorDNSError, socket.gaierror)):
        return _unresolved(error, url)
    if isinstance(error, TimeoutError):
        return _timed_out(error, host)
    if isinstance(error, aiohttp.ClientConnectorError):
        reason = os.strerror(error.os_error.errno) if error.os_error.errno else error.os_error
        return Refused(
            f"cannot connect to {host}: {reason}",
            "check host, port and firewall, and whether the server is running",
        )
    if isinstance(error, OSError) and is_about_our_certificate(str(error)):
        # in TLS 1.3 the other side looks at our certificate after we think that all is well
        return translate_tls(str(error), host)
    return _broken(error, host)


def _broken(error: BaseException, host: str) -> NetworkError:
    """What came was no answer, or stopped being one."""
    if isinstance(error, aiohttp.InvalidURL):
        return NetworkError(f"not a usable URL for {host}", retryable=False)
    if isinstance(error, aiohttp.ClientResponseError) and is_tls_record(error.message):
        return TlsOnly(f"{host} speaks TLS, but was asked in plain HTTP", "write https:// in front of the host")
    if isinstance(error, aiohttp.ClientResponseError):
        return NetworkError(f"{host} answered with something that is not HTTP", "check the port")
    return NetworkError(f"the connection to {host} broke: {type(error).__name__}")


def _proxy(error: aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError, host: str) -> NetworkError:
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return ProxyUnreachable(
            f"the proxy for {host} cannot be reached: {error}", "check http.proxy and http.no_proxy"
        )
    return proxy_refused(host, error.status)


def proxy_refused(host: str, status: int) -> ProxyRefused:
    """The error for a status that a proxy gave instead of the host."""
    if status == 407:
        advice = "the proxy wants a login: write http://user:password@host:port in http.proxy, or add the host to http.no_proxy"
    elif status >= 500:
        advice = "the proxy did not get through: it may not resolve or reach the host; try http.no_proxy for it"
    else:
        advice = "check the proxy's rules, or add the host to http.no_proxy"
    refused = ProxyRefused(f"the proxy refused {host} with status {status}", advice, retryable=status >= 500)
    refused.status = status
    return refused


def _unresolved(error: BaseException, url: str) -> NetworkError:
    """Behind a proxy it is the proxy's name that was looked up, not the host's."""
    host = shown_host(url)
    asked = error.host if isinstance(error, aiohttp.ClientConnectorDNSError) else ""
    if asked and asked.strip("[]") != (parse_url(url).host or ""):
        message = f"the proxy for {host} cannot be reached: the name {asked} cannot be resolved"
        return ProxyUnreachable(message, "check http.proxy and http.no_proxy")
    return Unresolved(
        f"the name {host} cannot be resolved",
        "check the host name and the resolver (DNS) of this machine or container",
    )


def _timed_out(error: TimeoutError, host: str) -> TimedOut:
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return TimedOut(
            f"{host} did not answer in time: no connection",
            "packets are dropped on the way: check host, port, the network path and any firewall in between",
        )
    silent = TimedOut(
        f"{host} did not answer in time", "check the network path and any firewall in between, and the server's load"
    )
    silent.connected = True
    return silent


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
