"""GitLab's own API: which one it is, what is shown to it, and the shapes of its answers. What is asked of it is in `gitlab_native`.

Where the API is: `api.url`, else gitlab.com for its registry, else beside the token service that the registry names in its challenge. That
name is the other side's word, so a token goes there only under the rule that holds for logins too: the registry's own host, the provider's
known one, or one in `trusted_realms` (`tokens.refuse_realm`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar
from urllib.parse import urlsplit

import msgspec

from sensor.errors import RegistryError, SecretError, SensorError
from sensor.registry.errors import CannotEnumerate, RegistryForbidden, RegistryUnauthorized, inert, shown_url
from sensor.registry.kinds.gathered import patiently
from sensor.registry.kinds.kind import Connection
from sensor.registry.login import Basic
from sensor.registry.native import Api, Names, parse
from sensor.secret import Secret, read_secret
from sensor.transport import Reply, Retry

SAAS_REGISTRY = "registry.gitlab.com"
SAAS = "https://gitlab.com"
TOKEN_PATH = "/jwt/auth"  # noqa: S105 - a path
ADVICE = (
    "give the sensor a group or project access token with the role Reporter and the scopes read_api and read_registry "
    "(as api.token, beside a deploy token), or name the repositories in repositories.names"
)
_T = TypeVar("_T")
Kind: TypeAlias = Literal["access", "deploy", "job", "oauth", "password"]
_PREFIXES: Mapping[str, Kind] = {"glpat-": "access", "gldt-": "deploy", "glcbt-": "job", "gloas-": "oauth"}


class Page(msgspec.Struct, rename="camel"):
    """Whether there are more, and where they begin."""

    has_next_page: bool = False
    end_cursor: str | None = None

    @property
    def next(self) -> str | None:
        """Where the next page begins, if there is one."""
        return self.end_cursor if self.has_next_page else None


class Node(msgspec.Struct, rename="camel"):
    """A container repository, a project or a tag."""

    id: str | None = None
    path: str | None = None
    status: str | None = None
    full_path: str | None = None
    name: str | None = None
    digest: str | None = None
    created_at: str | None = None
    published_at: str | None = None


class Nodes(msgspec.Struct, rename="camel"):
    """One page of a connection."""

    page_info: Page = msgspec.field(default_factory=Page)
    nodes: list[Node | None] | None = None


class Holder(msgspec.Struct, rename="camel"):
    """A group, a project, a namespace or a container repository, with what was asked of it."""

    container_repositories: Nodes | None = None
    projects: Nodes | None = None
    tags: Nodes | None = None


class Problem(msgspec.Struct):
    """Something that is wrong with a question."""

    message: str = ""


class Answer(msgspec.Struct):
    """What GraphQL says; `data` has one field for each thing that was asked for, null where it cannot be seen."""

    data: dict[str, Holder | None] | None = None
    errors: list[Problem] | None = None

    def holder(self, *names: str) -> Holder | None:
        """The first of some fields that is there."""
        return next((found for name in names if (found := (self.data or {}).get(name)) is not None), None)

    @property
    def problem(self) -> str:
        """What the API found wrong with the question."""
        return inert("; ".join(one.message for one in self.errors[:3])) if self.errors else ""


class Row(msgspec.Struct):
    """A group, project, container repository or user."""

    id: int | None = None
    full_path: str | None = None
    path_with_namespace: str | None = None
    path: str | None = None
    status: str | None = None
    username: str | None = None


class TokenSelf(msgspec.Struct):
    """An access token, as it sees itself."""

    name: str = ""
    scopes: list[str] = msgspec.field(default_factory=list)
    expires_at: str | None = None


def kind_of(credential: Basic) -> Kind:
    """What sort of secret it is: by its prefix, else by the user name that goes with it. Prefixes of access tokens can be configured."""
    secret = credential.password.reveal()
    for prefix, kind in _PREFIXES.items():
        if secret.startswith(prefix):
            return kind
    user = credential.username
    if user == "gitlab-ci-token":
        return "job"
    if user.startswith("gitlab+deploy-token-"):
        return "deploy"
    return "oauth" if user == "oauth2" else "access" if is_bot(user) else "password"


def is_bot(user: str) -> bool:
    """Whether a user name is that of a project's or group's access token: `project_42_bot_...`."""
    return user.startswith(("project_", "group_")) and "_bot" in user


class _Login:
    """What is shown to the API: `api.token`, else the registry's own credential where the API takes it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._secret: Secret | None = None

    @property
    def own(self) -> bool:
        """Whether the API has a token of its own."""
        return self._source is not None

    @property
    def _source(self) -> Any:
        return self._connection.settings.api.token or self._connection.settings.api.password

    async def headers(self, renew: bool) -> Mapping[str, str]:  # noqa: FBT001 - the shape of Authorise
        """The header with the token; empty where the API is asked anonymously. Raises SecretError."""
        if self._source is not None:
            if renew or self._secret is None:
                self._secret = await asyncio.to_thread(read_secret, self._source)
            secret, kind = self._secret, "oauth" if self._secret.reveal().startswith("gloas-") else "access"
        else:
            credential = await self._connection.credentials.credential(renew=renew)
            if not isinstance(credential, Basic) or (kind := kind_of(credential)) in {"deploy", "job"}:
                return {}
            secret = credential.password
        if not secret.reveal().isprintable():
            message = f"the API token of registry {self._connection.settings.name} contains control characters"
            raise SecretError(message, "store the token alone, on one line")
        return {"Authorization": f"Bearer {secret.reveal()}"} if kind == "oauth" else {"PRIVATE-TOKEN": secret.reveal()}

    async def useless(self) -> bool:
        """Whether the registry's credential is of a sort that the API does not take, and there is no other."""
        credential = await self._connection.credentials.credential(renew=False)
        return not self.own and credential is not None and not await self.headers(False)  # noqa: FBT003


