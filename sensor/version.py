"""The version of this sensor, from the installed distribution's own metadata: it stands in one place, pyproject.toml."""

from __future__ import annotations

from importlib import metadata

try:
    VERSION = metadata.version("harborguard-sensor")
except metadata.PackageNotFoundError:  # pragma: no cover - run from a source tree that was never installed
    VERSION = "0+source"
