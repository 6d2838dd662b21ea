"""How Nexus' repositories are listed: its REST API on the main port tells all components with digests and dates, cached ones of proxies too.

A group is listed by its members, a proxy by what it has cached; neither is asked for what it would have to fetch. Where the REST API is
out of reach (a connector port serves `/v2/` and nothing else) or refuses, `_catalog` stands in.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from sensor.config.schema import Registry as Settings
from sensor.errors import DataError, RegistryError
from sensor.registry.client import RegistryClient
from sensor.registry.errors import (
    CannotEnumerate,
    RegistryForbidden,
    RegistryNotFound,
    RegistryUnauthorized,
    shown_url,
)
from sensor.registry.kinds.gathered import Gathered, api_credentials, literal_heads, shown_once
from sensor.registry.kinds.kind import Connection
from sensor.registry.kinds.nexus_components import ABSENT, REFUSED, gather_components
from sensor.registry.login import Basic
from sensor.registry.native import Api
from sensor.registry.port import Listing, Standing
from sensor.registry.quirks import Quirks
from sensor.registry.session import Session
from sensor.registry.terms import Address, Refusal, Terms
from sensor.transport import Reply

REPOSITORY_PATH = re.compile(r"(?P<base>(?:[^/]+/)*?repository/(?P<repo>[^/]+))(?:/v2)?(?:/(?P<rest>.+))?")
_REST = "/service/rest/v1"
_OWN = frozenset({"hosted", "proxy"})
_PROXYING = frozenset({"proxy", "group"})
_Naming = Literal["routed", "bare", "unserved"]


class _Repository(msgspec.Struct):
    name: str
    format: str = ""
    type: str = ""


class _Membership(msgspec.Struct):
    member_names: list[str] = msgspec.field(default_factory=list, name="memberNames")


class _Group(msgspec.Struct):
    group: _Membership = msgspec.field(default_factory=_Membership)


class Layout:
    """How the configured URL names repositories and images."""

    def __init__(self, address: Address, settings: Settings) -> None:
        self.address = address
        own = REPOSITORY_PATH.fullmatch(address.path.strip("/"))
        self.repository = own["repo"] if own else address.namespace.partition("/")[0]
        """The repository that the URL names; empty: none."""
        self.routed = not own and bool(self.repository)
        """Whether names begin with that repository."""
        self.context = f"/{own['base']}".removesuffix(f"/repository/{own['repo']}") if own else ""
        """Nexus' context path, where the URL shows it."""
        self.named = settings.repositories.namespaces
        self.heads = literal_heads(settings.repositories.include)

    def wanted(self, kinds: Mapping[str, str]) -> tuple[str, ...]:
        """The repositories to list, by type: those named, else all hosted and proxy ones (groups show what these hold)."""
        if self.repository:
            return (self.repository,)
        if self.named:
            return self.named
        own = tuple(name for name, kind in kinds.items() if kind in _OWN)
        return self.heads if self.heads and set(self.heads) <= set(kinds) else own

    def privileges(self, name: str) -> str:
        """What to grant for reading and listing a repository."""
        repository = self.repository or (self.named[0] if len(self.named) == 1 else "") or "<repository>"
        what = f"nx-repository-view-docker-{repository}"
        return f"the privileges {what}-read and {what}-browse" + (f" for {name}" if name else "")


