"""The distribution protocol's own listings, `_catalog` and `tags/list`, page by page (OCI distribution 1.1, "Content Discovery").

What a page means and when to stop believing is `pages`'; this asks for them, at the pace that the provider allows.
"""

from __future__ import annotations

from dataclasses import replace

from sensor.errors import RegistryError, SensorError
from sensor.pacing import Rate
from sensor.registry.errors import (
    CannotEnumerate,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryUnauthorized,
    UnexpectedAnswer,
    error_codes,
    is_html,
    shown_url,
)
from sensor.registry.pages import Paging, next_link, parse_page, repository_paging, tag_paging
from sensor.registry.port import Listing
from sensor.registry.quirks import Quirks
from sensor.registry.session import Session
from sensor.transport import Reply

_CATALOG_IDLE_SECONDS = 600.0
"""distribution walks its storage for `_catalog`: minutes on an object store."""


class Listings:
    """The listings of one registry. `rate` is what the provider allows of them, over all who ask there."""

    def __init__(self, session: Session, quirks: Quirks, rate: Rate | None = None) -> None:
        self._session = session
        self._quirks = quirks
        self._rate = rate

    async def repositories(self) -> Listing:
        """What `_catalog` lists.

        Raises:
            CannotEnumerate: the credential may not list, or the registry does not offer it.
            SensorError: no answer, or a broken one, on the first page; a later one makes the listing partial.
        """
        url = await self._session.url("/v2/_catalog")
        paging = repository_paging(url, prefix=self._session.prefix + "_catalog", limits=self._session.limits)
        try:
            listing = await self._pages(
                paging, url, "repositories", self._quirks.catalog_scope, self._quirks.catalog_page
            )
        except (RegistryForbidden, RegistryNotFound) as error:
            raise _cannot_enumerate(error) from error
        except RegistryUnauthorized as error:
            # a credential that is refused as such is no question of rights
            if not await self._session.has_credential() or "authentication failed" in error.message:
                raise
            raise _cannot_enumerate(error) from error
        except UnexpectedAnswer as error:
            if "status 405" in error.message:
                raise _cannot_enumerate(error) from error
            raise
        return replace(listing, source="_catalog")

    async def tags(self, name: str, scope: str) -> Listing:
        """What `tags/list` lists of a repository, by its name in paths and the scope to pull it.

        Raises:
            RegistryNotFound: no such repository.
            SensorError: no answer, or a broken one, on the first page; a later one makes the listing partial.
        """
        path = f"{name}/tags/list"
        url = await self._session.url(f"/v2/{path}")
        paging = tag_paging(url, prefix=self._session.prefix + path, limits=self._session.limits)
        listing = await self._pages(paging, url, "tags", scope, self._quirks.tags_page)
        return replace(listing, source="tags/list")

    async def _pages(self, paging: Paging, base: str, kind: str, scope: str, size: int) -> Listing:
        reply = await self._first_page(base, scope, size)
        while True:
            entries = _entries(reply, kind)
            following = paging.after(reply.url, entries, self._links(reply))
            if following is None:
                return paging.listing
            try:
                reply = await self._ask(following, scope)
                if reply.status != 200:
                    raise await self._session.error("GET", reply, scope)
                _entries(reply, kind)
            except SensorError as error:
                paging.broken(f"a later page failed: {error.message}")
                return paging.listing

    async def _first_page(self, base: str, scope: str, size: int) -> Reply:
        """The first page; a registry that finds `n` too large says 400, and is asked for half."""
        while True:
            url = f"{base}?n={size}" if size else base
            reply = await self._ask(url, scope)
            if reply.status == 200:
                return reply
            if reply.status != 400 or not size:
                raise await self._session.error("GET", reply, scope)
            size = size // 2 if "PAGINATION_NUMBER_INVALID" in error_codes(reply.body) else 0

    def _links(self, reply: Reply) -> tuple[str, ...]:
        target = next_link(reply.header_lists.get("link", ()))
        return () if target is None else (f'<{self._quirks.next_page(reply.url, target)}>; rel="next"',)

    async def _ask(self, url: str, scope: str) -> Reply:
        await self._session.transport.take_turn(f"{self._session.address.host} listings", self._rate)
        return await self._session.fetch(
            "GET", url, scope=scope, headers={"Accept": "application/json"}, idle_seconds=_CATALOG_IDLE_SECONDS
        )


def _entries(reply: Reply, kind: str) -> list[object]:
    if is_html(reply.body, reply.headers.get("content-type", "")):
        message = f"GET {shown_url(reply.url)}: a web page instead of a list of {kind}"
        raise NotARegistry(message, "check host, port and path, and any proxy in between")
    return parse_page(reply.body, kind, reply.url)


def _cannot_enumerate(error: RegistryError) -> CannotEnumerate:
    return CannotEnumerate(
        f"repositories cannot be listed: {error.message}",
        "name them in repositories.names, or give the credential the right to list the catalogue",
    )
