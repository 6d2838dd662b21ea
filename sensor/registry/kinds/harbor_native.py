"""How Harbor lists: projects, repositories, artifacts with tags and digests in one listing; and what a robot account may do.

The name of a repository is encoded twice, because the router decodes once and the handler once more. A proxy-cache project is listed by the
API alone: `tags/list` would show, and looking at those tags would fetch, all that its upstream has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from urllib.parse import quote

from sensor.errors import RegistryError, SensorError
from sensor.model.reference import is_repository
from sensor.registry.errors import (
    CannotEnumerate,
    NotARegistry,
    RegistryForbidden,
    RegistryNotFound,
    RegistryUnauthorized,
    UnexpectedAnswer,
    inert,
)
from sensor.registry.kinds.gathered import unix_time
from sensor.registry.kinds.harbor_api import PERMISSIONS, Artifact, HarborApi, Project, Repository, Robot
from sensor.registry.kinds.kind import Connection
from sensor.registry.login import Basic
from sensor.registry.native import Names, wanted_namespaces
from sensor.registry.pages import is_listed_tag
from sensor.registry.port import Listing, Standing

_SOURCE = "Harbor API"
_ADVICE = (
    f"give the robot account the permissions {PERMISSIONS} in every project, "
    "or name the repositories in repositories.names"
)
_UNUSABLE = (RegistryForbidden, RegistryUnauthorized, RegistryNotFound, NotARegistry, UnexpectedAnswer)
_NOT_IMAGES: Mapping[str, str] = {"CHART": "a Helm chart", "SBOM": "a bill of materials", "CNAB": "a CNAB bundle"}
_WRITING = frozenset({"push", "delete", "create", "update", "*"})


class HarborNative:
    """Lists by Harbor's API; remembers which projects are proxy caches until they are listed anew."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._api = HarborApi(connection)
        self._proxies: dict[str, bool] = {}
        self._artifacts: dict[str, int] = {}

    # -- repositories --------------------------------------------------------------------------------------------------

    async def repositories(self) -> Listing:
        """The repositories of the wanted projects; without any wanted, of all that the credential shows.

        A project robot is shown all public projects too; those are left out, unless they are wanted.
        """
        names = self._names()
        self._proxies.clear()
        self._artifacts.clear()
        wanted = self._wanted()
        try:
            chosen = await self._chosen(names)
        except _UNUSABLE as error:
            raise await self._cannot(error) from error
        missing = [name for name in wanted if name not in chosen]
        reason = f"Harbor shows this credential no project {', '.join(missing)}".rstrip()
        if not chosen:
            raise CannotEnumerate(reason, f"check repositories.namespaces and the projects of the robot; {_ADVICE}")
        try:
            await self._list(chosen, names, bounded=bool(wanted))
        except _UNUSABLE as error:
            raise await self._cannot(error) from error
        if missing:
            names.partial(reason)
        return names.listing

    def _names(self) -> Names:
        return Names(self._connection.opening.limits, is_repository, source=_SOURCE)

    def _wanted(self) -> tuple[str, ...]:
        """The projects to look at; empty: whatever is shown."""
        given = wanted_namespaces(self._connection.settings, self._connection.address.namespace)
        return tuple(dict.fromkeys(name.partition("/")[0] for name in given))

    async def _chosen(self, names: Names) -> list[str]:
        wanted = self._wanted()
        projects = await self._projects(wanted, names)
        return [one.name for one in projects] if wanted else _meant(projects, await self._user())

    async def _projects(self, wanted: Collection[str], names: Names) -> list[Project]:
        """The projects that are wanted, or all; those of similar name that the search brings along are left out."""
        found: dict[str, Project] = {}
        for query in [f"?name={quote(name, safe='')}" for name in wanted] or [""]:
            async for rows in self._api.pages(f"/projects{query}", Project, names):
                found.update({row.name: row for row in rows if row.name and (not wanted or row.name in wanted)})
        self._proxies.update({name: bool(row.registry_id) for name, row in found.items()})
        return list(found.values())

    async def _list(self, projects: Collection[str], names: Names, *, bounded: bool) -> None:
        """One listing of everything, or one for each project, whichever is less; the other way where that is refused.

        OIDC users may not use the first, robots without `repository: list` not the second.
        """
        each = bounded or len(projects) == 1
        try:
            await (self._by_project(projects, names) if each else self._at_once(projects, names))
        except (RegistryForbidden, RegistryUnauthorized) as error:
            try:
                await (self._at_once(projects, names) if each else self._by_project(projects, names))
            except (RegistryForbidden, RegistryUnauthorized):
                raise error from None

    async def _at_once(self, projects: Collection[str], names: Names) -> None:
        chosen = frozenset(projects)
        async for rows in self._api.pages("/repositories", Repository, names):
            self._take((row for row in rows if (row.name or "").partition("/")[0] in chosen), names)

    async def _by_project(self, projects: Collection[str], names: Names) -> None:
        for project in projects:
            try:
                path = f"/projects/{quote(project, safe='')}/repositories"
                async for rows in self._api.pages(path, Repository, names):
                    self._take(rows, names)
            except SensorError as error:
                if not len(names):
                    raise
                names.partial(f"project {project} could not be listed: {error.message}")

    def _take(self, rows: Iterable[Repository], names: Names) -> None:
        for row in rows:
            names.add(row.name)
            if row.name:
                self._artifacts[row.name] = row.artifact_count

    async def _cannot(self, error: RegistryError) -> RegistryError:
        """Why nothing could be listed: a refused login is told as such, anything else is a matter of the API."""
        if isinstance(error, RegistryUnauthorized):
            session = self._connection.session
            try:
                await session.fetch("GET", await session.url("/v2/"))
            except RegistryUnauthorized as refused:
                return refused
        return CannotEnumerate(f"Harbor's API cannot be used: {error.message}", error.advice or _ADVICE)

    # -- tags ----------------------------------------------------------------------------------------------------------

    async def tags(self, repository: str) -> Listing:
        """All tags with digests and push dates, from the artifacts that Harbor holds itself.

        Raises:
            CannotEnumerate: not to be had by the API; the registry's own listing does no harm.
            RegistryForbidden: not to be had by the API, and the registry's own listing would be that of an upstream.
        """
        project = repository.partition("/")[0]
        if project not in self._proxies:
            await self._look_up(project)
        proxy = self._proxies.get(project)
        if proxy and self._connection.settings.materialize:
            message = f"{project} is a proxy cache, and what its upstream has is wanted as well"
            raise CannotEnumerate(message)
        try:
            return await self._tags(repository)
        except _UNUSABLE as error:
            if proxy is False:
                message = f"Harbor's API does not list the tags: {error.message}"
                raise CannotEnumerate(message, error.advice) from error
            if isinstance(error, RegistryNotFound):
                raise
            what = "is a proxy cache" if proxy else "may be a proxy cache"
            message = f"{repository} cannot be listed by the API, and {project} {what}: {error.message}"
            instead = "or set materialize: true to have the upstream listed and its images fetched"
            raise RegistryForbidden(message, f"{error.advice or _ADVICE}; {instead}") from error

    async def _look_up(self, project: str) -> None:
        """Whether a project is a proxy cache; it stays unknown where the API does not say. One that is not shown is none."""
        names = self._names()
        try:
            found = {one.name for one in await self._projects((project,), names)}
        except RegistryError:
            return
        if project not in found and not names.reason:
            self._proxies[project] = False

    async def _tags(self, repository: str) -> Listing:
        project, _, name = repository.partition("/")
        encoded = quote(quote(name, safe=""), safe="")
        path = f"/projects/{quote(project, safe='')}/repositories/{encoded}/artifacts"
        names = Names(self._connection.opening.limits, is_listed_tag, source=_SOURCE)
        async for rows in self._api.pages(f"{path}?with_tag=true&q=tags%3D%2A", Artifact, names):
            for row in rows:
                _add_tags(row, names)
        counted = self._artifacts.get(repository)
        if not len(names) and counted and not await self._api.some(f"{path}?page=1&page_size=1", Artifact):
            message = f"Harbor shows no artifact of {repository}, although it counts {counted}"
            raise UnexpectedAnswer(message, "a proxy in front of Harbor may decode %25 in paths; it must not")
        return names.listing

    # -- who we are ----------------------------------------------------------------------------------------------------

    async def standing(self) -> Standing:
        """The user or robot; when the robot ends, where it may read that; whether it may push, by the rights in a token."""
        user = await self._user()
        if not user:
            return Standing()
        try:
            writes = await self._may_write()
            expires, detail = await self._robot(user) if "$" in user or "+" in user else (None, "")
        except RegistryError as error:
            return Standing(identity=user, detail=f"rights and expiry could not be read: {error.message}")
        return Standing(identity=user, expires=expires, may_write=writes, detail=detail)

    async def _robot(self, user: str) -> tuple[float | None, str]:
        """Until when a robot lives, if it may read about itself."""
        names = self._names()
        queries = ["Level=system"]
        if "+" in user:
            projects = await self._projects((), names)
            own = _meant(projects, user)
            queries = [f"Level=project,ProjectID={one.project_id}" for one in projects if one.name in own]
        for query in queries:
            try:
                async for rows in self._api.pages(f"/robots?q={quote(query, safe='')}", Robot, names):
                    ends = next((robot.expires_at for robot in rows if robot.name == user), None)
                    if ends is not None:
                        return (float(ends), "") if ends > 0 else (None, "the robot account never expires")
            except _UNUSABLE:
                break
        return None, "the robot account may not read when it expires: by default 30 days after it was made"

    async def _may_write(self) -> bool | None:
        """By asking to pull, which shows whether it could push."""
        repository = next(iter(self._artifacts), "")
        if not repository:
            chosen = await self._chosen(self._names())
            repository = f"{chosen[0]}/any" if chosen else ""
        actions = await self._api.granted(repository) if repository else frozenset()
        return bool(actions & _WRITING) if actions else None

    async def _user(self) -> str:
        credential = await self._connection.session.credential()
        return credential.username if isinstance(credential, Basic) else ""


def _add_tags(row: Artifact, names: Names) -> None:
    what = row.type or "IMAGE"
    withheld = "" if what == "IMAGE" else f"{_NOT_IMAGES.get(what, f'of type {inert(what[:40])}')}, not an image"
    for tag in row.tags or ():
        if tag is None:
            names.add(None)
        else:
            pushed = unix_time(tag.push_time) or unix_time(row.push_time)
            names.add(tag.name, digest=row.digest, pushed=pushed, withheld=withheld)


def _meant(projects: Iterable[Project], user: str) -> list[str]:
    """Without the public projects that a project robot (`<prefix><project>+<name>`) is shown but was not made for."""
    found = list(projects)
    before, plus, _ = user.rpartition("+")
    own = max((one.name for one in found if plus and before.endswith(one.name)), key=len, default="")
    is_project_robot = bool(own) or (bool(plus) and "$" in before)
    return [one.name for one in found if not is_project_robot or one.name == own or not one.public]
