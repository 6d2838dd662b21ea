"""Where a provider differs from the plain protocol without needing code of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """Where a provider differs from the plain protocol without needing code of its own."""

    catalog: bool = True
    """Whether `_catalog` is of any use there."""
    catalog_page: int = 1000
    """`n` of the first `_catalog` request; distribution refuses more. 0 sends none."""
    tags_page: int = 1000
    catalog_scope: str = "registry:catalog:*"
    pull_actions: str = "pull"
    scope_name: Callable[[str], str] = lambda repository: repository
    """The repository as the token service calls it (Artifactory leaves its own key out)."""
    path_name: Callable[[str], str] = lambda repository: repository
    """The repository as the registry's paths call it (Docker Hub: library/nginx for nginx)."""
    next_page: Callable[[str, str], str] = lambda _url, target: target
    """Mends the target of a Link header, given the URL that was asked (Artifactory and Nexus send links that lead nowhere)."""
    counts_pulls: bool = False
    """Whether each GET of a manifest takes from a quota that HEAD tells for nothing (Docker Hub)."""
    headers: tuple[tuple[str, str], ...] = ()
    """Sent with every request to the registry itself."""
