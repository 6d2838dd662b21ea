"""Harbor 2.x: Basic everywhere, a token service that answers 200 to anybody, and the API with its odd encoding and pages of two.

Projects: `team` (private), `library` (public), and on demand `hub`, a proxy cache of an upstream with many tags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

from aiohttp import web

from tests.fakes.registries.provider import PAGE, Login, Mistake, ProviderFake, challenge, problem

SYSTEM_ROBOT, PROJECT_ROBOT, CUSTOM_ROBOT, OTHER_ROBOT = (
    "robot$sensor",
    "robot$team+ci",
    "svc-team+ci",
    "robot$elsewhere+ci",
)
USER, OIDC_USER, ADMIN = "dev", "oidc-dev", "admin"
SECRET = "s3cret-of-harbor"
BEARER = "id-token-of-harbor"
EXPIRES = 1_900_000_000
UPSTREAM_TAGS = tuple(f"1.{number}" for number in range(50))


class HarborFake(ProviderFake):
    """A Harbor with two projects. Attributes switch on what some installations do."""

    kind = "harbor"
    detected = {
        "https://harbor.example.net/harbor/projects/3/repositories": {},
        "harbor.example.net/harbor/projects/3/repositories/app/artifacts-tab?x=1#top": {},
    }
    undetected = ("harbor.example.net", "goharbor.io", "https://example.net/team/harbor/projects/3", "harbor:5000")
    names = ("team/app", "library/base", "team/cli/tool", "team/db", "team/edge")
    public = ("library/base",)
    grant = r"repository: pull"
    login_names = (
        "system robot", "project robot", "project robot with another prefix", "user and password", "OIDC user", "administrator",
        "anonymous",
    )  # fmt: skip
    mistake_names = (
        "wrong secret", "name without prefix", "doubled dollar sign", "swallowed project", "bearer token",
        "robot of another project", "wrong password", "no name",
    )  # fmt: skip

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.users = dict.fromkeys(
            (SYSTEM_ROBOT, PROJECT_ROBOT, CUSTOM_ROBOT, OTHER_ROBOT, USER, OIDC_USER, ADMIN), SECRET
        )
        self.proxy = False
        """See `add_proxy`."""
        self.upstream = 0
        """Requests that the proxy-cache project passed on."""
        self.missing_permissions: set[str] = set()
        """`repository`, `artifact`: what robots may not list."""
        self.blocked: set[str] = set()
        """Repositories whose images a deployment policy blocks."""
        self.null_tags = False
        self.charts: tuple[str, ...] = ()
        """Tags of `team/app` that are Helm charts."""
        self.decoding_proxy = False
        """Something in front of Harbor decodes paths once more, so that a repository's name is not recognised."""
        self.counts = True
        """X-Total-Count is sent."""
        self.robots_readable = True
        self.api_failures: list[web.Response] = []

    def add_proxy(self) -> str:
        """From now on there is a proxy-cache project, which holds one image of all that its upstream has; its name."""
        self.proxy = True
        name = "hub/library/nginx"
        self.images[name] = {"v1": self.images[self.names[0]]["v1"]}
        return name

    @property
    def logins(self) -> tuple[Login, ...]:
        """Robots, users, nobody."""
        both = {"repositories": {"namespaces": ["team", "library"]}}
        return (
            Login(
                name="system robot",
                settings={"username": SYSTEM_ROBOT, "password": SECRET},
                identity=r"^robot\$sensor$",
                method="system robot",
            ),
            Login(
                name="project robot",
                settings={"username": PROJECT_ROBOT, "password": SECRET, **both},
                identity=r"robot\$team\+ci",
                method="project robot",
            ),
            Login(
                name="project robot with another prefix",
                settings={"username": CUSTOM_ROBOT, "password": SECRET, **both},
                identity=r"svc-team\+ci",
                method="project robot",
            ),
            Login(
                name="user and password",
                settings={"username": USER, "password": SECRET},
                identity=USER,
                method="user name",
            ),
            Login(
                name="OIDC user",
                settings={"username": OIDC_USER, "password": SECRET},
                identity=OIDC_USER,
                method="CLI secret",
            ),
            Login(
                name="administrator", settings={"username": ADMIN, "password": SECRET}, identity=ADMIN, method="user"
            ),
            Login(name="anonymous", anonymous=True, method="anonymous"),
        )

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """What people get wrong."""
        return (
            Mistake(
                name="wrong secret",
                says="authentication failed(?s:.*)expired or was disabled",
                settings={"username": SYSTEM_ROBOT, "password": "no"},
            ),
            Mistake(
                name="name without prefix",
                says=r"full name as Harbor shows it, which begins with robot\$",
                settings={"username": "team+ci", "password": SECRET},
            ),
            Mistake(
                name="doubled dollar sign", says="doubled", settings={"username": "robot$$team+ci", "password": SECRET}
            ),
            Mistake(name="swallowed project", says="swallowed", settings={"username": "robot+ci", "password": SECRET}),
            Mistake(name="bearer token", says="username and password", settings={"token": BEARER}),
            Mistake(
                name="robot of another project",
                says="repository: pull in project team",
                settings={"username": OTHER_ROBOT, "password": SECRET},
            ),
            Mistake(
                name="wrong password",
                says="authentication failed(?s:.*)CLI secret",
                settings={"username": USER, "password": "no"},
            ),
            Mistake(name="no name", says="wants a user name", settings={"password": SECRET}),
        )

    @property
    def skopeo(self) -> tuple[str, str]:
        """By the token service."""
        return SYSTEM_ROBOT, SECRET

    # -- who may what --------------------------------------------------------------------------------------------------------

    def _known(self, request: web.Request) -> str | None:
        """The name of whoever asks; empty for nobody, None for somebody who is not known."""
        if "Authorization" not in request.headers:
            return ""
        given = self.basic(request)
        return given[0] if given is not None and self.users.get(given[0]) == given[1] else None

    def _projects(self, name: str) -> list[dict[str, Any]]:
        projects = [
            {"project_id": 1, "name": "library", "metadata": {"public": "true"}, "repo_count": 1},
            {"project_id": 3, "name": "team", "metadata": {"public": "false"}, "repo_count": 4},
        ]
        if self.proxy:
            projects.append({"project_id": 4, "name": "hub", "registry_id": 9, "metadata": {"public": "false"}})
        return [one for one in projects if one["name"] == "library" or self._member(name, str(one["name"]))]

    @staticmethod
    def _member(name: str, project: str) -> bool:
        before = name.rpartition("+")[0]
        return bool(name) and (not before or before.endswith(project))

    def _may_pull(self, name: str, repository: str) -> bool:
        project = repository.partition("/")[0]
        return repository not in self.forbidden and (project == "library" or self._member(name, project))

    # -- the registry --------------------------------------------------------------------------------------------------------

    def login(self, request: web.Request, repository: str, action: str) -> web.StreamResponse | None:
        """Basic or a token; an empty challenge where there is no such project."""
        name, shown = self._known(request), self.bearer(request)
        if repository and repository.partition("/")[0] not in {"team", "library", *(["hub"] if self.proxy else [])}:
            return problem(401, "UNAUTHORIZED", "unauthorized to access repository", headers={"WWW-Authenticate": ""})
        scope = f"repository:{repository}:pull" if repository else ""
        granted = self.granted(shown) if shown else None
        if granted is not None:
            if action != "catalog" and (not scope or scope in granted):
                return None
        elif (action == "catalog" and name == ADMIN) or (
            name and action != "catalog" and (not repository or self._may_pull(name, repository))
        ):
            return None
        if "Authorization" in request.headers or action == "catalog":
            return challenge('Basic realm="harbor"', "unauthorized")
        wanted = f',scope="{scope}"' if scope else ""
        return challenge(f'Bearer realm="{self.url}/service/token",service="harbor-registry"{wanted}')

    def manifest(self, request: web.Request, repository: str, target: str) -> web.StreamResponse:
        """With deployment policies, and what a proxy cache asks its upstream."""
        if repository in self.blocked:
            return problem(
                412, "PROJECTPOLICYVIOLATION", "current image without vulnerability scanning cannot be pulled"
            )
        if repository.startswith("hub/") and not target.startswith("sha256:"):
            self.upstream += 1
        return super().manifest(request, repository, target)

    def tag_list(self, request: web.Request, repository: str) -> web.StreamResponse:
        """All that is here; of a proxy cache, all that is upstream as well."""
        if repository.startswith("hub/"):
            self.upstream += 1
            return web.json_response({"name": repository, "tags": sorted({*self.images[repository], *UPSTREAM_TAGS})})
        return super().tag_list(request, repository)

    async def serve(self, request: web.Request, path: str) -> web.StreamResponse:
        """A proxy cache of Docker Hub sends the short form of a name to the long one."""
        if self.proxy and path.startswith("/v2/hub/") and not path.startswith("/v2/hub/library/"):
            return web.Response(status=301, headers={"Location": path.replace("/v2/hub/", "/v2/hub/library/")})
        return await super().serve(request, path)

    # -- the token service and the API ---------------------------------------------------------------------------------------

    async def own(self, request: web.Request) -> web.StreamResponse | None:
        """Routes are matched on the raw path: it is decoded once by the router and once by the handler."""
        if request.path == "/service/token":
            return self._token(request)
        path = request.raw_path.partition("?")[0]
        if not path.startswith("/api/v2.0/"):
            return None
        if self.api_failures:
            return self.api_failures.pop(0)
        return self._api(request, path.removeprefix("/api/v2.0"))

    def _token(self, request: web.Request) -> web.Response:
        if request.query.get("service") != "harbor-registry":
            return problem(400, "BAD_REQUEST", "unknown service")
        name, scopes = self._known(request), request.query.getall("scope", [])
        if not scopes and not name:
            return web.Response(status=401)
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            repository = rest.rpartition(":")[0]
            actions = ["pull"] if self._may_pull(name or "", repository) else []
            if name in {USER, ADMIN}:
                actions += ["push", "delete"]
            if actions:
                access.append({"type": kind, "name": repository, "actions": actions})
        return web.json_response(
            {
                "token": self.issue(access, **({"sub": name} if name else {})),
                "expires_in": 1800,
                "issued_at": "2026-01-01T00:00:00Z",
            }
        )

    def _api(self, request: web.Request, path: str) -> web.Response:  # noqa: PLR0911 - a table of routes
        name = self._known(request)
        query = parse_qs(request.query_string)
        if name is None:
            return problem(401, "UNAUTHORIZED", "unauthorized")
        if int(query.get("page_size", ["10"])[0]) > 100:
            return problem(422, "UNPROCESSABLE_ENTITY", "page_size in query should be less than or equal to 100")
        projects = self._projects(name)
        if path == "/projects":
            wanted = query.get("name", [""])[0]
            return self._rows(request, [one for one in projects if wanted in one["name"]])
        if path == "/repositories" and name == OIDC_USER:
            return problem(401, "UNAUTHORIZED", "unauthorized")
        if path == "/repositories":
            return self._rows(request, self._repositories({str(one["name"]) for one in projects}))
        if path == "/robots":
            return self._robots(request, query["q"][0])
        parts = path.split("/")
        if len(parts) < 4 or parts[1] != "projects" or parts[3] != "repositories":
            return problem(404, "NOT_FOUND", f"path {path} was not found")
        if parts[2] not in {one["name"] for one in projects}:
            return problem(403, "FORBIDDEN", "forbidden") if name else problem(401, "UNAUTHORIZED", "unauthorized")
        return self._project(request, parts[2], parts[4:], query)

    def _project(
        self, request: web.Request, project: str, parts: Sequence[str], query: Mapping[str, Sequence[str]]
    ) -> web.Response:
        if not parts and "repository" in self.missing_permissions:
            return problem(403, "FORBIDDEN", "forbidden: repository: list")
        if not parts:
            return self._rows(request, self._repositories({project}))
        encoded = unquote(parts[0]) if self.decoding_proxy else parts[0]
        repository = f"{project}/{unquote(unquote(encoded))}"
        if parts[1:] != ["artifacts"] or "/" in unquote(encoded) or repository not in self.images:
            return problem(404, "NOT_FOUND", f"path {request.raw_path} was not found")
        if "artifact" in self.missing_permissions:
            return problem(403, "FORBIDDEN", "forbidden: artifact: list")
        return self._rows(request, self._artifacts(repository, query))

    def _repositories(self, projects: set[str]) -> list[dict[str, Any]]:
        return [
            {"name": name, "artifact_count": len(tags), "update_time": "2026-01-01T00:00:00.000Z"}
            for name, tags in self.images.items()
            if name.partition("/")[0] in projects
        ]

    def _artifacts(self, repository: str, query: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for tag, image in self.images[repository].items():
            chart = repository == self.names[0] and tag in self.charts
            date = datetime.fromtimestamp(self.pushed(tag), UTC).isoformat().replace("+00:00", "Z")
            tags = [{"name": tag, "push_time": date, "immutable": False}]
            row = {"digest": image.digest, "type": "CHART" if chart else "IMAGE", "push_time": date, "tags": tags}
            rows.append({**row, "media_type": "application/vnd.oci.image.config.v1+json", "references": None})
        if self.null_tags or query.get("q") != ["tags=*"]:
            rows.insert(0, {"digest": "sha256:" + "0" * 64, "type": "IMAGE", "tags": None})
        return rows

    def _robots(self, request: web.Request, query: str) -> web.Response:
        if not self.robots_readable:
            return problem(403, "FORBIDDEN", "forbidden")
        if query == "Level=system":
            return self._rows(request, [{"name": SYSTEM_ROBOT, "expires_at": -1, "level": "system"}])
        assert query == "Level=project,ProjectID=3", query
        return self._rows(request, [{"name": PROJECT_ROBOT, "expires_at": EXPIRES, "level": "project"}])

    def _rows(self, request: web.Request, rows: Sequence[Mapping[str, Any]]) -> web.Response:
        number, size = int(request.query.get("page", "1")), min(PAGE, int(request.query.get("page_size", "10")))
        end = number * size
        # the query that the links repeat is un-escaped: whoever follows them is lost
        links = [f'<{request.path}?page={number - 1}&q=tags=*>; rel="prev"'] if number > 1 else []
        links += [f'<{request.path}?page={number + 1}&q=tags=*>; rel="next"'] if end < len(rows) else []
        headers = {"Link": " , ".join(links)} if links else {}
        if self.counts:
            headers["X-Total-Count"] = str(len(rows))
        return web.json_response(list(rows[end - size : end]), headers=headers)
