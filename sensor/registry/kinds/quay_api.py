"""Quay's API v1: repositories by namespace and tags with digests. It takes OAuth tokens only: never a robot, a password or Basic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec

from sensor.errors import SensorError
from sensor.limits import Limits
from sensor.model.reference import is_repository
from sensor.pacing import Rate
from sensor.registry.errors import CannotEnumerate, RegistryForbidden, RegistryUnauthorized
from sensor.registry.kinds.gathered import api_credentials
from sensor.registry.kinds.kind import Connection
from sensor.registry.login import Basic, StaticToken
from sensor.registry.native import Api, Names, joined, own_api_key, wanted_namespaces
from sensor.registry.pages import is_listed_tag
from sensor.registry.port import Listing, Standing

OAUTH = "$oauthtoken"
"""The user name that goes with an OAuth token at the registry."""
_SOURCE = "Quay API"
_PAGE = 100
_Shape = TypeVar("_Shape")
_NEEDED = "make an OAuth token of the organisation's application with the scope repo:read"


class _Repository(msgspec.Struct):
    namespace: str | None = None
    name: str | None = None
    kind: str | None = None


class _Repositories(msgspec.Struct):
    repositories: list[_Repository | None] | None = None
    next_page: str | None = None


class _Tag(msgspec.Struct):
    name: str | None = None
    manifest_digest: str | None = None
    start_ts: float | None = None


class _Tags(msgspec.Struct):
    tags: list[_Tag | None] | None = None
    has_additional: bool = False


class _Organisation(msgspec.Struct):
    name: str | None = None


class _User(msgspec.Struct):
    username: str | None = None
    organizations: list[_Organisation | None] | None = None


class QuayApi:
    """Lists by the API where the credential is an OAuth token, or `api.token` names one."""

    def __init__(self, connection: Connection, rate: Rate | None = None) -> None:
        """`rate` is what Quay allows an address to ask of its API."""
        self._connection = connection
        self._limits: Limits = connection.opening.limits
        self._rate = rate
        self._credentials = api_credentials(connection)
        self._api: Api | None = None

    async def repositories(self) -> Listing:
        """The image repositories of the wanted namespaces; without any, of the token's user and its organisations.

        Raises:
            CannotEnumerate: there is no OAuth token, or it may not list.
            SensorError: no answer, or a broken one, for the first namespace.
        """
        api = await self._open()
        wanted = wanted_namespaces(self._connection.settings, self._connection.address.namespace)
        namespaces = dict.fromkeys(name.partition("/")[0] for name in wanted) or await self._own_namespaces(api)
        if not namespaces:
            raise CannotEnumerate("the OAuth token belongs to no namespace", "name some in repositories.namespaces")
        return joined([await self._of_namespace(api, name) for name in namespaces], source=_SOURCE)

    async def tags(self, repository: str) -> Listing:
        """The active tags, with digests and the time since when each points there.

        Raises:
            CannotEnumerate: there is no OAuth token, or it may not read this repository's tags.
            SensorError: no answer, or a broken one, on the first page.
        """
        api = await self._open()
        names = Names(self._limits, is_listed_tag, source=_SOURCE)
        page = 1
        while True:
            query = urlencode({"onlyActiveTags": "true", "limit": _PAGE, "page": page})
            try:
                answer = await self._ask(api, f"/api/v1/repository/{quote(repository)}/tag/?{query}", _Tags)
            except SensorError as error:
                if page == 1:
                    raise
                names.partial(f"a later page failed: {error.message}")
                return names.listing
            for tag in answer.tags or ():
                if tag is not None:
                    names.add(tag.name, digest=tag.manifest_digest, pushed=tag.start_ts)
            if not answer.has_additional or not names.another_page():
                return names.listing
            page += 1

    async def standing(self) -> Standing:
        """The user of an OAuth token; a robot is who its name says. Quay tells nobody what else a credential may do."""
        token = await self._token()
        if token is None:
            given = await self._connection.credentials.credential(renew=False)
            name = given.username if isinstance(given, Basic) else ""
            return Standing(identity=name, detail="Quay does not tell what a robot may do, nor when its token ends")
        user = await self._ask(await self._open(), "/api/v1/user/", _User)
        whose = own_api_key(self._connection.settings)
        return Standing(identity=user.username or "", detail="the user of the OAuth token", whose=whose)

    async def _of_namespace(self, api: Api, namespace: str) -> Listing:
        names = Names(self._limits, is_repository, source=_SOURCE)
        cursor = ""
        while True:
            # without public=true those that anybody may read are left out, unless somebody was given a right as well
            wanted = {"namespace": namespace, "public": "true", **({"next_page": cursor} if cursor else {})}
            query = urlencode(wanted)
            try:
                answer = await self._ask(api, f"/api/v1/repository?{query}", _Repositories)
            except SensorError as error:
                if not cursor:
                    raise
                names.partial(f"a later page of {namespace} failed: {error.message}")
                return names.listing
            for one in answer.repositories or ():
                if one is not None and one.kind in {None, "image"}:
                    names.add(f"{one.namespace or namespace}/{one.name}")
            cursor = answer.next_page or ""
            if not cursor or not names.another_page(cursor):
                return names.listing

    async def _own_namespaces(self, api: Api) -> dict[str, None]:
        user = await self._ask(api, "/api/v1/user/", _User)
        organisations = [one.name for one in user.organizations or () if one is not None]
        return dict.fromkeys(name for name in (user.username, *organisations) if name)

    async def _ask(self, api: Api, path: str, shape: type[_Shape]) -> _Shape:
        await self._connection.transport.take_turn(f"{self._connection.address.host} API", self._rate)
        try:
            return await api.json(path, shape)
        except (RegistryForbidden, RegistryUnauthorized) as error:
            message = f"Quay's API refuses the OAuth token: {error.message}"
            raise CannotEnumerate(message, _NEEDED) from error

    async def _open(self) -> Api:
        if self._api is None:
            if await self._token() is None:
                raise CannotEnumerate("Quay's API takes OAuth tokens only, never a robot or a password", _NEEDED)
            settings = self._connection.settings
            base = settings.api.url or await self._connection.session.url("")
            self._api = Api(base, self._connection.transport, self._authorise, insecure=self._connection.insecure)
        return self._api

    async def _authorise(self, renew: bool) -> Mapping[str, str]:  # noqa: FBT001 - the shape of Authorise
        token = await self._token(renew=renew)
        return {} if token is None else {"Authorization": f"Bearer {token}"}

    async def _token(self, *, renew: bool = False) -> str | None:
        """The OAuth token: the API's own (as a token or as a password), else the registry's password that goes with its user name."""
        given = await self._credentials.credential(renew=renew)
        own = self._credentials is not self._connection.credentials
        match given:
            case StaticToken() if own:
                return given.token.reveal()
            case Basic() if own or given.username == OAUTH:
                return given.password.reveal()
            case _:
                return None
