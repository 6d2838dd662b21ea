"""Finds the registry that a command means: a name of the configuration, or a URL that is in none."""

from __future__ import annotations

import re

from pydantic import ValidationError

from sensor.config.schema import Config, Registry
from sensor.errors import ConfigError


def registry_named(config: Config, target: str, *, insecure: bool = False) -> Registry:
    """The configured registry of that name, or whose URL this is; else a registry made from the URL alone, without credentials.

    Raises:
        ConfigError: neither a known name nor something that can be a registry's address.
    """
    for registry in config.registries:
        if target == registry.name or _bare(target) == _bare(registry.url):
            return registry
    if not re.search(r"[.:/]", target) and target != "localhost":
        known = ", ".join(registry.name for registry in config.registries) or "none"
        message = f"there is no registry {target!r} in the configuration"
        raise ConfigError(message, f"configured are: {known}; an address needs a dot, a port or a scheme")
    try:
        return Registry(name=_name_of(target), url=target, insecure=insecure)
    except ValidationError as error:
        message = f"not a registry address: {target!r}"
        raise ConfigError(message, "expected host[:port], https://host, or oci:/path") from error


def _bare(url: str) -> str:
    return re.sub(r"^https?://", "", url).rstrip("/")


def _name_of(url: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", _bare(url).lower()).strip("-._")[:60] or "registry"
