"""How Artifactory's repositories are listed: which keys there are (REST), and what they hold (AQL: every tag with its digest at once).

AQL looks at what Artifactory itself stores, so it never asks an upstream: of a remote repository it sees the cache, of a virtual one the
members. Where AQL is refused, `_catalog` of the repository's own API stands in, for repositories that have no upstream behind them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import quote, urlsplit

import msgspec

from sensor.config.schema import Registry as Settings
from sensor.errors import RegistryError
from sensor.registry.challenge import parse_challenges
from sensor.registry.client import RegistryClient
from sensor.registry.errors import (
    CannotEnumerate,
    RegistryForbidden,
    RegistryNotFound,
    RegistryUnauthorized,
    shown_url,
)
from sensor.registry.kinds.artifactory_aql import GRANT, REFUSED, Aql
from sensor.registry.kinds.gathered import Gathered, api_credentials, literal_heads, shown_once
from sensor.registry.kinds.kind import Connection
from sensor.registry.login import Credential
from sensor.registry.native import Api
from sensor.registry.port import Listing, Standing
from sensor.registry.quirks import Quirks
from sensor.registry.session import Session
from sensor.registry.terms import Address, Refusal, Terms
from sensor.transport import Reply, Retry

_REALM_KEY = re.compile(r"/api/(?:docker|oci)/(?P<key>[^/]+)/v2/token/?$")
_OWN = frozenset({"local", "federated"})
_UNTOLD = (
    "let this credential search (AQL) or read /api/repositories, or set materialize: true to have any upstream listed"
)


class _Repository(msgspec.Struct):
    key: str
    type: str = ""
    package_type: str = msgspec.field(default="", name="packageType")


class _Members(msgspec.Struct):
    repositories: list[str] = msgspec.field(default_factory=list)


def own_path(path: str) -> str:
    """A URL's path without Artifactory's context: the repository's key, and what follows."""
    return path.strip("/").removeprefix("artifactory").strip("/") if f"{path}/".startswith("artifactory/") else path


class Layout:
    """How this host names its repositories, as far as it is known: with a key in front, or one repository without it."""

    def __init__(self, address: Address, settings: Settings) -> None:
        self.address = address
        self.key = ""
        """The one repository of this host or URL; empty: the key is the first part of every name."""
        self.known = False
        direct = re.search(r"/api/(?:docker|oci)/([^/]+)$", address.path)
        if direct:
            self.key, self.known = direct[1], True
        self.namespaces = settings.repositories.namespaces or literal_heads(settings.repositories.include)

    def learn(self, realm: str, keys: Iterable[str]) -> None:
        """Find it out from the token realm of `/v2/`, which names the key of a host that has one, else from the host's first label.

        `keys` are the repositories that are configured, or that there are.
        """
        self.known = True
        if named := _REALM_KEY.search(realm.partition("?")[0]):
            self.key = "" if named["key"] == "null" else named["key"]
            return
        if self.address.namespace:
            return  # the key is in the URL
        label = self.address.host.partition(".")[0]
        fits = [key for key in keys if label == key or label.endswith(f"-{key}")]
        self.key = max(fits, key=len, default="")

    def scope_name(self, repository: str) -> str:
        """The repository as the token service calls it: without the key."""
        return repository if self.key or "/" not in repository else repository.partition("/")[2]

    def name(self, key: str, image: str) -> str:
        """The repository as references name it on this host."""
        return image if self.key else f"{key}/{image}"

    def split(self, repository: str) -> tuple[str, str]:
        """Key and image of a repository's name."""
        key, _, image = repository.partition("/")
        return (self.key, repository) if self.key else (key, image)

    def wanted(self) -> tuple[str, ...]:
        """The keys that the configuration names; empty: all."""
        if self.key:
            return (self.key,)
        named = (self.address.namespace,) if self.address.namespace else self.namespaces
        return tuple(dict.fromkeys(name.partition("/")[0] for name in named))


@dataclass(frozen=True, slots=True)
class _Place:
    """A repository that is configured, and what is searched for it."""

    key: str
    kind: str
    """local, remote, virtual, federated; empty: not told."""
    searched: tuple[str, ...]

    @property
    def upstream(self) -> bool:
        """Whether the registry itself would ask elsewhere for what it has not got; where nobody tells the type, it may."""
        return self.kind not in _OWN


