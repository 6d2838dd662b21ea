"""Finds what a command means: a registry by its name in the configuration or its URL, an image by its reference."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from sensor.config.notation import on_disk
from sensor.config.schema import Config, Registry
from sensor.config.validate import find_problems
from sensor.control_plane.jobs import at_registry, repaired_reference
from sensor.errors import ConfigError, DataError
from sensor.log import clean_text
from sensor.model.digest import parse_digest
from sensor.model.reference import Reference, parse_reference
from sensor.registry.kinds import serving

_T = TypeVar("_T")


def registry_named(config: Config, target: str, *, insecure: bool = False) -> Registry:
    """The configured registry of that name, or whose URL this is; else a registry made from the URL alone, without credentials.

    Raises:
        ConfigError: neither a known name nor something that can be a registry's address.
    """
    if (place := on_disk(target)) is not None:
        target = f"{place[0]}:{Path(place[1]).expanduser().absolute()}"
    for registry in config.registries:
        if target == registry.name or _bare(target) == _bare(registry.url):
            return registry
    if not re.search(r"[.:/]", target) and target != "localhost":
        known = ", ".join(registry.name for registry in config.registries) or "none"
        message = f"there is no registry {target!r} in the configuration"
        raise ConfigError(message, f"configured are: {known}; an address needs a dot, a port or a scheme")
    try:
        made = Registry(name=_name_of(target), url=target, insecure=insecure)
    except ValidationError as error:
        message = f"not a registry address: {_shown(target)}"
        raise ConfigError(message, "expected host[:port], https://host, oci:/path or archive:/path") from error
    problems, _ = find_problems(Config(registries=(made,)))
    if problems:
        message = f"not a registry address: {_shown(target)}: {problems[0].text}"
        raise ConfigError(
            message, "plain HTTP needs --insecure; a registry that needs a login belongs into the configuration"
        )
    return made


def locate_image(config: Config, image: str, *, insecure: bool = False) -> tuple[Reference, Registry]:
    """The reference and the registry that serves it: a configured one where the host matches.

    Raises:
        ConfigError: not a reference, or one without a registry where the configuration names no default.
    """
    if (place := on_disk(image)) is not None:
        return _locate_on_disk(config, *place)
    reference = usable(repaired_reference, image)
    if not reference.registry:
        default = config.control_plane.default_registry if config.control_plane else ""
        if not default:
            message = f"{image!r} names no registry, and guessing one could scan another image of the same name"
            raise ConfigError(message, f"write the full reference, such as registry.example.com/{reference}")
        reference = at_registry(default, reference)
    configured = serving(config.registries, reference.registry, reference.repository)
    return reference, configured or registry_named(config, reference.registry, insecure=insecure)


def usable(parse: Callable[[str], _T], text: str) -> _T:
    """Parse a part of the command line: what is wrong there is the user's to mend.

    Raises:
        ConfigError: instead of the parser's DataError.
    """
    try:
        return parse(text)
    except DataError as error:
        raise ConfigError(error.message, error.advice) from error


def _locate_on_disk(config: Config, scheme: str, text: str) -> tuple[Reference, Registry]:
    """`/path`, `/path:tag`, `/path:repository:tag`, `/path:repository@sha256:...`. A name with a slash is a repository, with a host or not."""
    place, _, digest = text.partition("@")
    path, _, name = place.partition(":")
    pinned = usable(parse_digest, digest) if digest else None
    repository, colon, tag = name.partition(":")
    if "/" in name:
        # the host that names in archives begin with is dropped, as it is from these
        named = usable(parse_reference, name)
        repository, tag = named.repository, named.tag
    elif ":" in tag or (colon and not tag):
        message = f"not an image of {'a layout' if scheme == 'oci' else 'an archive'}: '{scheme}:{text}'"
        raise ConfigError(message, f"expected {scheme}:/path:repository:tag; the path must not hold a colon")
    elif not colon and not digest:
        repository, tag = "", name
    reference = Reference(registry="", repository=repository, tag=tag, digest=pinned)
    return reference, registry_named(config, f"{scheme}:{path}")


def _shown(address: str) -> str:
    """An address for messages: what stands before an @ may hold a password, what stands behind a ? a token."""
    return clean_text(re.sub(r"^(\w+://)?[^/]*@", r"\1***@", address.partition("?")[0]))


def _bare(url: str) -> str:
    """A URL without what makes no difference."""
    return re.sub(r"^(?:https?://|(?:oci|docker)-(?=archive:))", "", url).rstrip("/")


def _name_of(url: str) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", _bare(url).lower()).strip("-._")[:60] or "registry"
