"""The one spelling of a package name per advisory ecosystem: the importer stores it, the matcher asks for it.

Leaves the choice of the name (source, binary, origin) to `scan.match`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType

_PYPI_SEPARATORS = re.compile(r"[-_.]+")


def _pypi(name: str) -> str:
    return _PYPI_SEPARATORS.sub("-", name).lower()


NORMAL_NAMES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "PyPI": _pypi,  # PEP 503, "Normalized Names"
        "NuGet": str.lower,
        "Packagist": str.lower,
        "GitHub Actions": str.lower,
    }
)
"""Ecosystems whose names have several spellings. All others compare byte for byte: npm has old packages that differ in case only,
and Go module paths are case-sensitive."""


def base_ecosystem(ecosystem: str) -> str:
    """The name before the first colon: `Debian` of `Debian:12` (OSV schema, "affected[].package field")."""
    return ecosystem.partition(":")[0]


@lru_cache(maxsize=65536)
def normal_name(ecosystem: str, name: str) -> str:
    """The name as the ecosystem compares it. `ecosystem` may carry a suffix (`PyPI`, `Debian:12`)."""
    normalise = NORMAL_NAMES.get(base_ecosystem(ecosystem))
    stripped = name.strip()
    return normalise(stripped) if normalise else stripped
