"""The catalogue call of the HarborGuard protocol: what a registry holds (section 10). No input or output happens here."""

from __future__ import annotations

from typing import Literal, TypeAlias, cast, get_args

import msgspec

Provider: TypeAlias = Literal["ecr", "gar", "acr", "dockerhub", "ghcr", "gitlab", "generic"]
"""The words for providers that a catalogue may use."""

_PROVIDERS: frozenset[str] = frozenset(get_args(Provider))


class CatalogRepository(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One repository of a catalogue; in the next page the same name may go on."""

    name: str
    tags: tuple[str, ...]


class Catalog(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`POST /api/agent/catalog` (section 10): one page of what a registry holds.

    `page` and `pages` are extra fields that other servers ignore: pages of one report share `discoveredAt`.
    """

    agent_id: str
    registry_url: str
    provider: Provider
    repositories: tuple[CatalogRepository, ...]
    discovered_at: str
    error: str = ""
    page: int = 1
    pages: int = 1


def provider_word(kind: str) -> Provider:
    """The word for a kind of registry; all that the protocol has no word for is generic."""
    return cast("Provider", kind) if kind in _PROVIDERS else "generic"
