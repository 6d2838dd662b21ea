"""Asking Harbor's own API: what is shown to it, how its pages end, which permission a refusal means, the shapes of its answers.

Pages are counted by X-Total-Count, because the Link header un-escapes the query that it repeats. What is asked for is in `harbor_native`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TypeVar
from urllib.parse import quote

import msgspec

from sensor.errors import RegistryError, SensorError
from sensor.registry.errors import RegistryForbidden, RegistryUnauthorized
from sensor.registry.kinds.gathered import api_credentials
from sensor.registry.kinds.kind import Connection
from sensor.registry.native import Api, Names, parse
from sensor.registry.tokens import granted
from sensor.secret import Secret
from sensor.transport import Reply

PERMISSIONS = "repository: list, repository: pull, artifact: list, artifact: read, tag: list"
"""What a sensor needs in a project."""
_PAGE = 100
"""The most that Harbor gives in one."""
_NEEDED: Mapping[str, str] = {
    "/artifacts": "artifact: list and tag: list",
    "/repositories": "repository: list",
    "/robots": "robot: list",
}
_T = TypeVar("_T")


class Project(msgspec.Struct):
    """A project; one with a `registry_id` is a cache of what is there."""

    project_id: int = 0
    name: str = ""
    registry_id: int | None = None
    metadata: dict[str, object] | None = None

    @property
    def public(self) -> bool:
        """Whether everybody is shown it."""
        return str((self.metadata or {}).get("public", "")).lower() == "true"


class Repository(msgspec.Struct):
    """A repository; the name includes the project."""

    name: str | None = None
    artifact_count: int = 0


class Tag(msgspec.Struct):
    """A tag of an artifact."""

    name: str | None = None
    push_time: str | None = None


class Artifact(msgspec.Struct):
    """A manifest, with its tags."""

    digest: str | None = None
    type: str | None = None
    push_time: str | None = None
    tags: list[Tag | None] | None = None


class Access(msgspec.Struct):
    """One right of a robot."""

    resource: str = ""
    action: str = ""
    effect: str = ""


class Permission(msgspec.Struct):
    """The rights of a robot in one project, or in the system."""

    access: list[Access] | None = None


class Robot(msgspec.Struct):
    """A robot account; it ends at a Unix time, or never (-1)."""

    name: str = ""
    expires_at: int = 0
    permissions: list[Permission] | None = None


class Token(msgspec.Struct):
    """What the token service answers."""

    token: str = ""


class HarborApi:
    """The API of one Harbor, which is beside its registry unless `api.url` says otherwise."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._credentials = api_credentials(connection)
        self._api: Api | None = None

    async def pages(self, path: str, shape: type[_T], names: Names) -> AsyncIterator[list[_T]]:
        """All pages of a list; `names` watches that they come to an end. Raises SensorError on the first page only."""
        number, seen, most = 1, 0, 0
        before: list[_T] = []
        while True:
            try:
                rows, total = await self._page(
                    f"{path}{'&' if '?' in path else '?'}page={number}&page_size={_PAGE}", shape
                )
            except SensorError as error:
                if number == 1:
                    raise
                names.partial(f"a later page failed: {error.message}")
                return
            yield rows
            seen += len(rows)
            if total is not None and total < most:
                names.partial("entries were deleted while they were listed")
            if not rows and total is not None and seen < total:
                names.partial(f"the pages ended after {seen} of {total} entries")
            if not rows or (total is not None and seen >= total) or not names.another_page(useful=rows != before):
                return
            number, most, before = number + 1, max(most, total or 0), rows

    async def some(self, path: str, shape: type[_T]) -> list[_T]:
        """One page of a list, as short as `path` asks for. Raises SensorError."""
        return (await self._page(path, shape))[0]

    async def _page(self, path: str, shape: type[_T]) -> tuple[list[_T], int | None]:
        """The rows, and how many there are in all, if Harbor tells."""
        reply = await (await self._opened()).send(f"/api/v2.0{path}")
        told = reply.headers.get("x-total-count", "")
        total = int(told) if told.isdecimal() and len(told) < 12 else None
        return ([] if reply.body.strip() == b"null" else parse(reply, list[shape])), total  # type: ignore[valid-type]

    async def granted(self, repository: str) -> frozenset[str]:
        """The actions that are allowed in a repository. Harbor grants all that the caller has, whatever was asked for.

        Raises:
            SensorError: no answer, or no token.
        """
        scope = quote(f"repository:{repository}:pull", safe="")
        api = await self._opened()
        answer = await api.json(f"/service/token?service=harbor-registry&scope={scope}", Token)
        claims = granted(Secret(answer.token))
        return frozenset(
            action for one in (claims.access if claims else ()) for action in one.rpartition(":")[2].split(",")
        )

    async def _opened(self) -> Api:
        settings = self._connection.settings
        if self._api is None:
            self._api = Api(
                settings.api.url or await self._connection.session.url(""),
                self._connection.transport,
                self._authorise,
                explain=_explain,
                insecure=self._connection.insecure,
            )
        return self._api

    async def _authorise(self, renew: bool) -> Mapping[str, str]:  # noqa: FBT001 - the shape of Authorise
        credential = await self._credentials.credential(renew=renew)
        return {} if credential is None else {"Authorization": credential.header}


def _explain(error: RegistryError, reply: Reply) -> RegistryError:
    """Names the permission whose want an answer of the API shows."""
    path = reply.url.partition("?")[0]
    needed = next((permission for part, permission in _NEEDED.items() if path.endswith(part)), "")
    if isinstance(error, RegistryForbidden):
        added = f"the permission {needed}" if needed else "a permission that it lacks"
        return RegistryForbidden(error.message, f"add {added} to the robot account (a sensor needs {PERMISSIONS})")
    if isinstance(error, RegistryUnauthorized):
        advice = (
            "check the full name of the robot account, its secret and its expiry; "
            "for a user of single sign-on the password is the CLI secret, and much of the API is closed: use a robot account"
        )
        return RegistryUnauthorized(error.message, advice)
    return error