class NexusApi:
    """Nexus' REST API for one open registry."""

    def __init__(
        self, connection: Connection, layout: Layout, quirks: Quirks, *, explain: Callable[[Refusal], RegistryError]
    ) -> None:
        self._connection = connection
        self._layout = layout
        self._quirks = replace(quirks, catalog=True)
        self._explain = explain
        self._limits = connection.opening.limits
        self._materialize = connection.settings.materialize
        self._credentials = api_credentials(connection)
        self._api: Api | None = None
        self._kinds: Mapping[str, str] | None = None
        self._members: dict[str, tuple[str, ...]] = {}
        self._namings: dict[str, _Naming] = {}
        self._looked = False
        self._looking = asyncio.Lock()
        self._gathered = self._empty()

    async def standing(self) -> Standing:
        """The name that is logged in with; Nexus tells nothing about it."""
        credential = await self._connection.credentials.credential(renew=False)
        return Standing(identity=credential.username if isinstance(credential, Basic) else "")

    async def repositories(self) -> Listing:
        """All images of the repositories that are named, else of all that are hosted or cached here.

        Raises:
            CannotEnumerate: neither the REST API nor `_catalog` shows anything.
            SensorError: no answer, or a broken one.
        """
        await self._look(again=True)
        gathered = self._empty()
        names: list[str] = []
        withheld: dict[str, str] = {}
        refused = CannotEnumerate(
            "Nexus shows no images to this credential, which does not mean that there are none",
            f"grant it {self._layout.privileges('')}, or name the images in repositories.names",
        )
        for repository in self._layout.wanted(self._kinds or {}):
            try:
                names += await self._list(gathered, repository, withheld)
            except CannotEnumerate as error:
                gathered.partial(error.message)
                refused = error
        if not gathered.entries and not names:
            if self._layout.repository or self._layout.named:
                raise refused
            # a connector after all, which serves one of them and does not tell which
            return await self._catalog("", refused)
        self._gathered = gathered
        source = " and ".join(("Nexus REST API",) * bool(gathered.entries) + ("_catalog",) * bool(names))
        found = tuple(dict.fromkeys((*gathered.repositories, *names)))
        return replace(gathered.listing(found), source=source, withheld=withheld)

    async def tags(self, repository: str) -> Listing:
        """All tags of one image.

        Raises:
            CannotEnumerate: `tags/list` tells, and asks no upstream.
            RegistryForbidden: only `tags/list` would tell, and that would ask an upstream.
            RegistryNotFound: nothing of it is cached.
            SensorError: no answer, or a broken one.
        """
        await self._look()
        image, sources = await self._sources_of(repository)
        upstream = any(self._kind(source) in _PROXYING for source in sources)
        if not (upstream and self._materialize) and (listing := self._gathered.take(repository)) is not None:
            return listing
        if self._materialize or not upstream:
            message = f"{repository}: tags/list tells more than the search does"
            raise CannotEnumerate(message)
        gathered = self._empty()
        for source in sources:
            query = {"repository": source, "format": "docker", "docker.imageName": image}
            try:
                await self._components(gathered, source, f"search?{urlencode(query)}", image, repository)
            except CannotEnumerate as error:
                raise RegistryForbidden(error.message, error.advice) from error
        if (listing := gathered.take(repository)) is not None:
            return listing
        message = f"nothing of {repository} is cached in {', '.join(sources)}"
        raise RegistryNotFound(message, "set materialize: true to look at what an upstream has as well")

    # -- what there is ---------------------------------------------------------------------------------------------------

    async def _look(self, *, again: bool = False) -> None:
        """Find out which Docker repositories there are."""
        async with self._looking:
            if again or not self._looked:
                self._kinds = await self._list_kinds()
                self._members.clear()
                self._namings = {name: how for name, how in self._namings.items() if how == "routed"}
                self._looked = True

    async def _list_kinds(self) -> Mapping[str, str] | None:
        """The type of every Docker repository that the credential may see; None where there is no REST API."""
        api = await self._opened()
        try:
            found = await api.json(f"{_REST}/repositories", list[_Repository])
        except ABSENT as error:
            if self._connection.settings.api.url:
                raise CannotEnumerate(error.message, "check api.url: the base of Nexus' main port") from error
            return None
        except RegistryForbidden:
            return {}
        except RegistryUnauthorized:
            if await self._credentials.credential(renew=False) is not None:
                raise  # a refused password must not be tried once more
            return {}
        return {one.name: one.type for one in found if one.format == "docker"}

    def _kind(self, repository: str) -> str:
        return (self._kinds or {}).get(repository, "")

    async def _expanded(self, repository: str, depth: int = 0) -> tuple[str, ...]:
        """A repository, or the members of a group: its own word, else what else is named, else the group as it is."""
        if self._kind(repository) != "group" or depth >= self._limits.index_depth:
            return (repository,)
        if repository not in self._members:
            api = await self._opened()
            try:
                found = await api.json(f"{_REST}/repositories/docker/group/{quote(repository, safe='')}", _Group)
                self._members[repository] = tuple(found.group.member_names)
            except (RegistryUnauthorized, *REFUSED):
                others = tuple(name for name in self._layout.named if self._kind(name) in _OWN)
                self._members[repository] = others
        found_names: list[str] = []
        for member in self._members[repository]:
            found_names += await self._expanded(member, depth + 1)
        return tuple(dict.fromkeys(found_names)) or (repository,)

    async def _sources_of(self, repository: str) -> tuple[str, tuple[str, ...]]:
        """The image that a name means, and the repositories that may hold it."""
        head, _, rest = repository.partition("/")
        if self._layout.routed or (not self._layout.repository and self._kind(head) and rest):
            return rest, await self._expanded(head)
        named = (self._layout.repository,) if self._layout.repository else self._layout.named
        found: list[str] = []
        for name in named:
            found += await self._expanded(name)
        return repository, tuple(dict.fromkeys(found))

    # -- what it holds ---------------------------------------------------------------------------------------------------

    def _empty(self) -> Gathered:
        return Gathered(self._limits, source="Nexus REST API")

    async def _list(self, into: Gathered, repository: str, withheld: dict[str, str]) -> tuple[str, ...]:
        """Everything of one repository; what `_catalog` knows without tags is returned.

        Raises:
            CannotEnumerate: it cannot be listed.
            SensorError: no answer, or a broken one.
        """
        found = self._empty()
        refused: CannotEnumerate | None = None
        for source in await self._expanded(repository):
            try:
                await self._components(found, source, f"components?{urlencode({'repository': source})}")
            except CannotEnumerate as error:
                found.partial(error.message)
                refused = error
        if not found.entries:
            if refused is None:
                return ()
            listing = await self._catalog(repository, refused)
            if not listing.complete:
                into.partial(listing.reason)
            return listing.names
        naming = await self._naming(repository, found)
        if naming == "unserved":
            reason = (
                f"this address does not serve {repository}: switch path-based routing on for it, or use its own URL"
            )
            withheld.update((f"{repository}/{image}", reason) for image in found.repositories)
            return ()
        into.merge(found, lambda image: image if naming == "bare" else f"{repository}/{image}")
        return ()

    async def _components(self, into: Gathered, source: str, query: str, image: str = "", shown: str = "") -> None:
        """What one repository holds; an anonymous client that is refused cannot enumerate."""
        held = self._kind(source) in _PROXYING and not self._materialize
        api = await self._opened()
        try:
            await gather_components(api, f"{_REST}/{query}", into, self._limits, image=image, shown=shown, held=held)
        except RegistryUnauthorized as error:
            if await self._credentials.credential(renew=False) is not None:
                raise  # a refused password must not be tried once more
            raise CannotEnumerate(error.message, error.advice) from error

    async def _naming(self, repository: str, found: Gathered) -> _Naming:
        """How this address names what a repository holds, tried out on one manifest where the URL leaves it open."""
        if self._layout.repository:
            return "routed" if self._layout.routed else "bare"
        if repository not in self._namings:
            named = bool(self._layout.named)
            sample = found.sample()
            if sample is None:
                return "bare" if named else "routed"
            image, target = sample
            routed = await self._serves(f"{repository}/{image}", target)
            if routed is not True and named and await self._serves(image, target) is True:
                self._namings[repository] = "bare"
            elif routed is False:
                self._namings[repository] = "bare" if named else "unserved"
            else:
                self._namings[repository] = "routed"
        return self._namings[repository]

    async def _serves(self, name: str, target: str) -> bool | None:
        """Whether this address has a manifest; None when it refuses to say."""
        try:
            await RegistryClient(self._connection.session, self._quirks).head(name, target)
        except (RegistryUnauthorized, RegistryForbidden):
            return None
        except (DataError, *ABSENT):
            return False
        return True

    async def _catalog(self, repository: str, refused: CannotEnumerate) -> Listing:
        """`_catalog` of the configured base, or of a repository's own URL on the main port.

        Raises:
            CannotEnumerate: it is refused as well, or empty, which looks the same as refused.
            SensorError: no answer, or a broken one.
        """
        if self._kind(repository) in _PROXYING and not self._materialize:
            raise refused
        connection = self._connection
        session, prefix = connection.session, ""
        if self._layout.routed or (repository and self._kinds and not self._layout.repository and not self._two_urls):
            prefix = f"{repository}/"
            there = urlsplit((await self._opened()).base)
            terms = Terms(
                insecure=connection.insecure,
                trusted_realms=connection.settings.trusted_realms,
                prefer_basic=True,
                explain=self._explain,
            )
            path = f"{there.path}/repository/{quote(repository, safe='')}"
            base = Address(host=there.netloc, scheme=there.scheme, path=path)
            session = Session(base, connection.transport, self._credentials, terms=terms, limits=self._limits)
        try:
            listing = await RegistryClient(session, self._quirks).repositories()
        except CannotEnumerate as error:
            message = f"{refused.message}; {error.message}"
            raise CannotEnumerate(message, refused.advice or error.advice) from error
        if not listing.names:
            raise refused
        return replace(listing, names=tuple(f"{prefix}{name}" for name in listing.names))

    @property
    def _two_urls(self) -> bool:
        """Whether the REST API is elsewhere, so that the registry is a connector."""
        return bool(self._connection.settings.api.url)

    async def _opened(self) -> Api:
        """The REST API: where it is configured, else on the registry's own origin."""
        if self._api is None:
            connection = self._connection
            base = connection.settings.api.url.rstrip("/").removesuffix(_REST)
            if not base:
                origin = urlsplit(await connection.session.url("/v2/"))
                base = f"{origin.scheme}://{origin.netloc}{self._layout.context}"
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
