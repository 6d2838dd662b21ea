"""Reads os-release(5): which distribution and release an image is made of.

Leaves to `scan.squash` which of several os-release files counts, and to `scan.match` which advisories that means.
"""

from __future__ import annotations

import re

from sensor.model.package import OsRelease

OS_RELEASE_PATHS: frozenset[str] = frozenset({"etc/os-release", "usr/lib/os-release"})
"""Where the file stands; the first is often a symbolic link to the second."""

_ESCAPED = re.compile(r"\\([\"$\\`'])")
_MOST_CHARACTERS = 200
"""Of one value that is kept; the longest real PRETTY_NAME has about 60."""


def parse_os_release(data: bytes) -> OsRelease | None:
    """Return the fields that decide which advisories apply, or None when the file does not name a distribution.

    Values are bare or quoted in the way of a shell; of a repeated key the last counts, as when a shell reads the file.
    """
    values: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").split("\n"):
        key, equals, value = line.strip().partition("=")
        if equals and key and not key.startswith("#"):
            values[key] = _unquote(value.strip())
    distribution = values.get("ID", "").lower()
    if not distribution:
        return None
    return OsRelease(
        id=distribution,
        version_id=values.get("VERSION_ID", ""),
        version_codename=values.get("VERSION_CODENAME", ""),
        id_like=tuple(values.get("ID_LIKE", "").lower().split()),
        pretty_name=values.get("PRETTY_NAME", ""),
        cpe_name=values.get("CPE_NAME", ""),
    )


def _unquote(value: str) -> str:
    """Undo the shell's quoting; what a terminal could take for a command is removed."""
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        quote, value = value[0], value[1:-1]
        if quote == '"':
            value = _ESCAPED.sub(r"\1", value)
    else:
        value = _ESCAPED.sub(r"\1", value)
    return "".join(filter(str.isprintable, value[:_MOST_CHARACTERS])).strip()
