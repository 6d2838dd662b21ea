"""Where a request goes: proxies, redirects, origins, and the pauses that servers ask for. Pure; `transport` does the sending."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from yarl import URL

from sensor.errors import DataError, NetworkError

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How to reach the hosts of one configured connection."""

    ca_file: str = ""
    proxy: str = field(default="", repr=False)
    """May hold a password."""
    no_proxy: tuple[str, ...] = ()
    client_certificate: str = ""
    """PEM file: shown to `client_hosts` alone, because it tells who we are. Its key is in it, or in `client_key`."""
    client_key: str = ""
    client_hosts: tuple[str, ...] = ()
    """Names without ports."""

    @property
    def files(self) -> tuple[str, ...]:
        """What TLS is made of; empty strings for what is not used."""
        return self.ca_file, self.client_certificate, self.client_key

    def is_known_to(self, host: str) -> bool:
        """Whether the client certificate is for a host."""
        return bool(self.client_certificate) and host.lower() in self.client_hosts

    def proxy_for(self, host: str) -> str | None:
        """The proxy for a host, or None for a direct connection. Metadata services are always direct."""
        if not self.proxy or self.proxy == "direct" or host in METADATA_HOSTS:
            return None
        return None if any(host_matches(host, pattern) for pattern in self.no_proxy) else self.proxy


def redirect_target(url: str, location: str) -> str:
    """Resolve a Location header against the request's URL, byte for byte (signatures must not be re-quoted).

    Raises:
        DataError: not an http or https URL, or one with a user name.
    """
    try:
        target = URL(url, encoded=True).join(URL(location, encoded=True))
        # a user name there would be the other side's choice of a login
        usable = target.scheme in {"http", "https"} and bool(target.host) and target.port is not None
        usable = usable and target.user is None and target.password is None
    except ValueError as error:
        raise DataError("a redirect leads to an unusable URL") from error
    if not usable:
        raise DataError("a redirect leads to an unusable URL")
    return str(target)


def hosts_of(*addresses: str) -> tuple[str, ...]:
    """The names, in lower case and without ports, of URLs and of host[:port]; what has none gives none."""
    names = []
    for address in addresses:
        try:
            names.append(urlsplit(address if "://" in address else f"//{address}").hostname)
        except ValueError:
            continue
    return tuple(dict.fromkeys(name for name in names if name))


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


def parse_url(url: str) -> URL:
    """A URL to send a request to, byte for byte.

    Raises:
        NetworkError: no host, or an impossible port.
    """
    try:
        target = URL(url, encoded=True)
        if target.host and target.port is not None:
            return target
    except ValueError:
        pass
    message = f"not a usable URL for {shown_host(url)}"
    raise NetworkError(message, "check host and port", retryable=False)


def shown_host(url: str) -> str:
    """host[:port] of a URL, for messages and as the key of what concerns that host."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "?"
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or "?"
    return f"{name}:{port}" if port else name


def host_matches(host: str, pattern: str) -> bool:
    """Whether a `no_proxy` entry covers a host: its name, a domain (.example.net), a network (10.0.0.0/8), or `*`."""
    host, pattern = host.lower(), pattern.lower()
    if pattern in {"*", host} or host.endswith("." + pattern.lstrip("*.")):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(pattern, strict=False)
    except ValueError:
        return False
