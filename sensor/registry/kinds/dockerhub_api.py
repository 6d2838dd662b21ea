"""Docker Hub's API (hub.docker.com): namespaces, repositories, tags with digests and push dates. It costs nothing of the pull quota.

Its login is another one than the registry's: user name and secret are exchanged for a token of ten minutes. Without a credential public
namespaces can be listed. What to list is bounded by namespaces, because nobody may list all of Docker Hub.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

import msgspec

from sensor.config.schema import Registry as Settings
from sensor.errors import RegistryError, SensorError
from sensor.model.reference import is_repository
from sensor.registry.credentials import ConfiguredCredential
from sensor.registry.errors import (
    CannotEnumerate,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryRateLimited,
    RegistryUnauthorized,
    UnexpectedAnswer,
    as_refused_login,
)
from sensor.registry.kinds.gathered import unix_time
from sensor.registry.kinds.kind import Connection
from sensor.registry.login import Basic, Credential, StaticToken
from sensor.registry.native import Api, Names, joined, parse_entry, wanted_namespaces
from sensor.registry.pages import is_listed_tag
from sensor.registry.port import Listing, Standing
from sensor.registry.terms import CredentialSource
from sensor.secret import Secret, SecretSource, read_secret
from sensor.transport import Reply

SOURCE = "Docker Hub API"
_PAGE = 100
_TOKEN_SECONDS = 540.0
"""A token holds for ten minutes."""
_REFUSED_SECONDS = 600.0
"""So long a refused login is not tried again: failed logins are counted, and too many lock the address out."""
_PAUSE_SECONDS = 60.0
_MOST_FILTERS = 5
"""Filtered listings of one namespace; with more patterns than that the whole namespace is listed."""
_NAME_KEYS = "name the namespaces in repositories.namespaces, or the repositories in repositories.names"


class _Page(msgspec.Struct):
    count: int | None = None
    next: str | None = None
    results: list[msgspec.Raw] | None = None


class _Repository(msgspec.Struct):
    name: str


class _Tag(msgspec.Struct):
    name: str
    digest: str | None = None
    tag_last_pushed: str | None = None
    last_updated: str | None = None


class _Namespaces(msgspec.Struct):
    namespaces: list[str] | None = None


class _Login(msgspec.Struct):
    access_token: str


@dataclass(slots=True)
class _Failure:
    """A login that failed, and until when (on the monotonic clock) that is known without asking again."""

    credential: Credential
    error: RegistryError
    until: float


@dataclass(slots=True)
class HubLogin:
    """The API's token, made from the registry's credential, or from the API's own where one is configured."""

    api: Api
    credentials: CredentialSource
    fixed: SecretSource | None = None
    """Of a token that is sent as it is."""
    clock: Callable[[], float] = time.monotonic
    _token: Secret | None = field(default=None, repr=False)
    _made_from: Credential | None = field(default=None, repr=False)
    _renew_at: float = 0.0
    _failure: _Failure | None = None
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def headers(self, renew: bool) -> Mapping[str, str]:  # noqa: FBT001 - the shape of Authorise
        """The Authorization header; nothing for an anonymous client.

        Raises:
            RegistryUnauthorized: the login is refused.
            SensorError: no answer.
        """
        seen = self._token
        async with self._asking:
            if self.fixed is not None:
                if self._token is None or renew:
                    self._token = await asyncio.to_thread(read_secret, self.fixed)
                return {"Authorization": f"Bearer {self._token.reveal()}"}
            credential = await self.credentials.credential(renew=renew)
            if not isinstance(credential, Basic):
                return {}
            refused = renew and self._token is seen  # of many that were refused at once, the first logs in for all
            if self._token is None or refused or credential != self._made_from or self.clock() >= self._renew_at:
                self._token = await self._log_in(credential)
                self._made_from = credential
                self._renew_at = self.clock() + _TOKEN_SECONDS
            return {"Authorization": f"Bearer {self._token.reveal()}"}

    async def _log_in(self, credential: Basic) -> Secret:
        failure = self._failure
        if failure is not None and failure.credential == credential and self.clock() < failure.until:
            raise type(failure.error)(
                failure.error.message, failure.error.advice, retry_after=failure.error.retry_after
            )
        body = {"identifier": credential.username, "secret": credential.password.reveal()}
        try:
            answer = await self.api.json("/v2/auth/token", _Login, method="POST", body=body)
        except (RegistryUnauthorized, RegistryForbidden, RegistryRateLimited) as error:
            limited = isinstance(error, RegistryRateLimited)
            wait = (error.retry_after or _PAUSE_SECONDS) if limited else _REFUSED_SECONDS
            self._failure = _Failure(credential, error, self.clock() + wait)
            raise
        if not re.fullmatch(r"[\x21-\x7e]+", answer.access_token):
            message = f"{self.api.base}: the login gave no usable token"
            raise UnexpectedAnswer(message, "check api.url")
        return Secret(answer.access_token)


