"""To which registry hosts a control plane's jobs may send this sensor, by name. Pure.

A job's reference comes from outside: whoever may start scans there would otherwise choose which hosts this network talks to. What a wildcard
never means (this machine, metadata services, addresses inside for a control plane outside) is refused where the job is served.
"""

from __future__ import annotations

from collections.abc import Iterable

from sensor.model.reference import same_registry
from sensor.route import hosts_of


def is_named(host: str, patterns: Iterable[str]) -> bool:
    """Whether a host[:port] stands among the patterns as it is."""
    return any(same_registry(host, pattern) for pattern in patterns)


def is_allowed(host: str, patterns: Iterable[str]) -> bool:
    """Whether a host[:port] is named, stands below a named domain (`*.example.com`), or everything is allowed (`*`)."""
    found = tuple(patterns)
    name = next(iter(hosts_of(host)), "")
    return is_named(host, found) or any(
        pattern == "*" or (pattern.startswith("*.") and name.endswith(pattern[1:].lower())) for pattern in found if name
    )
