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
    pushed: Mapping[str, float] = field(default_factory=dict)
    """When each tag was pushed (Unix time), where the registry tells."""
    withheld: Mapping[str, str] = field(default_factory=dict)
    """Names that are listed but cannot be had, and why: archived, quarantined, locked, only at an upstream."""
    dropped: int = 0
    """Entries that were no valid names (nulls, digests among tags, capitals)."""
    source: str = ""
    """What was asked, for people: `GitLab API`, `_catalog`, `tags/list`."""
    notes: tuple[str, ...] = ()
    """What the operator should know although it went well: an API token was refused and `_catalog` stood in, a namespace is empty."""


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
    advice: str = ""
    """What to do when the login was refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Who the registry or the cloud takes us for, and how long that holds. Never a secret."""

    identity: str = ""
    """Account and role, client id, user or robot; empty: anonymous, or not told."""
    expires: float | None = None
    """When the long-lived credential itself ends (Unix time); None: never, or not told."""
    may_write: bool | None = None
    """Whether it could push or delete as well, which a sensor does not need; None: not told, and never tried."""
    detail: str = ""
    """What it was read from, or why it could not be."""
    whose: str = ""
    """The setting of the credential that all this is about, where it is not the registry's login: `api.token`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A way to log in, and what it can do at its best. What it cannot do is refused with advice, not retried."""

    name: str
    """For people: `robot account`, `instance role`."""
    pulls: bool = True
    """Whether private images can be pulled with it."""
    lists: bool = True
    """Whether repositories can be listed with it."""
    complaint: str = ""
    """What looks wrong about user name or secret, without repeating the secret: `a robot is called team+name, not team/name`."""


def covers(namespace: str, repository: str) -> bool:
    """Whether a repository lies within a namespace; every one lies within the empty one."""
    return not namespace or f"{repository}/".startswith(f"{namespace}/")


class Registry(Protocol):
    """One registry, logged in. Every method raises SensorError only; not-found is RegistryNotFound (registry/errors.py)."""

    @property
    def host(self) -> str:
        """host[:port], as references name it."""

    @property
    def namespace(self) -> str:
        """Repositories outside of it are not for this registry's credential: `team`, `project/repository`. Empty: no bound."""

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

    async def method(self) -> Method:
        """Which way of logging in is used, and what looks wrong about it. Raises SecretError when it cannot be read."""

    async def standing(self) -> Standing:
        """Who we are there, as far as it tells."""

    async def close(self) -> None:
        """Release connections."""