class GitlabApi:
    """The API of one GitLab. A refused token is not shown again before `reset`: 300 refusals a minute ban the address."""

    def __init__(self, connection: Connection) -> None:
        self.login = _Login(connection)
        self._connection = connection
        self._retry = connection.opening.retry or Retry()
        self._api: Api | None = None
        self._finding = asyncio.Lock()
        self._refused: RegistryError | None = None

    async def base(self, *, with_secret: bool) -> str:
        """Where GitLab is, of which this is the registry.

        Raises:
            CannotEnumerate: the registry does not tell, or tells a place where the token must not go.
        """
        settings, host = self._connection.settings, self._connection.address.host
        if settings.api.url:
            return settings.api.url.rstrip("/")
        if host.partition(":")[0] == SAAS_REGISTRY:
            return SAAS
        realm, reason = await self._connection.session.token_service(with_secret=with_secret)
        path = urlsplit(realm).path
        if not path.endswith(TOKEN_PATH):
            message = f"{host} does not say which GitLab it belongs to"
            raise CannotEnumerate(message, "set api.url to the address of GitLab itself; is this GitLab's registry?")
        if reason:
            message = f"the API token was not sent to {shown_url(realm)}: {reason}"
            raise CannotEnumerate(message, "set api.url to the address of GitLab, or name its host in trusted_realms")
        return realm.partition("?")[0].removesuffix(TOKEN_PATH)

    async def send(self, path: str, *, body: bytes | None = None) -> Reply:
        """GET a path, or POST a query, which changes nothing and so may be repeated.

        Raises:
            CannotEnumerate: the API does not take this credential.
            SensorError: no answer, or another status than 200.
        """
        if self._refused is not None:
            raise self._refused
        api = await self._opened()
        headers = {"Content-Type": "application/json"}
        try:
            if body is None:
                return await api.send(path)
            query = partial(api.send, path, method="POST", body=body, headers=headers)
            return await patiently(self._connection.transport, self._retry, api.base, query)
        except (RegistryUnauthorized, RegistryForbidden) as error:
            refused = CannotEnumerate(f"GitLab's API does not take this credential: {error.message}", ADVICE)
            if isinstance(error, RegistryUnauthorized):
                self._refused = refused
            raise refused from error

    def reset(self) -> None:
        """Show the token again, although it was refused: it may have been renewed since."""
        self._refused = None

    async def _opened(self) -> Api:
        async with self._finding:
            if self._api is None:
                shown = bool(await self.login.headers(False))  # noqa: FBT003 - the shape of Authorise
                base = await self.base(with_secret=shown)
                self._api = Api(
                    base,
                    self._connection.transport,
                    self.login.headers,
                    insecure=self._connection.insecure,
                )
            return self._api

    async def query(self, text: str, **variables: str | None) -> Answer:
        """Ask GraphQL. Raises SensorError; what it finds wrong with the question is in the answer."""
        body = msgspec.json.encode({"query": text, "variables": variables})
        return parse(await self.send("/api/graphql", body=body), Answer)

    async def get(self, path: str, shape: type[_T]) -> _T:
        """GET one thing by REST. Raises SensorError."""
        return parse(await self.send(f"/api/v4{path}"), shape)

    async def rows(self, path: str, names: Names) -> AsyncIterator[Row]:
        """GET the rows of all pages by REST; `names` watches that they come to an end. Raises SensorError on the first page."""
        number: str | None = "1"
        while number:
            try:
                reply = await self.send(f"/api/v4{path}{'&' if '?' in path else '?'}per_page=100&page={number}")
                rows = parse(reply, list[Row])
            except SensorError as error:
                if number == "1":
                    raise
                names.partial(f"a later page failed: {error.message}")
                return
            for row in rows:
                yield row
            following = reply.headers.get("x-next-page", "").strip()
            more = following.isdecimal() and names.another_page(f"{path} {following}", useful=bool(rows))
            number = following if more else None
