"""How GitLab lists: container repositories of groups, projects and users, tags with digests, and what a token is worth.

GraphQL is the only listing that tells digests. Where it is out of use, repositories come from REST and tags from the registry itself.
Without namespaces to look at, all groups and projects are listed of which the token's owner is a member (role Reporter or more).
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from sensor.errors import RegistryError, SensorError
from sensor.model.reference import is_repository
from sensor.registry.errors import (
    CannotEnumerate,
    NotARegistry,
    RegistryNotFound,
    RegistryUnavailable,
    UnexpectedAnswer,
)
from sensor.registry.kinds.gathered import unix_time
from sensor.registry.kinds.gitlab_api import ADVICE, Answer, GitlabApi, Node, Nodes, Row, TokenSelf
from sensor.registry.kinds.kind import Connection
from sensor.registry.login import Basic
from sensor.registry.native import Names, own_api_key, wanted_namespaces
from sensor.registry.pages import is_listed_tag
from sensor.registry.port import Listing, Standing

_SOURCE = "GitLab API"
_FIRST_PLAUSIBLE = 1_356_998_400.0
"""2013: images that claim to be older were built with a fixed date, which says nothing about when they were pushed."""
_GOING = frozenset({"delete_scheduled", "delete_ongoing"})
"""A deletion that has failed (`delete_failed`) leaves its images where they are."""
_WRITING = frozenset({"api", "sudo", "admin_mode"})
_REPORTER = 20
_MOST_BELOW_PROJECT = 2
"""Parts of a repository's path that may follow its project's."""
_REPOSITORIES = (
    "containerRepositories(first: 100, after: $after) { pageInfo { hasNextPage endCursor } nodes { id path status } }"
)
_LIST = (
    "query($path: ID!, $after: String) "
    f"{{ group(fullPath: $path) {{ {_REPOSITORIES} }} project(fullPath: $path) {{ {_REPOSITORIES} }} }}"
)
_PROJECTS = (
    "query($path: ID!, $after: String) { namespace(fullPath: $path) { projects(first: 100, after: $after) "
    "{ pageInfo { hasNextPage endCursor } nodes { fullPath } } } }"
)
_TAGS = (
    "query($id: ContainerRepositoryID!, $after: String) {{ containerRepository(id: $id) "
    "{{ tags(first: 100, after: $after, sort: {sort}) "
    "{{ pageInfo {{ hasNextPage endCursor }} nodes {{ name digest createdAt {more} }} }} }} }}"
)
_TAGS_BY_DATE = _TAGS.format(sort="PUBLISHED_AT_DESC", more="publishedAt")
_TAGS_BY_NAME = _TAGS.format(sort="NAME_ASC", more="")
"""Without the registry's metadata database nothing is known about when a tag was published."""


