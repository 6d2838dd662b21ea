"""GitLab: the registry, and GitLab itself (token service, GraphQL, REST) on another port of the same host.

One group `team` with a subgroup `team/sub`; projects hold repositories of their own path or below it. Pages of GraphQL and REST hold two.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from aiohttp import web

from tests.fakes.registries.provider import PAGE, Login, Mistake, ProviderFake, challenge, problem

USER = "dev"
PERSONAL, GROUP, PROJECT = "glpat-personal-secret", "glpat-group-secret", "glpat-project-secret"
DEPLOY, JOB, OAUTH = "gldt-deploy-secret", "glcbt-job-secret", "gloas-oauth-secret"
NO_REGISTRY, NO_API, WRITES = "glpat-only-api-secret", "glpat-only-registry-secret", "glpat-writing-secret"
DEPLOY_USER, GROUP_BOT, PROJECT_BOT = "gitlab+deploy-token-7", "group_3_bot_a1", "project_7_bot_b2"
PASSWORD = "correct horse battery"
GROUPS = ("team", "team/sub")
PROJECTS = ("team/app", "team/base", "team/cli", "team/sub/db", "team/sub/edge")
EXPIRES = "2031-05-01"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """What GitLab knows about a secret. `user` is checked where it matters, else any that is not empty will do."""

    scopes: tuple[str, ...] = ("read_api", "read_registry")
    user: str = ""
    login: str = USER
    groups: tuple[str, ...] = GROUPS
    api: bool = True


TOKENS: Mapping[str, Token] = {
    PERSONAL: Token(),
    WRITES: Token(scopes=("api", "write_registry")),
    GROUP: Token(login=GROUP_BOT),
    PROJECT: Token(login=PROJECT_BOT, groups=()),
    DEPLOY: Token(user=DEPLOY_USER, scopes=("read_registry",), api=False),
    JOB: Token(user="gitlab-ci-token", scopes=("read_registry",), api=False),
    OAUTH: Token(user="oauth2"),
    NO_REGISTRY: Token(scopes=("read_api",)),
    NO_API: Token(scopes=("read_registry",)),
    PASSWORD: Token(user=USER, scopes=("read_registry",), api=False),
}


class GitlabFake(ProviderFake):
    """A self-managed GitLab with everything switched on; `graphql`, `metadata_database` and `enabled` switch parts off."""

    kind = "gitlab"
    detected = {
        "registry.gitlab.com": {"gitlab": "https://gitlab.com"},
        "https://registry.gitlab.com/team/sub": {"namespace": "team/sub"},
        "https://gitlab.com/team/app/-/container_registry": {"namespace": "team/app"},
        "gitlab.com": {},
        "git.example.net:5050": {},
        "https://git.example.net:5050/team": {"namespace": "team"},
        "registry.acme.gitlab-dedicated.com": {"gitlab": "https://acme.gitlab-dedicated.com"},
    }
    undetected = (
        "registry.gitlab.com.example.net",
        "evilgitlab.com",
        "gitlab.com.evil.example",
        "example.net/gitlab.com",
        "git.example.net:50500",
        "git.example.net/5050",
        "registry.acme.gitlab-dedicated.com.example.net",
        "registry.a.b.gitlab-dedicated.com",
    )
    names = ("team/app", "team/base", "team/cli/tool", "team/sub/db", "team/sub/edge/x/y")
    public = ("team/base",)
    grant = r"read_registry.*Reporter"
    login_names = (
        "personal access token", "group access token", "project access token", "access token alone", "deploy token",
        "deploy token and API token", "CI job token", "OAuth token", "password", "anonymous",
    )  # fmt: skip
    mistake_names = (
        "wrong token", "deploy token with another name", "job token with another name", "token without a name",
        "token without read_registry", "wrong password",
    )  # fmt: skip

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.graphql = True
        self.metadata_database = True
        self.enabled = True
        self.realm = ""
        """Instead of GitLab's own."""
        self.deleting: tuple[str, ...] = ("team/old",)
        self.api_failures: list[web.Response] = []
        """Answers of the API before it works again."""

    async def __aenter__(self) -> Self:
        await self.listen("gitlab", self._gitlab)
        return await super().__aenter__()

    @property
    def logins(self) -> tuple[Login, ...]:
        """All sorts of token."""
        refused = "read_api"
        return (
            Login(
                name="personal access token",
                settings={"username": "whoever", "password": PERSONAL},
                identity=f"^{USER}$",
                method="access token",
            ),
            Login(
                name="group access token",
                settings={"username": GROUP_BOT, "password": GROUP},
                identity=GROUP_BOT,
                method="access token",
            ),
            Login(
                name="project access token",
                settings={"username": PROJECT_BOT, "password": PROJECT},
                identity=PROJECT_BOT,
                method="access token",
            ),
            Login(name="access token alone", settings={"token": PERSONAL}, identity=USER, method="access token"),
            Login(
                name="deploy token",
                settings={"username": DEPLOY_USER, "password": DEPLOY},
                lists=False,
                advice=refused,
                identity="deploy-token-7",
                method="deploy token",
            ),
            Login(
                name="deploy token and API token",
                settings={"username": DEPLOY_USER, "password": DEPLOY, "api": {"token": GROUP}},
                identity=GROUP_BOT,
                method="deploy token",
            ),
            Login(
                name="CI job token",
                settings={"username": "gitlab-ci-token", "password": JOB},
                lists=False,
                advice=refused,
                identity="gitlab-ci-token",
                method="CI job token",
            ),
            Login(
                name="OAuth token",
                settings={"username": "oauth2", "password": OAUTH},
                identity=USER,
                method="OAuth",
            ),
            Login(
                name="password",
                settings={"username": USER, "password": PASSWORD},
                lists=False,
                advice=refused,
                identity=USER,
                method="password",
            ),
            Login(name="anonymous", anonymous=True, lists=False, method="anonymous", advice="read_registry"),
        )

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """What people get wrong."""
        return (
            Mistake(
                name="wrong token",
                says="authentication failed.*401(?s:.*)read_registry.*expired",
                settings={"username": USER, "password": "glpat-no"},
            ),
            Mistake(
                name="deploy token with another name",
                says=r"own user name: gitlab\+deploy-token",
                settings={"username": "gitlab-ci-token", "password": DEPLOY},
            ),
            Mistake(
                name="job token with another name",
                says="gitlab-ci-token",
                settings={"username": USER, "password": JOB},
            ),
            Mistake(name="token without a name", says="wants a user name", settings={"password": PERSONAL}),
            Mistake(
                name="token without read_registry",
                says="scope read_registry",
                settings={"username": USER, "password": NO_REGISTRY},
            ),
            Mistake(
                name="wrong password",
                says="authentication failed(?s:.*)two-factor",
                settings={"username": USER, "password": "no"},
            ),
        )

    @property
    def skopeo(self) -> tuple[str, str]:
        """A deploy token is all that it needs."""
        return DEPLOY_USER, DEPLOY

    @property
    def gitlab_url(self) -> str:
        """GitLab itself."""
        return f"http://{self.address('gitlab')}"

    # -- the registry ------------------------------------------------------------------------------------------------------

    def login(self, request: web.Request, repository: str, action: str) -> web.StreamResponse | None:
        """401 for want of a token, and for want of a right too: never 403."""
        scope = {"base": "", "catalog": "registry:catalog:*"}.get(action, f"repository:{repository}:pull")
        shown = self.bearer(request)
        granted = self.granted(shown) if shown else None
        if granted is not None and (not scope or scope in granted):
            return None
        error = "" if shown is None else ',error="invalid_token"' if granted is None else ',error="insufficient_scope"'
        wanted = f',scope="{scope}"' if scope else ""
        realm = self.realm or f"{self.gitlab_url}/jwt/auth"
        return challenge(f'Bearer realm="{realm}",service="container_registry"{wanted}{error}')

    # -- GitLab ------------------------------------------------------------------------------------------------------------

    async def _gitlab(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if path == "/jwt/auth":
            return self._token(request)
        if self.throttled > 0:
            self.throttled -= 1
            return web.Response(status=429, text="Retry later\n", headers={"Retry-After": "0"})
        if self.api_failures:
            return self.api_failures.pop(0)
        if path == "/api/graphql":
            return await self._graphql(request)
        return self._rest(request)

    def _token(self, request: web.Request) -> web.Response:
        if not self.enabled:
            return problem(404, "UNAVAILABLE", "registry not enabled")
        given, scopes = self.basic(request), request.query.getall("scope", [])
        token = None
        if given is not None:
            token = TOKENS.get(given[1])
            if token is None or not given[0] or (token.user and token.user != given[0]):
                return problem(401, "UNAUTHORIZED", "HTTP Basic: Access denied. If a password was provided for Git...")
        if (token is None and not scopes) or (token is not None and "read_registry" not in _wide(token.scopes)):
            return problem(403, "DENIED", "access forbidden")
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            visible = name in self.public or (token is not None and name in self.images)
            if kind == "repository" and visible and name not in self.forbidden:
                access.append({"type": kind, "name": name, "actions": actions.split(",")})
        return web.json_response({"token": self.issue(access, **({"sub": token.login} if token else {}))})

    def _caller(self, request: web.Request) -> Token | web.Response | None:
        """Who asks the API: nobody, somebody, or somebody who is refused."""
        secret = request.headers.get("PRIVATE-TOKEN") or self.bearer(request)
        if secret is None:
            return None
        token = TOKENS.get(secret)
        if token is None or not token.api:
            return web.json_response({"message": "401 Unauthorized"}, status=401)
        if "read_api" not in _wide(token.scopes):
            body = {"error": "insufficient_scope", "error_description": "The request requires higher privileges"}
            return web.json_response(body, status=403)
        return token

    async def _graphql(self, request: web.Request) -> web.Response:
        caller = self._caller(request)
        if not self.graphql:
            return web.Response(status=404, text="404 Not Found")
        if isinstance(caller, web.Response):
            return caller
        body = json.loads(await request.read())
        query, variables = body["query"], body["variables"]
        assert all(int(size) <= 100 for size in re.findall(r"first: (\d+)", query))
        assert request.content_type == "application/json"
        after = int(variables.get("after") or 0)
        if "containerRepository(id:" in query:
            return self._tags_answer(query, variables["id"], after, known=caller is not None)
        data: dict[str, Any] = {}
        for alias, field, name in re.findall(r"(?:(\w+): )?(\w+)\(fullPath: \$(\w+)\)", query):
            data[alias or field] = self._holder(field, variables[name], after, known=caller is not None)
        return web.json_response({"data": data})

    def _holder(self, field: str, path: str, after: int, *, known: bool) -> dict[str, Any] | None:
        if field == "namespace":
            projects = [{"fullPath": project} for project in PROJECTS if project.startswith(f"{path}/")]
            return {"projects": _nodes(projects, after)} if path == USER or projects else None
        if path not in (GROUPS if field == "group" else PROJECTS):
            return None
        found = [row for row in self._container_repositories(known=known) if f"{row['path']}/".startswith(f"{path}/")]
        if not found and not known:
            return None
        return {"containerRepositories": _nodes(found, after)}

    def _container_repositories(self, *, known: bool) -> list[dict[str, Any]]:
        listed = [name for name in (*self.names, *self.deleting) if known or name in self.public]
        return [
            {
                "id": f"gid://gitlab/ContainerRepository/{100 + (*self.names, *self.deleting).index(name)}",
                "path": name,
                "status": "DELETE_SCHEDULED" if name in self.deleting else None,
            }
            for name in listed
        ]

    def _tags_answer(self, query: str, number: str, after: int, *, known: bool) -> web.Response:
        if not self.metadata_database and ("publishedAt" in query or "PUBLISHED_AT" in query):
            return web.json_response({"errors": [{"message": "Field 'publishedAt' doesn't exist on type"}]})
        row = next((row for row in self._container_repositories(known=known) if row["id"] == number), None)
        if row is None or row["path"] not in self.images:
            return web.json_response({"data": {"containerRepository": None}})
        tags = [
            {
                "name": tag,
                "digest": image.digest,
                "createdAt": "1970-01-01T00:00:00Z"
                if not self.metadata_database and tag == "v1"
                else _date(self.pushed(tag)),
                **({"publishedAt": _date(self.pushed(tag))} if self.metadata_database else {}),
            }
            for tag, image in self.images[row["path"]].items()
        ]
        return web.json_response({"data": {"containerRepository": {"tags": _nodes(tags, after)}}})

    def _rest(self, request: web.Request) -> web.Response:
        caller = self._caller(request)
        if isinstance(caller, web.Response):
            return caller
        path = request.raw_path.partition("?")[0].removeprefix("/api/v4")
        if path == "/groups":
            return _rows(request, [{"id": 1, "full_path": group} for group in (caller.groups if caller else ())])
        if path == "/projects":
            return _rows(request, [{"id": 1, "path_with_namespace": project} for project in PROJECTS if caller])
        if path == "/user" and caller:
            return web.json_response({"id": 5, "username": caller.login})
        if path == "/personal_access_tokens/self" and caller:
            body = {"name": "sensor", "scopes": list(caller.scopes), "expires_at": EXPIRES, "active": True}
            return web.json_response(body)
        if found := re.fullmatch(r"/(groups|projects)/([^/]+)/registry/repositories", path):
            name = unquote(found[2])
            if name in (GROUPS if found[1] == "groups" else PROJECTS):
                rows = self._container_repositories(known=caller is not None)
                below = [row for row in rows if f"{row['path']}/".startswith(f"{name}/")]
                return _rows(request, [{**row, "id": int(row["id"].rpartition("/")[2])} for row in below])
        return web.json_response({"message": "404 Not Found"}, status=404)


def _wide(scopes: Iterable[str]) -> frozenset[str]:
    """With what a scope includes."""
    given = frozenset(scopes)
    return given | ({"read_api", "read_registry"} if "api" in given else set())


def _nodes(rows: Sequence[Mapping[str, Any]], after: int) -> dict[str, Any]:
    end = after + PAGE
    return {"pageInfo": {"hasNextPage": end < len(rows), "endCursor": str(end)}, "nodes": list(rows[after:end])}


def _rows(request: web.Request, rows: Sequence[Mapping[str, Any]]) -> web.Response:
    assert int(request.query["per_page"]) <= 100
    number = int(request.query.get("page", "1"))
    end = number * PAGE
    headers = {"X-Next-Page": str(number + 1) if end < len(rows) else "", "X-Total": str(len(rows))}
    return web.json_response(list(rows[end - PAGE : end]), headers=headers)


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