class HubApi:
    """Lists by Docker Hub's API. `base` is empty where it is not known and not to be guessed."""

    def __init__(self, connection: Connection, base: str) -> None:
        """Raises ConfigError when the API is to be asked in plain HTTP, which is not allowed."""
        self._settings = connection.settings
        self._namespace = connection.address.namespace
        self._limits = connection.opening.limits
        self._credentials = _api_credentials(connection)
        self._api: Api | None = None
        if base:
            insecure = connection.settings.insecure
            plain = Api(base, connection.transport, explain=_explain, insecure=insecure)
            login = HubLogin(plain, self._credentials, connection.settings.api.token)
            self._api = Api(base, connection.transport, login.headers, explain=_explain, insecure=insecure)

    async def repositories(self) -> Listing:
        """The repositories of the namespaces that are named, else of those of the login.

        Raises:
            CannotEnumerate: no namespace, or none that this login may list.
            SensorError: no answer, or a broken one, to the very first request.
        """
        api = self._usable()
        credential = await self._credentials.credential(renew=False)
        if isinstance(credential, StaticToken) and self._settings.api.token is None:
            message = "a bearer token cannot log in to Docker Hub's API"
            raise CannotEnumerate(message, "configure username, and the access token as password")
        namespaces = await self._namespaces(api, credential)
        if not namespaces:
            raise CannotEnumerate("without a login Docker Hub lists nothing but namespaces that are named", _NAME_KEYS)
        listings: list[Listing] = []
        failure: SensorError | None = None
        for namespace, name in queries(self._settings, namespaces):
            try:
                listings.append(await self._list_namespace(api, namespace, name))
            except SensorError as error:
                failure = failure or error
                reason = f"{namespace} cannot be listed: {error.message}"
                listings.append(Listing(names=(), complete=False, reason=reason))
        if failure is not None and not any(listing.names or listing.complete for listing in listings):
            refused = _refused(failure, anonymous=credential is None)
            if refused is failure:
                raise failure
            raise refused from failure
        return joined(listings, source=SOURCE)

    async def tags(self, repository: str) -> Listing:
        """All tags, the newest first.

        Raises:
            CannotEnumerate: this login may not, or there is no such repository; the registry itself tells which.
            SensorError: no answer, or a broken one.
        """
        api = self._usable()
        namespace, _, name = full_name(repository).partition("/")
        if "/" in name:
            message = f"{repository} is no name of Docker Hub's"
            raise CannotEnumerate(message, "there it is namespace/name")
        names = Names(self._limits, is_listed_tag, source=SOURCE)
        # newest first is `last_updated` for tags and `-last_updated` for repositories
        query = urlencode({"page_size": _PAGE, "ordering": "last_updated"})
        path = f"/v2/namespaces/{quote(namespace, safe='')}/repositories/{quote(name, safe='')}/tags?{query}"

        def take(raw: msgspec.Raw) -> None:
            tag = parse_entry(raw, _Tag)
            if tag is None:
                names.add(None)
            else:
                names.add(tag.name, digest=tag.digest, pushed=unix_time(tag.tag_last_pushed or tag.last_updated))

        try:
            await _walk(api, path, names, take)
        except (RegistryUnauthorized, RegistryForbidden, RegistryNotFound) as error:
            raise CannotEnumerate(error.message, error.advice) from error
        return names.listing

    async def standing(self) -> Standing:
        """The name that is logged in with. Docker Hub tells neither when a token expires nor what else it may do."""
        credential = await self._credentials.credential(renew=False)
        if not isinstance(credential, Basic):
            return Standing(detail="anonymous")
        return Standing(identity=credential.username, detail="Docker Hub tells neither expiry nor scopes of a token")

    def _usable(self) -> Api:
        if self._api is None:
            message = f"{self._settings.url} is no host of Docker Hub, so its API is not asked with this credential"
            raise CannotEnumerate(
                message, "set api.url to https://hub.docker.com, or name the repositories in repositories.names"
            )
        return self._api

    async def _namespaces(self, api: Api, credential: Credential | None) -> tuple[str, ...]:
        """What is named by keys, URL or patterns, else the login's own."""
        named = wanted_namespaces(self._settings, self._namespace)
        if named:
            return tuple(dict.fromkeys(name.partition("/")[0].lower() for name in named))
        if not isinstance(credential, Basic) or not credential.username:
            return ()
        own = credential.username.lower()
        try:
            told = (await api.json("/v2/repositories/namespaces", _Namespaces)).namespaces or []
        except (RegistryForbidden, RegistryNotFound, NotARegistry, UnexpectedAnswer):
            told = []  # organisations cannot ask, only users; the list is not part of the documented API
        return tuple(dict.fromkeys((own, *(name for name in told if is_repository(name) and "/" not in name))))

    async def _list_namespace(self, api: Api, namespace: str, name: str) -> Listing:
        query = {"page_size": str(_PAGE), "ordering": "-last_updated"} | ({"name": name} if name else {})
        names = Names(self._limits, is_repository, source=SOURCE)

        def take(raw: msgspec.Raw) -> None:
            found = parse_entry(raw, _Repository)
            names.add(None if found is None else f"{namespace}/{found.name}")

        await _walk(api, f"/v2/namespaces/{quote(namespace, safe='')}/repositories?{urlencode(query)}", names, take)
        return names.listing