class ArtifactoryApi:
    """Artifactory's REST API and AQL for one open registry."""

    def __init__(
        self,
        connection: Connection,
        layout: Layout,
        quirks: Quirks,
        *,
        explain: Callable[[Refusal], RegistryError],
        standing: Callable[[Credential | None], Standing],
    ) -> None:
        """`quirks`, `explain` and `standing` are the kind's; the layout is shared with what names scopes."""
        self._connection = connection
        self._layout = layout
        self._quirks = quirks
        self._explain = explain
        self._standing = standing
        self._limits = connection.opening.limits
        self._materialize = connection.settings.materialize
        self._credentials = api_credentials(connection)
        self._api: Api | None = None
        retry = connection.opening.retry or Retry()
        self._aql = Aql(self._opened, connection.transport, retry=retry, limits=self._limits)
        self._kinds: Mapping[str, _Repository] | None = None
        self._known: dict[str, _Place] = {}
        self._clients: dict[str, RegistryClient] = {}
        self._looked = False
        self._looking = asyncio.Lock()
        self._gathered = self._empty()

    async def standing(self) -> Standing:
        """Who the credential says it is."""
        return self._standing(await self._connection.credentials.credential(renew=False))

    async def repositories(self) -> Listing:
        """All images of the configured keys, else of all local and federated repositories.

        Raises:
            CannotEnumerate: neither keys nor images can be listed, or there is nothing that this credential may see.
            SensorError: no answer, or a broken one.
        """
        await self._look(again=True)
        self._aql.reset()
        gathered = self._empty()
        names: list[str] = []
        refused = CannotEnumerate(
            "Artifactory shows no images to this credential, which does not mean that there are none", GRANT
        )
        for place in await self._places():
            try:
                names += await self._list(gathered, place)
            except CannotEnumerate as error:
                gathered.partial(error.message)
                refused = error
        known = gathered.repositories
        seen = set(known)
        more = tuple(dict.fromkeys(name for name in names if name not in seen))
        if not known and not more:
            raise refused
        self._gathered = gathered
        source = " and ".join(("AQL",) * bool(known) + ("_catalog",) * bool(more))
        return replace(gathered.listing((*known, *more)), source=source)

    async def tags(self, repository: str) -> Listing:
        """All tags of one image.

        Raises:
            CannotEnumerate: AQL is of no use here; `tags/list` tells.
            RegistryForbidden: AQL is refused, and `tags/list` would ask an upstream.
            RegistryNotFound: nothing of it is cached.
            SensorError: no answer, or a broken one.
        """
        await self._look()
        key, image = self._layout.split(repository)
        place = await self._place(key)
        if place.upstream and self._materialize:
            message = f"{repository}: its upstream is to be asked as well"
            raise CannotEnumerate(message)
        if (listing := self._gathered.take(repository)) is not None:
            return listing
        gathered = self._empty()
        refused = await self._gather(gathered, place, image)
        if (listing := gathered.take(repository)) is not None:
            return listing
        if not place.upstream:
            raise refused or CannotEnumerate(f"AQL finds no tags of {repository}")
        if refused is not None and (self._aql.refused or not place.kind):
            doubt = "" if place.kind else f", and {key} may be a remote repository"
            raise RegistryForbidden(refused.message + doubt, GRANT if place.kind else _UNTOLD)
        message = f"nothing of {repository} is cached in the {place.kind} repository {key}"
        raise RegistryNotFound(message, "set materialize: true to look at what its upstream has as well")

    # -- what there is ---------------------------------------------------------------------------------------------------

    async def _look(self, *, again: bool = False) -> None:
        """Find out how the host names repositories (once) and which repositories there are."""
        async with self._looking:
            if again or not self._looked:
                self._kinds = await self._list_keys()
                self._known.clear()
                self._looked = True
            if not self._layout.known:
                self._layout.learn(self._realm(), (*self._layout.wanted(), *(self._kinds or ())))

    async def _list_keys(self) -> Mapping[str, _Repository] | None:
        """The image repositories that the credential may see, by key; None when that is not told."""
        api = await self._opened()
        try:
            found = await api.json("/api/repositories", list[_Repository])
        except RegistryUnauthorized:
            if await self._credentials.credential(renew=False) is not None:
                raise  # a refused password must not be tried once more
            return None
        except REFUSED:
            return None
        return {one.key: one for one in found if one.package_type.lower() in {"docker", "oci"}}

    def _realm(self) -> str:
        """The token realm that `/v2/` itself names; those of images name their key on every host."""
        base = self._connection.session.base
        offered = parse_challenges(base.header_lists.get("www-authenticate", ()) if base else ())
        return next((challenge["realm"] for challenge in offered if challenge.scheme == "bearer"), "")

    async def _places(self) -> tuple[_Place, ...]:
        keys = self._layout.wanted()
        if not keys and self._kinds is None:
            message = "the repositories of this Artifactory cannot be listed"
            raise CannotEnumerate(
                message, "name their keys in repositories.namespaces, or one key in the URL: host/<key>"
            )
        own = [key for key, one in (self._kinds or {}).items() if one.type.lower() in _OWN]
        return tuple([await self._place(key) for key in keys or own])

    async def _place(self, key: str) -> _Place:
        if key not in self._known:
            searched = tuple(dict.fromkeys(await self._searched(key, 0)))
            self._known[key] = _Place(key=key, kind=self._kind(key), searched=searched)
        return self._known[key]

    def _kind(self, key: str) -> str:
        known = (self._kinds or {}).get(key)
        return known.type.lower() if known else ""

    async def _searched(self, key: str, depth: int) -> list[str]:
        """Where AQL finds the images of a key: itself, its cache, or its members."""
        kind = self._kind(key)
        if kind == "virtual" and depth < self._limits.index_depth:
            found: list[str] = []
            for member in await self._members(key):
                found += await self._searched(member, depth + 1)
            return found or [key]  # AQL takes a virtual key too, and looks at what is stored
        if kind == "remote":
            return [f"{key}-cache"]
        return [key] if kind in _OWN else [key, f"{key}-cache"]

    async def _members(self, key: str) -> list[str]:
        """The members of a virtual repository; none when the credential may not know."""
        api = await self._opened()
        try:
            return (await api.json(f"/api/repositories/{quote(key, safe='')}", _Members)).repositories
        except REFUSED:
            return []

    # -- what it holds ---------------------------------------------------------------------------------------------------

    def _empty(self) -> Gathered:
        return Gathered(self._limits, source="AQL")

    async def _gather(self, into: Gathered, place: _Place, image: str = "") -> CannotEnumerate | None:
        """Everything that is stored for a key, or for one image of it. Finding nothing may be a want of rights: then, too, an error.

        Raises:
            SensorError: no answer, or a broken one.
        """
        before = into.entries
        try:
            for key in place.searched:
                # each for itself: what is better than the rest of its member is not better than the member before it
                found = self._empty()
                await self._aql.gather(found, key, image, lambda name: self._layout.name(place.key, name))
                into.merge(found, lambda name: name)
        except CannotEnumerate as error:
            return error
        except RegistryUnauthorized:
            if await self._credentials.credential(renew=False) is not None:
                raise  # a refused password must not be tried once more
            return CannotEnumerate("AQL is not for anonymous clients", "configure a credential")
        if into.entries > before:
            return None
        return CannotEnumerate(f"AQL finds no images in the repository {place.key}", GRANT)

    async def _list(self, into: Gathered, place: _Place) -> tuple[str, ...]:
        """Everything of one key; what only `_catalog` knows is returned. An upstream is asked on demand only.

        Raises:
            CannotEnumerate: it cannot be listed.
            SensorError: no answer, or a broken one.
        """
        refused = await self._gather(into, place)
        if place.upstream and not self._materialize:
            if refused is not None:
                raise refused
            return await self._checked(into, place)
        if refused is None and not place.upstream:
            return await self._checked(into, place)
        listing = await self._catalog(place.key, place.key)
        if not listing.complete:
            into.partial(listing.reason)
        if refused is not None and not listing.names and place.kind not in _OWN:
            raise refused
        return listing.names

    async def _checked(self, into: Gathered, place: _Place) -> tuple[str, ...]:
        """The images that rights have hidden from AQL: it applies them after pages were counted out, so whole pages may be empty."""
        names: list[str] = []
        for key in place.searched:
            if self._kind(key) not in _OWN:
                continue
            try:
                listing = await self._catalog(key, place.key)
            except CannotEnumerate:
                continue  # AQL has told something, and there is nothing better
            names += listing.names
            if not listing.complete:
                into.partial(listing.reason)
        return tuple(names)

    async def _catalog(self, key: str, shown: str) -> Listing:
        """`_catalog` by the address of a repository's own API, which needs no rule of a reverse proxy. `shown` is the key in names.

        Raises:
            CannotEnumerate: it is refused as well.
            SensorError: no answer, or a broken one.
        """
        if key not in self._clients:
            self._clients[key] = RegistryClient(await self._session(key), replace(self._quirks, catalog=True))
        listing = await self._clients[key].repositories()
        return replace(listing, names=tuple(self._layout.name(shown, image) for image in listing.names))

    async def _session(self, key: str) -> Session:
        """A conversation with a repository's own API."""
        connection = self._connection
        there = urlsplit((await self._opened()).base)
        known = (self._kinds or {}).get(key)
        kind = "oci" if known and known.package_type.lower() == "oci" else "docker"
        path = f"{there.path}/api/{kind}/{quote(key, safe='')}"
        terms = Terms(
            insecure=connection.insecure,
            trusted_realms=connection.settings.trusted_realms,
            prefer_basic=True,
            explain=self._explain,
        )
        address = Address(host=there.netloc, scheme=there.scheme, path=path)
        return Session(address, connection.transport, self._credentials, terms=terms, limits=self._limits)

    async def _opened(self) -> Api:
        """The API, below the registry's own origin unless it is configured."""
        if self._api is None:
            connection = self._connection
            base = connection.settings.api.url
            if not base:
                origin = urlsplit(await connection.session.url("/v2/"))
                base = f"{origin.scheme}://{origin.netloc}/artifactory"
            self._api = Api(
                base,
                connection.transport,
                shown_once(self._credentials, f"the API {shown_url(base)}"),
                explain=self._in_words,
                insecure=connection.insecure,
            )
        return self._api

    def _in_words(self, error: RegistryError, _reply: Reply) -> RegistryError:
        return self._explain(Refusal(error=error))