class GitlabNative:
    """Lists by GitLab's API; remembers the ids of container repositories until they are listed anew."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._api = GitlabApi(connection)
        self._limits = connection.opening.limits
        self._ids: dict[str, str] = {}
        self._graphql = True
        self._by_date = True

    async def repositories(self) -> Listing:
        """All container repositories of the namespaces that are wanted, or of which the token's owner is a member."""
        self._ids.clear()
        # what was out of use or refused last time may have been mended since
        self._api.reset()
        self._graphql = self._by_date = True
        await self._check_usable()
        settings, names = self._connection.settings, Names(self._limits, is_repository, source=_SOURCE)
        wanted = wanted_namespaces(settings, self._connection.address.namespace)
        climb = not settings.repositories.namespaces
        missing = []
        for path in wanted or await self._memberships(names):
            try:
                if not await self._gather(path, names, climb=climb):
                    missing.append(path)
            except SensorError as error:
                if not len(names):
                    raise
                names.partial(f"{path} could not be listed: {error.message}")
                break
        if missing:
            reason = f"GitLab shows no group, project or user {', '.join(missing)} with a registry to this credential"
            if not len(names):
                raise CannotEnumerate(reason, f"check repositories.namespaces; {ADVICE}")
            names.partial(reason)
        return names.listing

    async def _check_usable(self) -> None:
        if await self._api.login.useless():
            message = "a deploy token or CI job token opens GitLab's registry, but not the API that lists"
            raise CannotEnumerate(message, ADVICE)

    async def _memberships(self, names: Names) -> tuple[str, ...]:
        """The outermost groups of which the token's owner is a member, and the projects outside of them."""
        if not await self._api.login.headers(False):  # noqa: FBT003 - the shape of Authorise
            message = "GitLab cannot be listed as a whole without a token"
            raise CannotEnumerate(message, "name public groups or projects in repositories.namespaces, or " + ADVICE)
        try:
            query = f"/groups?min_access_level={_REPORTER}&order_by=path"
            groups = [row.full_path async for row in self._api.rows(query, names) if row.full_path]
            query = f"/projects?membership=true&min_access_level={_REPORTER}&simple=true&order_by=id"
            projects = [
                row.path_with_namespace async for row in self._api.rows(query, names) if row.path_with_namespace
            ]
        except (RegistryNotFound, NotARegistry, UnexpectedAnswer) as error:
            message = f"GitLab does not tell the token's groups: {error.message}"
            raise CannotEnumerate(message, ADVICE) from error
        found = _outermost((*groups, *projects))
        if not found:
            raise CannotEnumerate("the token's owner is a member of no group or project as Reporter or more", ADVICE)
        return found

    async def _gather(self, wanted: str, names: Names, *, climb: bool) -> bool:
        """List what lies below a path; whether there is such a thing. `climb`: the path may be that of an image within a project."""
        path = wanted
        while path:
            if self._graphql and await self._by_graphql(path, wanted, names):
                return True
            # that it is out of use may have been found out just now
            if not self._graphql and await self._by_rest(path, wanted, names):
                return True
            path = path.rpartition("/")[0] if climb else ""
        return False

    async def _by_graphql(self, path: str, wanted: str, names: Names) -> bool:
        after: str | None = None
        while True:
            try:
                page = await self._repositories_page(path, after, names)
            except SensorError as error:
                if after is None:
                    raise
                names.partial(f"a later page of {path} failed: {error.message}")
                return True
            if page is None and after is None:
                return "/" not in path and self._graphql and await self._of_user(path, wanted, names)
            if page is None:
                names.partial(f"{path} disappeared while it was listed")
                return True
            useful = self._take(page.nodes or (), wanted, names)
            after = page.page_info.next
            if after is None or not names.another_page(f"{path} {after}", useful=useful):
                return True

    async def _repositories_page(self, path: str, after: str | None, names: Names) -> Nodes | None:
        """One page of a group or project; None where there is none of that name, or GraphQL is out of use."""
        try:
            answer = await self._api.query(_LIST, path=path, after=after)
        except (RegistryNotFound, NotARegistry, UnexpectedAnswer):
            if after is not None:
                raise
            self._graphql = False
            return None
        found = answer.holder("group", "project")
        if found is None and answer.problem:
            if after is not None:
                raise _faulty(answer)
            self._graphql = False
        elif answer.problem:
            names.partial(f"a part of {path} is missing: {_faulty(answer).message}")
        return None if found is None else found.container_repositories

    async def _of_user(self, path: str, wanted: str, names: Names) -> bool:
        """The projects of a user's own namespace."""
        after: str | None = None
        while True:
            holder = (await self._api.query(_PROJECTS, path=path, after=after)).holder("namespace")
            if holder is None or holder.projects is None:
                if after is not None:
                    names.partial(f"{path} disappeared while it was listed")
                return after is not None
            for node in holder.projects.nodes or ():
                if node is not None and node.full_path and "/" in node.full_path:
                    await self._by_graphql(node.full_path, wanted, names)
                    if not self._graphql:
                        names.partial(f"{node.full_path} could not be listed: GraphQL has failed")
                        return True
            after = holder.projects.page_info.next
            if after is None or not names.another_page(f"projects of {path} {after}", useful=True):
                return True

    async def _by_rest(self, path: str, wanted: str, names: Names) -> bool:
        for what in ("groups", "projects"):
            try:
                rows = self._api.rows(f"/{what}/{quote(path, safe='')}/registry/repositories", names)
                self._take([_node(row) async for row in rows], wanted, names)
            except RegistryNotFound:
                continue
            return True
        return False

    def _take(self, nodes: Iterable[Node | None], wanted: str, names: Names) -> bool:
        """Remember the ids, whether any of them is new; what is being deleted is left out as gone."""
        before, within = len(self._ids), f"{wanted.lower()}/"  # groups and projects may have capitals, images never
        for node in nodes:
            if node is None or node.path is None or not node.id:
                names.add(None)
                continue
            self._ids[node.path] = node.id
            if (node.status or "").lower() not in _GOING and f"{node.path}/".startswith(within):
                names.add(node.path)
        return len(self._ids) > before

    async def tags(self, repository: str) -> Listing:
        """All tags, with digests and dates: published, or as the image says it was created where GitLab knows nothing better."""
        await self._check_usable()
        try:
            number = self._ids.get(repository) or await self._find(repository)
            query, page = await self._first_tags(number) if number else ("", None)
        except (RegistryNotFound, RegistryUnavailable, NotARegistry, UnexpectedAnswer) as error:
            message = f"GitLab's API does not list the tags: {error.message}"
            raise CannotEnumerate(message, ADVICE) from error
        if page is None:
            message = f"GitLab's API does not know the container repository {repository}"
            raise CannotEnumerate(message, ADVICE)
        names = Names(self._limits, is_listed_tag, source=_SOURCE)
        while page is not None:
            for node in page.nodes or ():
                if node is None:
                    names.add(None)
                else:
                    names.add(node.name, digest=node.digest, pushed=_pushed(node))
            after = page.page_info.next
            if after is None or not names.another_page(after):
                break
            try:
                page = _tags_of(await self._api.query(query, id=number, after=after))
            except SensorError as error:
                names.partial(f"a later page failed: {error.message}")
                break
            if page is None:
                names.partial("the repository disappeared while it was listed")
        return names.listing

    async def _first_tags(self, number: str) -> tuple[str, Nodes | None]:
        """The query that works there, and its first page; None where there is no such repository."""
        if self._by_date:
            answer = await self._api.query(_TAGS_BY_DATE, id=number, after=None)
            if not answer.problem:
                return _TAGS_BY_DATE, _tags_of(answer)
            self._by_date = "publish" not in answer.problem.lower()  # else it is this repository's fault alone
        return _TAGS_BY_NAME, _tags_of(await self._api.query(_TAGS_BY_NAME, id=number, after=None))

    async def _find(self, repository: str) -> str | None:
        """The id of a repository that was named, not listed. Which part of its path is the project, only GitLab knows."""
        if not self._graphql:
            return None
        parts = repository.split("/")
        paths = ["/".join(parts[:end]) for end in range(len(parts), max(1, len(parts) - _MOST_BELOW_PROJECT - 1), -1)]
        fields = (
            f"p{index}: project(fullPath: $p{index}) {{ {_REPOSITORIES} }}" for index, _ in enumerate(paths)
        )  # one request for all of them
        variables = "".join(f"$p{index}: ID!, " for index, _ in enumerate(paths))
        asked = {f"p{index}": path for index, path in enumerate(paths)}
        after: str | None = None
        names = Names(self._limits, is_repository, source=_SOURCE)
        text = f"query({variables}$after: String) {{ {' '.join(fields)} }}"
        while True:
            found = (await self._api.query(text, **asked, after=after)).holder(*asked)
            if found is None or found.container_repositories is None:
                return None
            self._take(found.container_repositories.nodes or (), repository, names)
            after = found.container_repositories.page_info.next
            if repository in self._ids or after is None or not names.another_page(after, useful=True):
                return self._ids.get(repository)

    async def standing(self) -> Standing:
        """Name, expiry and scopes of the token, as GitLab tells them to its holder."""
        credential = await self._connection.session.credential()
        user = credential.username if isinstance(credential, Basic) else ""
        shown = await self._api.login.headers(False)  # noqa: FBT003 - the shape of Authorise
        if not shown:
            detail = "GitLab tells neither expiry nor rights of a deploy token or CI job token" if user else ""
            return Standing(identity=user, detail=detail)
        own = self._api.login.own
        if not own:
            user = await self._user() or user
        if "Authorization" in shown:
            return Standing(identity=user, detail="GitLab does not tell when an OAuth token ends")
        try:
            token = await self._api.get("/personal_access_tokens/self", TokenSelf)
        except RegistryError as error:
            return Standing(identity=user, detail=f"expiry and scopes could not be read: {error.message}")
        writes = any(scope in _WRITING or scope.startswith("write_") for scope in token.scopes)
        return Standing(
            identity=await self._user() or token.name if own else user,
            whose=own_api_key(self._connection.settings),
            expires=unix_time(f"{token.expires_at}T00:00:00Z") if token.expires_at else None,
            may_write=writes or (None if own else False),
            detail=f"{'API ' if own else ''}token {token.name!r} with the scopes {', '.join(token.scopes) or '(none)'}",
        )

    async def _user(self) -> str:
        """The login name behind the token: GitLab does not check the one that goes with it."""
        try:
            return (await self._api.get("/user", Row)).username or ""
        except RegistryError:
            return ""


def _outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """Without what lies within another one: a group's listing includes its subgroups and projects."""
    kept: dict[str, None] = {}
    for path in sorted(dict.fromkeys(paths), key=lambda path: path.count("/")):
        parts = path.split("/")
        if not any("/".join(parts[:end]) in kept for end in range(1, len(parts))):
            kept[path] = None
    return tuple(sorted(kept))


def _tags_of(answer: Answer) -> Nodes | None:
    if answer.problem:
        raise _faulty(answer)
    holder = answer.holder("containerRepository")
    return holder.tags if holder else None


def _faulty(answer: Answer) -> UnexpectedAnswer:
    return UnexpectedAnswer(f"GitLab's GraphQL says: {answer.problem}", "check the version of GitLab")


def _node(row: Row) -> Node:
    number = f"gid://gitlab/ContainerRepository/{row.id}" if row.id is not None else None
    return Node(id=number, path=row.path, status=row.status)


def _pushed(node: Node) -> float | None:
    """When a tag was published; where that is not known, when the image says it was built, if that can be true."""
    if (published := unix_time(node.published_at)) is not None:
        return published
    created = unix_time(node.created_at)
    return created if created is not None and created >= _FIRST_PLAUSIBLE else None
