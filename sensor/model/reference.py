"""Image references: `registry[:port]/repository[:tag][@digest]`.

The grammar is that of the OCI distribution specification 1.1 ("Pulling manifests"): lower-case names, tags of at most 128
characters. A reference without a host is *not* completed here: which registry was meant is the caller's decision
(see the host-less reference trap in docs/adr).
"""

from __future__ import annotations

import re

import msgspec

from sensor.errors import DataError
from sensor.model.digest import Digest, parse_digest

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?"
)


class Reference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One image at one place. `registry` is host[:port], empty when the text named none; `tag` and `digest` may both be empty."""

    repository: str
    registry: str = ""
    tag: str = ""
    digest: Digest | None = None

    def __str__(self) -> str:
        text = f"{self.registry}/{self.repository}" if self.registry else self.repository
        if self.tag:
            text += f":{self.tag}"
        return f"{text}@{self.digest}" if self.digest else text

    @property
    def target(self) -> str:
        """What a manifest request names: the digest if there is one, else the tag, else `latest`."""
        return self.digest or self.tag or "latest"


def is_repository(text: str) -> bool:
    """Whether the text is a repository name (without host) of at most 255 characters."""
    return len(text) <= 255 and _REPOSITORY.fullmatch(text) is not None


def is_tag(text: str) -> bool:
    """Whether the text is a tag."""
    return _TAG.fullmatch(text) is not None


def parse_reference(text: str) -> Reference:
    """Split a reference. The first part is a host if it holds a dot, a colon or is `localhost`, as every container tool decides it.

    Raises:
        DataError: empty, capitals in the name, a bad tag, a bad digest, or a scheme in front.
    """
    advice = "expected [registry[:port]/]repository[:tag][@sha256:...]"
    if "://" in text:
        message = f"not an image reference: {text[:200]!r} starts with a scheme"
        raise DataError(message, advice)
    rest, _, digest_text = text.partition("@")
    digest = parse_digest(digest_text) if digest_text else None
    registry, slash, path = rest.partition("/")
    if not slash or not ("." in registry or ":" in registry or registry == "localhost" or registry.startswith("[")):
        registry, path = "", rest
    name, colon, tag = path.partition(":")
    if (
        (registry and not _HOST.fullmatch(registry))
        or not is_repository(name)
        or (colon and not is_tag(tag))
        or ("@" in text and not digest_text)
    ):
        message = f"not an image reference: {text[:200]!r}"
        raise DataError(message, advice)
    return Reference(registry=registry, repository=name, tag=tag, digest=digest)


DOCKER_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})
"""Hosts that all mean Docker Hub."""


def same_registry(first: str, second: str) -> bool:
    """Whether two hosts of references mean one registry: case does not count, and Docker Hub has several names."""
    a, b = first.lower(), second.lower()
    return a == b or (a in DOCKER_HUB and b in DOCKER_HUB)
