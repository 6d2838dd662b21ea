"""What the sensor asks of a registry, whatever its kind. `client` implements it over HTTP, `kinds.layout` over images on disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sensor.model.digest import Digest
from sensor.model.manifest import Descriptor, ImageConfig, Index, Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Names, and whether they are all there are. A listing that was capped, looping or denied is partial and deletes nothing.

    `digests` holds what the registry told along with the names (tag to digest), where it does.
    """

    names: tuple[str, ...]
    complete: bool = True
    reason: str = ""
    """Why the listing is not complete."""
    digests: Mapping[str, Digest] = field(default_factory=dict)
    dropped: int = 0
    """Entries that were no valid names (nulls, digests among tags, capitals)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestHead:
    """What a manifest request by HEAD tells. `size` is 0 when the registry does not say."""

    digest: Digest
    media_type: str
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedManifest:
    """A manifest or index whose bytes hash to `digest`."""

    digest: Digest
    media_type: str
    data: bytes
    document: Manifest | Index


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """The answer of `GET /v2/`: the three values that Test Connection reports, and what was found out on the way."""

    reachable: bool
    authenticated: bool
    latency_ms: float
    scheme: str = ""
    detail: str = ""


class Registry(Protocol):
    """One registry, logged in. Every method raises SensorError only; not-found is RegistryNotFound (registry/errors.py)."""

    @property
    def host(self) -> str:
        """host[:port], as references name it."""

    @property
    def requests(self) -> int:
        """Requests sent so far."""

    async def ping(self) -> Ping:
        """Reach the registry and log in."""

    async def repositories(self) -> Listing:
        """All repositories that the credential may see."""

    async def tags(self, repository: str) -> Listing:
        """All tags of a repository."""

    async def head(self, repository: str, target: str) -> ManifestHead:
        """Digest and type of a tag or digest, without fetching the manifest."""

    async def manifest(self, repository: str, target: str) -> FetchedManifest:
        """Fetch a manifest or index by tag or digest; the bytes are checked against the digest."""

    async def config(self, repository: str, descriptor: Descriptor) -> ImageConfig:
        """Fetch and check an image configuration."""

    def blob(self, repository: str, descriptor: Descriptor) -> AsyncIterator[bytes]:
        """Stream a blob's bytes as stored, resuming after a broken connection. The caller checks the digest."""

    async def close(self) -> None:
        """Release connections."""
