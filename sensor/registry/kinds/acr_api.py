"""Listing by Azure Container Registry's own API, and who is logged in there.

`/acr/v1/_catalog` names repositories, `/acr/v1/<repository>/_tags` tags with digests, dates and locks, a thousand a page: one request where
the distribution protocol would need a thousand. Both are logged in to like everything else of the registry.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec

from sensor.errors import DataError, SensorError
from sensor.identity.azure import TITLES
from sensor.model.reference import is_repository
from sensor.registry.errors import (
    CannotEnumerate,
    NotARegistry,
    RegistryForbidden,
    RegistryUnauthorized,
    UnexpectedAnswer,
    error_codes,
    inert,
    is_html,
    shown_url,
)
from sensor.registry.kinds.acr_login import NETWORK_ADVICE, GivenCredential, MachineCredential, shown_time
from sensor.registry.kinds.acr_words import ADMIN, CATALOG, LISTING_ADVICE, SCOPE_MAP, SERVICE_PRINCIPAL, method_of
from sensor.registry.kinds.gathered import unix_time
from sensor.registry.kinds.kind import Connection
from sensor.registry.login import Basic, Credential
from sensor.registry.native import Names, wanted_namespaces
from sensor.registry.pages import is_listed_tag, next_link
from sensor.registry.port import Listing, Standing
from sensor.route import redirect_target, same_origin
from sensor.transport import Reply

PULL_ACTIONS = "pull,metadata_read"
"""One token for pulling and listing tags; with `pull` alone a tag list is refused."""
_PAGE = 1000
"""The API gives no more, whatever is asked for."""
_END_UNKNOWN = "when the client secret ends cannot be read from here; Entra shows it at the application's secrets"
_ADMIN_DETAIL = "the admin user may push and delete; it is meant for trying out"
_MAP_DETAIL = "scope map and expiry cannot be read from here; az acr token show tells them"

_Take: TypeAlias = Callable[[Names, object], None]


class _Attributes(msgspec.Struct, rename="camel"):
    read_enabled: bool | None = None
    quarantine_state: str | None = None


class _Tag(msgspec.Struct, rename="camel"):
    name: str
    digest: str | None = None
    created_time: str | None = None
    last_update_time: str | None = None
    changeable_attributes: _Attributes | None = None
    quarantine_state: str | None = None

    @property
    def withheld(self) -> str:
        """Why it cannot be had; empty when it can."""
        attributes = self.changeable_attributes or _Attributes()
        state = attributes.quarantine_state or self.quarantine_state or "passed"
        if state.lower() != "passed":
            return f"in quarantine ({inert(state)}); the role AcrQuarantineReader lets the sensor read it"
        if attributes.read_enabled is False:
            return "locked against reading; az acr repository update --read-enabled true lifts it"
        return ""


class AcrApi:
    """`Native` for Azure."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._session = connection.session
        self._limits = connection.opening.limits

    async def repositories(self) -> Listing:
        """All repositories of the registry, without those outside of the wanted namespaces.

        Raises:
            CannotEnumerate: the credential may not list the catalogue; no other API would let it.
            SensorError: no answer, a refused login, or a broken answer.
        """
        address = self._session.address
        wanted = wanted_namespaces(self._connection.settings, address.namespace)
        names = Names(self._limits, is_repository, source="ACR API")

        def take(into: Names, entry: object) -> None:
            if not isinstance(entry, str) or not is_repository(entry):
                into.add(None)
            elif not wanted or any(f"{entry}/".startswith(f"{space}/") for space in wanted):
                into.add(entry)

        try:
            await self._pages(f"/acr/v1/_catalog?n={_PAGE}", CATALOG, "repositories", names, take)
        except (RegistryForbidden, RegistryUnauthorized) as error:
            if isinstance(error, RegistryUnauthorized):
                await self._check_login(error)
            if error.advice == NETWORK_ADVICE:
                raise
            message = f"repositories cannot be listed: {error.message}"
            raise CannotEnumerate(message, LISTING_ADVICE) from error
        return names.listing

    async def tags(self, repository: str) -> Listing:
        """All tags with digests and dates, the newest first.

        Raises:
            CannotEnumerate: this registry does not have the API.
            RegistryNotFound: no such repository.
            SensorError: no answer, or a broken one.
        """
        names = Names(self._limits, is_listed_tag, source="ACR API")
        path = f"/acr/v1/{repository}/_tags?n={_PAGE}&orderby=timedesc"
        scope = f"repository:{repository}:{PULL_ACTIONS}"
        pages = await self._pages(path, scope, "tags", names, _take_tag)
        if pages > 1 and not names.reason:
            # whatever was pushed again in the meantime has moved from a page to come to the first one
            again = Names(self._limits, is_listed_tag, source="")
            await self._page(await self._session.url(path), scope, "tags", again, _take_tag)
            late = again.listing
            for tag in late.names:
                names.add(
                    tag, digest=late.digests.get(tag), pushed=late.pushed.get(tag), withheld=late.withheld.get(tag, "")
                )
        return names.listing

    async def standing(self) -> Standing:
        """Who is logged in, from what the tokens say of themselves. Nothing is asked for it but the login itself."""
        credential = await self._session.credential()
        match self._connection.credentials:
            case MachineCredential() as source:
                claims = source.exchange.entra
                way = source.identity.way
                detail = _END_UNKNOWN if way == "secret" else "from the tokens of Entra and of the registry"
                return Standing(
                    identity=" ".join(filter(None, (TITLES[way], claims.who if claims else ""))),
                    expires=source.identity.expires,
                    may_write=source.exchange.claims.may_write if source.exchange.claims else None,
                    detail=detail,
                )
            case GivenCredential(token=claims) as source if claims is not None:
                ours = claims if claims.ours else source.exchange.claims
                ends = f"; the token ends at {shown_time(claims.exp)}" if claims.exp is not None else ""
                return Standing(
                    identity=" ".join(filter(None, ("token of", claims.who or claims.tenant or "the registry"))),
                    expires=claims.exp,
                    may_write=ours.may_write if ours else None,
                    detail=f"from the token itself{ends}",
                )
            case _:
                return self._by_name(credential)

    def _by_name(self, credential: Credential | None) -> Standing:
        if credential is None:
            return Standing(detail="anonymous pull")
        if not isinstance(credential, Basic):
            return Standing(detail="a token that says nothing of itself")
        method = method_of(self._connection.settings, credential)
        identity = f"{method.name} {inert(credential.username)}"
        told: dict[str, Standing] = {
            SERVICE_PRINCIPAL: Standing(identity=identity, detail=_END_UNKNOWN),
            ADMIN: Standing(identity=identity, may_write=True, detail=_ADMIN_DETAIL),
            SCOPE_MAP: Standing(identity=identity, detail=_MAP_DETAIL),
        }
        return told.get(method.name) or Standing(identity=identity)

    async def _check_login(self, error: RegistryUnauthorized) -> None:
        """Whether the login as such is refused, or only the catalogue: the token service answers 401 to both.

        Raises:
            RegistryUnauthorized: the login is refused.
        """
        if await self._session.credential() is None:
            raise error
        await self._session.fetch("GET", await self._session.url("/v2/"))

    async def _pages(self, path: str, scope: str, key: str, names: Names, take: _Take) -> int:
        """All pages from a path on; how many there were. A later page that fails makes the listing partial."""
        url: str | None = await self._session.url(path)
        url = await self._page(str(url), scope, key, names, take)
        pages = 1
        while url is not None and names.another_page():
            try:
                url = await self._page(url, scope, key, names, take)
            except SensorError as error:
                names.partial(f"a later page failed: {error.message}")
                break
            pages += 1
        return pages

    async def _page(self, url: str, scope: str, key: str, names: Names, take: _Take) -> str | None:
        """One page; the URL of the next."""
        reply = await self._session.fetch("GET", url, scope=scope, headers={"Accept": "application/json"})
        if reply.status == 404 and "NAME_UNKNOWN" not in error_codes(reply.body):
            message = f"GET {shown_url(url)}: status 404, the registry does not have this API"
            raise CannotEnumerate(message, "set provider: distribution if this is not Azure's registry")
        if reply.status != 200:
            raise await self._session.error("GET", reply, scope)
        for entry in _entries(reply, key):
            take(names, entry)
        target = next_link(reply.header_lists.get("link", ()))
        if target is None:
            return None
        try:
            following = redirect_target(reply.url, target)
        except DataError:
            names.partial("the next page has no usable address")
            return None
        if not same_origin(url, following):
            names.partial(f"the next page is outside the registry: {shown_url(following)}")
            return None
        return following


def _take_tag(names: Names, entry: object) -> None:
    try:
        tag = msgspec.convert(entry, _Tag)
    except msgspec.ValidationError:
        names.add(None)
        return
    pushed = unix_time(tag.last_update_time) or unix_time(tag.created_time)
    names.add(tag.name, digest=tag.digest, pushed=pushed, withheld=tag.withheld)


def _entries(reply: Reply, key: str) -> list[Any]:
    """The entries of a page; a null list is an empty one."""
    url = shown_url(reply.url)
    if is_html(reply.body, reply.headers.get("content-type", "")):
        message = f"GET {url}: a web page instead of a list of {key}"
        raise NotARegistry(message, "check the host, and any proxy in between")
    try:
        entries = msgspec.json.decode(reply.body, type=dict[str, Any]).get(key)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        entries = False
    if entries is None:
        return []
    if not isinstance(entries, list):
        message = f"GET {url}: the answer is not a list of {key}"
        raise UnexpectedAnswer(message, "check that the URL is that of an Azure registry")
    return entries