def full_name(repository: str) -> str:
    """A name of one component is an official image."""
    return repository if "/" in repository else f"library/{repository}"


def queries(settings: Settings, namespaces: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """What to list: namespaces, each with a part of the name to filter by, where all patterns that concern it hold one."""
    asked = []
    for namespace in namespaces:
        filters = [_filter(pattern, namespace) for pattern in settings.repositories.include]
        wanted = dict.fromkeys(one for one in filters if one is not None)
        if not wanted or "" in wanted or len(wanted) > _MOST_FILTERS:
            wanted = {"": None}
        asked += [(namespace, one) for one in wanted]
    return tuple(asked)


def _filter(pattern: str, namespace: str) -> str | None:
    """The longest literal part of a pattern behind its namespace; empty: none; None: it does not concern the namespace."""
    head, slash, rest = pattern.partition("/")
    if re.search(r"[*?\[]", head):
        return ""
    if not slash or head != namespace:
        return None
    literal = max(re.split(r"[*?\[\]/]+", re.sub(r"\[[^\]]*\]", "*", rest)), key=len)
    return literal if re.fullmatch(r"[a-z0-9._-]{2,}", literal) else ""


async def _walk(api: Api, path: str, names: Names, take: Callable[[msgspec.Raw], None]) -> None:
    """Feed every entry of a paged list to `take`. What goes wrong after the first page makes `names` partial.

    The list is ordered by change, so that an entry that changes in the meantime jumps from a page to come to one that is over. The count
    that comes with each page gives that away.
    """
    page = await api.json(path, _Page)
    promised, asked = page.count or 0, {path}
    while True:
        for raw in page.results or ():
            take(raw)
        if not page.next:
            break
        if page.next in asked:
            names.partial("the pages go in a circle")
        if names.reason or not names.another_page():
            return
        asked.add(page.next)
        try:
            page = await api.json(page.next, _Page)
        except SensorError as error:
            names.partial(f"a later page failed: {error.message}")
            return
    came = len(names) + names.listing.dropped
    if came < promised or (page.count is not None and page.count < promised):
        names.partial(f"the list changed while it was read: {promised} entries were promised, {came} came")


def _api_credentials(connection: Connection) -> CredentialSource:
    """The API's own user name and password, else the registry's."""
    settings = connection.settings
    if settings.api.password is None:
        return connection.credentials
    own = {"username": settings.api.username, "password": settings.api.password, "token": None}
    return ConfiguredCredential(settings.model_copy(update=own))


def _refused(error: SensorError, *, anonymous: bool) -> SensorError:
    """A namespace that cannot be listed, as an error of the whole listing."""
    if isinstance(error, (RegistryForbidden, RegistryNotFound)) or (
        isinstance(error, RegistryUnauthorized) and anonymous
    ):
        return CannotEnumerate(f"repositories cannot be listed: {error.message}", f"{error.advice}, or {_NAME_KEYS}")
    return error


def _explain(error: RegistryError, reply: Reply) -> RegistryError:
    """The API's words."""
    if isinstance(error, RegistryRateLimited):
        return RegistryRateLimited(
            error.message, "Docker Hub's API limits requests; listing goes on later", retry_after=error.retry_after
        )
    if reply.status == 401:
        advice = "check the Docker ID and the access token; Docker Hub's API takes both like the registry does"
        return RegistryUnauthorized(as_refused_login(error.message), advice)
    if isinstance(error, RegistryForbidden):
        return RegistryForbidden(
            error.message, "give the access token the scope repo:read, or its organisation's token read permission"
        )
    if isinstance(error, RegistryNotFound):
        return RegistryNotFound(
            error.message, "check repositories.namespaces; what this login may not see is not found either"
        )
    return error
