"""To which registry hosts a control plane's jobs may send this sensor. Pure.

A job's reference comes from outside: whoever may start scans there would otherwise choose which hosts this network talks to.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from sensor.model.reference import same_registry
from sensor.route import METADATA_HOSTS, hosts_of


def is_named(host: str, patterns: Iterable[str]) -> bool:
    """Whether a host[:port] stands among the patterns as it is."""
    return any(same_registry(host, pattern) for pattern in patterns)


def is_allowed(host: str, patterns: Iterable[str]) -> bool:
    """Whether jobs may go to a host[:port]: it is named, below a named domain (`*.example.com`), or everything is allowed (`*`).

    This machine, its network's link-local addresses and the clouds' metadata services are never meant by a wildcard.
    """
    found = tuple(patterns)
    if is_named(host, found):
        return True
    name = next(iter(hosts_of(host)), "")
    if not name or _is_here(name):
        return False
    return any(pattern == "*" or (pattern.startswith("*.") and name.endswith(pattern[1:].lower())) for pattern in found)


def _is_here(name: str) -> bool:
    if name in METADATA_HOSTS or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_link_local or mapped.is_unspecified or mapped.is_multicast)
